"""Scores of probabilities from sums that add up, by bins of probability: Brier and its parts, reliability, ROC.

The probabilities may be a forecast's own, or the shares of an ensemble's members (`nowcast.verification.ensembles`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nowcast.verification.counts import EventCounts
from nowcast.verification.sums import Sums, ascending_thresholds, ratio, thresholds_like, unmasked


@dataclass(frozen=True, eq=False)
class ProbabilitySums(Sums):
    """Sums by probability bin, of shape (..., threshold, bin).

    Attributes:
        n: Valid pixels with a probability in the bin, int64.
        events: Those where the event was observed, int64.
        probability, probability_squared: Sums of p and p^2 over the pixels of the bin.
        probability_of_events: Sum of p over the pixels where the event was observed.
        thresholds: [mm/h]; an event is a value >= threshold.
        bin_edges: Edges of the bins; a bin holds its lower edge, the last one both.
    """

    n: np.ndarray
    events: np.ndarray
    probability: np.ndarray
    probability_squared: np.ndarray
    probability_of_events: np.ndarray
    thresholds: np.ndarray
    bin_edges: np.ndarray

    LABELS: ClassVar[tuple[str, ...]] = ("thresholds", "bin_edges")
    TRAILING: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(
        ("n", "events", "probability", "probability_squared", "probability_of_events"), ("threshold", "bin")
    )


def probability_sums(
    probabilities: np.ndarray,
    observed: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    *,
    bin_edges: Sequence[float] | np.ndarray | None = None,
) -> ProbabilitySums:
    """Sums of forecast probabilities of exceeding each threshold, by bins of probability.

    Args:
        probabilities: (..., threshold, y, x) in [0, 1]; NaN is missing.
        observed: (..., y, x) [mm/h]; NaN is missing.
        thresholds: Ascending [mm/h].
        bin_edges: Ascending from 0 to 1; ten equal bins by default.

    Raises:
        ValueError: Probabilities outside [0, 1], shapes or edges that do not fit.
    """
    levels = ascending_thresholds(thresholds)
    edges = np.linspace(0.0, 1.0, 11) if bin_edges is None else np.asarray(bin_edges, dtype=np.float64)
    p, o = unmasked(probabilities).astype(np.float64), unmasked(observed)
    if p.ndim != o.ndim + 1 or p.shape != (*o.shape[:-2], levels.size, *o.shape[-2:]):
        raise ValueError(f"probabilities (..., threshold, y, x) of shape {p.shape} do not fit observations {o.shape}")
    if np.nanmin(p, initial=0.0) < 0.0 or np.nanmax(p, initial=1.0) > 1.0:
        raise ValueError(f"probabilities must lie in [0, 1], found {np.nanmin(p)} to {np.nanmax(p)}")
    if edges.ndim != 1 or edges.size < 2 or edges[0] != 0 or edges[-1] != 1 or np.any(np.diff(edges) <= 0):
        raise ValueError(f"the edges of probability bins must ascend from 0 to 1, got {edges}")
    lead, bins = o.shape[:-2], edges.size - 1
    flat_p, flat_o = p.reshape(-1, levels.size, *o.shape[-2:]), o.reshape(-1, *o.shape[-2:])
    out = {name: np.zeros((len(flat_o), levels.size, bins)) for name in ProbabilitySums.additive_fields()}
    limits = thresholds_like(levels, o)
    for k, t in np.ndindex(len(flat_o), levels.size):
        valid = ~np.isnan(flat_p[k, t]) & ~np.isnan(flat_o[k])
        q, seen = flat_p[k, t][valid], flat_o[k][valid] >= limits[t]
        place = np.minimum(np.searchsorted(edges, q, side="right") - 1, bins - 1)
        weights = {
            "n": None,
            "events": seen,
            "probability": q,
            "probability_squared": q * q,
            "probability_of_events": q * seen,
        }
        for name, weight in weights.items():
            out[name][k, t] = np.bincount(place, weight, minlength=bins)
    shaped = {name: values.reshape(*lead, levels.size, bins) for name, values in out.items()}
    for name in ("n", "events"):
        shaped[name] = shaped[name].astype(np.int64)
    return ProbabilitySums(**shaped, thresholds=levels, bin_edges=edges)


def brier_score(sums: ProbabilitySums) -> np.ndarray:
    """Mean of (p - o)^2, in [0, 1], 0 is perfect, of shape (..., threshold); exact whatever the bins.

    Source: Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2 (the half of his two-category sum).
    """
    total = sums.probability_squared - 2 * sums.probability_of_events + sums.events
    return ratio(total.sum(axis=-1), sums.n.sum(axis=-1))


@dataclass(frozen=True)
class BrierParts:
    """The Brier score = reliability - resolution + uncertainty + within_bin_variance - within_bin_covariance.

    All of shape (..., threshold). The last two vanish when each bin holds one probability, as for an ensemble.
    """

    reliability: np.ndarray
    resolution: np.ndarray
    uncertainty: np.ndarray
    within_bin_variance: np.ndarray
    within_bin_covariance: np.ndarray


def brier_parts(sums: ProbabilitySums) -> BrierParts:
    """Decomposition of the Brier score by the bins of the sums; NaN where no pixel is valid.

    Source: Murphy 1973, doi:10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2; the two terms within bins from
        Stephenson, Coelho and Jolliffe 2008, doi:10.1175/2007WAF2006116.1, equation 12.
    """
    n = sums.n.sum(axis=-1).astype(np.float64)
    base = ratio(sums.events.sum(axis=-1), n)
    mean_p, frequency = ratio(sums.probability, sums.n), ratio(sums.events, sums.n)
    filled_p, filled_o = np.nan_to_num(mean_p), np.nan_to_num(frequency)
    variance = sums.probability_squared - sums.n * filled_p**2
    covariance = sums.probability_of_events - sums.n * filled_p * filled_o
    return BrierParts(
        reliability=ratio((sums.n * (filled_p - filled_o) ** 2).sum(axis=-1), n),
        resolution=ratio((sums.n * (filled_o - np.nan_to_num(base)[..., None]) ** 2).sum(axis=-1), n),
        uncertainty=base * (1.0 - base),
        within_bin_variance=ratio(variance.sum(axis=-1), n),
        within_bin_covariance=ratio(2 * covariance.sum(axis=-1), n),
    )


def brier_skill_score(sums: ProbabilitySums) -> np.ndarray:
    """1 - Brier score / uncertainty: skill over the base rate of these very cases; NaN where that is 0 or 1."""
    return 1.0 - ratio(brier_score(sums), brier_parts(sums).uncertainty)


@dataclass(frozen=True)
class ReliabilityCurve:
    """Mean forecast probability, observed frequency and pixels of each bin, of shape (..., threshold, bin)."""

    forecast_probability: np.ndarray
    observed_frequency: np.ndarray
    n: np.ndarray


def reliability_curve(sums: ProbabilitySums) -> ReliabilityCurve:
    """Observed frequency against mean forecast probability by bin, NaN in empty bins, with the counts behind them."""
    return ReliabilityCurve(ratio(sums.probability, sums.n), ratio(sums.events, sums.n), sums.n)


def bin_probabilities(sums: ProbabilitySums) -> np.ndarray:
    """The probability that each bin stands for, (bin,): the share k/m of an ensemble's bins, the middle of others."""
    edges, size = sums.bin_edges, sums.bin_edges.size - 2
    shares = np.arange(size + 1) / max(size, 1)
    if np.array_equal(edges, share_edges(size)):
        return shares
    return np.asarray((edges[:-1] + edges[1:]) / 2)


def share_edges(members: int) -> np.ndarray:
    """Edges of bins of one share k/m each: 0 and 1, and half-way between two shares."""
    return np.concatenate([[0.0], (np.arange(members) + 0.5) / members, [1.0]]) if members else np.array([0.0, 1.0])


@dataclass(frozen=True)
class RocCurve:
    """Points of shape (..., threshold, bin + 1) from "always" (1, 1) to "never" (0, 0), and the area below them.

    Point b says "event" where the probability lies in bin b or above.
    """

    false_alarm_rate: np.ndarray
    detection_rate: np.ndarray
    area: np.ndarray


def roc_counts(sums: ProbabilitySums) -> EventCounts:
    """Contingency counts of warning from each bin of probability upwards, (..., threshold, bin + 1); last, of never."""

    def from_above(counts: np.ndarray) -> np.ndarray:
        above = np.flip(np.cumsum(np.flip(counts, axis=-1), axis=-1), axis=-1)
        return np.concatenate([above, np.zeros((*counts.shape[:-1], 1), counts.dtype)], axis=-1)

    hits, false_alarms = from_above(sums.events), from_above(sums.n - sums.events)
    return EventCounts(hits, false_alarms, hits[..., :1] - hits, false_alarms[..., :1] - false_alarms)


def roc_curve(sums: ProbabilitySums) -> RocCurve:
    """Relative operating characteristic with its trapezoidal area; NaN without events or without non-events.

    0.5 is no skill, 1 perfect discrimination; blind to calibration.

    Source: Mason 1982, Aust. Meteor. Mag. 30, 291-303; the trapezoids equal the tied Mann-Whitney statistic.
    """

    table = roc_counts(sums)
    hits, false_alarms = table.hits, table.false_alarms
    pod, pofd = ratio(hits, hits[..., :1]), ratio(false_alarms, false_alarms[..., :1])
    area = np.sum((pofd[..., :-1] - pofd[..., 1:]) * (pod[..., :-1] + pod[..., 1:]) / 2, axis=-1)
    return RocCurve(pofd, pod, area)
