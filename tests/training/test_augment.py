"""Augmentation turns inputs, targets and masks together, and a dropped frame says that it is missing."""

from __future__ import annotations

import pytest
import torch

from nowcast.config import AugmentConfig
from nowcast.errors import ConfigError
from nowcast.models.inputs import Batch
from nowcast.training.augment import augment


def make_batch(height: int = 6, width: int = 6) -> Batch:
    field = torch.arange(height * width, dtype=torch.float32).view(height, width)
    inputs = torch.stack([field, torch.ones_like(field)]).expand(3, 4, 2, height, width).contiguous()
    targets = field.expand(3, 2, 1, height, width).contiguous()
    return Batch(inputs, targets, targets % 2 == 0)


def test_off_means_unchanged() -> None:
    batch = make_batch()
    assert augment(batch, AugmentConfig()) is batch


@pytest.mark.parametrize(("shape", "symmetries"), [((6, 6), 8), ((4, 6), 4)])
def test_inputs_targets_and_masks_turn_together_into_every_symmetry(shape: tuple[int, int], symmetries: int) -> None:
    torch.manual_seed(0)
    seen = set()
    for _ in range(80):
        batch = augment(make_batch(*shape), AugmentConfig(flip=True))
        assert torch.equal(batch.inputs[0, 0, 0], batch.targets[0, 0, 0])
        assert torch.equal(batch.targets % 2 == 0, batch.valid)
        seen.add(tuple(batch.targets[0, 0, 0].ravel().tolist()))
    assert len(seen) == symmetries


def test_a_dropped_frame_is_empty_and_marked_and_the_last_one_stays() -> None:
    torch.manual_seed(0)
    batch = augment(make_batch(), AugmentConfig(drop_input=0.7))
    measured = batch.inputs[:, :, 1].flatten(2).amax(-1)
    assert (measured[:, -1] == 1).all() and (measured == 0).any()
    assert (batch.inputs[:, :, 0][measured == 0] == 0).all()
    assert torch.equal(batch.targets, make_batch().targets)


def test_frames_without_a_validity_channel_cannot_be_dropped() -> None:
    batch = make_batch()
    with pytest.raises(ConfigError, match="needs frames with a validity channel"):
        augment(Batch(batch.inputs[:, :, :1], batch.targets, batch.valid), AugmentConfig(drop_input=0.5))
