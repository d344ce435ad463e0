"""Decision levels and probability calibration, fitted from forecasts and observations: sums that add up, then a fit.

Whatever is fitted acts as one monotone map to one rain-rate field [mm/h], so that exceedance areas of rising thresholds
stay inside one another. Nothing here is tuned on one rain regime alone unless only one is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numba
import numpy as np
from scipy.optimize import isotonic_regression

from nowcast.verification.counts import EventCounts
from nowcast.verification.probabilistic import ProbabilitySums
from nowcast.verification.scores import csi, frequency_bias
from nowcast.verification.sums import Sums, ascending_thresholds, paired_fields, ratio, thresholds_like, unmasked

Regimes = Literal["pooled", "mean", "worst"]
RATE_LEVELS_MM_H = np.geomspace(0.01, 100.0, 161)
PROBABILITY_LEVELS = 1.0 / (1.0 + np.exp(-np.linspace(-6.0, 4.0, 101)))
# Loss of score for a frequency bias outside the wanted range, per unit of its logarithm: steeper than any gain in CSI.
_BIAS_PENALTY = 10.0
# Above the last level a map has nothing to go by, and must not turn a low level into floods.
_STEEPEST = 2.0


@dataclass(frozen=True, eq=False)
class LevelSums(Sums):
    """Pixels by class of forecast value and by whether the event was observed, (..., threshold, level class, 2) int64.

    Class j holds the forecasts from levels[j - 1] to below levels[j]; the last index is 1 where the event was observed.

    Attributes:
        thresholds: [mm/h] of the observed events.
        levels: Candidate decision levels: rain rates [mm/h] or probabilities.
    """

    pixels: np.ndarray
    thresholds: np.ndarray
    levels: np.ndarray

    LABELS: ClassVar[tuple[str, ...]] = ("thresholds", "levels")
    TRAILING: ClassVar[dict[str, tuple[str, ...]]] = {"pixels": ("threshold", "level_class", "event")}


def rate_level_sums(
    forecast: np.ndarray,
    observed: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    *,
    levels: np.ndarray = RATE_LEVELS_MM_H,
) -> LevelSums:
    """Sums for decision levels on a rain-rate field: what would be the counts if "event" meant forecast >= level?

    Args:
        forecast: (..., y, x) [mm/h]; NaN is missing. Leading axes may be regimes, cases, lead times.
        observed: The same shape.
        thresholds: Ascending [mm/h].
        levels: Candidates, ascending [mm/h].
    """
    marks, candidates = ascending_thresholds(thresholds), ascending_thresholds(levels)
    f, o = paired_fields(forecast, observed)
    flat_f, flat_o = (field.reshape(-1, field.shape[-2] * field.shape[-1]) for field in (f, o))
    joint = _joint(flat_f, flat_o, thresholds_like(candidates, forecast), thresholds_like(marks, observed))
    total = joint.sum(axis=-1)
    above = np.stack([joint[..., k + 1 :].sum(axis=-1) for k in range(marks.size)], axis=1)
    pixels = np.stack([total[:, None] - above, above], axis=-1)
    return LevelSums(pixels.reshape(*f.shape[:-2], marks.size, candidates.size + 1, 2), marks, candidates)


@numba.njit(cache=True)
def _joint(forecast, observed, levels, thresholds):  # type: ignore[no-untyped-def]
    """Pixels by forecast class and observed class, (frame, level class, threshold class)."""
    frames, pixels = forecast.shape
    counts = np.zeros((frames, levels.size + 1, thresholds.size + 1), np.int64)
    for k in range(frames):
        for i in range(pixels):
            f, o = np.float64(forecast[k, i]), np.float64(observed[k, i])
            if f == f and o == o:
                j = np.searchsorted(levels, f, side="right")
                counts[k, j, np.searchsorted(thresholds, o, side="right")] += 1
    return counts


def probability_level_sums(
    probabilities: np.ndarray,
    observed: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    *,
    levels: np.ndarray = PROBABILITY_LEVELS,
) -> LevelSums:
    """Sums for decision levels on exceedance probabilities, each threshold with its own field.

    Args:
        probabilities: (..., threshold, y, x) in [0, 1]; NaN is missing.
        observed: (..., y, x) [mm/h]; NaN is missing.
        thresholds: Ascending [mm/h].
        levels: Candidates, ascending.
    """
    marks = ascending_thresholds(thresholds)
    p, o = unmasked(probabilities), unmasked(observed)
    if p.shape != (*o.shape[:-2], marks.size, *o.shape[-2:]):
        raise ValueError(f"probabilities (..., threshold, y, x) of shape {p.shape} do not fit observations {o.shape}")
    parts = [rate_level_sums(p[..., k, :, :], o, marks[k : k + 1], levels=levels).pixels for k in range(marks.size)]
    return LevelSums(np.concatenate(parts, axis=-3), marks, ascending_thresholds(levels))


def counts_by_level(sums: LevelSums) -> EventCounts:
    """Contingency counts when "event" is forecast >= level, of shape (..., threshold, level)."""
    above = np.flip(np.cumsum(np.flip(sums.pixels, axis=-2), axis=-2), axis=-2)[..., 1:, :]
    total = sums.pixels.sum(axis=-2, keepdims=True)
    hits, false_alarms = above[..., 1], above[..., 0]
    return EventCounts(hits, false_alarms, total[..., 1] - hits, total[..., 0] - false_alarms)


@dataclass(frozen=True, eq=False)
class DecisionLevels:
    """A level for each threshold, with what it gives on the sums that it was fitted on.

    Attributes:
        thresholds: [mm/h].
        levels: Forecast value from which the event is said: rain rates [mm/h] or probabilities.
        fitted: False where too few events were seen, and the level is the default one.
        score: Value of the objective at the level, over the regimes as asked; NaN where not fitted.
        frequency_bias: Of all regimes pooled; NaN where nothing was observed.
    """

    thresholds: np.ndarray
    levels: np.ndarray
    fitted: np.ndarray
    score: np.ndarray
    frequency_bias: np.ndarray


def fit_levels(
    sums: LevelSums,
    *,
    default: Sequence[float] | np.ndarray,
    objective: Callable[[EventCounts], np.ndarray] = csi,
    regimes: Regimes = "mean",
    bias_range: tuple[float, float] | None = None,
    nested: bool = True,
    min_events: int = 100,
) -> DecisionLevels:
    """Levels with the best score over several rain regimes.

    Args:
        sums: Leading axis (regime,): one entry for each event or kind of rain, its cases pooled before.
        default: Level of a threshold with too few events: the thresholds themselves for rain rates, 0.5 for
            probabilities.
        objective: Score to maximise, larger is better.
        regimes: "pooled" adds the counts (heavy events rule), "mean" averages the score over the regimes that define
            it, "worst" takes the lowest: a level that holds everywhere.
        bias_range: Frequency bias that every regime should keep, as far as any level does; for example (0.8, 1.25).
        nested: Levels rise strictly with the threshold, as a map of one field needs; False for probabilities, whose
            fields are made nested by `rate_from_exceedance`.
        min_events: Observed events in all regimes below which a threshold is not fitted.

    Raises:
        ValueError: Sums with other leading axes, fewer levels than thresholds.
    """
    if len(sums.shape) != 1:
        raise ValueError(f"decision levels are fitted over one axis of regimes, got leading axes {sums.shape}")
    size = sums.levels.size
    if nested and size < sums.thresholds.size:
        raise ValueError(f"{size} candidate levels are too few for {sums.thresholds.size} nested thresholds")
    usual = np.broadcast_to(np.asarray(default, dtype=np.float64), sums.thresholds.shape)
    pooled = counts_by_level(sums.pool())
    fitted = pooled.observed[:, 0] >= max(min_events, 1)
    value = _over_regimes(sums, objective, regimes)
    wanted = value - _bias_loss(sums, bias_range)
    # Without events the closest candidate to the default is taken; the weight is too small to move a fitted level.
    near = -1e-6 * np.abs(np.log(sums.levels[None, :] / usual[:, None]))
    wanted = np.where(fitted[:, None] & ~np.isnan(wanted), wanted, np.where(fitted[:, None], -1e3, 0.0)) + near
    chosen = _best_rising(wanted) if nested else np.argmax(wanted, axis=1)
    place = np.arange(sums.thresholds.size), chosen
    return DecisionLevels(
        thresholds=sums.thresholds,
        levels=np.where(fitted | nested, sums.levels[chosen], usual),
        fitted=fitted,
        score=np.where(fitted, value[place], np.nan),
        frequency_bias=frequency_bias(pooled)[place],
    )


def _over_regimes(sums: LevelSums, objective: Callable[[EventCounts], np.ndarray], regimes: Regimes) -> np.ndarray:
    """(threshold, level); NaN where no regime defines the score."""
    if regimes == "pooled":
        return np.asarray(objective(counts_by_level(sums.pool())))
    if regimes not in ("mean", "worst"):
        raise ValueError(f"regimes are 'pooled', 'mean' or 'worst', got {regimes!r}")
    counts = counts_by_level(sums)
    # A regime without the event has nothing to say about its level, whatever false alarms it holds.
    seen = (counts.observed > 0) & ~np.isnan(objective(counts))
    scores = np.asarray(objective(counts))
    if regimes == "mean":
        return ratio(np.where(seen, scores, 0.0).sum(axis=0), seen.sum(axis=0))
    worst = np.where(seen, scores, np.inf).min(axis=0)
    return np.where(np.isinf(worst), np.nan, worst)


def _bias_loss(sums: LevelSums, bias_range: tuple[float, float] | None) -> np.ndarray:
    """Penalty (threshold, level) for the regime whose frequency bias is furthest outside the range."""
    if bias_range is None:
        return np.zeros((sums.thresholds.size, sums.levels.size))
    low, high = bias_range
    if not 0 < low < high:
        raise ValueError(f"a range of frequency bias must rise from above 0, got {bias_range}")
    counts = counts_by_level(sums)
    bias = np.where(counts.observed > 0, frequency_bias(counts), np.nan)
    distance = np.maximum(np.log(low) - np.log(np.maximum(bias, 1e-9)), np.log(np.maximum(bias, 1e-9)) - np.log(high))
    return _BIAS_PENALTY * np.nan_to_num(np.maximum(distance, 0.0), nan=0.0).max(axis=0)


def _best_rising(value: np.ndarray) -> np.ndarray:
    """Strictly rising column of each row with the largest sum, by dynamic programming."""
    rows, columns = value.shape
    best = np.full((rows, columns), -np.inf)
    origin = np.zeros((rows, columns), dtype=np.int64)
    best[0] = value[0]
    for k in range(1, rows):
        # Best of the row above among the columns to the left of each.
        running = np.maximum.accumulate(best[k - 1])
        first = np.concatenate([[0], np.flatnonzero(running[1:] > running[:-1]) + 1])
        which = first[np.searchsorted(first, np.arange(columns), side="right") - 1]
        best[k, 1:] = value[k, 1:] + running[:-1]
        origin[k, 1:] = which[:-1]
    chosen = np.empty(rows, dtype=np.int64)
    chosen[-1] = np.argmax(best[-1])
    for k in range(rows - 1, 0, -1):
        chosen[k - 1] = origin[k, chosen[k]]
    return chosen


@dataclass(frozen=True, eq=False)
class RateMap:
    """One monotone map of rain rates: the result is >= thresholds[k] exactly where the forecast is >= levels[k].

    Attributes:
        levels: Rising (equal and infinite ones are allowed) and positive [mm/h].
        thresholds: Strictly rising [mm/h], above 0.
    """

    levels: np.ndarray
    thresholds: np.ndarray

    def __post_init__(self) -> None:
        levels = np.asarray(self.levels, dtype=np.float64)
        marks = ascending_thresholds(self.thresholds)
        if levels.shape != marks.shape or np.isnan(levels).any() or levels[0] <= 0 or np.any(levels[1:] < levels[:-1]):
            raise ValueError(f"decision levels must be positive and not fall, one for each threshold, got {levels}")
        if marks[0] <= 0:
            raise ValueError(f"a map of rain rates needs thresholds above 0, got {marks[0]:g}")
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "thresholds", marks)

    def __call__(self, forecast: np.ndarray) -> np.ndarray:
        """The mapped field [mm/h], of any shape; floats keep their type, and NaN stays NaN.

        Linear between the levels from 0 to the first threshold and from each threshold to the next; above the last
        level the slope is threshold over level, at most 2. Compared in the field's own type, like every event.
        """
        field = unmasked(forecast)
        dtype = field.dtype if field.dtype.kind == "f" else np.dtype(np.float64)
        marks = self.thresholds.astype(dtype)
        limits = thresholds_like(self.levels, field)
        step = np.searchsorted(limits, np.nan_to_num(field.astype(np.float64), nan=0.0), side="right")
        edges_in = np.concatenate([[0.0], limits, [np.inf]])
        edges_out = np.concatenate([[0.0], marks.astype(np.float64), [np.inf]])
        low_in, high_in = edges_in[step], edges_in[step + 1]
        low_out, high_out = edges_out[step], edges_out[step + 1]
        finite = np.isfinite(high_in) & np.isfinite(high_out)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = low_out + (high_out - low_out) * (field - low_in) / (high_in - low_in)
            slope = np.where(low_in > 0, np.minimum(low_out / low_in, _STEEPEST), 1.0)
            open_ended = low_out + slope * (field - low_in)
        value = np.where(finite, inside, open_ended).astype(dtype)
        ceiling = np.nextafter(np.append(marks, dtype.type(np.inf)), dtype.type(-np.inf))
        floor = np.concatenate([np.zeros(1, dtype), marks])
        # Rounding must not carry a pixel over the next threshold, nor below its own.
        mapped = np.clip(value, floor[step], np.where(step == marks.size, dtype.type(np.inf), ceiling[step]))
        return np.where(np.isnan(field), dtype.type(np.nan), mapped)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a JSON file; an infinite level is written as null."""
        levels = [float(level) if np.isfinite(level) else None for level in self.levels]
        return {"levels": levels, "thresholds": self.thresholds.tolist()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> RateMap:
        """The map that `to_dict` wrote."""
        levels = [np.inf if level is None else level for level in stored["levels"]]
        return cls(np.asarray(levels, dtype=np.float64), np.asarray(stored["thresholds"], dtype=np.float64))


def matched_levels(forecast: np.ndarray, reference: np.ndarray, thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Levels at which the forecast covers the area that the reference covers at each threshold: needs no observation.

    The reference is the last observed frame moved to the valid time. Only pixels valid in both count. Where the
    reference has no event the level is infinite; rain is never made where the forecast is 0, so a forecast with fewer
    wet pixels than the reference covers less.

    Args:
        forecast: (..., y, x) [mm/h], or exceedance probabilities of one threshold; NaN is missing.
        reference: The same shape [mm/h].
        thresholds: Ascending [mm/h].

    Returns:
        (..., threshold), not falling, for `RateMap`: one map for each frame.
    """
    marks = ascending_thresholds(thresholds)
    f, r = paired_fields(forecast, reference)
    limits = thresholds_like(marks, reference)
    levels = np.full((*f.shape[:-2], marks.size), np.inf)
    for index in np.ndindex(f.shape[:-2]):
        valid = ~np.isnan(f[index]) & ~np.isnan(r[index])
        wet = np.sort(f[index][valid & (f[index] > 0)])[::-1]
        areas = [int(np.sum(r[index][valid] >= limit)) for limit in limits]
        for k, area in enumerate(areas):
            if area and wet.size:
                levels[index][k] = wet[min(area, wet.size) - 1]
    return levels


def match_areas(forecast: np.ndarray, reference: np.ndarray, thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """The forecast, each frame mapped by its own `RateMap` to the areas of the moved last frame.

    Args:
        forecast, reference: (..., y, x) [mm/h]; NaN is missing. Forecasts keep their missing pixels.
        thresholds: Ascending [mm/h], above 0.
    """
    field = unmasked(forecast)
    levels = matched_levels(field, reference, thresholds)
    marks = ascending_thresholds(thresholds)
    out = np.empty(field.shape, dtype=field.dtype if field.dtype.kind == "f" else np.float64)
    for index in np.ndindex(field.shape[:-2]):
        out[index] = RateMap(levels[index], marks)(field[index])
    return out


def rate_from_exceedance(
    probabilities: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    decision_levels: Sequence[float] | np.ndarray,
) -> np.ndarray:
    """One rain-rate field [mm/h] from exceedance probabilities: >= thresholds[k] exactly where the event is said.

    The event k is said where the probabilities of thresholds 0 ... k all reach their levels, so events are nested.
    Between two thresholds the field rises with the probability of the upper one over its level, below the first from 0;
    above the last it rises to twice the threshold with certainty.

    Args:
        probabilities: (..., threshold, y, x) in [0, 1]; NaN is missing and stays so.
        thresholds: Ascending [mm/h], above 0.
        decision_levels: (threshold,) in (0, 1].

    Returns:
        (..., y, x), float32 for float32.
    """
    marks = ascending_thresholds(thresholds)
    levels = np.asarray(decision_levels, dtype=np.float64)
    p = np.moveaxis(unmasked(probabilities), -3, 0)
    if levels.shape != marks.shape or p.shape[0] != marks.size or marks[0] <= 0:
        raise ValueError(f"{p.shape[0]} fields and {levels.size} levels do not fit thresholds {marks} above 0")
    if np.any(levels <= 0) or np.any(levels > 1):
        raise ValueError(f"decision levels of probabilities must lie in (0, 1], got {levels}")
    dtype = np.dtype(np.float32) if p.dtype == np.float32 else np.dtype(np.float64)
    limits = thresholds_like(levels, p).reshape(-1, *[1] * (p.ndim - 1))
    said = np.logical_and.accumulate(p >= limits, axis=0)
    step = said.sum(axis=0)
    share = np.concatenate([np.clip(p / limits, 0.0, 1.0), ((p[-1:] - limits[-1]) / np.maximum(1 - limits[-1], 1e-9))])
    edges = np.concatenate([[0.0], marks, [2 * marks[-1]]])
    rise = np.take_along_axis(share, step[None], axis=0)[0]
    value = (edges[step] + (edges[step + 1] - edges[step]) * np.clip(rise, 0.0, 1.0)).astype(dtype)
    ceiling = np.append(np.nextafter(marks.astype(dtype), dtype.type(-np.inf)), dtype.type(2 * marks[-1]))
    floor = np.concatenate([np.zeros(1, dtype), marks.astype(dtype)])
    return np.where(np.isnan(p).any(axis=0), dtype.type(np.nan), np.clip(value, floor[step], ceiling[step]))


@dataclass(frozen=True, eq=False)
class ProbabilityFit:
    """What forecast probabilities were worth: for each threshold the knots of a map that never falls.

    `nowcast.models.chances.ChanceMap` carries such maps in a model and applies them.

    Attributes:
        thresholds: [mm/h].
        forecast: For each threshold the rising forecast probabilities; none where events were too few.
        calibrated: The observed frequency at each knot.
    """

    thresholds: np.ndarray
    forecast: tuple[np.ndarray, ...]
    calibrated: tuple[np.ndarray, ...]


def fit_probabilities(sums: ProbabilitySums, *, min_events: int = 100) -> ProbabilityFit:
    """Isotonic regression of the observed frequency on the forecast probability, for each threshold.

    Fitted on the bins of the sums, at their mean probabilities and weighted by their pixels; use many narrow bins,
    denser near 0, for rare events.

    Args:
        sums: Without leading axes: pool regimes first, after bringing each to equal weight if wanted.
        min_events: Observed events below which a threshold gets no knots.

    Source: Zadrozny and Elkan 2002, doi:10.1145/775047.775151; pool-adjacent-violators by SciPy.
    """
    if sums.shape != ():
        raise ValueError(f"probabilities are calibrated on pooled sums, got leading axes {sums.shape}")
    knots, values = [], []
    for k in range(sums.thresholds.size):
        n, events = sums.n[k], sums.events[k]
        filled = n > 0
        if events.sum() < max(min_events, 1):
            knots.append(np.empty(0))
            values.append(np.empty(0))
            continue
        frequency = events[filled] / n[filled]
        knots.append(sums.probability[k][filled] / n[filled])
        values.append(isotonic_regression(frequency, weights=n[filled].astype(np.float64)).x)
    return ProbabilityFit(sums.thresholds, tuple(knots), tuple(values))
