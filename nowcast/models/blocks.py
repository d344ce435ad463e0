"""What the forecasters share: the interface, grids of any size, space-to-depth, the output layer.

Shapes: B batch, T frames in, L frames out, C channels, H rows, W columns, K output channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nowcast.nn

CELLS = {"convrnn": "ConvRNN", "convlstm": "ConvLSTM", "convgru": "ConvGRU", "trajgru": "TrajGRU"}
# Chances of 0 and 1 have no finite logit.
SMALLEST_MEAN = 1e-6
# Two thresholds whose climatology is equal still need logits that differ a little.
SMALLEST_GAP = 1e-3
# Features weaker than this are as good as none, and are not blown up to unit size.
SMALLEST_POWER = 1e-6


class ForecastNet(nn.Module):
    """Frames in, number of frames to forecast, frames out; any grid size.

    Subclasses build `output`, an OutputLayer, and define `compute_logits` for grids that are multiples of `multiple`.
    """

    output: OutputLayer

    def __init__(self, in_channels: int, *, multiple: int) -> None:
        super().__init__()
        if in_channels < 1:
            raise ValueError(f"in_channels must be positive, got {in_channels}")
        self.in_channels = in_channels
        self.multiple = multiple

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """Forecast (B, num_frames, K, H, W) in [0, 1] after frames (B, T, C, H, W)."""
        return torch.sigmoid(self.forward_logits(frames, num_frames))

    def forward_logits(self, frames: Tensor, num_frames: int) -> Tensor:
        """The forecast before the sigmoid: what losses and heads take.

        The grid is padded with zeros below and to the right to a multiple of `multiple`, and the result cropped.

        Raises:
            ValueError: Frames of another shape or number of channels, or no frame asked for.
        """
        self.check(frames, num_frames)
        height, width = frames.shape[-2:]
        logits = self.compute_logits(pad_to_multiple(frames, self.multiple), num_frames)
        return logits[..., :height, :width]

    def lead_logits(self, frames: Tensor, num_frames: int) -> Iterator[Tensor]:
        """`forward_logits` one lead time after the other, (B, K, H, W): on large grids all at once take gigabytes."""
        self.check(frames, num_frames)
        height, width = frames.shape[-2:]
        for logits in self.compute_lead_logits(pad_to_multiple(frames, self.multiple), num_frames):
            yield logits[..., :height, :width]

    def compute_logits(self, frames: Tensor, num_frames: int) -> Tensor:
        """Logits (B, num_frames, K, H, W) of frames whose sides are multiples of `multiple`."""
        raise NotImplementedError

    def compute_lead_logits(self, frames: Tensor, num_frames: int) -> Iterator[Tensor]:
        """`compute_logits` one lead time after the other; made at once unless a subclass does better."""
        yield from self.compute_logits(frames, num_frames).unbind(dim=1)

    def set_output_bias(self, mean: float | Sequence[float]) -> None:
        """Start the output at the climatology: see OutputLayer.set_mean."""
        self.output.set_mean(mean)

    def check(self, frames: Tensor, num_frames: int) -> None:
        if frames.ndim != 5 or frames.shape[2] != self.in_channels or frames.shape[1] < 1:
            raise ValueError(
                f"frames must be (batch, time, {self.in_channels} channels, rows, columns), got {tuple(frames.shape)}"
            )
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}")


class WithOutputBias(nn.Module):
    """Any module `frames, num_frames -> logits (B, L, K, H, W)` as a forecaster: with an output bias of its own."""

    def __init__(self, module: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.module = module
        self.output_bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """Forecast (B, num_frames, K, H, W) in [0, 1]."""
        return torch.sigmoid(self.forward_logits(frames, num_frames))

    def forward_logits(self, frames: Tensor, num_frames: int) -> Tensor:
        """What the module gives, plus the bias; nested when there are several channels."""
        values: Tensor = self.module(frames, num_frames) + self.output_bias.view(-1, 1, 1)
        return values if self.output_bias.numel() == 1 else nested_logits(values)

    def set_output_bias(self, mean: float | Sequence[float]) -> None:
        """Start the output at the climatology, as OutputLayer.set_mean does."""
        with torch.no_grad():
            self.output_bias.copy_(starting_bias(mean, self.output_bias.numel()))


class OutputLayer(nn.Module):
    """A 1x1 convolution with bias to K channels on a grid `patch` times finer.

    With several channels these are the logits of nested events, the rates at or above ascending thresholds: each is
    at most the one before, by construction (z_1 = a_1, z_k = z_(k-1) - softplus(a_k)).

    With `unit_features` the features of each pixel are brought to unit size first: weights that start at zero then
    learn at the pace of the others, however weak the features of a fresh net are.
    """

    def __init__(self, in_channels: int, out_channels: int = 1, *, patch: int = 1) -> None:
        super().__init__()
        if out_channels < 1 or patch < 1:
            raise ValueError(f"out_channels and patch must be positive, got {out_channels} and {patch}")
        self.out_channels = out_channels
        self.patch = patch
        self.unit_features = False
        self.convolution = nn.Conv2d(in_channels, out_channels * patch**2, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (..., K, H, W) of features (..., C, H / patch, W / patch)."""
        if self.unit_features:
            features = features / (features.float().square().mean(dim=-3, keepdim=True) + SMALLEST_POWER).sqrt()
        values = depth_to_space(over_frames(self.convolution, features), self.patch)
        return values if self.out_channels == 1 else nested_logits(values)

    def set_mean(self, mean: float | Sequence[float]) -> None:
        """Set the bias so that the forecast starts near `mean`: one value a channel, descending when several.

        Without this a net spends its first thousand steps to learn the climatology, and seems to collapse to zero.
        """
        bias = starting_bias(mean, self.out_channels)
        with torch.no_grad():
            self.convolution.bias.copy_(bias.repeat_interleave(self.patch**2))  # type: ignore[union-attr]


def starting_bias(mean: float | Sequence[float], channels: int) -> Tensor:
    """Biases (channels,) at which the sigmoid of the nested logits is `mean`, one value a channel, descending.

    Raises:
        ValueError: Another number of means, or some outside [0, 1].
    """
    means = [mean] if isinstance(mean, int | float) else list(mean)
    if len(means) != channels:
        raise ValueError(f"a net of {channels} output channels needs as many means, got {len(means)}")
    if not all(0 <= value <= 1 for value in means):
        raise ValueError(f"means must lie in [0, 1], got {means}")
    logits = torch.logit(torch.tensor(means, dtype=torch.float64).clamp(SMALLEST_MEAN, 1 - SMALLEST_MEAN))
    gaps = (logits[:-1] - logits[1:]).clamp(min=SMALLEST_GAP)
    return torch.cat([logits[:1], gaps.expm1().log()])  # the inverse of softplus


def nested_logits(values: Tensor) -> Tensor:
    """Logits (..., K, H, W) that never rise along K, of any values: the first, less the softplus of the others."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))  # sums of halves would lose the order
    first, *others = values.unbind(dim=-3)
    # Slice by slice, while it is at hand: cumsum is slow on the CPU.
    return torch.stack(list(itertools.accumulate(map(F.softplus, others), torch.sub, initial=first)), dim=-3)


def recurrent_layers(
    cell: str, in_channels: int, hidden_channels: Sequence[int], kernel_size: Any, **options: Any
) -> nn.Module:
    """Recurrent layers of a named cell, batch first, that return the outputs of all layers.

    Raises:
        ValueError: An unknown cell.
        TypeError: Options that the cell does not take.
    """
    if cell not in CELLS:
        raise ValueError(f"cell must be one of {', '.join(CELLS)}, got '{cell}'")
    layers: nn.Module = getattr(nowcast.nn, CELLS[cell])(
        in_channels,
        list(hidden_channels),
        kernel_size,
        num_layers=len(hidden_channels),
        batch_first=True,
        return_all_layers=True,
        **options,
    )
    return layers


def space_to_depth(frames: Tensor, patch: int) -> Tensor:
    """(..., C, H, W) -> (..., C * patch^2, H / patch, W / patch); torch's pixel-unshuffle, which is slow on the CPU."""
    parts = frames.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))
    return parts.movedim((-3, -1), (-4, -3)).flatten(-5, -3)


def depth_to_space(frames: Tensor, patch: int) -> Tensor:
    """(..., C * patch^2, H, W) -> (..., C, H * patch, W * patch); undoes `space_to_depth`."""
    parts = frames.unflatten(-3, (-1, patch, patch))
    return parts.movedim((-4, -3), (-3, -1)).flatten(-4, -3).flatten(-2)


class DepthToSpace(nn.Module):
    """`depth_to_space` as a layer."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, frames: Tensor) -> Tensor:
        return depth_to_space(frames, self.patch)


def over_frames(module: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """A module for (N, C, H, W) applied to every frame of (B, T, C, H, W) at once."""
    return module(frames.flatten(0, 1)).unflatten(0, (frames.shape[0], frames.shape[1]))


def pad_to_multiple(frames: Tensor, multiple: int, value: float = 0.0) -> Tensor:
    """Frames padded below and to the right, with zeros unless told otherwise, until both sides are multiples."""
    height, width = frames.shape[-2:]
    below, right = -height % multiple, -width % multiple
    return F.pad(frames, (0, right, 0, below), value=value) if below or right else frames


def per_layer(name: str, value: Any, num_layers: int) -> list[Any]:
    """One value a layer: a list as it is, anything else repeated."""
    values = list(value) if isinstance(value, list) else list(itertools.repeat(value, num_layers))
    if len(values) != num_layers:
        raise ValueError(f"{name} has {len(values)} values for {num_layers} layers")
    return values
