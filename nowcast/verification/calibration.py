"""Decision levels and probability calibration, fitted from forecasts and observations: sums that add up, then a fit.

How levels and maps act on a forecast is the model's business (`nowcast.models`). Nothing here is tuned on one rain
regime alone unless only one is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

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
# Weight of the distance to the default level: too small to move a level that is better by any count that matters.
_NEARNESS = 1e-6


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
        min_events: Observed events in all regimes below which a threshold is not fitted.

    Raises:
        ValueError: Sums with other leading axes, unknown regimes, a range that does not rise.
    """
    if len(sums.shape) != 1:
        raise ValueError(f"decision levels are fitted over one axis of regimes, got leading axes {sums.shape}")
    usual = np.broadcast_to(np.asarray(default, dtype=np.float64), sums.thresholds.shape)
    pooled = counts_by_level(sums.pool())
    fitted = pooled.observed[:, 0] >= max(min_events, 1)
    value = _over_regimes(sums, objective, regimes)
    wanted = value - _bias_loss(sums, bias_range)
    # Among equals the closest to the default is taken, and without events that one alone.
    near = -_NEARNESS * np.abs(np.log(sums.levels[None, :] / np.maximum(usual, sums.levels[0])[:, None]))
    chosen = np.argmax(np.where(fitted[:, None], np.where(np.isnan(wanted), -np.inf, wanted), 0.0) + near, axis=1)
    place = np.arange(sums.thresholds.size), chosen
    return DecisionLevels(
        thresholds=sums.thresholds,
        levels=np.where(fitted, sums.levels[chosen], usual),
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
