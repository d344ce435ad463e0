"""A wall-clock budget ends a run annealed, counts the time before a resume, and leaves other runs as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nowcast.config import load_config
from nowcast.training.fit import fit
from nowcast.training.metrics import read_metrics
from nowcast.training.optimizers import learning_rate_factor
from tests.training.test_fit import interrupted
from tests.training.tiny import tiny_config, tiny_data

# Steps without end: only the time bounds the run.
BOUND = ("training.max_minutes=1", "training.max_steps=100000", "training.validate_every=10", "training.warmup_steps=0")


class Clock:
    """A second passes whenever somebody looks at it, which is about twice a step."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nowcast.training.callbacks.time", Clock())


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_a_run_bound_by_time_ends_annealed_and_validated(tmp_path: Path, schedule: str) -> None:
    config = tiny_config(*BOUND, f"training.schedule={schedule}")
    result = fit(tiny_data(), config, tmp_path)
    steps, rates = read_metrics(tmp_path)["learning_rate"]
    assert 15 < result.steps < 60 and steps[-1] == result.steps
    assert rates.max() > 0.5 * config.training.learning_rate and rates[-1] < 0.02 * config.training.learning_rate
    assert read_metrics(tmp_path)["val_loss"][0][-1] == result.steps


def test_time_spent_before_a_stop_counts(tmp_path: Path) -> None:
    config = tiny_config(*BOUND)
    whole = fit(tiny_data(), config, tmp_path / "whole").steps
    interrupted(tiny_data(), config, tmp_path / "parts", 12)
    parts = fit(tiny_data(), config, tmp_path / "parts", resume=True).steps
    assert abs(parts - whole) <= 5  # writing a checkpoint takes a look at the clock too
    _, rates = read_metrics(tmp_path / "parts")["learning_rate"]
    assert rates[-1] < 0.02 * config.training.learning_rate and (np.diff(rates) < 0).all()


def test_steps_rule_where_they_come_first(tmp_path: Path) -> None:
    bound = tiny_config("training.max_minutes=1000", "training.max_steps=30")
    fit(tiny_data(), bound, tmp_path / "bound")
    fit(tiny_data(), tiny_config("training.max_steps=30"), tmp_path / "free")
    one, other = (read_metrics(tmp_path / run)["learning_rate"] for run in ("bound", "free"))
    np.testing.assert_array_equal(one[1], other[1])


def test_schedules_follow_the_progress_that_they_are_given() -> None:
    for name, half in (("cosine", 0.5), ("constant", 1.0), ("step", 0.7**5)):
        training = load_config(overrides=[f"training.schedule={name}"], environment={}).config.training
        assert learning_rate_factor(100, training, progress=0.5) == pytest.approx(half)
        assert learning_rate_factor(1000, training) == pytest.approx(half)  # half of 2000 steps
