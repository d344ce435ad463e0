"""Training samples seen another way: flipped, turned, with an input frame lost. Rain has no preferred direction.

Draws from torch's generator, which the training step seeds by seed and step.
"""

from __future__ import annotations

import torch

from nowcast.config import AugmentConfig
from nowcast.errors import ConfigError
from nowcast.models.inputs import FILL, RAIN_CHANNELS, Batch


def augment(batch: Batch, config: AugmentConfig) -> Batch:
    """The same batch, changed as the configuration allows; with everything off it is returned as it is."""
    if config.flip:
        batch = _flip(batch)
    if config.drop_input > 0:
        batch = _drop_input(batch, config.drop_input)
    return batch


def _flip(batch: Batch) -> Batch:
    """One of the eight symmetries of the square for the whole batch (of the rectangle: four)."""
    draw = int(torch.randint(8, ()))
    axes = [axis for axis, bit in ((-1, 1), (-2, 2)) if draw & bit]
    transpose = bool(draw & 4) and batch.inputs.shape[-1] == batch.inputs.shape[-2]

    def turned(part: torch.Tensor) -> torch.Tensor:
        part = part.flip(axes) if axes else part
        return part.transpose(-1, -2).contiguous() if transpose else part

    return Batch(turned(batch.inputs), turned(batch.targets), turned(batch.valid))


def _drop_input(batch: Batch, chance: float) -> Batch:
    """Each input frame but the last is missing with this chance: filled, and said to be so by its validity channel."""
    if batch.inputs.shape[2] != RAIN_CHANNELS:
        raise ConfigError(
            f"augment.drop_input needs frames with a validity channel, these have {batch.inputs.shape[2]} channel(s)",
            "set augment.drop_input=0",
        )
    kept = torch.rand(batch.inputs.shape[:2]) >= chance
    kept[:, -1] = True
    kept = kept.to(batch.inputs.device)[:, :, None, None, None]
    empty = torch.tensor([FILL, 0.0], device=batch.inputs.device).view(1, 1, 2, 1, 1)
    return Batch(torch.where(kept, batch.inputs, empty), batch.targets, batch.valid)
