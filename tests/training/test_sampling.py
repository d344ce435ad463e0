"""Samples by step: each once an epoch, whatever the number of processes, and the same from any start."""

from __future__ import annotations

import numpy as np

from nowcast.training.sampling import StepBatches


def test_an_epoch_holds_each_sample_once_whatever_the_number_of_processes() -> None:
    for world in (1, 2, 3):
        seen = [
            sample
            for rank in range(world)
            for batch in StepBatches(12, 6, 2, seed=3, rank=rank, world_size=world)
            for sample in batch
        ]
        assert sorted(seen) == list(range(12))


def test_epochs_are_shuffled_anew() -> None:
    batches = list(StepBatches(50, 50, 2, seed=3))
    assert sorted(batches[0]) == sorted(batches[1]) == list(range(50)) and batches[0] != batches[1]


def test_batches_cross_the_end_of_an_epoch_without_losing_a_sample() -> None:
    drawn = np.concatenate(list(StepBatches(10, 4, 5, seed=1)))
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))


def test_a_run_that_starts_later_sees_what_the_whole_run_saw_there() -> None:
    for weights in (None, np.arange(1, 11) / 55):
        whole = list(StepBatches(10, 4, 9, seed=1, weights=weights))
        assert list(StepBatches(10, 4, 9, seed=1, first_step=5, weights=weights)) == whole[5:]


def test_weights_are_the_chances_of_samples() -> None:
    weights = np.array([0.0, 0.25, 0.75])
    drawn = np.concatenate(list(StepBatches(3, 100, 100, seed=0, weights=weights)))
    # Standard error of a share of 10,000 draws: 0.0043.
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / drawn.size, weights, atol=0.015)
    assert 0 not in drawn
