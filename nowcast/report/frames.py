"""Frames to show: what a forecast and an archive hold at the same valid times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nowcast.data.archive import RadarArchive
from nowcast.data.forecast import Forecast
from nowcast.data.grid import Grid
from nowcast.errors import DataError, MismatchError
from nowcast.report.words import utc


@dataclass(frozen=True, eq=False)
class Frames:
    """A forecast of one issue time, with what was observed.

    Attributes:
        model: Name of what made the forecast.
        issue_time: datetime64[s].
        lead_times: (L,) timedelta64[s].
        grid: Where the pixels are.
        forecast: (member, L, H, W) float32 [mm/h].
        observed: (L, H, W) float32 [mm/h], NaN where the archive has no frame; None without an archive.
        synthetic: Whether the rain is made up.
        chances: (L, threshold, H, W) in [0, 1], the forecast's own probabilities of reaching the thresholds, or None.
        chance_thresholds: Their thresholds [mm/h].
    """

    model: str
    issue_time: np.datetime64
    lead_times: np.ndarray
    grid: Grid
    forecast: np.ndarray
    observed: np.ndarray | None
    synthetic: bool
    chances: np.ndarray | None = None
    chance_thresholds: tuple[float, ...] = ()

    @property
    def lead_labels(self) -> tuple[str, ...]:
        """`+5 min`, ..."""
        return tuple(f"+{minutes:g} min" for minutes in self.lead_times / np.timedelta64(60, "s"))

    @property
    def valid_times(self) -> np.ndarray:
        """(L,) datetime64[s]."""
        return np.asarray(self.issue_time + self.lead_times)

    @property
    def unobserved(self) -> int:
        """Lead times at which the archive has no frame; 0 without an archive."""
        return 0 if self.observed is None else int(np.isnan(self.observed).all(axis=(1, 2)).sum())


def frames_of(forecast: Forecast, archive: RadarArchive | None = None, *, issue: np.datetime64 | None = None) -> Frames:
    """One issue time of a forecast beside the archive's frames at its valid times.

    Args:
        issue: Which issue time; the only or the last one unless given.

    Raises:
        DataError: The forecast was not issued at that time, or the archive has no frame at any of its valid times;
            the times that there are are named.
        MismatchError: Forecast and archive are on other grids.
    """
    index = forecast.issue_times.size - 1
    if issue is not None:
        found = np.flatnonzero(forecast.issue_times == issue)
        if found.size == 0:
            raise DataError(
                f"the forecast of {forecast.model} was not issued at {utc(issue)}",
                f"it has {forecast.issue_times.size} issue times from {utc(forecast.issue_times[0])} "
                f"to {utc(forecast.issue_times[-1])}",
            )
        index = int(found[0])
    observed = None
    if archive is not None:
        if not archive.grid.matches(forecast.grid):
            raise MismatchError(
                f"the forecast of {forecast.model} is on {forecast.grid.describe()}, "
                f"the archive {archive.path} on {archive.grid.describe()}",
                "give the archive that the forecast was made from",
            )
        times = forecast.valid_times[index]
        observed = observed_at(archive, times)
        if np.isnan(observed).all():
            raise DataError(
                f"the forecast of {forecast.model} is for {utc(times[0])} to {utc(times[-1])}, where the archive "
                f"{archive.path}, from {utc(archive.times[0])} to {utc(archive.times[-1])}, has no frame",
                "leave the archive out, or give the one that holds them",
            )
    return Frames(
        forecast.model,
        forecast.issue_times[index],
        forecast.lead_times,
        forecast.grid,
        forecast.rain_rate[:, index],
        observed,
        is_synthetic(forecast) or (archive is not None and archive.is_synthetic),
        None if forecast.chances is None else forecast.chances[index],
        forecast.thresholds,
    )


def observed_at(archive: RadarArchive, times: np.ndarray) -> np.ndarray:
    """(T, H, W) float32 [mm/h] at some valid times, NaN where the archive has no frame."""
    frames = np.full((times.size, *archive.grid.shape), np.nan, dtype=np.float32)
    offsets = (times.astype("datetime64[s]") - archive.times[0]).astype(np.int64)
    step = int(archive.step.astype("timedelta64[s]").astype(np.int64))
    for row, (index, rest) in enumerate(zip(offsets // step, offsets % step, strict=True)):
        if rest == 0 and 0 <= index < archive.times.size and archive.present[index]:
            frames[row] = archive.rain_rate(int(index), int(index) + 1)[0]
    return frames


def is_synthetic(forecast: Forecast) -> bool:
    """Whether a forecast says of itself that it comes from synthetic rain."""
    return str(forecast.attributes.get("synthetic", "false")).lower() == "true"
