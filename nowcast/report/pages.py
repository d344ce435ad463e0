"""What stands on the pages of a report: dictionaries of words for the templates. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nowcast.report import tables
from nowcast.report.analysis import Analysis
from nowcast.report.chart import Chart
from nowcast.report.colours import NO_DATA, RAIN, data_uri, indexed_png
from nowcast.report.decisions import MIN_BLOCKS_SHOWN
from nowcast.report.provenance import provenance_rows, summary
from nowcast.report.skill_charts import (
    chosen_leads,
    ensemble_charts,
    fss_charts,
    performance_charts,
    pooled_sums,
    sample_charts,
    score_charts,
    spectrum_charts,
    styles,
)
from nowcast.report.svg import draw_svg, style_sheet, swatch
from nowcast.report.verdict import Verdict, agreements, block_words, cross_check_sentences, opening, remarks, verdicts
from nowcast.report.words import utc
from nowcast.verification.bootstrap import MIN_BLOCKS
from nowcast.verification.evaluation import Example, best_and_worst
from nowcast.verification.measures import PooledCounts

# Beyond as many comparisons the page shows the first, and folds the others away.
FEW_COMPARISONS = 2


def words_of(analysis: Analysis, title: str) -> dict[str, Any]:
    """What the HTML and the Markdown page say alike."""
    return {
        "title": title,
        "synthetic": analysis.evaluation.is_synthetic,
        "models": analysis.models,
        "references": analysis.references,
        "summary": summary(analysis),
        "opening": opening(analysis),
        "verdicts": _by_comparison(analysis),
        "cross_check": cross_check_sentences(analysis),
        "agreements": _agreements(analysis),
        "remarks": remarks(analysis),
        "overall": _overall(analysis),
        "by_lead": _by_lead(analysis),
        "comparisons_apart": len(analysis.comparisons) > FEW_COMPARISONS,
        "other_comparisons": _other_comparisons(analysis),
        "difference_names": [f"{c.model} − {c.reference}" for c in analysis.comparisons],
        "pooled": _pooled(analysis),
        "probability": _probability(analysis),
        "cases": _cases(analysis),
        "groups": _groups(analysis),
        "continuous": _continuous(analysis),
        "provenance": provenance_rows(analysis),
        "left_out": analysis.evaluation.left_out(),
        "marks": [(mark, tables.MEANINGS[name]) for name, mark in tables.MARKS.items()],
        "minimum_blocks": MIN_BLOCKS,
        "has_intervals": analysis.total_blocks >= MIN_BLOCKS_SHOWN,
        "level": f"{100 * analysis.settings.level:g} %",
        "blocks_word": block_words(analysis, 2),
        "comparison": analysis.sign,
    }


def pictures_of(analysis: Analysis) -> dict[str, Any]:
    """What only the HTML page has: charts, scorecards, frames."""
    style = styles(analysis)
    few = chosen_leads(analysis, 2)
    return {
        "chart_css": style_sheet(),
        "legend": [{"name": name, "swatch": swatch(style[name])} for name in analysis.models],
        "score_rows": [
            [draw_svg(chart) for chart in row]
            for row in zip(
                *(score_charts(analysis, name) for name in ("csi", "pod", "far", "frequency_bias")), strict=True
            )
        ],
        "performance": _drawn(performance_charts(analysis), square=True),
        "samples": _drawn(sample_charts(analysis)),
        "fss": _drawn(fss_charts(analysis, few)),
        "spectra": _drawn(spectrum_charts(analysis, chosen_leads(analysis, 3))),
        "ensembles": [(name, _drawn(charts)) for name, charts in ensemble_charts(analysis)],
        "ensemble_legend": [
            {"name": name, "swatch": swatch(style[name])}
            for name in analysis.models
            if name in analysis.evaluation.sums.get("crps", {})
        ],
        "scorecards": _scorecards(analysis),
        "examples": [_example(example, analysis) for example in analysis.evaluation.examples],
        "rain_legend": _rain_legend(),
    }


def _drawn(charts: Sequence[Chart], *, square: bool = False) -> list[str]:
    return [draw_svg(chart, height=300 if square else 230) for chart in charts]


def _by_comparison(analysis: Analysis) -> list[dict[str, Any]]:
    """Verdicts of one comparison together, thresholds ascending; what could not be ranked last, without a name."""
    found: dict[str, list[Any]] = {f"{c.model} against {c.reference}": [] for c in analysis.comparisons} | {"": []}
    for verdict in verdicts(analysis):
        found["" if verdict.model is None else f"{verdict.model} against {verdict.reference}"].append(verdict)
    kept = {name: items for name, items in found.items() if items}
    return [
        {"name": name if len(kept) > 1 else "", "short": _in_short(items, analysis.sign), "verdicts": items}
        for name, items in kept.items()
    ]


def _in_short(verdicts: Sequence[Verdict], sign: str) -> str:
    """`better at ≥ 0.1, 1 mm/h; no detectable difference at ≥ 10 mm/h`."""
    words = {"better": "better", "mixed": "better and worse", "worse": "worse", "none": "no detectable difference"}
    parts = []
    for mark, word in words.items():
        at = ", ".join(f"{verdict.threshold:g}" for verdict in verdicts if verdict.mark == mark)
        if at:
            parts.append(f"{word} at {sign} {at} mm/h")
    return "; ".join(parts)


def _other_comparisons(analysis: Analysis) -> str:
    """What is folded away where there are many comparisons: all but the first."""
    others = [f"{c.model} − {c.reference}" for c in analysis.comparisons[1:]]
    return f"{len(others)} more: {', '.join(others)}"


def _agreements(analysis: Analysis) -> list[dict[str, Any]]:
    words = {"better": "better", "worse": "worse", "none": "no difference"}
    return [
        {
            "comparison": f"{found.model} − {found.reference}",
            "threshold": f"{found.threshold:g}",
            "leads": found.leads,
            "bootstrap": f"{words[found.bootstrap]} {tables.MARKS[found.bootstrap]}",
            "diebold_mariano": f"{words[found.diebold_mariano]} {tables.MARKS[found.diebold_mariano]}",
            "agrees": "yes" if found.agrees else "NO",
        }
        for found in agreements(analysis)
    ]


def _overall(analysis: Analysis) -> list[dict[str, Any]]:
    """One row for each threshold and model, all lead times pooled."""
    rows = []
    for t, threshold in enumerate(analysis.thresholds):
        for m, model in enumerate(analysis.models):
            cells = [tables.score_cell(analysis, name, m, -1, t) for name in ("csi", "pod", "far", "frequency_bias")]
            rows.append(
                {
                    "threshold": f"{threshold:g}",
                    "first": m == 0,
                    "model": model,
                    "cells": cells,
                    "forecast": tables.whole(int(analysis.counts.forecast[m, -1, t])),
                    "observed": tables.whole(int(analysis.counts.observed[m, -1, t])),
                    "valid": tables.whole(int(analysis.counts.total[m, -1, t])),
                    "blocks": int(analysis.n_blocks[-1, t]),
                }
            )
    return rows


def _by_lead(analysis: Analysis) -> list[dict[str, Any]]:
    """A table for each threshold: CSI of every model, differences, sample sizes, by lead time and for all."""
    samples = {(row["lead_minutes"], row["threshold"]): row for row in tables.sample_rows(analysis)}
    masked = [*analysis.case_counts.masked_share().tolist(), None]
    found = []
    for t, threshold in enumerate(analysis.thresholds.tolist()):
        rows = []
        for lead, minutes in enumerate([*analysis.lead_minutes.tolist(), None]):
            sample = samples[minutes, threshold]
            rows.append(
                {
                    "lead": "all" if minutes is None else f"{minutes:g}",
                    "scores": [tables.score_cell(analysis, "csi", m, lead, t) for m in range(len(analysis.models))],
                    "differences": [
                        {"text": tables.difference_cell(c, analysis.n_blocks, lead, t), "decision": c.decision[lead, t]}
                        for c in analysis.comparisons
                    ],
                    "observed": tables.whole(sample["observed"]),
                    "base_rate": tables.percent(sample["base_rate"]),
                    "masked": "" if masked[lead] is None else tables.percent(masked[lead]),
                    "blocks": sample["n_blocks"],
                }
            )
        found.append({"threshold": f"{threshold:g}", "rows": rows})
    return found


def _scorecards(analysis: Analysis) -> list[dict[str, Any]]:
    """A table of marks for each comparison: thresholds down, lead times across; none where nothing can be ranked."""
    cards: list[dict[str, Any]] = []
    if analysis.n_tests == 0:
        return cards
    for comparison in analysis.comparisons:
        rows = [
            {
                "threshold": f"{threshold:g}",
                "cells": [
                    {
                        "decision": comparison.decision[lead, t],
                        "mark": tables.MARKS[comparison.decision[lead, t]],
                        "words": f"{minutes:g} min, {analysis.sign} {threshold:g} mm/h: "
                        f"{tables.difference_cell(comparison, analysis.n_blocks, lead, t)}, "
                        f"{analysis.n_blocks[lead, t]} "
                        f"{block_words(analysis, int(analysis.n_blocks[lead, t]))}",
                    }
                    for lead, minutes in enumerate(analysis.lead_minutes)
                ],
            }
            for t, threshold in enumerate(analysis.thresholds)
        ]
        cards.append({"name": f"{comparison.model} against {comparison.reference}", "rows": rows[::-1]})
    return cards


def _cases(analysis: Analysis) -> dict[str, Any]:
    rows = tables.case_rows(analysis)
    return {
        "model": analysis.evaluation.models[0],
        "threshold": f"{rows[0]['threshold']:g}" if rows else "",
        "rows": [
            {
                "time": utc(np.datetime64(row["issue_time"].removesuffix("Z"))),
                "source": row["source"],
                "observed": tables.whole(row["observed"]),
                "csi": [tables.number(row["csi"][model]) for model in analysis.models],
            }
            for row in rows
        ],
    }


def _groups(analysis: Analysis) -> list[dict[str, Any]]:
    """Seasons and hours, a block of rows for each threshold."""
    rows = [
        {
            **row,
            "threshold": f"{row['threshold']:g}",
            "observed": tables.whole(row["observed"]),
            "csi": [tables.number(row["csi"][model]) for model in analysis.models],
        }
        for row in tables.group_rows(analysis)
    ]
    order = [f"{threshold:g}" for threshold in analysis.thresholds]
    return sorted(rows, key=lambda row: order.index(row["threshold"]))


def _chosen(analysis: Analysis, number: int) -> list[tuple[str, int]]:
    """A few lead times and all of them: name and place."""
    minutes = analysis.lead_minutes
    return [(f"{minutes[lead]:g}", lead) for lead in chosen_leads(analysis, number)] + [("all", -1)]


def _continuous(analysis: Analysis) -> list[dict[str, Any]]:
    """A block of rows for each chosen lead time: models, then their differences."""
    metrics = ("rmse", "mae", "mean_error", "correlation")
    if "mae" not in analysis.sum_scores:
        return []
    held = next(sums for model, sums in analysis.evaluation.sums["continuous"].items() if model in analysis.models)
    valid = [*held.pool(0).n.tolist(), int(held.pool().n)]  # type: ignore[attr-defined]
    return [
        {
            "name": name,
            "rows": tables.sum_rows(analysis, [(metric, lead, 0) for metric in metrics]),
            "n": tables.whole(valid[lead]),
            "blocks": int(analysis.sum_scores["mae"].n_blocks[lead, 0]),
        }
        for name, lead in _chosen(analysis, 4)
    ]


def _pooled(analysis: Analysis) -> dict[str, Any]:
    """CSI of block maxima and means, lead times pooled: a block of rows for each threshold."""
    found = analysis.sum_scores.get("csi_max_pool")
    if found is None:
        return {"groups": []}
    sums = next(iter(pooled_sums(analysis, "pooled", PooledCounts, leads=True).values()))
    scales = list(dict.fromkeys(scale for _, scale in found.cells))
    columns = [(metric, scale) for metric in ("csi_max_pool", "csi_mean_pool") for scale in scales]
    groups = []
    for t, threshold in enumerate(analysis.thresholds.tolist()):
        cell = {scale: found.cells.index((threshold, scale)) for scale in scales}
        groups.append(
            {
                "name": f"{threshold:g}",
                "rows": tables.sum_rows(analysis, [(metric, -1, cell[scale]) for metric, scale in columns]),
                "observed": tables.whole(int(sums.hits[0, t] + sums.misses[0, t])),
                "blocks": int(found.n_blocks[-1, cell[scales[0]]]),
            }
        )
    words = {"csi_max_pool": "max of", "csi_mean_pool": "mean of"}
    names = [f"{words[metric]} {scale:g} × {scale:g} km" for metric, scale in columns]
    return {"sign": analysis.sign, "names": names, "groups": groups}


def _probability(analysis: Analysis) -> dict[str, Any]:
    """CRPS, fair CRPS and Brier score by lead time; empty without ensembles."""
    chosen = _chosen(analysis, 2)
    groups = [
        (
            found.score.name if threshold is None else f"Brier score {analysis.sign} {threshold:g} mm/h",
            metric,
            cell,
        )
        for metric, found in analysis.sum_scores.items()
        if metric in ("crps", "fair_crps", "brier_score")
        for cell, (threshold, _) in enumerate(found.cells)
    ]
    return {
        "names": [name if name == "all" else f"{name} min" for name, _ in chosen],
        "groups": [
            {
                "name": f"{name} [mm/h]" if metric != "brier_score" else name,
                "rows": tables.sum_rows(analysis, [(metric, lead, cell) for _, lead in chosen]),
                "blocks": int(analysis.sum_scores[metric].n_blocks[-1, cell]),
            }
            for name, metric, cell in groups
        ],
    }


def _example(example: Example, analysis: Analysis) -> dict[str, Any]:
    """A case as rows of small maps, observed first."""
    fields = {"observed": example.observed} | {
        model: example.forecasts[model] for model in analysis.models if model in example.forecasts
    }
    minutes = example.lead_times / np.timedelta64(60, "s")
    rows, columns = example.observed.shape[1:]
    dy, dx = example.pixel_km
    chosen = best_and_worst(analysis.evaluation.counts)
    names = dict(zip(chosen, ("Best case", "Worst case") if len(chosen) == 2 else ("Case",), strict=True))
    return {
        "name": names.get(example.case, "Case"),
        "time": utc(example.case.issue_time),
        "source": example.case.source,
        "size": f"{columns * dx:.0f} × {rows * dy:.0f} km, pixels of {dx:g} km",
        "leads": [
            {"minutes": f"{minute:g}", "valid": utc(example.case.issue_time + lead)[11:]}
            for minute, lead in zip(minutes, example.lead_times, strict=True)
        ],
        "rows": [
            {
                "name": name,
                "images": [
                    {
                        "uri": data_uri(indexed_png(RAIN.classify(field), RAIN.palette)),
                        "alt": f"{name}, {minute:g} min ahead",
                    }
                    for field, minute in zip(frames, minutes, strict=True)
                ],
            }
            for name, frames in fields.items()
        ],
    }


def _rain_legend() -> dict[str, Any]:
    marks = ("", *(f"{bound:g}" for bound in RAIN.bounds))
    return {"title": RAIN.title, "no_data": NO_DATA, "classes": list(zip(RAIN.colours, marks, strict=True))}
