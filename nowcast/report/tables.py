"""Numbers of an analysis as rows: dictionaries for files, and cells of words for people. No number without its n."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nowcast.report.analysis import BOUNDS, Analysis, group_cases, score_of
from nowcast.report.cross_check import compared
from nowcast.report.decisions import Comparison, Estimate
from nowcast.verification.bootstrap import MIN_BLOCKS
from nowcast.verification.evaluation import ranked_cases
from nowcast.verification.score_table import COLUMNS, score_rows
from nowcast.verification.scores import base_rate, csi, pool, undefined_reason
from nowcast.verification.sum_scores import Cell

MARKS = {"better": "▲", "worse": "▼", "none": "≈", "few": "·", "undefined": "–"}
MEANINGS = {
    "better": "first model better",
    "worse": "first model worse",
    "none": "no detectable difference",
    "few": "too few blocks to rank",
    "undefined": "undefined",
}
SHOWN_CASES = 3


# What the report's CSV file has beyond the columns of scores.csv: rows of differences between two models.
CSV_COLUMNS = (*COLUMNS, "reference", "p_value", "decision")


def score_table_rows(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """The rows of scores.csv with the intervals filled in where they were made."""
    leads = {minute: index for index, minute in enumerate([*analysis.lead_minutes.tolist(), ""])}
    places = {
        name: {tuple("" if part is None else part for part in cell): index for index, cell in enumerate(found.cells)}
        for name, found in analysis.sum_scores.items()
    }
    levels = {float(threshold): index for index, threshold in enumerate(analysis.thresholds)}
    for row in score_rows(analysis.evaluation):
        metric = row["metric"]
        if row["aggregation"] == "pooled" and row["bin"] == "":
            lead = leads[row["lead_minutes"]]
            if metric in BOUNDS:
                m = analysis.models.index(row["model"])
                _fill(row, analysis.scores[metric], analysis.n_blocks, m, lead, levels[row["threshold"]])
            elif metric in analysis.sum_scores:
                found = analysis.sum_scores[metric]
                cell = places[metric][row["threshold"], row["scale_km"]]
                _fill(row, found.estimate, found.n_blocks, found.models.index(row["model"]), lead, cell)
        yield row


def _fill(row: dict[str, Any], estimate: Estimate, n_blocks: np.ndarray, m: int, lead: int, cell: int) -> None:
    low, high = (float(bound[m, lead, cell]) for bound in (estimate.low, estimate.high))
    row["n_blocks"] = int(n_blocks[lead, cell])
    row["ci_low"], row["ci_high"] = ("" if np.isnan(bound) else bound for bound in (low, high))


def csv_rows(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Rows of `CSV_COLUMNS`: scores, then their differences, then what Diebold-Mariano says of those of CSI.

    A difference is a metric of its own, csi_difference; its `decision` is better, worse, none, few or undefined.
    """
    blank: dict[str, Any] = dict.fromkeys(CSV_COLUMNS, "")
    for row in score_table_rows(analysis):
        yield blank | row
    counts = analysis.case_counts
    same = {"aggregation": "pooled"}
    for row in difference_rows(analysis):
        units = {} if row["threshold"] is None else {"units": counts.units, "comparison": counts.comparison}
        plain = {key: "" if _missing(value) else value for key, value in row.items()}
        yield blank | same | units | plain | {"metric": f"{row['metric']}_difference"}
    for row in cross_check_rows(analysis):
        kept = {key: row[key] for key in ("model", "reference", "lead_minutes", "threshold", "p_value", "n_blocks")}
        plain = {key: "" if _missing(value) else value for key, value in kept.items()}
        value = "" if _missing(row["statistic"]) else row["statistic"]
        about = {"metric": "csi_diebold_mariano", "value": value, "decision": row["decision"]}
        yield blank | same | {"units": counts.units, "comparison": counts.comparison} | plain | about


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def difference_rows(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Each tested difference; lead_minutes None is all lead times pooled."""
    levels: list[Cell] = [(threshold, None) for threshold in analysis.thresholds.tolist()]
    families = [("csi", analysis.comparisons, analysis.n_blocks, levels)]
    families += [(name, found.comparisons, found.n_blocks, list(found.cells))
                 for name, found in analysis.sum_scores.items()]  # fmt: skip
    for metric, comparisons, n_blocks, cells in families:
        for comparison in comparisons:
            for lead, minutes in enumerate([*analysis.lead_minutes.tolist(), None]):
                for k, (threshold, scale_km) in enumerate(cells):
                    at = (lead, k)
                    yield {
                        "model": comparison.model,
                        "reference": comparison.reference,
                        "lead_minutes": minutes,
                        "threshold": threshold,
                        "scale_km": scale_km,
                        "metric": metric,
                        "value": float(comparison.difference[at]),
                        "ci_low": float(comparison.low[at]),
                        "ci_high": float(comparison.high[at]),
                        "p_value": float(comparison.p_value[at]),
                        "n_blocks": int(n_blocks[at]),
                        "decision": str(comparison.decision[at]),
                    }


def cross_check_rows(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Diebold-Mariano beside the bootstrap for each tested difference of CSI."""
    for comparison, check in zip(analysis.comparisons, analysis.cross_checks, strict=True):
        made = compared(comparison, check)
        for lead, minutes in enumerate([*analysis.lead_minutes.tolist(), None]):
            for t, threshold in enumerate(analysis.thresholds.tolist()):
                at = (lead, t)
                yield {
                    "model": check.model,
                    "reference": check.reference,
                    "lead_minutes": minutes,
                    "threshold": threshold,
                    "loss_difference": float(check.loss_difference[at]),
                    "statistic": float(check.statistic[at]),
                    "p_value": float(check.p_value[at]),
                    "n_blocks": int(check.n_blocks[at]),
                    "decision": str(check.decision[at]),
                    "bootstrap_decision": str(comparison.decision[at]),
                    "agrees": bool(comparison.decision[at] == check.decision[at]) if made[at] else None,
                }


def sample_rows(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Events, valid pixels, base rate and blocks by lead time and threshold; lead_minutes None is all."""
    rates = base_rate(analysis.counts)[0]
    for lead, minutes in enumerate([*analysis.lead_minutes.tolist(), None]):
        for t, threshold in enumerate(analysis.thresholds.tolist()):
            yield {
                "lead_minutes": minutes,
                "threshold": threshold,
                "observed": int(analysis.counts.observed[0, lead, t]),
                "n_valid": int(analysis.counts.total[0, lead, t]),
                "base_rate": float(rates[lead, t]),
                "n_blocks": int(analysis.n_blocks[lead, t]),
            }


def mask_rows(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Pixels scored and left out by lead time."""
    counts = analysis.case_counts
    shares = counts.masked_share()
    for lead, minutes in enumerate(analysis.lead_minutes.tolist()):
        yield {
            "lead_minutes": minutes,
            "pixels": int(counts.pixels[:, lead].sum()),
            "n_valid": int(counts.valid[:, lead].sum()),
            "masked_share": float(shares[lead]),
            "fields_without_pixels": int(np.count_nonzero(counts.valid[:, lead] == 0)),
        }


def case_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """The best and the worst cases by the CSI of the evaluation's first model, as its examples are; best first."""
    counts = analysis.case_counts
    t = counts.thresholds.size // 2
    together = pool(counts, ("lead_time",))
    values, place = csi(together), {case: index for index, case in enumerate(counts.cases)}
    ranked = ranked_cases(analysis.evaluation.counts)
    chosen = list(dict.fromkeys([*ranked[::-1][:SHOWN_CASES], *ranked[:SHOWN_CASES][::-1]]))
    return [
        {
            "source": case.source,
            "issue_time": f"{case.issue_time}Z",
            "threshold": float(counts.thresholds[t]),
            "observed": int(together.observed[0, place[case], t]),
            "csi": {model: float(values[m, place[case], t]) for m, model in enumerate(counts.models)},
        }
        for case in chosen
    ]


def group_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """CSI by season and by hour of issue, leads pooled; nothing where all cases are of one."""
    rows = []
    for grouping, groups in group_cases(analysis.case_counts).items():
        for name, cases in groups.items():
            values, together = score_of("csi", analysis.case_counts, cases)
            for t, threshold in enumerate(analysis.thresholds.tolist()):
                rows.append(
                    {
                        "grouping": grouping,
                        "group": name,
                        "cases": int(np.count_nonzero(cases)),
                        "blocks": int(np.unique(analysis.blocks[cases]).size),
                        "threshold": threshold,
                        "observed": int(together.observed[0, t]),
                        "csi": {model: float(values[m, t]) for m, model in enumerate(analysis.models)},
                    }
                )
    return rows


def score_cell(analysis: Analysis, name: str, m: int, lead: int, t: int) -> str:
    """`0.412 [0.38, 0.44]`; `~` before an interval of fewer blocks than it takes to rank; why where undefined."""
    estimate = analysis.scores[name]
    value = float(estimate.value[m, lead, t])
    if np.isnan(value):
        return _reason(analysis, m, lead, t)
    return estimate_cell(estimate, analysis.n_blocks, m, lead, t)


def estimate_cell(estimate: Estimate, n_blocks: np.ndarray, m: int, lead: int, cell: int, *, decimals: int = 3) -> str:
    """The same of any score; `undefined` without a reason."""
    value, low, high = (float(part[m, lead, cell]) for part in (estimate.value, estimate.low, estimate.high))
    interval = "" if np.isnan(value) else _interval(low, high, int(n_blocks[lead, cell]), decimals=decimals)
    return number(value, decimals=decimals) + interval


def difference_cell(comparison: Comparison, n_blocks: np.ndarray, lead: int, cell: int, *, decimals: int = 3) -> str:
    """`+0.051 [+0.02, +0.08] ▲`."""
    value = float(comparison.difference[lead, cell])
    if np.isnan(value):
        return f"undefined {MARKS['undefined']}"
    at = (lead, cell)
    interval = _interval(comparison.low[at], comparison.high[at], int(n_blocks[at]), signed=True, decimals=decimals)
    return f"{number(value, signed=True, decimals=decimals)}{interval} {MARKS[comparison.decision[at]]}"


def sum_rows(analysis: Analysis, columns: Sequence[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """A row a model, then a row a comparison, of scores of sums: name, and a cell of text and decision each column.

    Args:
        columns: (metric, lead, cell); lead -1 is all lead times pooled.
    """
    blank = {"text": "", "decision": ""}
    rows: dict[str, list[dict[str, Any]]] = {}
    for place, (metric, lead, cell) in enumerate(columns):
        found, decimals = analysis.sum_scores[metric], _decimals(analysis, metric, columns)
        for m, model in enumerate(found.models):
            text = estimate_cell(found.estimate, found.n_blocks, m, lead, cell, decimals=decimals)
            rows.setdefault(model, [blank] * len(columns))[place] = {"text": text, "decision": ""}
    models = [name for name in analysis.models if name in rows]
    for place, (metric, lead, cell) in enumerate(columns):
        found, decimals = analysis.sum_scores[metric], _decimals(analysis, metric, columns)
        for comparison in found.comparisons:
            text = difference_cell(comparison, found.n_blocks, lead, cell, decimals=decimals)
            name = f"{comparison.model} − {comparison.reference}"
            made = {"text": text, "decision": str(comparison.decision[lead, cell])}
            rows.setdefault(name, [blank] * len(columns))[place] = made
    differences = [name for name in rows if name not in models]
    return [{"name": name, "difference": name not in models, "cells": rows[name]} for name in models + differences]


def _decimals(analysis: Analysis, metric: str, columns: Sequence[tuple[str, int, int]]) -> int:
    """Three, and more for a score whose values are small, as Brier scores of rare events are."""
    value = analysis.sum_scores[metric].estimate.value
    shown = np.abs(np.concatenate([value[:, lead, cell] for name, lead, cell in columns if name == metric]))
    largest = shown[np.isfinite(shown)].max(initial=0.0)
    return int(np.clip(2 - np.floor(np.log10(largest)), 3, 5)) if largest > 0 else 3


def number(value: float, *, signed: bool = False, decimals: int = 3) -> str:
    """Decimals with a true minus sign; `∞` and `undefined` by name."""
    if np.isnan(value):
        return "undefined"
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:{'+' if signed else ''}.{decimals}f}".replace("-", "−")


def whole(value: int) -> str:
    """Thousands apart by a thin space that does not break."""
    return f"{value:,}".replace(",", "\u202f")


def percent(share: float) -> str:
    """`12.3 %`, two figures below one percent."""
    if np.isnan(share):
        return "undefined"
    return f"{100 * share:.1f} %" if share >= 0.01 or share == 0 else f"{100 * share:.2g} %"


def _interval(low: float, high: float, n_blocks: int, *, signed: bool = False, decimals: int = 3) -> str:
    if np.isnan(low) or np.isnan(high):
        return ""
    rough = "" if n_blocks >= MIN_BLOCKS else "~"
    ends = (number(end, signed=signed, decimals=decimals) for end in (low, high))
    return f" {rough}[{', '.join(ends)}]"


def _reason(analysis: Analysis, m: int, lead: int, t: int) -> str:
    reason = undefined_reason(csi, analysis.counts)[m, lead, t]
    if reason:
        return str(reason)
    observed, forecast = analysis.counts.observed[m, lead, t], analysis.counts.forecast[m, lead, t]
    return f"undefined ({observed} observed, {forecast} forecast)"
