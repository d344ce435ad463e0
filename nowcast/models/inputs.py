"""Rain frames to tensors and back: the one place that normalises, fills and masks.

Training and prediction both come through here, with the same Normalizer; there is no default.

Shapes: B batch, T frames in, L frames out, H rows (north first), W columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nowcast.data.normalize import Normalizer

# What a net sees of a frame: the normalised rain rate (0 where missing) and whether it was measured.
RAIN_CHANNELS = 2
# What a missing pixel is filled with; the validity channel says that it is not dry.
FILL = 0.0


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    Attributes:
        inputs: (B, T, C, H, W) float32.
        targets: (B, L, 1, H, W) float32, normalised; filled where not valid.
        valid: (B, L, 1, H, W) bool; the loss counts these pixels alone.
    """

    inputs: Tensor
    targets: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        moved = (part.to(device, non_blocking=True) for part in (self.inputs, self.targets, self.valid))
        return Batch(*moved)

    def __len__(self) -> int:
        return self.inputs.shape[0]


def rain_inputs(rain_rate: np.ndarray, normalizer: Normalizer) -> Tensor:
    """Net inputs (..., T, 2, H, W) float32 of rain rates (..., T, H, W) [mm/h], NaN where missing."""
    values, valid = rain_targets(rain_rate, normalizer)
    return torch.cat([values, valid.to(values.dtype)], dim=-3)


def rain_targets(rain_rate: np.ndarray, normalizer: Normalizer) -> tuple[Tensor, Tensor]:
    """Normalised values and their validity, each (..., T, 1, H, W), of rain rates (..., T, H, W) [mm/h]."""
    missing = np.isnan(rain_rate)
    values = np.where(missing, np.float32(FILL), normalizer.transform(rain_rate))
    return torch.from_numpy(values).unsqueeze(-3), torch.from_numpy(~missing).unsqueeze(-3)


def rain_rate_of(values: Tensor, normalizer: Normalizer) -> np.ndarray:
    """Rain rates (..., L, H, W) [mm/h] of normalised net outputs (..., L, 1, H, W)."""
    return normalizer.inverse(values.squeeze(-3).detach().float().cpu().numpy())
