"""UNet: a plain U-Net on stacked frames, the yardstick without recurrence (after Ronneberger et al. 2015).

Shapes: B batch, T frames in, L frames out, C channels, H rows, W columns.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nowcast.errors import MismatchError
from nowcast.models.blocks import ForecastNet, OutputLayer, space_to_depth

NORM_GROUPS = 8


class UNet(ForecastNet):
    """All input frames as channels of one image; all forecast frames come out at once.

    Args:
        in_channels: Channels of an input frame.
        hidden_channels: Of each level, the finest first; each level halves the grid.
        input_frames, output_frames: How many frames it takes, and the most it can forecast: both fix its weights.
        patch: Space-to-depth before the first convolution, depth-to-space after the last.
        features: Channels for each lead time before the output layer, which all lead times share.
        kernel_size: Of the convolutions.
        out_channels: 1 for a field; more for nested exceedance logits (see OutputLayer).
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: Sequence[int] = (32, 48, 64, 96),
        *,
        input_frames: int,
        output_frames: int,
        patch: int = 2,
        features: int = 8,
        kernel_size: int = 3,
        out_channels: int = 1,
    ) -> None:
        hidden = list(hidden_channels)
        super().__init__(in_channels, multiple=patch * 2 ** (len(hidden) - 1))
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.input_frames, self.output_frames, self.patch = input_frames, output_frames, patch
        before = [input_frames * in_channels * patch**2, *hidden[:-1]]
        self.down = nn.ModuleList(
            _two_convolutions(channels, width, kernel_size) for channels, width in zip(before, hidden, strict=True)
        )
        self.up = nn.ModuleList(
            _two_convolutions(above + width, width, kernel_size) for width, above in itertools.pairwise(hidden)
        )
        self.leads = nn.Conv2d(hidden[0], output_frames * features, 1)
        self.output = OutputLayer(features, out_channels, patch=patch)

    def compute_logits(self, frames: Tensor, num_frames: int) -> Tensor:
        if frames.shape[1] != self.input_frames or num_frames > self.output_frames:
            raise MismatchError(
                f"this U-Net takes {self.input_frames} frames and forecasts {self.output_frames}, "
                f"asked for {num_frames} from {frames.shape[1]}",
                "train one for these numbers, or use a recurrent net, which takes any",
            )
        image = space_to_depth(frames, self.patch).flatten(1, 2)
        levels = []
        for level, down in enumerate(self.down):
            image = down(image if level == 0 else F.max_pool2d(image, 2))
            levels.append(image)
        for finer, up in zip(levels[-2::-1], reversed(self.up), strict=True):
            image = up(torch.cat([F.interpolate(image, scale_factor=2, mode="nearest"), finer], dim=1))
        features = self.leads(image).unflatten(1, (self.output_frames, -1))
        logits: Tensor = self.output(features[:, :num_frames])
        return logits


def _two_convolutions(in_channels: int, out_channels: int, kernel_size: int) -> nn.Module:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers.append(nn.Conv2d(channels, out_channels, kernel_size, padding=kernel_size // 2))
        layers.append(nn.GroupNorm(math.gcd(NORM_GROUPS, out_channels), out_channels))
        layers.append(nn.GELU())
    return nn.Sequential(*layers)
