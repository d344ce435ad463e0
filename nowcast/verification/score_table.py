"""Scores of an evaluation as rows: one score of one model a row, with the numbers it was made of.

The columns are those of scores.csv; intervals are left empty here and filled by the report.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from nowcast.verification import continuous
from nowcast.verification.counts import EventCounts
from nowcast.verification.fss import fractions_skill_score
from nowcast.verification.probabilistic import brier_score, crps, fair_crps
from nowcast.verification.scores import AGGREGATIONS, SCORES, Aggregate, aggregate

if TYPE_CHECKING:
    from nowcast.verification.evaluation import Evaluation

COLUMNS = (
    "model",
    "lead_minutes",
    "threshold",
    "units",
    "comparison",
    "scale_km",
    "aggregation",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "n_blocks",
    "hits",
    "misses",
    "false_alarms",
    "correct_negatives",
    "n_valid",
    "undefined_reason",
)
CONTINUOUS = {
    "mean_error": continuous.mean_error,
    "mae": continuous.mean_absolute_error,
    "mse": continuous.mean_squared_error,
    "rmse": continuous.root_mean_squared_error,
    "correlation": continuous.pearson_correlation,
    "uncentred_correlation": continuous.uncentred_correlation,
    "balanced_mse": continuous.balanced_mse,
    "balanced_mae": continuous.balanced_mae,
}
NO_PIXELS = "undefined (no valid pixels)"


def score_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Every score by lead time and over all lead times (lead_minutes empty), as dictionaries of `COLUMNS`.

    Missing values are empty; an undefined value is empty with its reason.
    """
    yield from _categorical_rows(evaluation)
    yield from _continuous_rows(evaluation)
    yield from _fss_rows(evaluation)
    yield from _ensemble_rows(evaluation)


def _categorical_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    counts = evaluation.counts
    minutes: list[float | str] = [*counts.lead_minutes.tolist(), ""]
    for metric, score in SCORES.items():
        by_lead = [aggregate(score, counts, how, over=("case",)) for how in ("pooled", "mean_over_cases")]
        overall = [aggregate(score, counts, how) for how in AGGREGATIONS]
        for m, model in enumerate(counts.models):
            for lead, minute in enumerate(minutes):
                results: list[tuple[str, Aggregate, tuple[int, ...]]] = (
                    [(how, result, (m,)) for how, result in zip(AGGREGATIONS, overall, strict=True)]
                    if minute == ""
                    else [("pooled", by_lead[0], (m, lead)), ("mean_over_cases", by_lead[1], (m, lead))]
                )
                for how, result, index in results:
                    for t, threshold in enumerate(counts.thresholds.tolist()):
                        at = (*index, t)
                        yield _row(
                            model,
                            minute,
                            metric,
                            float(result.value[at]),
                            aggregation=how,
                            threshold=threshold,
                            units=counts.units,
                            comparison=counts.comparison,
                            undefined_reason=str(result.reason[at]),
                            **_cells(result.counts, at),
                        )


def _cells(counts: EventCounts, at: tuple[int, ...]) -> dict[str, int]:
    names = ("hits", "misses", "false_alarms", "correct_negatives")
    return {**{name: int(getattr(counts, name)[at]) for name in names}, "n_valid": int(counts.total[at])}


def _continuous_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    for model, minute, sums in _pooled(evaluation, "continuous"):
        for metric, score in CONTINUOUS.items():
            value, valid = float(score(sums)), int(sums.n)
            reason = "" if not np.isnan(value) else NO_PIXELS if valid == 0 else "undefined (a constant field)"
            units = {"mse": "mm2 h-2"}.get(metric, "mm h-1" if metric in ("mean_error", "mae", "rmse") else "1")
            yield _row(model, minute, metric, value, units=units, n_valid=valid, undefined_reason=reason)


def _fss_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    pixel_km = evaluation.provenance["pixel_km"]
    for model, minute, sums in _pooled(evaluation, "fss"):
        values = fractions_skill_score(sums)
        for t, threshold in enumerate(sums.thresholds.tolist()):
            for w, window in enumerate(sums.windows.tolist()):
                valid = int(sums.n_windows[t, w])
                reason = NO_PIXELS if valid == 0 else "undefined (0 observed, 0 forecast)"
                yield _row(
                    model,
                    minute,
                    "fss",
                    float(values[t, w]),
                    threshold=threshold,
                    units=evaluation.counts.units,
                    comparison=evaluation.counts.comparison,
                    scale_km=round(window * pixel_km, 6),
                    n_valid=valid,
                    undefined_reason=reason if np.isnan(values[t, w]) else "",
                )


def _ensemble_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    for model, minute, sums in _pooled(evaluation, "crps"):
        for metric, score in (("crps", crps), ("fair_crps", fair_crps)):
            value, valid = float(score(sums)), int(sums.n)
            reason = NO_PIXELS if np.isnan(value) else ""
            yield _row(model, minute, metric, value, units="mm h-1", n_valid=valid, undefined_reason=reason)
    for model, minute, sums in _pooled(evaluation, "probability"):
        values = brier_score(sums)
        for t, threshold in enumerate(sums.thresholds.tolist()):
            yield _row(
                model,
                minute,
                "brier_score",
                float(values[t]),
                threshold=threshold,
                units=evaluation.counts.units,
                comparison=evaluation.counts.comparison,
                n_valid=int(sums.n[t].sum()),
                undefined_reason=NO_PIXELS if np.isnan(values[t]) else "",
            )


def _pooled(evaluation: Evaluation, kind: str) -> Iterator[tuple[str, float | str, Any]]:
    """Model, lead minutes ("" for all) and the sums pooled over cases."""
    for model, sums in evaluation.sums.get(kind, {}).items():
        by_lead = sums.pool(0)
        for lead, minute in enumerate(evaluation.counts.lead_minutes.tolist()):
            yield model, minute, by_lead[lead]
        yield model, "", sums.pool()


def _row(model: str, minute: float | str, metric: str, value: float, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    row |= {"model": model, "lead_minutes": minute, "aggregation": "pooled", "metric": metric}
    row["value"] = "" if np.isnan(value) else value
    return row | more
