"""Training: resume equals an unbroken run, processes and workers change nothing, faults are named and survived."""

from __future__ import annotations

import json
import logging
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nowcast.data.normalize import Normalizer
from nowcast.errors import ConfigError, DataError, MismatchError
from nowcast.models.base import WithBase
from nowcast.models.bundle import load_bundle
from nowcast.training.checkpoints import last_readable
from nowcast.training.dataset import TrainingData
from nowcast.training.fit import Interrupted, fit
from nowcast.training.module import MAXIMUM_SKIPPED_IN_A_ROW, ForecastModule
from nowcast.training.sampling import StepBatches
from tests.training.tiny import Fields, tiny_config, tiny_data


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_bundle(run).net.state_dict())


def assert_equal_weights(one: Path, other: Path) -> None:
    for (name, left), right in zip(weights(one).items(), weights(other).values(), strict=True):
        assert torch.equal(left, right), name


class StopAt(Fields):
    """A data set in which a signal arrives while a certain batch is being read."""

    def __init__(self, number: int, batch: int, signum: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.batch, self.signum, self.calls = batch, signum, 0

    def __getitems__(self, indices):  # type: ignore[no-untyped-def]
        self.calls += 1
        if self.calls == self.batch:
            signal.raise_signal(self.signum)
        return super().__getitems__(indices)


def interrupted(data, config, run: Path, at_step: int, **options):  # type: ignore[no-untyped-def]
    stopping = StopAt(len(data.train), at_step)
    with pytest.raises(Interrupted) as stop:
        fit(type(data)(**{**vars(data), "train": stopping}), config, run, **options)
    return stop.value


def test_training_lowers_the_loss_and_leaves_a_bundle(tmp_path: Path) -> None:
    result = fit(tiny_data(), tiny_config("training.max_steps=60", "training.validate_every=20"), tmp_path / "run")
    rows = np.genfromtxt(tmp_path / "run/logs/metrics.csv", delimiter=",", names=True)
    losses = rows["val_loss"][~np.isnan(rows["val_loss"])]
    assert losses[-1] < losses[0] and result.validation_loss == pytest.approx(losses.min(), rel=1e-6)
    bundle = load_bundle(tmp_path / "run")
    assert bundle.step_seconds == 300.0 and bundle.provenance["steps"] == 60 and bundle.provenance["skipped_steps"] == 0


@pytest.mark.parametrize("options", [(), ("training.ema=0.9",)], ids=["plain", "averaged"])
def test_a_run_stopped_anywhere_and_resumed_equals_the_unbroken_one(tmp_path: Path, options: tuple[str, ...]) -> None:
    config = tiny_config("augment.flip=true", "augment.drop_input=0.3", *options)
    fit(tiny_data(), config, tmp_path / "whole")
    data = tiny_data()
    for at_step in (2, 5, 4):
        stop = interrupted(data, config, tmp_path / "parts", at_step, resume=(tmp_path / "parts").exists())
        assert stop.signum == signal.SIGTERM
    fit(data, config, tmp_path / "parts", resume=True)
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


def with_signal_in_validation(batch: int) -> TrainingData:
    return replace(tiny_data(), validation=StopAt(8, batch))


@pytest.mark.parametrize("options", [(), ("training.ema=0.9",)], ids=["plain", "averaged"])
def test_a_signal_during_a_validation_loses_nothing(tmp_path: Path, options: tuple[str, ...]) -> None:
    config = tiny_config(*options)
    fit(tiny_data(), config, tmp_path / "whole")
    with pytest.raises(Interrupted):  # two batches a validation: the second is that of step 4
        fit(with_signal_in_validation(2), config, tmp_path / "parts")
    assert (tmp_path / "parts/checkpoints/step-5.ckpt").is_file()
    fit(tiny_data(), config, tmp_path / "parts", resume=True)
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


def test_a_signal_in_the_last_validation_lets_the_run_finish(tmp_path: Path) -> None:
    fit(tiny_data(), tiny_config(), tmp_path / "whole")
    result = fit(with_signal_in_validation(6), tiny_config("training.checkpoint_every=100"), tmp_path / "run")
    assert result.steps == 12
    assert_equal_weights(tmp_path / "whole", tmp_path / "run")


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config()
    fit(tiny_data(), config, tmp_path / "run")
    checkpoints = tmp_path / "run/checkpoints"
    assert last_readable(checkpoints) == checkpoints / "step-12.ckpt"
    damaged = (checkpoints / "step-12.ckpt").read_bytes()
    (checkpoints / "step-12.ckpt").write_bytes(damaged[: len(damaged) // 2])
    assert last_readable(checkpoints) == checkpoints / "step-9.ckpt"
    assert "step 12 cannot be read" in caplog.text
    whole = weights(tmp_path / "run")
    fit(tiny_data(), config, tmp_path / "run", resume=True)
    assert all(torch.equal(value, whole[name]) for name, value in weights(tmp_path / "run").items())


def test_a_checkpoint_whose_writing_fails_leaves_those_of_before_and_no_half_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, written = torch.save, []

    def full_disk(value: object, file: Any) -> None:
        written.append(file.name)
        if "step-9" in file.name:
            file.write(b"half of it")
            raise OSError("no space left on device")
        whole(value, file)

    monkeypatch.setattr("nowcast.training.checkpoints.torch.save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        fit(tiny_data(), tiny_config(), tmp_path / "run")
    assert all(Path(name).parent == tmp_path / "run/checkpoints" for name in written)  # one file system: no copy
    names = {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    assert names == {"step-3.ckpt", "step-6.ckpt", "best.ckpt"}
    assert last_readable(tmp_path / "run/checkpoints") == tmp_path / "run/checkpoints/step-6.ckpt"


def test_the_last_checkpoints_are_kept_and_no_more_after_stops_either(tmp_path: Path) -> None:
    config = tiny_config("training.keep_checkpoints=2", "training.checkpoint_every=2")
    for at_step in (3, 4):
        interrupted(tiny_data(), config, tmp_path, at_step, resume=at_step == 4)
    assert {path.name for path in (tmp_path / "checkpoints").glob("step-*")} == {"step-6.ckpt", "step-7.ckpt"}
    (tmp_path / "checkpoints" / ".step-8.ckpt.partial").write_bytes(b"what a kill left")
    fit(tiny_data(), config, tmp_path, resume=True)
    assert not list((tmp_path / "checkpoints").glob(".*"))
    assert {path.name for path in (tmp_path / "checkpoints").glob("step-*")} == {"step-10.ckpt", "step-12.ckpt"}


def test_resuming_without_a_checkpoint_starts_at_the_first_step(tmp_path: Path) -> None:
    fit(tiny_data(), tiny_config(), tmp_path / "whole")
    fit(tiny_data(), tiny_config(), tmp_path / "run", resume=True)
    assert_equal_weights(tmp_path / "whole", tmp_path / "run")


def test_resuming_from_damaged_checkpoints_alone_says_so(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/step-3.ckpt").write_bytes(b"damaged")
    with pytest.raises(DataError, match="no readable checkpoint"):
        fit(tiny_data(), tiny_config(), tmp_path / "run", resume=True)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step_stops_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals
) -> None:
    before = signal.getsignal(signum)
    monkeypatch.setattr(ForecastModule, "setup", lambda self, stage: signal.raise_signal(signum))
    with pytest.raises(Interrupted):
        fit(tiny_data(), tiny_config(), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run/checkpoints").glob("step-*.ckpt")] == ["step-1.ckpt"]
    assert signal.getsignal(signum) is before


def test_checkpoints_hold_plain_data_alone(tmp_path: Path) -> None:
    fit(tiny_data(), tiny_config(), tmp_path / "run")
    for path in (tmp_path / "run/checkpoints").glob("*.ckpt"):
        assert torch.load(path, weights_only=True)["global_step"] > 0


def test_a_gradient_that_stays_not_finite_ends_training_with_the_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, "nowcast"),
        pytest.raises(DataError, match=f"{MAXIMUM_SKIPPED_IN_A_ROW} steps in a row, the last one step 9"),
    ):
        fit(tiny_data(), tiny_config(explode=True), tmp_path / "run")
    samples = ", ".join(map(str, StepBatches(24, 4, 12, seed=0).samples(0)))
    assert f"step 0: the gradient is not finite; its batch (samples {samples}) is skipped (1 so far)" in caplog.text


class OneBadBatch(Fields):
    def __getitems__(self, indices):  # type: ignore[no-untyped-def]
        batch = super().__getitems__(indices)
        if len(self.asked) == 12:  # the third batch of four
            batch.targets[0, 0, 0, 0, 0] = torch.inf
            batch.valid[0, 0, 0, 0, 0] = True
        return batch


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    data = tiny_data(validation=0)
    broken = type(data)(**{**vars(data), "train": OneBadBatch(24)})
    fit(broken, tiny_config("training.max_steps=2"), tmp_path / "two")
    result = fit(
        type(data)(**{**vars(data), "train": OneBadBatch(24)}),
        tiny_config("training.max_steps=3", "training.schedule=constant"),
        tmp_path / "three",
    )
    before = fit(
        type(data)(**{**vars(data), "train": OneBadBatch(24)}),
        tiny_config("training.max_steps=2", "training.schedule=constant"),
        tmp_path / "before",
    )
    assert result.skipped == 1 and before.skipped == 0
    assert_equal_weights(tmp_path / "three", tmp_path / "before")


class AllMasked(Fields):
    def __getitems__(self, indices):  # type: ignore[no-untyped-def]
        batch = super().__getitems__(indices)
        batch.valid.zero_()
        return batch


def test_batches_without_a_valid_pixel_leave_finite_weights(tmp_path: Path) -> None:
    data = tiny_data(validation=0)
    result = fit(type(data)(**{**vars(data), "train": AllMasked(24)}), tiny_config(), tmp_path / "run")
    assert result.skipped == 0 and all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())


def test_fine_tuning_starts_from_the_given_weights(tmp_path: Path) -> None:
    fit(tiny_data(), tiny_config(), tmp_path / "first")
    fit(
        tiny_data(),
        tiny_config("training.max_steps=1", "training.learning_rate=1e-12"),
        tmp_path / "second",
        init_from=tmp_path / "first",
    )
    for name, value in weights(tmp_path / "first").items():
        torch.testing.assert_close(weights(tmp_path / "second")[name], value, atol=1e-9, rtol=0)


def test_fine_tuning_on_other_units_is_refused_with_both_sides(tmp_path: Path) -> None:
    fit(tiny_data(), tiny_config("training.max_steps=1"), tmp_path / "first")
    data = tiny_data()
    for other, message in (
        (replace(data, normalizer=Normalizer("log", mean=0.1)), "100 mm/h there, log of 0.1 to 100 mm/h here"),
        (replace(data, normalizer=Normalizer(maximum_mm_h=64.0, mean=0.1)), "0.1 to 100 mm/h there, db of 0.1 to 64"),
        (replace(data, step_seconds=600.0), "step 300 s there, 600 s here"),
        (replace(data, pixel_size_km=(2.0, 2.0)), "pixel size 1x1 km there, 2x2 km here"),
    ):
        with pytest.raises(MismatchError, match=message):
            fit(other, tiny_config(), tmp_path / "second", init_from=tmp_path / "first")


def test_out_of_gpu_memory_says_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(self: Fields, indices: list[int]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(Fields, "__getitems__", exhausted)
    with pytest.raises(ConfigError, match=r"training.batch_size=4.*lower training.batch_size"):
        fit(tiny_data(), tiny_config(), tmp_path / "run")


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    fit(tiny_data(), tiny_config(), tmp_path / "none")
    fit(tiny_data(), tiny_config("training.workers=2"), tmp_path / "two")
    assert_equal_weights(tmp_path / "none", tmp_path / "two")


def test_the_run_folder_explains_itself(tmp_path: Path) -> None:
    fit(tiny_data(), tiny_config(), tmp_path / "run", provenance={"command": "nowcast train a.zarr"})
    values = json.loads((tmp_path / "run/model/bundle.json").read_text())
    assert values["provenance"]["command"] == "nowcast train a.zarr" and values["provenance"]["parameters"] == 19
    assert (tmp_path / "run/config.yaml").is_file()


@pytest.mark.parametrize("noise", [(), ("model.noise_channels=1", "loss.name=crps")])
def test_the_base_is_fitted_before_the_first_step(tmp_path: Path, noise: tuple[str, ...]) -> None:
    """A step that changes nothing leaves the weights that the regression found, the same from the same seed."""
    still = ("training.max_steps=1", "training.learning_rate=1e-12", "training.warmup_steps=0")
    config = tiny_config("model.base=true", "model.name=pyramid", "model.hidden_channels=[4]", *still, *noise)
    nets = [load_bundle(fit(tiny_data(24), config, tmp_path / name).bundle).net for name in ("a", "b")]
    (first,), (second,) = ([part for part in net.modules() if isinstance(part, WithBase)] for net in nets)
    assert first.weight.abs().max() > 0.05 and not (first.spread == 1).any()
    assert torch.equal(first.weight, second.weight)
