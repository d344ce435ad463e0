"""Live forecasts: every frame once, the newest first, gaps skipped and filled, trouble outlived."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nowcast.data.forecast import load_forecast
from nowcast.data.grid import Grid
from nowcast.errors import DataError, MismatchError
from nowcast.prediction.live import LiveForecasts, run_live
from nowcast.prediction.persistence import Persistence

STEP = np.timedelta64(300, "s")
START = np.datetime64("2020-01-01T00:00", "s")


class Frames:
    """An archive whose frames can be made to arrive; frame k rains k mm/h."""

    grid = Grid(np.arange(4) * 1000.0, np.arange(3)[::-1] * 1000.0, "EPSG:3035")
    step, fingerprint, is_synthetic, interval_minutes = STEP, "f", True, None

    def __init__(self, *numbers: int) -> None:
        self.there = set(numbers)

    @property
    def times(self) -> np.ndarray:
        return START + np.arange(max(self.there, default=-1) + 1) * STEP

    @property
    def present(self) -> np.ndarray:
        return np.isin(np.arange(self.times.size), sorted(self.there))

    def rain_rate(self, start: int, stop: int) -> np.ndarray:
        return np.repeat(np.arange(start, stop, dtype=np.float32), 12).reshape(-1, 3, 4)


class ThreeFrames(Persistence):
    """Persistence that asks for three frames, as a model does."""

    input_frames = 3


def live(folder: Path, *, minutes: int = 60, forecaster: Any = None) -> LiveForecasts:
    catch_up = np.timedelta64(minutes, "m")
    return LiveForecasts(forecaster or ThreeFrames(), folder, lambda step: 2, catch_up, {})


def numbers(folder: Path) -> list[int]:
    return [int(load_forecast(path).rain_rate[0, 0, 0, 0, 0]) for path in sorted(folder.glob("*.nc"))]


def run(forecasts: LiveForecasts, *looks: Any) -> list[Path]:
    """Every look is the source, or an error, that the next `refresh` gives; the last one stays."""
    given: Iterator[Any] = iter(looks)
    now = [next(given)]

    def refresh() -> Any:
        if isinstance(now[0], Exception):
            raise now[0]
        return now[0]

    def wait() -> bool:
        following = next(given, None)
        now[0] = following
        return following is not None

    return run_live(forecasts, refresh, wait)


def test_every_frame_that_can_be_forecast_from_is_the_newest_first(tmp_path: Path) -> None:
    made = run(live(tmp_path), Frames(*range(6)))
    times = [path.stem.split("T")[1] for path in made]
    assert times == ["0025Z", "0020Z", "0015Z", "0010Z"]
    assert numbers(tmp_path) == [2, 3, 4, 5]


def test_a_frame_that_arrives_during_the_work_is_next(tmp_path: Path) -> None:
    source, forecasts = Frames(*range(6)), live(tmp_path)
    first = forecasts.issue_next(source)
    source.there.add(6)
    second = forecasts.issue_next(source)
    assert first is not None and second is not None
    assert (first.stem[-5:], second.stem[-5:]) == ("0025Z", "0030Z")


def test_what_has_a_file_is_left_alone_and_old_frames_are_not_caught_up_with(tmp_path: Path) -> None:
    assert len(run(live(tmp_path, minutes=10), Frames(*range(20)))) == 3
    assert run(live(tmp_path, minutes=10), Frames(*range(20))) == []
    assert numbers(tmp_path) == [17, 18, 19]


def test_a_gap_skips_with_the_reason_once_and_a_late_frame_fills_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="nowcast.prediction.live"):
        gappy = Frames(0, 1, 2, 3, 5, 6)
        run(live(tmp_path), gappy, gappy)
    said = [record.getMessage() for record in caplog.records if "00:25" in record.getMessage()]
    assert said == ["no forecast for 2020-01-01T00:25:00Z: 1 of its 3 frames are missing (00:20)"]
    assert numbers(tmp_path) == [2, 3]
    made = run(live(tmp_path), gappy, Frames(*range(7)))
    assert [path.stem[-5:] for path in made] == ["0030Z", "0025Z", "0020Z"]
    assert numbers(tmp_path) == [2, 3, 4, 5, 6]


def test_trouble_is_said_and_outlived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trouble = DataError("the file is damaged")
    with caplog.at_level(logging.WARNING, logger="nowcast.prediction.live"):
        run(live(tmp_path), trouble, trouble, OSError("no space"), Frames(0, 1, 2))
    said = [record.getMessage() for record in caplog.records]
    assert said.count("the file is damaged; going on") == 1 and "no space; going on" in said
    assert numbers(tmp_path) == [2]


def test_an_issue_time_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    class FailsAtFour(ThreeFrames):
        def forecast_frames(self, frames: np.ndarray, num_leads: int) -> np.ndarray:
            if frames[-1, 0, 0] == 4:
                raise DataError("nothing to see")
            return super().forecast_frames(frames, num_leads)

    run(live(tmp_path, forecaster=FailsAtFour()), Frames(*range(6)))
    assert numbers(tmp_path) == [2, 3, 5]


def test_a_model_that_does_not_fit_the_data_ends_it(tmp_path: Path) -> None:
    class Misfit(ThreeFrames):
        def require_fit(self, grid: Grid, step: np.timedelta64, name: str) -> None:
            raise MismatchError("another step")

    with pytest.raises(MismatchError):
        run(live(tmp_path, forecaster=Misfit()), Frames(*range(6)))


def test_nothing_is_left_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import xarray as xr

    def killed(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(xr.Dataset, "to_netcdf", killed)
    with pytest.raises(KeyboardInterrupt):
        run(live(tmp_path), Frames(0, 1, 2))
    assert list(tmp_path.iterdir()) == []


def test_a_frame_dated_ahead_of_the_clock_holds_nothing_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file with a wrong date comes among true ones: those are forecast from, and it is named once."""
    forecasts = live(tmp_path)
    forecasts.clock = lambda: START + 5 * STEP
    with caplog.at_level(logging.WARNING):
        run(forecasts, Frames(*range(6), 500, 501, 502), Frames(*range(7), 500, 501, 502))
    assert numbers(tmp_path) == [2, 3, 4, 5, 6]  # the last a step ahead, as a stamp at the end of an interval may be
    ahead = [record.message for record in caplog.records if "ahead of the clock" in record.message]
    assert len(ahead) == 3 and "2020-01-02T17:40:00Z" in ahead[0]
