"""Numbers of an analysis as rows: dictionaries for files, and cells of words for people. No number without its n."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nowcast.report.analysis import BOUNDS, Analysis, Comparison, group_cases, score_of
from nowcast.verification.bootstrap import MIN_BLOCKS
from nowcast.verification.evaluation import ranked_cases
from nowcast.verification.score_table import score_rows
from nowcast.verification.scores import base_rate, csi, pool, undefined_reason

MARKS = {"better": "▲", "worse": "▼", "none": "≈", "few": "·", "undefined": "–"}
MEANINGS = {
    "better": "first model better",
    "worse": "first model worse",
    "none": "no detectable difference",
    "few": "too few blocks to rank",
    "undefined": "undefined",
}
SHOWN_CASES = 3


def csv_rows(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """The rows of scores.csv with the intervals filled in where they were made."""
    leads = {float(minute): index for index, minute in enumerate(analysis.lead_minutes)}
    levels = {float(threshold): index for index, threshold in enumerate(analysis.thresholds)}
    models = {name: index for index, name in enumerate(analysis.models)}
    for row in score_rows(analysis.evaluation):
        if row["metric"] in BOUNDS and row["aggregation"] == "pooled":
            lead = -1 if row["lead_minutes"] == "" else leads[row["lead_minutes"]]
            at = (lead, levels[row["threshold"]])
            estimate, m = analysis.scores[row["metric"]], models[row["model"]]
            low, high = (float(bound[m, *at]) for bound in (estimate.low, estimate.high))
            row["n_blocks"] = int(analysis.n_blocks[at])
            row["ci_low"], row["ci_high"] = ("" if np.isnan(bound) else bound for bound in (low, high))
        yield row


def difference_rows(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Each tested difference; lead_minutes None is all lead times pooled."""
    for comparison in analysis.comparisons:
        for lead, minutes in enumerate([*analysis.lead_minutes.tolist(), None]):
            for t, threshold in enumerate(analysis.thresholds.tolist()):
                at = (lead, t)
                yield {
                    "model": comparison.model,
                    "reference": comparison.reference,
                    "lead_minutes": minutes,
                    "threshold": threshold,
                    "metric": "csi",
                    "value": float(comparison.difference[at]),
                    "ci_low": float(comparison.low[at]),
                    "ci_high": float(comparison.high[at]),
                    "p_value": float(comparison.p_value[at]),
                    "n_blocks": int(analysis.n_blocks[at]),
                    "decision": str(comparison.decision[at]),
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
    return f"{number(value)}{_interval(analysis, estimate.low[m, lead, t], estimate.high[m, lead, t], lead, t)}"


def difference_cell(analysis: Analysis, comparison: Comparison, lead: int, t: int) -> str:
    """`+0.051 [+0.02, +0.08] ▲`."""
    value = float(comparison.difference[lead, t])
    if np.isnan(value):
        return f"undefined {MARKS['undefined']}"
    interval = _interval(analysis, comparison.low[lead, t], comparison.high[lead, t], lead, t, signed=True)
    return f"{number(value, signed=True)}{interval} {MARKS[comparison.decision[lead, t]]}"


def number(value: float, *, signed: bool = False) -> str:
    """Three decimals with a true minus sign; `∞` and `undefined` by name."""
    if np.isnan(value):
        return "undefined"
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:{'+' if signed else ''}.3f}".replace("-", "−")


def whole(value: int) -> str:
    """Thousands apart by a thin space that does not break."""
    return f"{value:,}".replace(",", "\u202f")


def percent(share: float) -> str:
    """`12.3 %`, two figures below one percent."""
    if np.isnan(share):
        return "undefined"
    return f"{100 * share:.1f} %" if share >= 0.01 or share == 0 else f"{100 * share:.2g} %"


def _interval(analysis: Analysis, low: float, high: float, lead: int, t: int, *, signed: bool = False) -> str:
    if np.isnan(low) or np.isnan(high):
        return ""
    rough = "" if analysis.n_blocks[lead, t] >= MIN_BLOCKS else "~"
    return f" {rough}[{number(low, signed=signed)}, {number(high, signed=signed)}]"


def _reason(analysis: Analysis, m: int, lead: int, t: int) -> str:
    reason = undefined_reason(csi, analysis.counts)[m, lead, t]
    if reason:
        return str(reason)
    observed, forecast = analysis.counts.observed[m, lead, t], analysis.counts.forecast[m, lead, t]
    return f"undefined ({observed} observed, {forecast} forecast)"
