"""Resamples of blocks: a score of every model, its differences and their standard errors for any draw of whole blocks.

The same draws serve all models. Every sum is exact, so that a seed gives the same bytes on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

Aggregation = Literal["pooled", "mean_over_leads"]
# From parts that add up, (..., part), to a score, (...), unchanged when all parts are multiplied.
SumsScore = Callable[[np.ndarray], np.ndarray]
_CHUNK = 500
# Relative step of the numerical derivative of a score: its square and 1e-16 / step are both far below 1e-6.
_STEP = 1e-5


def exact_totals(totals: np.ndarray) -> np.ndarray:
    """Totals (model, block, ...) on a grid of a power of two so fine that any draw of blocks adds up exactly."""
    finite = np.isfinite(totals).all(axis=1, keepdims=True)
    values = np.where(finite, totals, np.nan)
    largest = np.abs(np.where(finite, totals, 0.0)).max(axis=1, keepdims=True)
    # A draw holds as many blocks as there are: its sum stays below 2^53 units.
    exponent = np.frexp(np.where(largest > 0, largest, 1.0))[1] + int(np.ceil(np.log2(totals.shape[1]))) - 52
    unit = np.ldexp(1.0, exponent)
    return np.asarray(np.rint(values / unit) * unit)


def used_categories(totals: np.ndarray, score: SumsScore) -> list[int]:
    """Categories that the score depends on: correct negatives fall out of most."""
    total = totals.sum(axis=1) + 1.0
    base = score(total)
    moved = [score(total + np.eye(4)[k] * total) for k in range(4)]
    return [k for k in range(4) if not np.array_equal(base, moved[k], equal_nan=True)]


class Resampler:
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
                pivots[part] = np.moveaxis(pivot(scores - estimate, error), 0, -1)
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


def pivot(deviation: np.ndarray, error: np.ndarray) -> np.ndarray:
    """|deviation| / error; 0 where nothing deviates, inf where the score is undefined or the error 0."""
    distance = np.abs(deviation)
    with np.errstate(invalid="ignore"):
        pivot = np.divide(distance, error, out=np.full(distance.shape, np.inf), where=error > 0)
    pivot[distance == 0] = 0.0
    pivot[np.isnan(pivot)] = np.inf
    return pivot
