"""A run folder explains itself: log, curves, best and last model, where each setting came from; after a stop too."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nowcast.config import Config
from nowcast.models.bundle import load_bundle
from nowcast.training.curves import draw_curves
from nowcast.training.fit import Interrupted, fit
from nowcast.training.metrics import read_metrics
from nowcast.verification.counting import count_events
from tests.training.test_fit import StopAt, interrupted
from tests.training.tiny import Fields, tiny_config, tiny_data

EVERY_STEP = ("training.max_steps=20", "training.validate_every=5")


def test_a_resumed_run_keeps_the_log_of_before(tmp_path: Path) -> None:
    config = tiny_config(*EVERY_STEP)
    fit(tiny_data(), config, tmp_path / "whole")
    interrupted(tiny_data(), config, tmp_path / "parts", 13)
    before = read_metrics(tmp_path / "parts")
    fit(tiny_data(), config, tmp_path / "parts", resume=True)
    whole, parts = read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "parts")
    assert before["val_loss"][0].tolist() == [5, 10] and whole["val_loss"][0].tolist() == [5, 10, 15, 20]
    assert whole.keys() == parts.keys() == {"train_loss", "val_loss", "learning_rate"}
    for name, (steps, values) in whole.items():  # the step of the stop is logged besides
        np.testing.assert_array_equal(np.setdiff1d(parts[name][0], [13]), steps)
        np.testing.assert_array_equal(parts[name][1][np.isin(parts[name][0], steps)], values)


def test_a_row_that_a_kill_cut_short_is_passed_over(tmp_path: Path) -> None:
    fit(tiny_data(), tiny_config(*EVERY_STEP), tmp_path)
    log = tmp_path / "logs/metrics.csv"
    wanted = read_metrics(tmp_path)
    log.write_text(log.read_text() + "3,0.")
    found = read_metrics(tmp_path)
    assert all(np.array_equal(found[name][1], values) for name, (_, values) in wanted.items())


def test_a_stop_makes_no_validation_that_the_unbroken_run_would_not_make(tmp_path: Path) -> None:
    # Weights get worse, so a validation at the stop would leave a best model that no unbroken run has.
    config = tiny_config("training.learning_rate=3", "training.schedule=constant", "training.warmup_steps=0")
    fit(tiny_data(), config, tmp_path / "whole")
    interrupted(tiny_data(), config, tmp_path / "parts", 1)
    assert "val_loss" not in read_metrics(tmp_path / "parts")
    assert not (tmp_path / "parts/checkpoints/best.ckpt").exists()
    fit(tiny_data(), config, tmp_path / "parts", resume=True)
    one, other = (load_bundle(tmp_path / run).net.state_dict() for run in ("whole", "parts"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_validation_that_was_due_at_the_stop_is_made_by_the_run_that_goes_on(tmp_path: Path) -> None:
    config = tiny_config("training.learning_rate=3", "training.schedule=constant", "training.warmup_steps=0")
    fit(tiny_data(), config, tmp_path / "whole")
    interrupted(tiny_data(), config, tmp_path / "parts", 4)
    assert "val_loss" not in read_metrics(tmp_path / "parts")
    fit(tiny_data(), config, tmp_path / "parts", resume=True)
    whole, parts = (read_metrics(tmp_path / run)["val_loss"] for run in ("whole", "parts"))
    assert parts[0].tolist() == [4, 8, 12] and whole[1].argmin() == 0
    np.testing.assert_array_equal(parts[1], whole[1])
    one, other = (load_bundle(tmp_path / run).net.state_dict() for run in ("whole", "parts"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_stop_in_the_last_validation_leaves_it_to_the_run_that_goes_on(tmp_path: Path) -> None:
    config = tiny_config("training.checkpoint_every=4")
    fit(tiny_data(), config, tmp_path / "whole")
    fit(tiny_data(), config, tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts/model")
    (tmp_path / "parts/checkpoints/best.ckpt").unlink()
    fit(tiny_data(), config, tmp_path / "parts", resume=True)
    assert read_metrics(tmp_path / "parts")["val_loss"][0].tolist() == [4, 8, 12]
    one, other = (load_bundle(tmp_path / run).net.state_dict() for run in ("whole", "parts"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_stop_at_the_last_step_leaves_the_last_validation_in(tmp_path: Path) -> None:
    # The loss falls, so that the last validation finds the best model.
    fit(tiny_data(), tiny_config(), tmp_path / "whole")
    stopping = replace(tiny_data(), train=StopAt(24, 12, signal.SIGTERM))
    assert fit(stopping, tiny_config(), tmp_path / "told").steps == 12
    assert_same_validations_and_model(tmp_path / "whole", tmp_path / "told")


@pytest.mark.parametrize("steps", ["11", "12"])
def test_killed_in_its_last_validation_with_its_last_checkpoint_alone_a_run_makes_up_for_it(
    tmp_path: Path, steps: str
) -> None:
    config = tiny_config(f"training.max_steps={steps}", f"training.checkpoint_every={steps}")
    fit(tiny_data(), config, tmp_path / "whole")
    interrupted_in_the_last_validation(tmp_path / "parts", config)
    result = fit(tiny_data(), config, tmp_path / "parts", resume=True)
    assert result.steps == int(steps)
    assert_same_validations_and_model(tmp_path / "whole", tmp_path / "parts")
    # Whole now: once more changes nothing.
    fit(tiny_data(), config, tmp_path / "parts", resume=True)
    assert_same_validations_and_model(tmp_path / "whole", tmp_path / "parts")


class Killed(Exception):
    """Stands for a kill: nothing catches it."""


def interrupted_in_the_last_validation(run: Path, config: Config) -> None:
    class Dying(StopAt):
        def __getitems__(self, indices):  # type: ignore[no-untyped-def]
            self.calls += 1
            if self.calls == self.batch:
                raise Killed
            return Fields.__getitems__(self, indices)

    with pytest.raises(Killed):  # two batches a validation
        fit(replace(tiny_data(), validation=Dying(8, 6)), config, run)


def assert_same_validations_and_model(one: Path, other: Path) -> None:
    for left, right in zip(*(read_metrics(run)["val_loss"] for run in (one, other)), strict=True):
        np.testing.assert_array_equal(left, right)
    models = [load_bundle(run) for run in (one, other)]
    assert models[0].provenance["validation_loss"] == models[1].provenance["validation_loss"]
    states = [model.net.state_dict() for model in models]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_last_weights_are_validated_whatever_the_distance_of_validations(tmp_path: Path) -> None:
    result = fit(tiny_data(), tiny_config("training.max_steps=11"), tmp_path)
    steps, losses = read_metrics(tmp_path)["val_loss"]
    assert result.steps == 11 and steps.tolist() == [4, 8, 11]
    assert result.validation_loss == pytest.approx(losses.min())


def test_the_best_and_the_last_model_are_both_there(tmp_path: Path) -> None:
    # The loss is least at the first validation, and the best model is that one.
    config = tiny_config("training.learning_rate=3", "training.schedule=constant", "training.warmup_steps=0")
    fit(tiny_data(), config, tmp_path / "whole")
    _, losses = read_metrics(tmp_path / "whole")["val_loss"]
    assert losses.argmin() < losses.size - 1
    last = torch.load(tmp_path / "whole/checkpoints/step-12.ckpt", weights_only=True)["state_dict"]
    for name, value in load_bundle(tmp_path / "whole/last").net.state_dict().items():
        assert torch.equal(value, last[f"net.{name}"])
    best = load_bundle(tmp_path / "whole")
    assert not torch.equal(best.net.state_dict()["convolution.weight"], last["net.convolution.weight"])
    assert best.provenance["validation_loss"] == pytest.approx(losses.min())


def test_the_curves_are_drawn_at_the_end_and_after_a_stop(tmp_path: Path) -> None:
    data = tiny_data()
    fit(data, tiny_config(*EVERY_STEP), tmp_path / "run", count_events=count_events, draw=draw_curves)
    with Image.open(tmp_path / "run/curves.png") as picture:
        width, height = picture.size
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert (width, height) == (1260, 300) and colours is not None and len(colours) > 50
    stopping = replace(data, train=StopAt(24, 3, signal.SIGTERM))
    with pytest.raises(Interrupted):
        fit(stopping, tiny_config(*EVERY_STEP), tmp_path / "stopped", draw=draw_curves)
    assert (tmp_path / "stopped/curves.png").is_file()
    assert draw_curves(tmp_path) is None  # nothing was logged there


def test_the_curves_are_drawn_after_checkpoints_but_not_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def draw(run: Path) -> None:
        seen.append(int(read_metrics(run)["train_loss"][0][-1]) if read_metrics(run) else 0)

    settings = ("training.max_steps=30", "training.checkpoint_every=10")
    fit(tiny_data(validation=0), tiny_config(*settings), tmp_path / "often", draw=draw)
    assert seen == [30]
    monkeypatch.setattr("nowcast.training.callbacks.PICTURE_INTERVAL", 0.0)
    fit(tiny_data(validation=0), tiny_config(*settings), tmp_path / "each", draw=draw)
    assert seen[1:] == [0, 10, 20, 30]  # Lightning logs a step after its checkpoint
