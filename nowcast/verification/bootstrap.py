"""Intervals of pooled scores and of their differences, by resampling whole storms or days.

Pixels, leads and windows of one storm are not independent, so whole blocks of cases are drawn, the same ones for every
model and with all their leads. Works on contingency counts and on sums that add up; the scores come in as functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from scipy.stats import norm

from nowcast.verification.blocks import block_totals
from nowcast.verification.counts import EventCounts

Method = Literal["studentised", "bca", "percentile"]
Scale = Literal["linear", "log"]
Aggregation = Literal["pooled", "mean_over_leads"]
Score = Callable[[EventCounts], np.ndarray]
# From parts that add up, (..., part), to a score, (...), unchanged when all parts are multiplied.
SumsScore = Callable[[np.ndarray], np.ndarray]
# Below this many blocks with events no model is ranked above another. Measured on simulated storms and days: the
# studentised interval covers 93 to 97 % from 10 blocks on (tests/benchmarks/results/coverage.md); real blocks are less
# regular, so twice that is asked for.
MIN_BLOCKS = 20
_CHUNK = 500
# Relative step of the numerical derivative of a score: its square and 1e-16 / step are both far below 1e-6.
_STEP = 1e-5


@dataclass(frozen=True, eq=False)
class Intervals:
    """Estimates with their intervals, all of one shape; NaN bounds where too few blocks define the score.

    Attributes:
        estimate: The score of all cases pooled, or the difference of two.
        low, high: Bounds of the interval; infinite before clipping where resamples leave the score undefined.
        standard_error: Jackknife over blocks.
        p_value: Two-sided probability of a value as far from 0 if the truth were 0; meant for differences.
    """

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    standard_error: np.ndarray
    p_value: np.ndarray


@dataclass(frozen=True, eq=False)
class BlockBootstrap:
    """Intervals of every model and every pair, from the same resamples.

    Attributes:
        scores: (model, lead_time, threshold), or (model, threshold) for means over leads.
        differences: (pair, lead_time, threshold): first model of the pair minus the second.
        pairs: Positions of the two models of each pair.
        n_blocks: Blocks with at least one event, forecast by any model or observed; (lead_time, threshold), int64.
        effective_blocks: (sum e)^2 / sum e^2 of the events e of the blocks: what many unequal blocks are worth.
        block_autocorrelation: Lag-1 autocorrelation of the blocks' pull on each difference, (pair, ...). Above
            2 / sqrt(n_blocks) the blocks are too short, and the intervals too narrow; few blocks cannot show it.
        rankable: n_blocks >= MIN_BLOCKS.
        method, level, replicates, seed: What made them.
    """

    scores: Intervals
    differences: Intervals
    pairs: tuple[tuple[int, int], ...]
    n_blocks: np.ndarray
    effective_blocks: np.ndarray
    block_autocorrelation: np.ndarray
    rankable: np.ndarray
    method: Method
    level: float
    replicates: int
    seed: int


def block_bootstrap(
    table: np.ndarray,
    blocks: np.ndarray,
    score: Score,
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    aggregation: Aggregation = "pooled",
    method: Method = "studentised",
    level: float = 0.95,
    replicates: int = 10_000,
    seed: int = 0,
) -> BlockBootstrap:
    """Intervals of a score of pooled counts, and of its differences between models, by paired block bootstrap.

    "studentised" is the symmetric percentile-t interval: estimate +- q SE, with q the quantile of |s* - s| / SE* over
    the resamples. SE* is the linearised standard error over the blocks of the resample, SE the jackknife one, which is
    the larger and makes up for few blocks. "percentile" and "bca" are there to compare: both are too narrow even at 80
    blocks. A resample that leaves the score undefined counts as infinitely far off.

    Args:
        table: (model, case, lead_time, threshold, 4) counts: hits, false alarms, misses, correct negatives. For a score
            pooled over leads, sum them first and keep the axis.
        blocks: (case,) block numbers, from `nowcast.verification.blocks`; blocks in the order of time.
        score: From counts to an array of the same shape, unchanged when all four counts are multiplied (as every
            function in `scores` is).
        pairs: Pairs of models to compare; all by default.
        bounds: Range of the score; its intervals are clipped to it.
        aggregation: "pooled" gives a score for each lead time, "mean_over_leads" the mean of these over the lead times.
        replicates: Resamples. The same seed gives the same bytes.

    Raises:
        ValueError: Shapes that do not fit, unknown names, fewer than two blocks.

    Source: Hall 1988, doi:10.1214/aos/1176350933 (percentile-t and BCa); Efron and Tibshirani 1993, chapters 11, 12
        and 14; the blocks as in Wilks 1997, doi:10.1175/1520-0442(1997)010<0065:RHTFAF>2.0.CO;2.
    """
    counts = np.asarray(table)
    if counts.ndim != 5 or counts.shape[-1] != 4 or counts.dtype.kind not in "iu":
        raise ValueError(f"counts must be whole, of shape (model, case, lead_time, threshold, 4), got {counts.shape}")
    totals = block_totals(counts, blocks)

    def of_counts(values: np.ndarray) -> np.ndarray:
        return np.asarray(score(EventCounts(*np.moveaxis(values, -1, 0))), dtype=np.float64)

    events = totals[..., :3].sum(axis=-1).sum(axis=0).astype(np.float64)
    chosen = tuple(combinations(range(len(counts)), 2)) if pairs is None else tuple((int(i), int(j)) for i, j in pairs)
    _check(totals, aggregation, method, level, replicates)
    sampler = _Sampler(totals, of_counts, chosen, aggregation, _used_categories(totals, of_counts))
    return _bootstrap(sampler, events, bounds, method, level, replicates, seed)


def sum_bootstrap(
    table: np.ndarray,
    weight: np.ndarray,
    blocks: np.ndarray,
    score: SumsScore,
    *,
    pairs: Sequence[tuple[int, int]] = (),
    bounds: tuple[float, float] = (-np.inf, np.inf),
    scale: Scale = "linear",
    level: float = 0.95,
    replicates: int = 10_000,
    seed: int = 0,
) -> BlockBootstrap:
    """The studentised intervals of `block_bootstrap` for a score of sums that are no counts: errors, FSS, CRPS, Brier.

    Totals of blocks are rounded to about 1e-13 of the largest one, so that every sum of them is exact and the same
    seed gives the same bytes.

    Args:
        table: (model, case, lead_time, cell, part); a cell is what has a score of its own, such as a threshold.
            Infinite or NaN parts leave the scores of their model and cell without an interval.
        weight: (case, lead_time, cell), not negative: how much of what the score is about a case has. A block
            without any does not count in `n_blocks`.
        blocks, pairs, bounds, level, replicates, seed: As in `block_bootstrap`; no pairs unless given.
        score: From (..., part) to (...), unchanged when all parts are multiplied by one number.
        scale: "log" makes the intervals of the scores on their logarithm, for errors that a few blocks rule: above 0,
            longer upwards, and less often too short. Differences stay linear; so does a score of 0.

    Raises:
        ValueError: Shapes that do not fit, fewer than two blocks.
    """
    sums = np.asarray(table, dtype=np.float64)
    if sums.ndim != 5 or np.shape(weight) != sums.shape[1:4]:
        raise ValueError(
            f"sums must be of shape (model, case, lead_time, cell, part), got {sums.shape} with weights of "
            f"{np.shape(weight)}"
        )
    totals = _exact(block_totals(sums, blocks))
    _check(totals, "pooled", "studentised", level, replicates)
    chosen = tuple((int(i), int(j)) for i, j in pairs)
    sampler = _Sampler(totals, score, chosen, "pooled", list(range(sums.shape[-1])), floor=1e-3)
    weights = block_totals(np.asarray(weight, dtype=np.float64)[None], blocks)[0]
    made = _bootstrap(sampler, weights, bounds, "studentised", level, replicates, seed)
    if scale == "linear":
        return made

    def logarithm(parts: np.ndarray) -> np.ndarray:
        value = score(parts)
        return np.log(np.where(value > 0, value, np.nan))

    logged = _Sampler(totals, logarithm, (), "pooled", sampler.used, floor=1e-3)
    found = _bootstrap(logged, weights, (-np.inf, np.inf), "studentised", level, replicates, seed).scores
    positive = np.isfinite(found.estimate)
    low, high = (
        np.where(positive, np.clip(np.exp(bound), *bounds), plain)
        for bound, plain in ((found.low, made.scores.low), (found.high, made.scores.high))
    )
    return replace(made, scores=replace(made.scores, low=low, high=high))


def _check(totals: np.ndarray, aggregation: str, method: str, level: float, replicates: int) -> None:
    if method not in ("studentised", "bca", "percentile") or aggregation not in ("pooled", "mean_over_leads"):
        raise ValueError(f"unknown method {method!r} or aggregation {aggregation!r}")
    if not 0 < level < 1 or replicates < 1:
        raise ValueError(f"level {level} must lie between 0 and 1, and {replicates} replicates be at least 1")
    if totals.shape[1] < 2:
        raise ValueError("one block of cases has no spread; an interval needs at least two")


def _exact(totals: np.ndarray) -> np.ndarray:
    """Totals (model, block, ...) on a grid of a power of two so fine that any draw of blocks adds up exactly."""
    finite = np.isfinite(totals).all(axis=1, keepdims=True)
    values = np.where(finite, totals, np.nan)
    largest = np.abs(np.where(finite, totals, 0.0)).max(axis=1, keepdims=True)
    # A draw holds as many blocks as there are: its sum stays below 2^53 units.
    exponent = np.frexp(np.where(largest > 0, largest, 1.0))[1] + int(np.ceil(np.log2(totals.shape[1]))) - 52
    unit = np.ldexp(1.0, exponent)
    return np.asarray(np.rint(values / unit) * unit)


def _bootstrap(
    sampler: _Sampler,
    weights: np.ndarray,
    bounds: tuple[float, float],
    method: Method,
    level: float,
    replicates: int,
    seed: int,
) -> BlockBootstrap:
    estimate, jackknife = sampler.estimate(), sampler.jackknife()
    replicated, pivots = sampler.run(replicates, seed, studentised=method == "studentised")
    made = _intervals(estimate, jackknife, replicated, pivots, method, level)
    models = sampler.totals.shape[0]
    n_blocks, effective = _block_numbers(weights, sampler.aggregation)
    pull = jackknife.mean(axis=1, keepdims=True) - jackknife
    return BlockBootstrap(
        scores=_clip(_part(made, slice(0, models)), bounds),
        differences=_clip(_part(made, slice(models, None)), (bounds[0] - bounds[1], bounds[1] - bounds[0])),
        pairs=sampler.pairs,
        n_blocks=n_blocks,
        effective_blocks=effective,
        block_autocorrelation=_lag_one(pull[models:]),
        rankable=n_blocks >= MIN_BLOCKS,
        method=method,
        level=level,
        replicates=replicates,
        seed=seed,
    )


def _used_categories(totals: np.ndarray, score: SumsScore) -> list[int]:
    """Categories that the score depends on: correct negatives fall out of most."""
    total = totals.sum(axis=1) + 1.0
    base = score(total)
    moved = [score(total + np.eye(4)[k] * total) for k in range(4)]
    return [k for k in range(4) if not np.array_equal(base, moved[k], equal_nan=True)]


class _Sampler:
    """Scores, differences and their standard errors for weights of blocks; statistics are models, then pairs.

    Within: S statistics, R replicates, B blocks, M models, L leads, T thresholds, K parts that the score uses.
    """

    def __init__(
        self,
        totals: np.ndarray,
        score: SumsScore,
        pairs: tuple[tuple[int, int], ...],
        aggregation: Aggregation,
        used: list[int],
        *,
        floor: float | None = None,
    ) -> None:
        """`floor`: least size of a part, as a share of its total, by which its step is measured; None is one count."""
        self.totals, self.score, self.pairs, self.aggregation = totals, score, pairs, aggregation
        self.flat = np.ascontiguousarray(np.moveaxis(totals, 1, 0), dtype=np.float64)  # (B, M, L, T, part)
        self.used = used
        self.size = np.abs(self.flat).sum(axis=0)
        self.size = np.where(self.size > 0, self.size, 1.0)
        self.least = np.ones_like(self.size) if floor is None else floor * self.size
        models = range(totals.shape[0])
        self.products = sorted({(m, m) for m in models} | {(min(p), max(p)) for p in pairs})
        if aggregation == "pooled":
            self._prepare_second_moments()

    def _scores(self, counts: np.ndarray) -> np.ndarray:
        """(..., M, L, T, part) -> (..., M, L, T)."""
        return self.score(counts)

    def _with_pairs(self, scores: np.ndarray) -> np.ndarray:
        """(..., M, L, T) -> (..., S, L, T), or (..., S, T) for means over leads."""
        if self.aggregation == "mean_over_leads":
            # One undefined lead makes the mean undefined: it would be a mean over other leads for each model.
            scores = scores.mean(axis=-2)
        axis = -2 if self.aggregation == "mean_over_leads" else -3
        by_model = np.moveaxis(scores, axis, 0)
        both = np.concatenate([by_model, *[(by_model[i] - by_model[j])[None] for i, j in self.pairs]])
        return np.moveaxis(both, 0, axis)

    def estimate(self) -> np.ndarray:
        """(S, ...) of all blocks."""
        return self._with_pairs(self._scores(self.flat.sum(axis=0)))

    def jackknife(self) -> np.ndarray:
        """(S, B, ...) leaving out one block after the other."""
        left = self.flat.sum(axis=0) - self.flat
        return np.swapaxes(self._with_pairs(self._scores(left)), 0, 1)

    def run(self, replicates: int, seed: int, *, studentised: bool) -> tuple[np.ndarray, np.ndarray]:
        """Resampled statistics and, if wanted, |s* - s| / SE*; both (S, ..., R)."""
        estimate = self.estimate()
        replicated = np.empty((*estimate.shape, replicates))
        pivots = np.empty((*estimate.shape, replicates if studentised else 0))
        done = 0
        for weights in _weights(len(self.flat), replicates, seed):
            part = np.s_[..., done : done + len(weights)]
            # Whole numbers below 2^53 in float64: exact whatever the order in which BLAS adds.
            sums = (weights @ self.flat.reshape(len(self.flat), -1)).reshape(len(weights), *self.flat.shape[1:])
            scores = self._with_pairs(self._scores(sums))
            replicated[part] = np.moveaxis(scores, 0, -1)
            if studentised:
                error = np.sqrt(np.maximum(self._variances(weights, sums), 0.0))
                pivots[part] = np.moveaxis(_pivot(scores - estimate, error), 0, -1)
            done += len(weights)
        return replicated, pivots

    def _gradients(self, sums: np.ndarray) -> np.ndarray:
        """Derivative of the score by each used category, (K, R, M, L, T)."""
        slopes = np.empty((len(self.used), *sums.shape[:-1]))
        moved = sums.copy()
        for place, k in enumerate(self.used):
            step = _STEP * np.maximum(np.abs(sums[..., k]), self.least[..., k])
            moved[..., k] = sums[..., k] + step
            above = self._scores(moved)
            moved[..., k] = sums[..., k] - step
            slopes[place] = (above - self._scores(moved)) / (2.0 * step)
            moved[..., k] = sums[..., k]
        return slopes

    def _variances(self, weights: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """Linearised variance of each statistic over the blocks of a resample, (R, S, ...).

        The derivative of a score that does not change with the size of the counts is orthogonal to the counts
        (Euler), so the pulls of the blocks have mean 0 and uncentred second moments suffice.
        """
        slopes = self._gradients(sums)
        size = len(self.flat)
        factor = size / (size - 1)
        if self.aggregation == "pooled":
            covariance = self._pooled_covariances(weights, slopes)
        else:
            covariance = self._mean_covariances(weights, slopes)
        models = range(self.totals.shape[0])
        parts = [covariance[m, m] for m in models]
        for i, j in self.pairs:
            parts.append(covariance[i, i] + covariance[j, j] - 2.0 * covariance[min(i, j), max(i, j)])
        return factor * np.stack(parts, axis=1)

    def _prepare_second_moments(self) -> None:
        """Products of block counts for every pair of models that is needed, (B, K K L T) each.

        Counts are rounded to 2^-20 of their total (fewer bits for very many blocks), so that sums of their products are
        whole numbers below 2^53: the matrix products are then exact, and the same on every machine.
        """
        bits = min(20, (52 - int(np.ceil(np.log2(len(self.flat))))) // 2)
        kept = np.moveaxis(self.flat[..., self.used], -1, 1)  # (B, K, M, L, T)
        self.scale = 2.0**bits / np.moveaxis(self.size[..., self.used], -1, 0)
        rounded = np.rint(kept * self.scale)
        self.second = {
            (i, j): (rounded[:, :, None, i] * rounded[:, None, :, j]).reshape(len(kept), -1) for i, j in self.products
        }

    def _pooled_covariances(self, weights: np.ndarray, slopes: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
        scaled = slopes / self.scale[:, None]
        size = len(self.used)
        covariances = {}
        for i, j in self.products:
            moments = (weights @ self.second[i, j]).reshape(len(weights), size, size, *slopes.shape[3:])
            covariances[i, j] = np.zeros((len(weights), *slopes.shape[3:]))
            for k, n in np.ndindex(size, size):
                covariances[i, j] += scaled[k, :, i] * moments[:, k, n] * scaled[n, :, j]
        return covariances

    def _mean_covariances(self, weights: np.ndarray, slopes: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
        leads, thresholds = slopes.shape[3:]
        kept = np.moveaxis(self.flat[..., self.used], -1, 1)  # (B, K, M, L, T)
        covariances = {pair: np.empty((len(weights), thresholds)) for pair in self.products}
        for t in range(thresholds):
            pulls = []
            for m in range(slopes.shape[2]):
                direction = np.moveaxis(slopes[:, :, m, :, t], 0, 1).reshape(len(weights), -1) / leads
                pulls.append(direction @ kept[:, :, m, :, t].reshape(len(kept), -1).T)
            for i, j in self.products:
                covariances[i, j][:, t] = np.einsum("rb,rb,rb->r", weights, pulls[i], pulls[j])
        return covariances


def _weights(blocks: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """How often each block is drawn, (R, B) float64, in chunks that do not change the draws."""
    rng = np.random.default_rng(seed)
    chance = np.full(blocks, 1.0 / blocks)
    for start in range(0, replicates, _CHUNK):
        yield rng.multinomial(blocks, chance, size=min(_CHUNK, replicates - start)).astype(np.float64)


def _pivot(deviation: np.ndarray, error: np.ndarray) -> np.ndarray:
    """|deviation| / error; 0 where nothing deviates, inf where the score is undefined or the error 0."""
    distance = np.abs(deviation)
    with np.errstate(invalid="ignore"):
        pivot = np.divide(distance, error, out=np.full(distance.shape, np.inf), where=error > 0)
    pivot[distance == 0] = 0.0
    pivot[np.isnan(pivot)] = np.inf
    return pivot


def _intervals(
    estimate: np.ndarray,
    jackknife: np.ndarray,
    replicated: np.ndarray,
    pivots: np.ndarray,
    method: Method,
    level: float,
) -> Intervals:
    size = jackknife.shape[1]
    centred = jackknife - jackknife.mean(axis=1, keepdims=True)
    error = np.sqrt((size - 1) / size * np.sum(centred**2, axis=1))
    if method == "studentised":
        low, high, p_value = _studentised(estimate, error, pivots, level)
    else:
        low, high, p_value = _percentile(estimate, centred, replicated, level, corrected=method == "bca")
    undefined = ~np.isfinite(estimate) | ~np.isfinite(error)
    return Intervals(estimate, *(np.where(undefined, np.nan, value) for value in (low, high, error, p_value)))


def _studentised(
    estimate: np.ndarray, error: np.ndarray, pivots: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    replicates = pivots.shape[-1]
    place = min(int(np.ceil((replicates + 1) * level)), replicates) - 1
    reach = np.partition(pivots, place, axis=-1)[..., place]
    with np.errstate(invalid="ignore"):
        width = np.where(error == 0, np.where(reach == 0, 0.0, np.inf), reach * error)
    observed = _pivot(estimate, error)
    beyond = np.sum(pivots >= observed[..., None], axis=-1)
    return estimate - width, estimate + width, (beyond + 1.0) / (replicates + 1.0)


def _percentile(
    estimate: np.ndarray, centred: np.ndarray, replicated: np.ndarray, level: float, *, corrected: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Percentile interval, or the bias-corrected and accelerated one (Efron and Tibshirani 1993, equation 14.9)."""
    replicates = replicated.shape[-1]
    ordered = np.sort(replicated, axis=-1)  # NaN last: undefined resamples count as high
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    ranks = np.broadcast_to(tails, (*estimate.shape, 2))
    if corrected:
        centre = estimate[..., None]
        less = np.sum(replicated < centre, axis=-1) + 0.5 * np.sum(replicated == centre, axis=-1)
        shift = norm.ppf(np.clip(less / replicates, 0.5 / replicates, 1 - 0.5 / replicates))[..., None]
        cubes, squares = np.sum(-(centred**3), axis=1), np.sum(centred**2, axis=1)
        bend = np.divide(cubes, 6 * squares**1.5, out=np.zeros_like(cubes), where=squares > 0)[..., None]
        moved = shift + norm.ppf(tails)
        ranks = norm.cdf(shift + moved / (1 - bend * moved))
    places = np.clip(np.rint(ranks * (replicates + 1)).astype(np.int64) - 1, 0, replicates - 1)
    bounds = np.take_along_axis(ordered, places, axis=-1)
    one_side = np.minimum(np.sum(replicated <= 0, axis=-1), np.sum(replicated >= 0, axis=-1))
    return bounds[..., 0], bounds[..., 1], np.minimum(2.0 * (one_side + 1.0) / (replicates + 1.0), 1.0)


def _part(intervals: Intervals, chosen: slice) -> Intervals:
    return Intervals(**{name: getattr(intervals, name)[chosen] for name in Intervals.__dataclass_fields__})


def _clip(intervals: Intervals, bounds: tuple[float, float]) -> Intervals:
    low, high = (np.clip(value, *bounds) for value in (intervals.low, intervals.high))
    return Intervals(intervals.estimate, low, high, intervals.standard_error, intervals.p_value)


def _block_numbers(weights: np.ndarray, aggregation: Aggregation) -> tuple[np.ndarray, np.ndarray]:
    """Blocks with a weight (events) and their effective number, (lead_time, threshold) or (threshold,)."""
    n = np.sum(weights > 0, axis=0)
    squares = np.sum(weights**2, axis=0)
    effective = np.divide(weights.sum(axis=0) ** 2, squares, out=np.zeros_like(squares), where=squares > 0)
    if aggregation == "mean_over_leads":
        # The mean stands on its poorest lead.
        return n.min(axis=0), effective.min(axis=0)
    return n, effective


def _lag_one(pull: np.ndarray) -> np.ndarray:
    """Autocorrelation at lag 1 along axis 1; NaN without variance."""
    squares = np.sum(pull**2, axis=1)
    return np.divide(
        np.sum(pull[:, 1:] * pull[:, :-1], axis=1), squares, out=np.full(squares.shape, np.nan), where=squares > 0
    )
