"""Scores of ensembles from sums that add up: CRPS, shares of members at or above a threshold, ranks, spread.

Ensembles have the axes (member, ..., y, x) in mm/h. A pixel is valid where the observation and every member are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numba
import numpy as np

from nowcast.verification.probabilistic import ProbabilitySums, share_edges
from nowcast.verification.sums import Sums, ascending_thresholds, paired_fields, ratio, thresholds_like, unmasked

SPREAD_EDGES_MM_H = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def _ensemble(members: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """(member, frame, y, x) and (frame, y, x) of one float type, and the leading axes."""
    m, o = unmasked(members), unmasked(observed)
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
    return ProbabilitySums(n, events, n * share, n * share**2, events * share, levels, share_edges(size))


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
