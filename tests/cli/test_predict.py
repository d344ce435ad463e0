"""`nowcast predict`: one or many issue times, models and baselines alike, and data that does not fit refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.progress import progress
from data_prep.synthetic_rain import write_synthetic_archive
from nowcast.data.archive import open_archive
from nowcast.data.archive_writer import ArchiveWriter
from nowcast.data.climate import RainClimate
from nowcast.data.forecast import load_forecast
from nowcast.data.forecast_store import DONE, draft_of
from nowcast.data.grid import Grid
from tests.cli.conftest import TINY, Run


@pytest.mark.parametrize("model", ["persistence", "extrapolation", "trained"])
def test_models_and_baselines_leave_the_same_kind_of_file(
    nowcast: Run, archive: Path, run_folder: Path, tmp_path: Path, model: str
) -> None:
    name = run_folder if model == "trained" else model
    nowcast("predict", name, archive, "--at", "2000-01-01T02:00", "--minutes", 20, "-o", tmp_path / "f.nc")
    forecast = load_forecast(tmp_path / "f.nc")
    assert forecast.rain_rate.shape == (1, 1, 4, 32, 40)
    assert forecast.issue_times[0] == np.datetime64("2000-01-01T02:00")
    assert forecast.attributes["synthetic"] == "true"


def test_persistence_repeats_the_last_frame_of_the_archive(nowcast: Run, archive: Path, tmp_path: Path) -> None:
    nowcast("predict", "persistence", archive, "-o", tmp_path / "f.nc", "--minutes", 15)
    source, forecast = open_archive(archive), load_forecast(tmp_path / "f.nc")
    last = source.rain_rate(source.times.size - 1, source.times.size)
    np.testing.assert_array_equal(forecast.rain_rate[0, 0], np.repeat(last, 3, axis=0))


def test_many_issue_times_go_into_a_folder_and_resume_there(nowcast: Run, archive: Path, tmp_path: Path) -> None:
    times = ["--from", "2000-01-01T01:00", "--to", "2000-01-01T02:00", "--every", "30min"]
    nowcast("predict", "persistence", archive, *times, "-o", tmp_path / "out", "--minutes", 15)
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in files] == [f"persistence_20000101T{hhmm}Z.nc" for hhmm in ("0100", "0130", "0200")]
    kept = files[0].stat().st_mtime_ns
    files[1].unlink()
    nowcast("predict", "persistence", archive, *times, "-o", tmp_path / "out", "--minutes", 15, "--resume")
    assert files[1].is_file() and files[0].stat().st_mtime_ns == kept


def test_many_issue_times_go_into_one_store(nowcast: Run, archive: Path, tmp_path: Path) -> None:
    times = ["--from", "2000-01-01T01:00", "--to", "2000-01-01T01:30", "--every", "10min"]
    nowcast("predict", "extrapolation", archive, *times, "-o", tmp_path / "f.zarr", "--minutes", 15)
    assert load_forecast(tmp_path / "f.zarr").rain_rate.shape == (1, 4, 3, 32, 40)


def test_a_model_refuses_another_step_and_another_pixel_size_with_both_named(
    nowcast: Run, run_folder: Path, tmp_path: Path
) -> None:
    slow = write_synthetic_archive(tmp_path / "slow.zarr", 8, (32, 32), seed=1, step_minutes=10)
    coarse = write_synthetic_archive(tmp_path / "coarse.zarr", 8, (32, 32), seed=1, pixel_km=2.0)
    step = nowcast("predict", run_folder, slow, "-o", tmp_path / "f.nc", expect=6)
    assert "trained on steps of 5 min" in str(step.exception) and "has 10 min" in str(step.exception)
    pixel = nowcast("predict", run_folder, coarse, "-o", tmp_path / "f.nc", expect=6)
    assert "trained on pixels of 1x1 km" in str(pixel.exception) and "has 2x2 km" in str(pixel.exception)


def test_a_time_without_frames_says_what_the_archive_has(nowcast: Run, archive: Path, tmp_path: Path) -> None:
    result = nowcast("predict", "persistence", archive, "--at", "2001-01-01T00:00", "-o", tmp_path / "f.nc", expect=3)
    assert "it reaches from 2000-01-01T00:00:00 to 2000-01-01T04:55:00" in str(result.exception)
    assert "the nearest is 2000-01-01T04:55:00" in str(result.exception)


def test_what_is_no_model_is_said_to_be_none(nowcast: Run, archive: Path, tmp_path: Path) -> None:
    result = nowcast("predict", archive, archive, "-o", tmp_path / "f.nc", expect=3)
    assert "neither a model bundle nor a run folder" in str(result.exception)


def test_an_existing_file_is_kept_unless_told_otherwise(nowcast: Run, archive: Path, tmp_path: Path) -> None:
    command = ["predict", "persistence", archive, "-o", tmp_path / "f.nc", "--minutes", 5]
    nowcast(*command)
    assert "exists" in str(nowcast(*command, expect=2).exception)
    nowcast(*command, "--overwrite")


def test_what_another_call_made_is_not_kept_by_resume(
    nowcast: Run, archive: Path, run_folder: Path, tmp_path: Path
) -> None:
    other = write_synthetic_archive(tmp_path / "other.zarr", 30, (32, 40), seed=9)
    twin = shutil.copytree(run_folder, tmp_path / "run")
    described = json.loads((twin / "model" / "bundle.json").read_text())
    assert described["provenance"]["name"] == "run"
    (twin / "model" / "bundle.json").write_text(json.dumps(described | {"decision_levels": None}))
    for output in ("out", "f.nc", "f.zarr"):
        at = ["--from", "2000-01-01T01:00", "--to", "2000-01-01T01:00", "-o", tmp_path / output]
        nowcast("predict", run_folder, archive, *at)
        nowcast("predict", run_folder, archive, *at, "--resume")
        for model, source, more, message in (
            (twin, archive, (), "bundle_sha256 is"),
            (run_folder, other, (), "archive_fingerprint is"),
            (run_folder, archive, ("--minutes", 10), "lead times [min] is 5 to 20, not 5 to 10"),
        ):
            result = nowcast("predict", model, source, *at, *more, "--resume", expect=2)
            assert "was made by another call" in str(result.exception) and message in str(result.exception)


def test_a_forecast_says_which_model_made_it(nowcast: Run, archive: Path, run_folder: Path, tmp_path: Path) -> None:
    nowcast("predict", run_folder, archive, "-o", tmp_path / "f.nc")
    made = load_forecast(tmp_path / "f.nc")
    assert made.model == "run" and len(made.attributes["config_hash"]) == 64
    assert made.attributes["model_id"] == f"run-{made.attributes['bundle_sha256'][:12]}"


def test_issue_times_with_gaps_and_forecasts_of_nothing_are_named(nowcast: Run, tmp_path: Path) -> None:
    step, start = np.timedelta64(300, "s"), np.datetime64("2000-01-01T00:00", "s")
    grid = Grid.from_corner(4e6, 3e6, 1000.0, 1000.0, (8, 9), "EPSG:3035")
    with ArchiveWriter.create(tmp_path / "gap.zarr", grid, first_time=start, step=step, interval_minutes=5.0) as writer:
        for index in (0, 1, 2, 4, 5, 6):
            writer.write(start + index * step, np.full(grid.shape, np.nan if index == 6 else 1.0, dtype=np.float32))
    times = ["--from", "2000-01-01T00:00", "--to", "2000-01-01T00:25"]
    result = nowcast("predict", "persistence", tmp_path / "gap.zarr", *times, "-o", tmp_path / "out", expect=5)
    assert "without 1 frames up to them: 1 (the first 2000-01-01T00:15:00Z)" in result.stderr
    assert len(list((tmp_path / "out").iterdir())) == 5
    result = nowcast("predict", "persistence", tmp_path / "gap.zarr", "-o", tmp_path / "last.nc", expect=5)
    assert "measured nothing, forecasts of: 1 (the first 2000-01-01T00:30:00Z)" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--minutes", "nan"), "--minutes nan is no length of time"),
        (("--minutes", "inf"), "--minutes inf is no length of time"),
        (("--every", "7min"), "every 7 min are none of an archive with a frame every 5 min"),
    ],
)
def test_lengths_that_do_not_fit_the_archive_are_refused(
    nowcast: Run, archive: Path, tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    result = nowcast("predict", "persistence", archive, *options, "-o", tmp_path / "out", expect=2)
    assert message in str(result.exception)


def test_the_climate_is_compared_only_where_the_model_fits(
    nowcast: Run, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = write_synthetic_archive(tmp_path / "slow.zarr", 8, (32, 32), seed=1, step_minutes=10)
    monkeypatch.setattr(RainClimate, "differences", lambda self, other: ["another climate"])
    result = nowcast("predict", run_folder, slow, "-o", tmp_path / "f.nc", expect=6)
    assert "another climate" not in result.output


TIMES = ["--from", "2000-01-01T01:00", "--to", "2000-01-01T03:00", "--every", "5min", "--minutes", 15]


def test_a_store_that_was_stopped_is_continued_with_resume(
    nowcast: Run, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nowcast.prediction.predict as prediction

    real, made = prediction.forecast_at, []

    def stops_at_the_fourth(*arguments: Any, **options: Any) -> Any:
        made.append(arguments[2])
        if len(made) == 4:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    command = ["predict", "persistence", archive, *TIMES, "-o", tmp_path / "f.zarr"]
    with monkeypatch.context() as patch:
        patch.setattr(prediction, "forecast_at", stops_at_the_fourth)
        nowcast(*command, expect=1)
    assert len(made) == 4 and not (tmp_path / "f.zarr").exists()
    assert "--resume" in str(nowcast(*command, expect=2).exception)
    made.clear()
    monkeypatch.setattr(prediction, "forecast_at", lambda *a, **k: (made.append(a[2]), real(*a, **k))[1])
    nowcast(*command, "--resume")
    assert len(made) == 22
    nowcast("predict", "persistence", archive, *TIMES, "-o", tmp_path / "unbroken.zarr")
    continued, unbroken = load_forecast(tmp_path / "f.zarr"), load_forecast(tmp_path / "unbroken.zarr")
    np.testing.assert_array_equal(continued.rain_rate, unbroken.rain_rate)
    assert continued.issue_times.size == 25


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_store(nowcast: Run, archive: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "predict", "scale-decay", str(archive), *map(str, TIMES)]
    command += ["-o", str(tmp_path / "f.zarr")]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    done = draft_of(tmp_path / "f.zarr") / DONE
    while running.poll() is None and not (done.is_file() and done.read_text().count("\n") >= 3):
        time.sleep(0.01)
    running.kill()
    running.wait()
    assert not (tmp_path / "f.zarr").exists()
    nowcast(*command[3:], "--resume")
    nowcast(*command[3:-1], tmp_path / "unbroken.zarr")
    killed, unbroken = load_forecast(tmp_path / "f.zarr"), load_forecast(tmp_path / "unbroken.zarr")
    np.testing.assert_array_equal(killed.rain_rate, unbroken.rain_rate)


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    now = iter(range(0, 100, 2))
    assert list(progress(range(8), "predict", clock=lambda: next(now))) == list(range(8))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["predict: 3 of 8, 0.5/s, 10 s left", "predict: 6 of 8, 0.5/s, 4 s left"]


@pytest.fixture(scope="module")
def ensemble_folder(nowcast: Run, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensemble") / "run"
    settings = [*TINY[:-2], "--set", "loss.name=crps", "--set", "model.noise_channels=2"]
    nowcast("train", archive, "-o", folder, "--cache", folder.parent / "cache", *settings)
    return folder


def test_members_are_drawn_by_the_seed_and_kept_as_realizations(
    nowcast: Run, archive: Path, ensemble_folder: Path, tmp_path: Path
) -> None:
    command = ["predict", ensemble_folder, archive, "--at", "2000-01-01T02:00", "--members", 3]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        nowcast(*command, "--seed", seed, "-o", tmp_path / f"{name}.nc")
    a, b, c = (load_forecast(tmp_path / f"{name}.nc") for name in "abc")
    assert a.rain_rate.shape == (3, 1, 4, 32, 40)
    assert (a.attributes["members"], a.attributes["seed"]) == (3, 1)
    np.testing.assert_array_equal(a.rain_rate, b.rain_rate)
    assert not np.array_equal(a.rain_rate, c.rain_rate, equal_nan=True)
    assert not np.array_equal(a.rain_rate[0], a.rain_rate[1], equal_nan=True)
    times = ["--from", "2000-01-01T01:55", "--to", "2000-01-01T02:00", "--members", 2, "--seed", 1]
    nowcast("predict", ensemble_folder, archive, *times, "-o", tmp_path / "f.zarr")
    np.testing.assert_array_equal(load_forecast(tmp_path / "f.zarr").rain_rate[:, 1:], a.rain_rate[:2])


def test_what_draws_no_members_says_so(nowcast: Run, archive: Path, run_folder: Path, tmp_path: Path) -> None:
    for model in (run_folder, "persistence"):
        result = nowcast("predict", model, archive, "--members", 2, "-o", tmp_path / "f.nc", expect=2)
        assert "forecasts one field and no members" in str(result.exception)
    result = nowcast("predict", "persistence", archive, "--seed", 2, "-o", tmp_path / "f.nc", expect=2)
    assert "add --members" in str(result.exception)


@pytest.mark.parametrize("factor", [1.0, 6.0, 1 / 6])
def test_a_forecast_far_from_the_training_climate_says_so(
    nowcast: Run,
    archive: Path,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    factor: float,
) -> None:
    from nowcast.data.archive import RadarArchive

    real = RadarArchive.rain_rate
    monkeypatch.setattr(RadarArchive, "rain_rate", lambda self, start, stop: real(self, start, stop) * factor)
    times = ["--from", "2000-01-01T02:00", "--to", "2000-01-01T02:10"]
    result = nowcast("predict", run_folder, archive, *times, "-o", tmp_path / "out")
    said = [line for line in result.stderr.splitlines() if "unlike that of the training" in line]
    attributes = [load_forecast(path).attributes for path in (tmp_path / "out").iterdir()]
    assert len(attributes) == 3
    if factor == 1.0:
        assert said == [] and not any("climate_warning" in one for one in attributes)
    else:
        assert len(said) == 1 and "percentile of wet rates" in said[0]
        assert all("percentile of wet rates" in one["climate_warning"] for one in attributes)
