"""WithNoise: a net that sees random fields beside the rain, so that every draw of them is a member of an ensemble.

Shapes: B batch, T frames in, L frames out, C channels, N noise channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Channel k varies over BLOCK^k pixels: uncertainty of single showers and of whole systems.
BLOCK = 4


class WithNoise(nn.Module):
    """A net whose frames carry Gaussian noise in channels after the others, the same in every frame of a sample.

    Args:
        net: A forecaster that takes C + N channels.
        channels: N.
    """

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"a net with noise needs at least one channel of it, got {channels}")
        self.net = net
        self.channels = channels

    def forward(self, frames: Tensor, num_frames: int, noise: Tensor | None = None) -> Tensor:
        """One member: forecast (B, num_frames, 1, H, W) in [0, 1] after frames (B, T, C, H, W)."""
        return torch.sigmoid(self.forward_logits(frames, num_frames, noise))

    def forward_logits(self, frames: Tensor, num_frames: int, noise: Tensor | None = None) -> Tensor:
        """The forecast before the sigmoid; `noise` (B, N, H, W) is drawn from torch's generator when None."""
        logits: Tensor = self.net.forward_logits(self._noisy(frames, noise), num_frames)  # type: ignore[operator]
        return logits

    def set_output_bias(self, mean: float | Sequence[float]) -> None:
        """Start the output at the climatology."""
        self.net.set_output_bias(mean)  # type: ignore[operator]

    def _noisy(self, frames: Tensor, noise: Tensor | None) -> Tensor:
        if noise is None:
            noise = draw_noise(frames.shape[0], self.channels, *frames.shape[-2:], device=frames.device)
        repeated = noise.to(frames.dtype).unsqueeze(1).expand(-1, frames.shape[1], -1, -1, -1)
        return torch.cat([frames, repeated], dim=2)


class ScheduledWithNoise(WithNoise):
    """WithNoise for a net that feeds its forecasts back; it keeps the noise of the last frame while it does."""

    def scheduled_logits(self, frames: Tensor, targets: Tensor, valid: Tensor, progress: float) -> Tensor:
        """As `SequenceToSequence.scheduled_logits`."""
        net: Any = self.net
        logits: Tensor = net.scheduled_logits(self._noisy(frames, None), targets, valid, progress)
        return logits


def with_noise(net: nn.Module, channels: int) -> WithNoise:
    """The wrapper that fits a net."""
    return (ScheduledWithNoise if hasattr(net, "scheduled_logits") else WithNoise)(net, channels)


def draw_noise(
    batch: int,
    channels: int,
    height: int,
    width: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Gaussian fields (B, N, H, W) float32 of mean 0 and variance 1; channel k is correlated over 4^k pixels.

    Args:
        generator: Where the numbers come from; torch's own of the device when None.
    """
    fields = []
    for k in range(channels):
        side = BLOCK**k
        white = torch.randn(
            batch, 1, height + side - 1, width + side - 1, generator=generator, device=device, dtype=torch.float32
        )
        # A mean over side^2 independent numbers has a deviation of 1 / side.
        rows = F.avg_pool2d(white, (side, 1), stride=1)
        fields.append(side * F.avg_pool2d(rows, (1, side), stride=1))
    return torch.cat(fields, dim=1)
