"""Pyramid: the down- and up-sampling encoder-forecaster of Shi et al. 2017 (arXiv 1706.03458, section 3.2).

The default is the radar net: pixels unshuffled by 2, levels at 1/4, 1/8 and 1/16 of the resolution. The paper's own
net is `hidden_channels=(64, 192, 192), features=[8, 192, 192], strides=[5, 3, 2], patch=1, upsampling="transposed"`.

Shapes: B batch, T frames in, L frames out, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from nowcast.models.blocks import (
    DepthToSpace,
    ForecastNet,
    OutputLayer,
    over_frames,
    per_layer,
    recurrent_layers,
    space_to_depth,
)

# As in the paper.
SLOPE = 0.2


class Pyramid(ForecastNet):
    """Strided convolution and recurrent layer, level by level; the forecaster runs from the top level down.

    Each forecaster level starts from the state of the encoder at its level; the top one has no input, the others
    take the upsampled h of the level above. For any grid size: padded and cropped inside.

    Args:
        in_channels: Channels of an input frame.
        hidden_channels: Hidden channels of each level, the finest first.
        features: Channels of the convolution into each level, and of the upsampling out of it; half of
            `hidden_channels` unless given.
        strides: Downsampling into each level; one number for all or a list.
        patch: Space-to-depth before the first convolution, depth-to-space after the last.
        cell: convlstm, convgru, trajgru or convrnn.
        kernel_size, recurrent_kernel_size: Of the recurrent layers, one for all levels or a list.
        peephole: For ConvLSTM; none unless given.
        upsampling: `shuffle`, a convolution and a pixel-shuffle, or `transposed`, as in the paper.
        out_channels: 1 for a field; more for nested exceedance logits (see OutputLayer).
        forget_bias: For ConvLSTM.
        options: Further arguments of the recurrent layers; a list gives one value a level.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: Sequence[int] = (64, 128, 192),
        *,
        features: list[int] | None = None,
        strides: int | list[int] = 2,
        patch: int = 2,
        cell: str = "convlstm",
        kernel_size: int | list[int] = 3,
        recurrent_kernel_size: int | list[int] | None = None,
        peephole: str | None = None,
        upsampling: str = "shuffle",
        out_channels: int = 1,
        forget_bias: float = 1.0,
        **options: Any,
    ) -> None:
        hidden = list(hidden_channels)
        levels = len(hidden)
        if not hidden:
            raise ValueError("hidden_channels must name at least one level")
        steps = per_layer("strides", strides, levels)
        if not all(isinstance(step, int) and step >= 1 for step in steps):
            raise ValueError(f"strides must be positive ints, got {strides}")
        super().__init__(in_channels, multiple=patch * math.prod(steps))
        if upsampling not in UPSAMPLING:
            raise ValueError(f"upsampling must be one of {', '.join(UPSAMPLING)}, got '{upsampling}'")
        if cell == "convlstm":
            options |= {"peephole": peephole or "none", "forget_bias": forget_bias}
        elif peephole is not None:
            raise ValueError(f"peephole belongs to cell convlstm, got cell {cell}")
        if recurrent_kernel_size is not None:
            options["recurrent_kernel_size"] = recurrent_kernel_size
        widths = per_layer("features", features, levels) if features else [max(1, width // 2) for width in hidden]
        kernels = per_layer("kernel_size", kernel_size, levels)
        of_level = {name: per_layer(name, value, levels) for name, value in options.items()}

        def recurrent(channels: int, level: int) -> nn.Module:
            chosen = {name: values[level] for name, values in of_level.items()}
            return recurrent_layers(cell, channels, [hidden[level]], kernels[level], **chosen)

        self.patch = patch
        self.down, self.encoder, self.up, self.forecaster = (nn.ModuleList() for _ in range(4))
        channels = in_channels * patch**2
        for level in range(levels):
            self.down.append(downsampling(channels, widths[level], steps[level]))
            self.encoder.append(recurrent(widths[level], level))
            self.up.append(UPSAMPLING[upsampling](hidden[level], widths[level], steps[level]))
            self.forecaster.append(recurrent(widths[level + 1] if level + 1 < levels else 0, level))
            channels = hidden[level]
        self.refine = nn.Sequential(nn.Conv2d(widths[0], widths[0], 3, padding=1), nn.LeakyReLU(SLOPE))
        self.output = OutputLayer(widths[0], out_channels, patch=patch)

    def compute_logits(self, frames: Tensor, num_frames: int) -> Tensor:
        return self._read(self._hidden(frames, num_frames))

    def compute_lead_logits(self, frames: Tensor, num_frames: int) -> Iterator[Tensor]:
        hidden = self._hidden(frames, num_frames)
        for lead in range(num_frames):
            yield self._read(hidden[:, lead : lead + 1])[:, 0]

    def _hidden(self, frames: Tensor, num_frames: int) -> Tensor:
        """What the finest level has to say, (B, num_frames, C, h, w)."""
        hidden = space_to_depth(frames, self.patch)
        states = []
        for down, encoder in zip(self.down, self.encoder, strict=True):
            (hidden,), state = encoder(over_frames(down, hidden))
            states.append(state)
        (hidden,), _ = self.forecaster[-1](None, states[-1], num_steps=num_frames)
        for level in range(len(states) - 2, -1, -1):
            (hidden,), _ = self.forecaster[level](over_frames(self.up[level + 1], hidden), states[level])
        return hidden  # type: ignore[no-any-return]

    def _read(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.output(over_frames(self.refine, over_frames(self.up[0], hidden)))
        return logits


def downsampling(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """A strided convolution that sees every pixel and divides the grid exactly."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, stride + 2, stride=stride, padding=1), nn.LeakyReLU(SLOPE)
    )


def shuffle_upsampling(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """A convolution, then depth to space."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels * stride**2, 3, padding=1), DepthToSpace(stride), nn.LeakyReLU(SLOPE)
    )


def transposed_upsampling(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """A transposed convolution, the mirror image of `downsampling`."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, stride + 2, stride=stride, padding=1), nn.LeakyReLU(SLOPE)
    )


UPSAMPLING = {"shuffle": shuffle_upsampling, "transposed": transposed_upsampling}
