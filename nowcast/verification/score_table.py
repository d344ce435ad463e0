"""Scores of an evaluation as rows: one score of one model a row, with the numbers it was made of.

The columns are those of scores.csv; intervals are left empty here and filled by the report. `n_valid` counts what a
score was made of: pixels, windows (FSS), blocks of pixels (pooled scores), frames (spectra), pixels of a bin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nowcast.verification import continuous
from nowcast.verification.counts import CONTINGENCY, EventCounts
from nowcast.verification.ensembles import crps, ensemble_mean_error, fair_crps, rank_histogram, spread
from nowcast.verification.fss import fractions_skill_score
from nowcast.verification.probabilistic import (
    ProbabilitySums,
    bin_probabilities,
    brier_parts,
    brier_score,
    brier_skill_score,
    roc_counts,
    roc_curve,
)
from nowcast.verification.scores import (
    AGGREGATIONS,
    SCORES,
    Aggregate,
    aggregate,
    csi,
    far,
    pod,
    pool,
    undefined_reason,
)
from nowcast.verification.spectra import SpectrumSums, band_power_ratio
from nowcast.verification.sum_scores import SUM_SCORES

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
    "bin",
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
# Scores of the counts of block maxima and means, metric by pooling: csi_max_pool, csi_mean_pool, ...
POOLED = {"csi": csi, "pod": pod, "far": far}
NO_PIXELS = "undefined (no valid pixels)"
EMPTY_BIN = "undefined (no pixel in the bin)"
INFINITE = "infinite (events forecast where none was observed)"


def score_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Every score by lead time and over all lead times (lead_minutes empty), as dictionaries of `COLUMNS`.

    Missing values are empty; an undefined value is empty with its reason, an infinite one stands beside its own. `bin`
    says which point of a curve a value is: the forecast probability (reliability, and what is warned from on a ROC),
    the number of members below the observation (rank histogram), the lower edge [mm/h] of a class of spread. `scale_km`
    is the width of an FSS window or of a block, and the wavelength of a power ratio.
    """
    yield from _categorical_rows(evaluation)
    yield from _continuous_rows(evaluation)
    yield from _fss_rows(evaluation)
    yield from _pooled_rows(evaluation)
    yield from _spectrum_rows(evaluation)
    yield from _crps_rows(evaluation)
    yield from _probability_rows(evaluation)
    yield from _single_rows(evaluation)
    yield from _rank_rows(evaluation)
    yield from _spread_rows(evaluation)


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
                        value = float(result.value[at])
                        yield _row(
                            model,
                            minute,
                            metric,
                            value,
                            aggregation=how,
                            threshold=threshold,
                            units=counts.units,
                            comparison=counts.comparison,
                            undefined_reason=INFINITE if np.isinf(value) else str(result.reason[at]),
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


def _pooled_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    pixel_km = evaluation.provenance["pixel_km"]
    for model, minute, sums in _pooled(evaluation, "pooled"):
        table = EventCounts(sums.hits, sums.false_alarms, sums.misses, sums.correct_negatives)
        poolings = [entry.split(":") for entry in sums.poolings.split(",")]
        for metric, score in POOLED.items():
            values, reasons = score(table), undefined_reason(score, table)
            for at in np.ndindex(values.shape):
                kind, side = poolings[at[0]]
                yield _row(
                    model,
                    minute,
                    f"{metric}_{kind}_pool",
                    float(values[at]),
                    threshold=float(sums.thresholds[at[1]]),
                    units=evaluation.counts.units,
                    comparison=evaluation.counts.comparison,
                    scale_km=round(int(side) * pixel_km, 6),
                    undefined_reason=str(reasons[at]).replace("pixels", "blocks"),
                    **_cells(table, at),
                )


def _spectrum_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Power of the forecast over that of the observation, in octaves round wavelengths of 2, 4, 8, ... km."""
    pixel_km = evaluation.provenance["pixel_km"]
    for model, minute, sums in _pooled(evaluation, "spectrum"):
        wavelengths = _octaves(sums, pixel_km)
        edges = [wavelength / 2**0.5 for wavelength in wavelengths] + [2**0.5 * w for w in wavelengths[-1:]]
        values = band_power_ratio(sums, pixel_km=pixel_km, bands_km=edges) if wavelengths else np.zeros(0)
        frames = int(sums.frames)
        reason = "undefined (no frame with enough valid pixels)" if frames == 0 else "undefined (no observed power)"
        for wavelength, value in zip(wavelengths, values.tolist(), strict=True):
            yield _row(
                model,
                minute,
                "power_ratio",
                value,
                units="1",
                scale_km=wavelength,
                n_valid=frames,
                undefined_reason=reason if np.isnan(value) else "",
            )


def _octaves(sums: SpectrumSums, pixel_km: float) -> list[float]:
    """Powers of two [km] whose octave lies between two pixels and the longest wave of the field."""
    longest = pixel_km / sums.frequencies[1] if sums.frequencies.size > 1 else 0.0
    powers = range(int(np.ceil(np.log2(2 * 2**0.5 * pixel_km) - 1e-9)), 20)
    return [2.0**power for power in powers if 2.0**power * 2**0.5 <= longest]


def _crps_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    for model, minute, sums in _pooled(evaluation, "crps"):
        for metric, score in (("crps", crps), ("fair_crps", fair_crps)):
            value, valid = float(score(sums)), int(sums.n)
            reason = NO_PIXELS if np.isnan(value) else ""
            yield _row(model, minute, metric, value, units="mm h-1", n_valid=valid, undefined_reason=reason)


def _probability_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Brier score, its parts and skill, the area below the ROC; then the points of both curves."""
    for model, minute, sums in _pooled(evaluation, "probability"):
        parts, roc = brier_parts(sums), roc_curve(sums)
        overall = {
            "brier_score": brier_score(sums),
            "brier_skill_score": brier_skill_score(sums),
            "brier_reliability": parts.reliability,
            "brier_resolution": parts.resolution,
            "brier_uncertainty": parts.uncertainty,
            "roc_area": roc.area,
        }
        for t, threshold in enumerate(sums.thresholds.tolist()):
            about = {
                "threshold": threshold,
                "units": evaluation.counts.units,
                "comparison": evaluation.counts.comparison,
            }
            valid, events = int(sums.n[t].sum()), int(sums.events[t].sum())
            one_kind = f"undefined ({events} observed events in {valid} pixels)"
            for metric, values in overall.items():
                reason = (NO_PIXELS if valid == 0 else one_kind) if np.isnan(values[t]) else ""
                yield _row(model, minute, metric, float(values[t]), n_valid=valid, undefined_reason=reason, **about)
            yield from _curve_rows(model, minute, sums, t, about, one_kind)


def _curve_rows(
    model: str, minute: float | str, sums: ProbabilitySums, t: int, about: Mapping[str, Any], one_kind: str
) -> Iterator[dict[str, Any]]:
    """Reliability (bin: probability, with the pixels of the bin) and ROC (bin: probability warned from, its counts)."""
    table, curve = roc_counts(sums), roc_curve(sums)
    for b, place in enumerate(np.round(bin_probabilities(sums), 9).tolist()):
        n, events = int(sums.n[t, b]), int(sums.events[t, b])
        frequency, reason = (events / n, "") if n else (np.nan, EMPTY_BIN)
        yield _row(
            model, minute, "observed_frequency", frequency, n_valid=n, undefined_reason=reason, bin=place, **about
        )
        for metric, values in (("roc_pod", curve.detection_rate), ("roc_pofd", curve.false_alarm_rate)):
            value = float(values[t, b])
            reason = one_kind if np.isnan(value) else ""
            yield _row(
                model, minute, metric, value, undefined_reason=reason, bin=place, **about, **_cells(table, (t, b))
            )


def _single_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """CRPS and Brier score of single forecasts that stand beside ensembles: those of an ensemble of one member."""
    counts = evaluation.counts
    minutes: list[float | str] = [*counts.lead_minutes.tolist(), ""]
    together = [pool(counts, axes) for axes in (("case",), ("case", "lead_time"))]
    for score in SUM_SCORES:
        ensembles = evaluation.sums.get(score.kind, {})
        if score.single is None or not ensembles:
            continue
        kind, parts_of = score.single
        for m, model in enumerate(counts.models):
            if model in ensembles:
                continue
            if kind == "counts":
                by_lead, overall = (
                    parts_of(EventCounts(*(getattr(part, name)[m] for name in CONTINGENCY))) for part in together
                )
            else:
                held = evaluation.sums[kind][model]
                by_lead, overall = parts_of(held.pool(0)), parts_of(held.pool())
            for minute, parts in zip(minutes, [*by_lead, overall], strict=True):
                thresholds = counts.thresholds.tolist() if kind == "counts" else [""]
                for cell, threshold in zip(parts, thresholds, strict=True):
                    value = float(score.score(cell))
                    yield _row(
                        model,
                        minute,
                        score.metric,
                        value,
                        threshold=threshold,
                        units=counts.units,
                        comparison=counts.comparison if kind == "counts" else "",
                        n_valid=int(cell[1]),
                        undefined_reason=NO_PIXELS if np.isnan(value) else "",
                    )


def _rank_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Share of the pixels at each rank; those where the observation equals every member (all dry) are left out."""
    for model, minute, sums in _pooled(evaluation, "rank"):
        histogram = rank_histogram(sums, skip_all_tied=True)
        total = float(histogram.sum())
        for rank, pixels in enumerate(histogram.tolist()):
            value = pixels / total if total else np.nan
            reason = "" if total else "undefined (the observation equals every member everywhere)"
            yield _row(
                model, minute, "rank_share", value, units="1", n_valid=round(total), undefined_reason=reason, bin=rank
            )


def _spread_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Spread and error of the ensemble mean, over all pixels (bin empty) and by class of spread."""
    for model, minute, sums in _pooled(evaluation, "spread"):
        together = {name: getattr(sums, name).sum(axis=-1, keepdims=True) for name in sums.additive_fields()}
        for bins, part in (([""], replace(sums, **together)), (sums.spread_edges.tolist(), sums)):
            for metric, values in (("spread", spread(part)), ("ensemble_mean_rmse", ensemble_mean_error(part))):
                for place, value, n in zip(bins, values.tolist(), part.n.tolist(), strict=True):
                    reason = "" if n else (NO_PIXELS if place == "" else EMPTY_BIN)
                    yield _row(
                        model, minute, metric, value, units="mm h-1", n_valid=n, undefined_reason=reason, bin=place
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
