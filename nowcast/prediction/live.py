"""Forecasts as frames arrive: one file for each new frame, the newest first, whatever happens to single frames.

Where the frames come from is the caller's business: `run_live` is given a function that takes in what has arrived
and returns the archive as it is then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from nowcast.errors import DataError
from nowcast.prediction.predict import (
    FramesForecaster,
    FrameSource,
    climate_attributes,
    forecast_at,
    forecast_file_name,
)

log = logging.getLogger(__name__)


def _now() -> np.datetime64:
    return np.datetime64(datetime.now(UTC).replace(tzinfo=None), "s")


@dataclass(eq=False)
class LiveForecasts:
    """The forecasts of one forecaster in one folder, brought up to date with an archive that grows.

    A frame is due when it is among the last `catch_up` of the archive and has no forecast file. One whose input
    frames are not all there is skipped, with the reason in the log, until a late frame fills the gap. One that is dated
    more than a step after now is no news: its date or the clock is wrong, which is said, and the others go on.

    Attributes:
        forecaster: A model or a baseline.
        folder: Where the files go, one for each issue time, written atomically.
        leads: Number of lead times for a step.
        catch_up: How far back from the newest frame forecasts are still made.
        how: What else `forecast_at` is told: chances, members, seed.
        clock: The time now [UTC].
    """

    forecaster: FramesForecaster
    folder: Path
    leads: Callable[[np.timedelta64], int]
    catch_up: np.timedelta64
    how: Mapping[str, Any] = field(default_factory=dict)
    clock: Callable[[], np.datetime64] = _now
    _said: dict[np.datetime64, str] = field(default_factory=dict, init=False)
    _climate: dict[str, str] = field(default_factory=dict, init=False)

    def due(self, source: FrameSource) -> list[np.datetime64]:
        """Times of frames without a forecast, the newest first."""
        times = source.times[source.present]
        ahead = times > self.clock() + source.step
        for time in times[ahead]:
            self._say(time, "it lies ahead of the clock of this machine; one of the two is wrong")
        times = times[~ahead]
        recent = times[times >= times[-1] - self.catch_up] if times.size else times
        return [time for time in recent[::-1] if not self._path(time).exists()]

    def issue_next(self, source: FrameSource) -> Path | None:
        """Make the newest forecast that is due and can be made; None where there is none.

        Raises:
            MismatchError, ConfigError: The forecaster does not fit the data, or cannot give what is asked for.
            OSError: The file cannot be written.
        """
        for time in self.due(source):
            reason = self._obstacle(source, time)
            if reason is None:
                try:
                    return self._issue(source, time)
                except DataError as error:
                    reason = str(error)
            self._say(time, reason)
        return None

    def _say(self, time: np.datetime64, reason: str) -> None:
        """Why there is no forecast, once."""
        if self._said.get(time) != reason:
            self._said[time] = reason
            log.warning("no forecast for %sZ: %s", time, reason)

    def _obstacle(self, source: FrameSource, time: np.datetime64) -> str | None:
        """Which of the input frames are missing, in words."""
        stop = int(np.searchsorted(source.times, time)) + 1
        wanted = np.arange(stop - self.forecaster.input_frames, stop)
        missing = [index for index in wanted if index < 0 or not source.present[index]]
        if not missing:
            return None
        absent = ", ".join(str(source.times[0] + index * source.step)[11:16] for index in missing)
        return f"{len(missing)} of its {wanted.size} frames are missing ({absent})"

    def _issue(self, source: FrameSource, time: np.datetime64) -> Path:
        self._climate = self._climate or climate_attributes(self.forecaster, source)
        forecast = forecast_at(
            self.forecaster, source, time, self.leads(source.step), attributes=self._climate, **self.how
        )
        path = forecast.save(self._path(time))
        log.info("forecast for %sZ: %s", time, path)
        return path

    def _path(self, time: np.datetime64) -> Path:
        return self.folder / forecast_file_name(self.forecaster, time)


def run_live(
    forecasts: LiveForecasts, refresh: Callable[[], FrameSource | None], wait: Callable[[], bool]
) -> list[Path]:
    """Issue forecasts until `wait` says that it is over; the files made.

    New frames are taken in before every forecast, so that with many due the newest is always the next.

    Args:
        refresh: Takes in what has arrived; the archive as it is now, or None while there is none. Its DataError and
            OSError are logged, and it is called again.
        wait: Called when nothing is due; returns True to look again, False to end.
    """
    made: list[Path] = []
    trouble = ""
    while True:
        path = None
        try:
            source = refresh()
            path = None if source is None else forecasts.issue_next(source)
            trouble = ""
        except (DataError, OSError) as error:
            if str(error) != trouble:
                trouble = str(error)
                log.warning("%s; going on", trouble)
        if path is not None:
            made.append(path)
        elif not wait():
            return made
