"""Scores of sums in the form that an interval needs: for every cell the few parts that add up, and the ratio of them.

A cell is what has a score of its own: a threshold, a threshold at a scale, or all rain. Values are those of
scores.csv; contingency counts of single pixels have a bootstrap of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np

from nowcast.verification.bootstrap import Scale
from nowcast.verification.continuous import ContinuousSums, pearson_correlation
from nowcast.verification.sums import Sums, ratio

Orientation = Literal["higher", "lower"]
# Threshold [mm/h] and scale [km] of a cell, None for neither: what its rows have in scores.csv.
Cell = tuple[float | None, float | None]


@dataclass(frozen=True)
class SumScore:
    """One score of one kind of sums.

    Attributes:
        metric: Its name in scores.csv.
        kind: Of the sums, as in `nowcast.verification.measures`.
        parts: From sums (...) to what adds up, (..., cell, part).
        score: From (..., part) to (...), unchanged when all parts are multiplied.
        weight: From sums (...) to (..., cell): how much rain, events or error there is; 0 where a case says nothing.
        cells: From sums and the pixel's side [km] to what the cells stand for.
        better: Which way is better; None for a score of which neither is.
        bounds: Range of the score.
        name: For people.
        single: Kind and parts of forecasts that are no ensembles, whose one member has this score too.
    """

    metric: str
    kind: str
    parts: Callable[[Any], np.ndarray]
    score: Callable[[np.ndarray], np.ndarray]
    weight: Callable[[Any], np.ndarray]
    cells: Callable[[Any, float], tuple[Cell, ...]]
    better: Orientation | None
    bounds: tuple[float, float]
    name: str
    single: tuple[str, Callable[[Any], np.ndarray]] | None = None

    @property
    def scale(self) -> Scale:
        """Where its intervals are made: errors, which a few wet blocks rule, on their logarithm."""
        return "log" if self.better == "lower" else "linear"

    def of(self, sums: Sums) -> np.ndarray:
        """The score of sums with the leading axes (...), of shape (..., cell)."""
        return self.score(self.parts(sums))


def _quotient(parts: np.ndarray) -> np.ndarray:
    return ratio(parts[..., 0], parts[..., 1])


def _root(parts: np.ndarray) -> np.ndarray:
    # A resample of rounded parts may lie a rounding below 0.
    return np.sqrt(np.maximum(_quotient(parts), 0.0))


def _one_minus(parts: np.ndarray) -> np.ndarray:
    return 1.0 - _quotient(parts)


def _correlation(parts: np.ndarray) -> np.ndarray:
    names = ("n", "forecast", "observed", "forecast_squared", "observed_squared", "product")
    sums = SimpleNamespace(**{name: parts[..., k] for k, name in enumerate(names)})
    return pearson_correlation(cast(ContinuousSums, sums))


def _one_cell(*columns: np.ndarray) -> np.ndarray:
    return np.stack(columns, axis=-1)[..., None, :].astype(np.float64)


def _everything(sums: Any, pixel_km: float) -> tuple[Cell, ...]:
    return ((None, None),)


def _by_threshold(sums: Any, pixel_km: float) -> tuple[Cell, ...]:
    return tuple((threshold, None) for threshold in sums.thresholds.tolist())


def _wet(sums: Any) -> np.ndarray:
    return np.asarray(np.abs(sums.forecast) + np.abs(sums.observed))[..., None]


def _continuous(
    metric: str, name: str, part: str, score: Callable[[np.ndarray], np.ndarray], better: Orientation | None
) -> SumScore:
    low = 0.0 if better is not None else -np.inf
    return SumScore(
        metric,
        "continuous",
        lambda sums: _one_cell(getattr(sums, part), sums.n),
        score,
        _wet,
        _everything,
        better,
        (low, np.inf),
        name,
    )


def _correlation_parts(sums: Any) -> np.ndarray:
    return _one_cell(
        sums.n, sums.forecast, sums.observed, sums.forecast_squared, sums.observed_squared, sums.product
    )  # fmt: skip


def _fss_parts(sums: Any) -> np.ndarray:
    both = np.stack([sums.squared_difference, sums.forecast_squared + sums.observed_squared], axis=-1)
    return both.reshape(*sums.shape, -1, 2)


def _fss_weight(sums: Any) -> np.ndarray:
    return np.asarray((sums.forecast_squared + sums.observed_squared).reshape(*sums.shape, -1))


def _fss_cells(sums: Any, pixel_km: float) -> tuple[Cell, ...]:
    return tuple((t, round(w * pixel_km, 6)) for t in sums.thresholds.tolist() for w in sums.windows.tolist())


def _poolings(sums: Any, kind: str) -> list[tuple[int, int]]:
    """Place on the pooling axis and side of the blocks [pixels] of one kind of pooling."""
    entries = [entry.split(":") for entry in sums.poolings.split(",")]
    return [(place, int(side)) for place, (name, side) in enumerate(entries) if name == kind]


def _pooled_csi(kind: str) -> SumScore:
    def parts(sums: Any) -> np.ndarray:
        places = [place for place, _ in _poolings(sums, kind)]
        events = sums.hits + sums.false_alarms + sums.misses
        both = np.stack([sums.hits, events], axis=-1)[..., places, :, :]
        return both.reshape(*sums.shape, -1, 2).astype(np.float64)

    def cells(sums: Any, pixel_km: float) -> tuple[Cell, ...]:
        sides = [round(side * pixel_km, 6) for _, side in _poolings(sums, kind)]
        return tuple((threshold, side) for side in sides for threshold in sums.thresholds.tolist())

    name = f"CSI of block {'maxima' if kind == 'max' else 'means'}"
    return SumScore(
        f"csi_{kind}_pool", "pooled", parts, _quotient, lambda sums: parts(sums)[..., 1], cells, "higher", (0, 1), name
    )


def _crps_parts(pairs_of_members: Callable[[int], float]) -> Callable[[Any], np.ndarray]:
    return lambda sums: _one_cell(sums.absolute_error - sums.pair_difference / pairs_of_members(sums.members), sums.n)


def _brier_parts(sums: Any) -> np.ndarray:
    total = sums.probability_squared - 2 * sums.probability_of_events + sums.events
    return np.stack([total.sum(axis=-1), sums.n.sum(axis=-1).astype(np.float64)], axis=-1)


def _yes_or_no(counts: Any) -> np.ndarray:
    """Brier parts of contingency counts: a forecast of yes or no errs by 1 at each false alarm and miss."""
    return np.stack([counts.false_alarms + counts.misses, counts.total], axis=-1).astype(np.float64)


def _absolute_error(sums: Any) -> np.ndarray:
    return _one_cell(sums.absolute_error, sums.n)


SUM_SCORES: tuple[SumScore, ...] = (
    _continuous("mae", "mean absolute error", "absolute_error", _quotient, "lower"),
    _continuous("rmse", "root mean squared error", "squared_error", _root, "lower"),
    _continuous("mean_error", "mean error", "error", _quotient, None),
    SumScore(
        "correlation",
        "continuous",
        _correlation_parts,
        _correlation,
        _wet,
        _everything,
        "higher",
        (-1.0, 1.0),
        "correlation",
    ),
    SumScore(
        "fss", "fss", _fss_parts, _one_minus, _fss_weight, _fss_cells, "higher", (0.0, 1.0), "fractions skill score"
    ),
    _pooled_csi("max"),
    _pooled_csi("mean"),
    SumScore(
        "crps",
        "crps",
        _crps_parts(lambda members: members**2),
        _quotient,
        lambda sums: sums.absolute_error[..., None],
        _everything,
        "lower",
        (0.0, np.inf),
        "CRPS",
        ("continuous", _absolute_error),
    ),
    SumScore(
        "fair_crps",
        "crps",
        _crps_parts(lambda members: members * (members - 1)),
        _quotient,
        lambda sums: sums.absolute_error[..., None],
        _everything,
        "lower",
        (-np.inf, np.inf),
        "fair CRPS",
    ),
    SumScore(
        "brier_score",
        "probability",
        _brier_parts,
        _quotient,
        lambda sums: (sums.probability.sum(axis=-1) + sums.events.sum(axis=-1)).astype(np.float64),
        _by_threshold,
        "lower",
        (0.0, 1.0),
        "Brier score",
        ("counts", _yes_or_no),
    ),
)
