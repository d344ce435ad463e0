"""Scores of ensembles and probabilities from sums that add up: CRPS, Brier, reliability, ROC, ranks, spread.

Ensembles have the axes (member, ..., y, x) in mm/h. A pixel is valid where the observation and every member are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numba
import numpy as np

from nowcast.verification.counts import EventCounts
from nowcast.verification.sums import Sums, ascending_thresholds, paired_fields, ratio, thresholds_like

SPREAD_EDGES_MM_H = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def _ensemble(members: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """(member, frame, y, x) and (frame, y, x) of one float type, and the leading axes."""
    m, o = np.asarray(members), np.asarray(observed)
    if m.ndim != o.ndim + 1 or m.shape[1:] != o.shape or m.shape[0] == 0:
        raise ValueError(f"an ensemble (member, ..., y, x) of shape {m.shape} does not fit observations {o.shape}")
    first, obs = paired_fields(m[0], o)
    flat = np.ascontiguousarray(m, dtype=first.dtype).reshape(m.shape[0], -1, *o.shape[-2:])
    return flat, obs.reshape(-1, *o.shape[-2:]), o.shape[:-2]


@dataclass(frozen=True, eq=False)
class CrpsSums(Sums):
    """Sums over valid pixels: n, mean over members of |x - y|, and sum over pairs i < j of |x_i - x_j|."""

    n: np.ndarray
    absolute_error: np.ndarray
    pair_difference: np.ndarray
    members: int

    LABELS: ClassVar[tuple[str, ...]] = ("members",)


def crps_sums(members: np.ndarray, observed: np.ndarray) -> CrpsSums:
    """Sums of the continuous ranked probability score, frame by frame.

    Args:
        members: (member, ..., y, x) [mm/h]; a pixel with NaN in any member is left out.
        observed: (..., y, x) [mm/h]; NaN is missing.

    Source: Gneiting and Raftery 2007, doi:10.1198/016214506000001437, equation 21; the kernel form has no case for
        ties, so an observation equal to a member, the usual case in rain, needs none.
    """
    flat, obs, lead = _ensemble(members, observed)
    n, error, pairs = _crps(flat, obs)
    return CrpsSums(n.reshape(lead), error.reshape(lead), pairs.reshape(lead), flat.shape[0])


@numba.njit(cache=True)
def _crps(members, observed):  # type: ignore[no-untyped-def]
    size, frames, rows, columns = members.shape
    n, error, pairs = np.zeros(frames, np.int64), np.zeros(frames), np.zeros(frames)
    x = np.empty(size)
    for k in range(frames):
        for i in range(rows):
            row_error = row_pairs = 0.0
            for j in range(columns):
                y = np.float64(observed[k, i, j])
                if not _sorted_members(members, k, i, j, x) or y != y:
                    continue
                n[k] += 1
                distance = 0.0
                for m in range(size):
                    distance += abs(x[m] - y)
                row_error += distance / size
                # Gap g of the sorted members lies between g and size - g of them: no cancellation.
                for g in range(1, size):
                    row_pairs += g * (size - g) * (x[g] - x[g - 1])
            error[k] += row_error
            pairs[k] += row_pairs
    return n, error, pairs


@numba.njit(cache=True)
def _sorted_members(members, k, i, j, x):  # type: ignore[no-untyped-def]
    """Fills x with the members of a pixel in ascending order; False if one of them is NaN."""
    for m in range(x.size):
        value = np.float64(members[m, k, i, j])
        if value != value:
            return False
        place = m
        while place > 0 and x[place - 1] > value:
            x[place] = x[place - 1]
            place -= 1
        x[place] = value
    return True


def crps(sums: CrpsSums) -> np.ndarray:
    """CRPS [mm/h] of the empirical distribution, mean |x - y| - sum_ij |x_i - x_j| / (2 m^2); 0 is perfect.

    The mean absolute error for one member; NaN where no pixel is valid.
    """
    return ratio(sums.absolute_error - sums.pair_difference / sums.members**2, sums.n)


def fair_crps(sums: CrpsSums) -> np.ndarray:
    """CRPS [mm/h] that an ensemble of infinitely many such members would have, with m (m - 1) for m^2; may be negative.

    NaN for one member, whose spread is unknown, and where no pixel is valid.

    Source: Ferro 2014, doi:10.1002/qj.2270, equation 10.
    """
    if sums.members < 2:
        return np.full(sums.shape, np.nan)
    return ratio(sums.absolute_error - sums.pair_difference / (sums.members * (sums.members - 1)), sums.n)


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
    p, o = np.asarray(probabilities, dtype=np.float64), np.asarray(observed)
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


def ensemble_probability_sums(
    members: np.ndarray, observed: np.ndarray, thresholds: Sequence[float] | np.ndarray
) -> ProbabilitySums:
    """Sums of the share of members at or above each threshold: one bin for each possible share 0/m, 1/m, ... m/m.

    Args:
        members: (member, ..., y, x) [mm/h]; a pixel with NaN in any member is left out.
        observed: (..., y, x) [mm/h]; NaN is missing.
        thresholds: Ascending [mm/h].

    Returns:
        Sums made of exact integers; bin k holds the share k/m alone.
    """
    levels = ascending_thresholds(thresholds)
    flat, obs, lead = _ensemble(members, observed)
    n, events = _exceedance(flat, obs, thresholds_like(levels, members), thresholds_like(levels, observed))
    size = flat.shape[0]
    share = np.arange(size + 1) / size
    cells = (*lead, levels.size, size + 1)
    n, events = n.reshape(cells), events.reshape(cells)
    return ProbabilitySums(n, events, n * share, n * share**2, events * share, levels, _share_edges(size))


@numba.njit(cache=True)
def _exceedance(members, observed, limits_f, limits_o):  # type: ignore[no-untyped-def]
    size, frames, rows, columns = members.shape
    n = np.zeros((frames, limits_f.size, size + 1), np.int64)
    events = np.zeros((frames, limits_f.size, size + 1), np.int64)
    x = np.empty(size)
    for k in range(frames):
        for i in range(rows):
            for j in range(columns):
                y = observed[k, i, j]
                if not _sorted_members(members, k, i, j, x) or y != y:
                    continue
                below = 0
                for t in range(limits_f.size):
                    while below < size and x[below] < limits_f[t]:
                        below += 1
                    n[k, t, size - below] += 1
                    events[k, t, size - below] += y >= limits_o[t]
    return n, events


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
    if np.array_equal(edges, _share_edges(size)):
        return shares
    return np.asarray((edges[:-1] + edges[1:]) / 2)


def _share_edges(members: int) -> np.ndarray:
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


@dataclass(frozen=True, eq=False)
class RankSums(Sums):
    """Pixels by the number of members below the observation and the number equal to it: (..., below, tied), int64."""

    table: np.ndarray
    members: int

    LABELS: ClassVar[tuple[str, ...]] = ("members",)
    TRAILING: ClassVar[dict[str, tuple[str, ...]]] = {"table": ("below", "tied")}


def rank_sums(members: np.ndarray, observed: np.ndarray) -> RankSums:
    """Ranks of the observation among the members with ties kept apart, frame by frame.

    Args:
        members: (member, ..., y, x) [mm/h]; a pixel with NaN in any member is left out.
        observed: (..., y, x) [mm/h]; NaN is missing.
    """
    flat, obs, lead = _ensemble(members, observed)
    size = flat.shape[0]
    return RankSums(_ranks(flat, obs).reshape(*lead, size + 1, size + 1), size)


@numba.njit(cache=True)
def _ranks(members, observed):  # type: ignore[no-untyped-def]
    size, frames, rows, columns = members.shape
    table = np.zeros((frames, size + 1, size + 1), np.int64)
    for k in range(frames):
        for i in range(rows):
            for j in range(columns):
                y = observed[k, i, j]
                valid, below, tied = y == y, 0, 0
                for m in range(size):
                    x = members[m, k, i, j]
                    valid &= x == x
                    below += x < y
                    tied += x == y
                if valid:
                    table[k, below, tied] += 1
    return table


def rank_histogram(sums: RankSums, *, skip_all_tied: bool = False) -> np.ndarray:
    """Expected pixels at each rank 0 ... m, of shape (..., m + 1); flat for a reliable ensemble.

    An observation equal to t members takes its t + 1 possible ranks with equal shares: the mean of what drawing lots
    would give, without the draw.

    Args:
        skip_all_tied: Leave out pixels where the observation equals every member, nearly always all dry.

    Source: Hamill 2001, doi:10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2, section 2 (ties).
    """
    size = sums.members
    histogram = np.zeros((*sums.shape, size + 1))
    for below in range(size + 1):
        for tied in range(size + 1 - below):
            if not (skip_all_tied and tied == size):
                share = sums.table[..., below, tied] / (tied + 1)
                histogram[..., below : below + tied + 1] += share[..., None]
    return histogram


@dataclass(frozen=True, eq=False)
class SpreadSums(Sums):
    """Sums by class of ensemble spread, (..., spread): n, variance of the members, squared error of their mean.

    Attributes:
        spread_edges: Lower edges [mm/h] of the classes of standard deviation; the last class has no upper edge.
    """

    n: np.ndarray
    variance: np.ndarray
    squared_error: np.ndarray
    members: int
    spread_edges: np.ndarray

    LABELS: ClassVar[tuple[str, ...]] = ("members", "spread_edges")
    TRAILING: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(("n", "variance", "squared_error"), ("spread",))


def spread_sums(
    members: np.ndarray, observed: np.ndarray, *, spread_edges: Sequence[float] | np.ndarray = SPREAD_EDGES_MM_H
) -> SpreadSums:
    """Ensemble variance (divisor m - 1) and squared error of the ensemble mean, frame by frame and by class of spread.

    Args:
        members: (member, ..., y, x) [mm/h], at least two; a pixel with NaN in any member is left out.
        observed: (..., y, x) [mm/h]; NaN is missing.
        spread_edges: Lower edges of the classes, ascending from 0.
    """
    flat, obs, lead = _ensemble(members, observed)
    edges = ascending_thresholds(spread_edges)
    if flat.shape[0] < 2:
        raise ValueError("the spread of one member is unknown; give at least two")
    if edges[0] != 0:
        raise ValueError(f"the first class of spread must start at 0, got {edges[0]}")
    n, variance, error = _spread(flat, obs, edges)
    cells = (*lead, edges.size)
    return SpreadSums(n.reshape(cells), variance.reshape(cells), error.reshape(cells), flat.shape[0], edges)


@numba.njit(cache=True)
def _spread(members, observed, edges):  # type: ignore[no-untyped-def]
    size, frames, rows, columns = members.shape
    n = np.zeros((frames, edges.size), np.int64)
    variances, errors = np.zeros((frames, edges.size)), np.zeros((frames, edges.size))
    for k in range(frames):
        for i in range(rows):
            for j in range(columns):
                mean = 0.0
                for m in range(size):
                    mean += members[m, k, i, j]
                mean /= size
                y = np.float64(observed[k, i, j])
                if mean != mean or y != y:
                    continue
                variance = 0.0
                for m in range(size):
                    variance += (members[m, k, i, j] - mean) ** 2
                variance /= size - 1
                c = np.searchsorted(edges, np.sqrt(variance), side="right") - 1
                n[k, c] += 1
                variances[k, c] += variance
                errors[k, c] += (mean - y) ** 2
    return n, variances, errors


def spread(sums: SpreadSums) -> np.ndarray:
    """Ensemble spread [mm/h], the root of (m + 1)/m times the mean variance: equals the error if members are reliable.

    Source: Fortin et al. 2014, doi:10.1175/JHM-D-14-0008.1, equation 15.
    """
    return np.sqrt(ratio(sums.variance, sums.n) * (sums.members + 1) / sums.members)


def ensemble_mean_error(sums: SpreadSums) -> np.ndarray:
    """Root mean squared error [mm/h] of the ensemble mean."""
    return np.sqrt(ratio(sums.squared_error, sums.n))
