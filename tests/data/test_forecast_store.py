"""Many issue times into one store: one at a time, nothing under its name before it is whole, continued after a stop."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest

from nowcast.data.forecast import Forecast, load_forecast
from nowcast.data.forecast_store import DONE, ForecastStore, draft_of
from nowcast.data.grid import Grid
from nowcast.errors import ConfigError, DataError

TIMES = np.datetime64("2020-01-01T00:00", "s") + np.arange(5) * np.timedelta64(300, "s")
GRID = Grid(np.arange(4) * 1000.0, np.arange(3)[::-1] * 1000.0, "EPSG:3035")
ABOUT = {"model": "m"}


def forecast(index: int, *, chances: bool = False) -> Forecast:
    rng = np.random.default_rng(index)
    rain = rng.gamma(0.5, 2.0, (2, 1, 3, 3, 4)).astype(np.float32)
    rain[..., 0, 0] = np.nan
    odds = rng.uniform(size=(1, 3, 2, 3, 4)).astype(np.float32) if chances else None
    leads = np.arange(1, 4) * np.timedelta64(300, "s")
    attributes = {"input_times": f"{TIMES[index] - 600}Z to {TIMES[index]}Z"}
    return Forecast(
        rain, TIMES[index : index + 1], leads, GRID, "m", 5.0, attributes, odds, (1.0, 5.0) if chances else ()
    )


@pytest.mark.parametrize("chances", [False, True])
def test_a_store_written_one_by_one_holds_what_was_written(tmp_path: Path, chances: bool) -> None:
    with ForecastStore(tmp_path / "f.zarr", TIMES, about=ABOUT) as store:
        for index in range(5):
            assert not (tmp_path / "f.zarr").exists()
            store.write(forecast(index, chances=chances))
    assert [path.name for path in tmp_path.iterdir()] == ["f.zarr"]
    loaded = load_forecast(tmp_path / "f.zarr")
    np.testing.assert_array_equal(loaded.issue_times, TIMES)
    assert loaded.interval_minutes == 5.0
    assert loaded.attributes["input_times"] == f"{TIMES[0] - 600}Z to {TIMES[-1]}Z"
    for index, part in enumerate(loaded.single_issues()):
        wanted = forecast(index, chances=chances)
        np.testing.assert_array_equal(part.rain_rate, wanted.rain_rate)
        np.testing.assert_array_equal(part.lead_times, wanted.lead_times)
        if chances:
            np.testing.assert_array_equal(part.chances, wanted.chances)  # type: ignore[arg-type]


def test_it_is_the_store_that_a_whole_forecast_saves(tmp_path: Path) -> None:
    parts = [forecast(index) for index in range(5)]
    rain = np.concatenate([part.rain_rate for part in parts], axis=1)
    Forecast(rain, TIMES, parts[0].lead_times, GRID, "m", 5.0).save(tmp_path / "whole.zarr")
    with ForecastStore(tmp_path / "parts.zarr", TIMES, about=ABOUT) as store:
        for part in parts:
            store.write(part)
    whole, streamed = load_forecast(tmp_path / "whole.zarr"), load_forecast(tmp_path / "parts.zarr")
    np.testing.assert_array_equal(streamed.rain_rate, whole.rain_rate)
    assert streamed.grid.matches(whole.grid) and streamed.model == whole.model


def test_memory_holds_one_issue_time(tmp_path: Path) -> None:
    alive: list[weakref.ref[Forecast]] = []
    with ForecastStore(tmp_path / "f.zarr", TIMES, about=ABOUT) as store:
        for index in range(5):
            part = forecast(index)
            alive = [one for one in alive if one() is not None] + [weakref.ref(part)]
            store.write(part)
            del part
            assert not any(one() for one in alive)


def stopped_after(tmp_path: Path, number: int) -> None:
    with pytest.raises(KeyboardInterrupt), ForecastStore(tmp_path / "f.zarr", TIMES, about=ABOUT) as store:
        for index in range(number):
            store.write(forecast(index))
        raise KeyboardInterrupt


def test_a_stopped_run_goes_on_to_the_same_store(tmp_path: Path) -> None:
    stopped_after(tmp_path, 3)
    assert not (tmp_path / "f.zarr").exists()
    with ForecastStore(tmp_path / "f.zarr", TIMES, about=ABOUT, resume=True) as store:
        assert store.outstanding.tolist() == TIMES[3:].tolist()
        for index in (3, 4):
            store.write(forecast(index))
    np.testing.assert_array_equal(load_forecast(tmp_path / "f.zarr").rain_rate[:, 1:2], forecast(1).rain_rate)
    with ForecastStore(tmp_path / "f.zarr", TIMES, about=ABOUT, resume=True) as store:
        assert store.outstanding.size == 0 and store.is_complete


def test_a_line_cut_short_is_a_forecast_to_make_again(tmp_path: Path) -> None:
    stopped_after(tmp_path, 3)
    done = draft_of(tmp_path / "f.zarr") / DONE
    done.write_text(done.read_text()[:-4])
    with ForecastStore(tmp_path / "f.zarr", TIMES, about=ABOUT, resume=True) as store:
        assert store.outstanding.tolist() == TIMES[2:].tolist()


def test_a_run_killed_before_it_could_publish_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ForecastStore, "_publish", lambda self: None)
        with ForecastStore(tmp_path / "f.zarr", TIMES, about=ABOUT) as store:
            for index in range(5):
                store.write(forecast(index))
    assert not (tmp_path / "f.zarr").exists()
    with ForecastStore(tmp_path / "f.zarr", TIMES, about=ABOUT, resume=True) as store:
        assert store.is_complete
    assert load_forecast(tmp_path / "f.zarr").issue_times.size == 5


def test_a_draft_is_neither_overwritten_nor_continued_by_accident(tmp_path: Path) -> None:
    stopped_after(tmp_path, 1)
    with pytest.raises(ConfigError, match="was stopped before its end"):
        ForecastStore(tmp_path / "f.zarr", TIMES, about=ABOUT)
    for other in ({"about": {"model": "n"}}, {"about": ABOUT, "issue_times": TIMES[:4]}):
        with pytest.raises(ConfigError, match="had another model, archive, or other times"):
            ForecastStore(tmp_path / "f.zarr", **({"issue_times": TIMES} | other), resume=True)  # type: ignore[arg-type]
    with ForecastStore(tmp_path / "f.zarr", TIMES, about=ABOUT, overwrite=True) as store:
        assert store.outstanding.size == 5


def test_a_store_that_is_there_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    forecast(0).save(tmp_path / "f.zarr")
    for resume in (False, True):
        with pytest.raises(ConfigError, match="exists"):
            ForecastStore(tmp_path / "f.zarr", TIMES, about=ABOUT, resume=resume)
    with ForecastStore(tmp_path / "f.zarr", TIMES[:1], about=ABOUT, overwrite=True) as store:
        assert load_forecast(tmp_path / "f.zarr").issue_times.size == 1  # until the new one is whole
        store.write(forecast(0))
    assert load_forecast(tmp_path / "f.zarr").interval_minutes == 5.0


def test_two_processes_do_not_write_one_store(tmp_path: Path) -> None:
    with (
        ForecastStore(tmp_path / "f.zarr", TIMES, about=ABOUT),
        pytest.raises(DataError, match="being written by another process"),
    ):
        ForecastStore(tmp_path / "f.zarr", TIMES, about=ABOUT, resume=True)


def test_a_forecast_of_another_shape_is_refused(tmp_path: Path) -> None:
    with ForecastStore(tmp_path / "f.zarr", TIMES, about=ABOUT) as store:
        store.write(forecast(0))
        part = forecast(1)
        fewer = Forecast(part.rain_rate[:1], part.issue_times, part.lead_times, GRID, "m", 5.0)
        with pytest.raises(DataError, match="has shape"):
            store.write(fewer)
