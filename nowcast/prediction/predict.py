"""From an archive and an issue time to a Forecast, the same way for models and baselines.

Which issue times an archive allows, which frames a forecast may see (never one after its issue time), and
the walk over many issue times.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nowcast.data.climate import RainClimate
from nowcast.data.forecast import Forecast
from nowcast.data.forecast_file import open_forecast_file
from nowcast.data.grid import Grid
from nowcast.errors import ConfigError, DataError

log = logging.getLogger(__name__)

# Thresholds [mm/h] of the probabilities of an ensemble whose maker names none.
ENSEMBLE_THRESHOLDS = (0.1, 0.5, 1.0, 5.0, 10.0)


class FramesForecaster(Protocol):
    """What makes a forecast of recent frames: a model or a baseline."""

    @property
    def name(self) -> str: ...

    @property
    def input_frames(self) -> int: ...

    def forecast_frames(self, frames: np.ndarray, num_leads: int) -> np.ndarray:
        """(num_leads, H, W) mm/h after the last of `frames` (T, H, W) mm/h, NaN where unknown."""
        ...


class FrameSource(Protocol):
    """Frames on a regular time axis: an archive."""

    @property
    def grid(self) -> Grid: ...

    @property
    def step(self) -> np.timedelta64: ...

    @property
    def times(self) -> np.ndarray: ...

    @property
    def present(self) -> np.ndarray: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def is_synthetic(self) -> bool: ...

    @property
    def interval_minutes(self) -> float | None: ...

    def rain_rate(self, start: int, stop: int) -> np.ndarray: ...


def possible_issue_times(source: FrameSource, input_frames: int) -> np.ndarray:
    """Times at which the last `input_frames` frames are all present, datetime64[s]."""
    recent = np.convolve(source.present.astype(int), np.ones(input_frames, dtype=int))[: source.present.size]
    return np.asarray(source.times[recent == input_frames])


def choose_issue_times(
    source: FrameSource,
    input_frames: int,
    *,
    first: np.datetime64 | None = None,
    last: np.datetime64 | None = None,
    every: np.timedelta64 | None = None,
) -> np.ndarray:
    """Issue times from `first` to `last`, `every` so often (the archive's step unless given), where frames allow.

    Raises:
        ConfigError: `every` is no multiple of the archive's step.
        DataError: There is none, with the archive's own range.
    """
    if every is not None and every % source.step != np.timedelta64(0, "s"):
        step, wanted = (value / np.timedelta64(60, "s") for value in (source.step, every))
        raise ConfigError(
            f"issue times every {wanted:g} min are none of an archive with a frame every {step:g} min",
            f"give a multiple of {step:g} min",
        )
    possible = possible_issue_times(source, input_frames)
    start, stop = source.times[0] if first is None else first, source.times[-1] if last is None else last
    chosen = possible[(possible >= start) & (possible <= stop)]
    if every is not None:
        origin = start if first is not None else (chosen[0] if chosen.size else start)
        chosen = chosen[(chosen - origin) % every == np.timedelta64(0, "s")]
    if chosen.size == 0:
        raise DataError(
            f"no issue time between {start} and {stop} has {input_frames} frames before it; the archive reaches "
            f"from {source.times[0]} to {source.times[-1]} with {int(source.present.sum())} of {source.present.size} "
            "frames present",
            "choose other times, or a model of fewer input frames",
        )
    return chosen


def skipped_issue_times(
    source: FrameSource,
    chosen: np.ndarray,
    *,
    first: np.datetime64 | None = None,
    every: np.timedelta64 | None = None,
    last: np.datetime64 | None = None,
) -> np.ndarray:
    """Times of the archive that were asked for as `choose_issue_times` was, but whose frames have gaps."""
    start = chosen[0] if first is None else first
    stop = source.times[-1] if last is None else last
    asked = source.times[(source.times >= start) & (source.times <= stop)]
    if every is not None:
        asked = asked[(asked - start) % every == np.timedelta64(0, "s")]
    return np.setdiff1d(asked, chosen)


def forecast_at(
    forecaster: FramesForecaster,
    source: FrameSource,
    issue_time: np.datetime64,
    num_leads: int,
    *,
    attributes: Mapping[str, Any] | None = None,
    chances: bool = False,
    members: int | None = None,
    seed: int = 0,
) -> Forecast:
    """The forecast issued at `issue_time` from the frames up to and including that time.

    Args:
        chances: Also the chance of reaching each of the model's thresholds: of an exceedance head, or with `members`
            the share of members that reach it. Calibrated where the model is.
        members: Size of the ensemble, of a model that draws one; None for one field.
        seed: The same seed, issue time and frames give the same members.

    Raises:
        ConfigError: The model gives no chances or no members.
        DataError: A frame that the forecaster needs is missing, or the time is not on the archive's axis.
        MismatchError: The model does not fit the archive's step or pixel size.
    """
    _require_fit(forecaster, source)
    issue_time = issue_time.astype("datetime64[s]")
    at = np.flatnonzero(source.times == issue_time)
    if at.size == 0:
        raise DataError(
            f"the archive has no frame time {issue_time}; it reaches from {source.times[0]} to {source.times[-1]} "
            f"in steps of {source.step / np.timedelta64(60, 's'):g} min",
            f"the nearest is {source.times[np.argmin(np.abs(source.times - issue_time))]}",
        )
    stop = int(at[0]) + 1
    start = stop - forecaster.input_frames
    if start < 0 or not source.present[start:stop].all():
        missing = forecaster.input_frames - int(source.present[max(start, 0) : stop].sum())
        raise DataError(
            f"{missing} of the {forecaster.input_frames} frames up to {issue_time} are missing",
            "choose another issue time",
        )
    frames = source.rain_rate(start, stop)
    probability: np.ndarray | None = None
    thresholds: tuple[float, ...] = ()
    if members is not None:
        rain_rate = _members(forecaster, frames, num_leads, members, _seed_at(seed, issue_time))
        if chances:
            probability, thresholds = _member_chances(forecaster, rain_rate)
    elif chances:
        rain_rate, probability, thresholds = _with_chances(forecaster, frames, num_leads)
    else:
        rain_rate = forecaster.forecast_frames(frames, num_leads)
    first_input = source.times[start]
    return Forecast(
        rain_rate[:, None] if members is not None else rain_rate[None, None],
        np.array([issue_time]),
        np.arange(1, num_leads + 1) * source.step,
        source.grid,
        forecaster.name,
        source.interval_minutes,
        {
            "input_times": f"{first_input}Z to {issue_time}Z",
            "synthetic": source.is_synthetic,
            **_origin(forecaster, source, members, seed),
            **({"calibrated_probabilities": _calibrated(forecaster) is not None} if chances else {}),
            **(attributes or {}),
        },
        None if probability is None else probability[None],
        thresholds,
    )


def _require_fit(forecaster: FramesForecaster, source: FrameSource) -> None:
    require_fit = getattr(forecaster, "require_fit", None)
    if require_fit is not None:
        require_fit(source.grid, source.step, "the archive")


def _origin(forecaster: FramesForecaster, source: FrameSource, members: int | None, seed: int) -> dict[str, Any]:
    """What tells the forecasts of one call from those of another, as attributes of their files."""
    identity = getattr(forecaster, "identity", {"model_id": forecaster.name})
    drawn = {} if members is None else {"members": members, "seed": seed}
    return {**identity, "archive_fingerprint": source.fingerprint, **drawn}


def require_same(
    path: Path,
    forecaster: FramesForecaster,
    source: FrameSource,
    num_leads: int,
    *,
    chances: bool = False,
    members: int | None = None,
    seed: int = 0,
) -> None:
    """Refuse a forecast file or store that another call made: one that `resume` would keep must be this call's.

    Raises:
        ConfigError: Another model, archive, seed or number of leads or members; both sides are named.
        DataError: The file cannot be read.
    """
    wanted = {"model": forecaster.name, **_origin(forecaster, source, members, seed)}
    leads = np.arange(1, num_leads + 1) * source.step
    file = open_forecast_file(path)
    held = {key: file.attributes.get(key) for key in dict.fromkeys((*wanted, *_ORIGIN))}
    differences = [(key, held[key], wanted.get(key)) for key in held if held[key] != wanted.get(key)]
    if not np.array_equal(file.lead_times, leads):
        differences.append(("lead times [min]", _minutes(file.lead_times), _minutes(leads)))
    if bool(file.thresholds) != chances:
        differences.append(("probabilities", bool(file.thresholds), chances))
    if differences:
        shown = "; ".join(f"{key} is {theirs}, not {ours}" for key, theirs, ours in differences)
        raise ConfigError(
            f"{path} was made by another call: {shown}", "give another -o, or make it anew with --overwrite"
        )


_ORIGIN = ("bundle_sha256", "members", "seed")


def _minutes(lead_times: np.ndarray) -> str:
    minutes = lead_times / np.timedelta64(60, "s")
    return f"{minutes[0]:g} to {minutes[-1]:g}"


def _members(forecaster: FramesForecaster, frames: np.ndarray, num_leads: int, members: int, seed: int) -> np.ndarray:
    forecast_members = getattr(forecaster, "forecast_members", None)
    if forecast_members is None:
        raise ConfigError(
            f"{forecaster.name} forecasts one field and no members",
            "give a model trained with model.noise_channels and loss.name=crps, or pysteps-steps",
        )
    if members < 1:
        raise ConfigError(f"an ensemble of {members} members cannot be", "give at least 1")
    return np.asarray(forecast_members(frames, num_leads, members, seed))


def _seed_at(seed: int, issue_time: np.datetime64) -> int:
    """A seed for an issue time: the noise of one forecast is not that of the next."""
    return int(np.random.SeedSequence([seed, int(issue_time.astype("int64")) & (2**64 - 1)]).generate_state(1)[0])


def _member_chances(forecaster: FramesForecaster, members: np.ndarray) -> tuple[np.ndarray, tuple[float, ...]]:
    """Chances (L, K, H, W) and their thresholds, of members (M, L, H, W)."""
    thresholds = tuple(getattr(forecaster, "thresholds_mm_h", ())) or ENSEMBLE_THRESHOLDS
    shares, calibrated = member_shares(members, thresholds), _calibrated(forecaster)
    return shares if calibrated is None else calibrated(shares), thresholds


def member_shares(members: np.ndarray, thresholds_mm_h: Sequence[float]) -> np.ndarray:
    """Share of members (M, L, H, W) [mm/h] that reach each threshold, (L, K, H, W) float32; NaN where any is NaN."""
    missing = np.isnan(members).any(axis=0)
    shares = [(members >= threshold).mean(axis=0, dtype=np.float32) for threshold in thresholds_mm_h]
    return np.stack([np.where(missing, np.float32(np.nan), share) for share in shares], axis=1)


def _calibrated(forecaster: FramesForecaster) -> Callable[[np.ndarray], np.ndarray] | None:
    """What turns chances into those that come true, of a forecaster that was calibrated."""
    return getattr(forecaster, "calibrated", None) if getattr(forecaster, "chances_are_calibrated", False) else None


def _with_chances(
    forecaster: FramesForecaster, frames: np.ndarray, num_leads: int
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    forecast_chances = getattr(forecaster, "forecast_chances", None)
    if forecast_chances is None:
        raise ConfigError(
            f"{forecaster.name} forecasts one field and no probabilities",
            "give a model trained with model.head=exceedance",
        )
    rain_rate, chances = forecast_chances(frames, num_leads)
    return rain_rate, chances, tuple(getattr(forecaster, "thresholds_mm_h", ()))


def forecast_file_name(forecaster: FramesForecaster, issue_time: np.datetime64) -> str:
    """The name of the file of one issue time: persistence_20160711T2100Z.nc."""
    minute = issue_time.astype("datetime64[m]")
    time = str(minute if minute == issue_time else issue_time.astype("datetime64[s]"))
    time = time.replace("-", "").replace(":", "")
    return f"{forecaster.name}_{time}Z.nc"


def climate_attributes(forecaster: FramesForecaster, source: FrameSource) -> dict[str, str]:
    """What a forecast file should say, and the log says once, where it rains otherwise than in training.

    Empty for baselines, for models whose bundle knows no climate, and where the two are near (see
    `RainClimate.differences`). The forecast is made all the same: its skill is unknown, not its meaning.

    Raises:
        MismatchError: The model does not fit the archive's step or pixel size.
    """
    _require_fit(forecaster, source)
    trained = getattr(forecaster, "training_climate", None)
    here = None if trained is None else RainClimate.of_source(source)
    if trained is None or here is None:
        return {}
    differences = here.differences(trained)
    if not differences:
        return {}
    warning = "the rain is unlike that of the training: " + "; ".join(differences)
    log.warning("%s: %s; verify before use", forecaster.name, warning)
    return {"climate_warning": warning}


def forecasts(
    forecaster: FramesForecaster, source: FrameSource, issue_times: Sequence[np.datetime64] | np.ndarray, num_leads: int
) -> Iterator[Forecast]:
    """One forecast after the other; nothing is kept in memory."""
    for issue_time in issue_times:
        yield forecast_at(forecaster, source, issue_time, num_leads)
