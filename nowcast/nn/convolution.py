"""Convolutions that keep the grid (or divide it by the stride), whatever the kernel, in 1, 2 or 3 dimensions.

What torch's own `padding="same"` does not do: strides, and padding modes for even kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class SameConvolution:
    """A convolution without weights: how far the kernel reaches, and what lies beyond the edge.

    n pixels along an axis become ceil(n / stride). The padding before the first pixel is that of a centred kernel,
    (reach - 1) // 2 where reach = dilation * (kernel - 1) + 1, but never more than reach - stride, so that the last
    window still ends on the last pixel; the padding after the last pixel is the rest. An even kernel at stride 1
    therefore has one more padded pixel after than before, as `padding="same"` of torch has.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding_mode: str = "zeros"

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """Padded pixels (before, after) along each axis."""
        pads = []
        for kernel, stride, dilation in zip(self.kernel_size, self.stride, self.dilation, strict=True):
            reach = dilation * (kernel - 1) + 1
            before = min((reach - 1) // 2, max(reach - stride, 0))
            pads.append((before, reach - 1 - before))
        return tuple(pads)

    def output_grid(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        """The grid that comes out of a convolution of `grid`."""
        return tuple((n + stride - 1) // stride for n, stride in zip(grid, self.stride, strict=True))

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve (N, C, *grid) with (out, C, *kernel_size)."""
        convolve = _CONVOLVE[len(self.kernel_size)]
        padding = self.padding
        if self.padding_mode == "zeros" and all(before == after for before, after in padding):
            within = tuple(before for before, _ in padding)
            return convolve(input, weight, bias, self.stride, within, self.dilation)
        self._check_room(input)
        outward = [pixels for pair in reversed(padding) for pixels in pair]
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return convolve(F.pad(input, outward, mode=mode), weight, bias, self.stride, 0, self.dilation)

    def _check_room(self, input: Tensor) -> None:
        """Refuse a grid that is smaller than what reflecting or wrapping needs."""
        if self.padding_mode in ("zeros", "replicate") or torch.compiler.is_compiling():
            return
        spare = 1 if self.padding_mode == "reflect" else 0
        for size, pads in zip(input.shape[2:], self.padding, strict=True):
            if max(pads) > size - spare:
                raise ValueError(
                    f"padding_mode '{self.padding_mode}' of a kernel of {self.kernel_size} with dilation "
                    f"{self.dilation} pads {max(pads)} pixels, more than a grid of {tuple(input.shape[2:])} has to "
                    f"give; use a larger grid, a smaller kernel or padding_mode='zeros'"
                )
