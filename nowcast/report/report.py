"""SkillReport: one set of numbers as CSV, JSON, Markdown and one offline HTML page.

The numbers come from `nowcast.report.analysis`; nothing is computed here. The same seed gives the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from nowcast.report import tables
from nowcast.report.analysis import SHOWN_REPLICATES, Analysis, Settings, analyse
from nowcast.report.chart import Chart
from nowcast.report.colours import NO_DATA, RAIN, data_uri, indexed_png
from nowcast.report.html import render
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
from nowcast.report.verdict import block_words, opening, remarks, verdicts
from nowcast.report.words import listed, utc
from nowcast.verification.bootstrap import MIN_BLOCKS
from nowcast.verification.continuous import (
    mean_absolute_error,
    mean_error,
    pearson_correlation,
    root_mean_squared_error,
)
from nowcast.verification.evaluation import Evaluation, Example, merge_evaluations
from nowcast.verification.measures import PooledCounts
from nowcast.verification.score_table import COLUMNS
from nowcast.verification.scores import csi

FORMAT = "nowcast-report-1"


@dataclass(frozen=True, eq=False)
class SkillReport:
    """What is to be said of one evaluation.

    Attributes:
        analysis: Its scores, intervals and decisions.
        title: Headline.
    """

    analysis: Analysis
    title: str

    @classmethod
    def of(
        cls,
        evaluations: Sequence[Evaluation],
        *,
        settings: Settings | None = None,
        title: str | None = None,
        names: Sequence[str] | None = None,
    ) -> SkillReport:
        """The report of one evaluation, or of several merged exactly.

        Args:
            settings: How intervals and decisions are made.
            title: Headline; the models' names unless given.
            names: What to call the evaluations in errors: their folders.

        Raises:
            DataError: Evaluations that do not belong together; both sides are named.
            ConfigError: Settings that do not fit the evaluation.
        """
        whole = evaluations[0] if len(evaluations) == 1 else merge_evaluations(evaluations, names)
        analysis = analyse(whole, settings)
        return cls(analysis, title or f"Skill of {listed(analysis.candidates)}")

    def to_csv(self) -> str:
        """Every score in the columns of scores.csv, with its interval where there is one."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(tables.csv_rows(self.analysis))
        return buffer.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values after `report.schema.json`; what has no value is None."""
        analysis = self.analysis
        counts, settings = analysis.case_counts, analysis.settings
        return _plain(
            {
                "format": FORMAT,
                "title": self.title,
                "synthetic": analysis.evaluation.is_synthetic,
                "opening": opening(analysis),
                "verdicts": [vars(verdict) for verdict in verdicts(analysis)],
                "remarks": remarks(analysis),
                "models": [
                    {"name": name, "role": "reference" if name in analysis.references else "model"}
                    for name in analysis.models
                ],
                "lead_minutes": analysis.lead_minutes.tolist(),
                "thresholds": analysis.thresholds.tolist(),
                "units": counts.units,
                "comparison": counts.comparison,
                "cases": len(counts.cases),
                "first_issue_time": f"{counts.issue_times.min()}Z",
                "last_issue_time": f"{counts.issue_times.max()}Z",
                "intervals": {
                    "level": settings.level,
                    "method": "studentised block bootstrap",
                    "replicates": settings.replicates,
                    "seed": settings.seed,
                    "blocks": settings.blocks,
                    "number_of_blocks": analysis.total_blocks,
                    "gap_minutes": float(analysis.gap / np.timedelta64(60, "s")),
                    "minimum_blocks_to_rank": MIN_BLOCKS,
                    "block_autocorrelation": analysis.autocorrelation,
                    "tests": analysis.n_tests,
                    "false_discovery_rate": settings.false_discovery,
                },
                "scores": [
                    {key: None if value == "" else value for key, value in row.items()}
                    for row in tables.csv_rows(analysis)
                    if row["aggregation"] == "pooled"
                ],
                "differences": list(tables.difference_rows(analysis)),
                "samples": list(tables.sample_rows(analysis)),
                "masks": list(tables.mask_rows(analysis)),
                "best_and_worst_cases": tables.case_rows(analysis),
                "groups": tables.group_rows(analysis),
                # Sorted, so that the order of merging changes nothing.
                "provenance": json.loads(json.dumps(dict(analysis.evaluation.provenance), sort_keys=True)),
            }
        )

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        return render("report.md.jinja", **self._common())

    def to_html(self) -> str:
        """One page that needs no other file and no network."""
        analysis = self.analysis
        style = styles(analysis)
        few = chosen_leads(analysis, 2)
        return render(
            "report.html.jinja",
            **self._common(),
            chart_css=style_sheet(),
            report_css=_resource("report.css"),
            legend=[{"name": name, "swatch": swatch(style[name])} for name in analysis.models],
            score_rows=[
                [draw_svg(chart) for chart in row]
                for row in zip(
                    *(score_charts(analysis, name) for name in ("csi", "pod", "far", "frequency_bias")), strict=True
                )
            ],
            performance=_drawn(performance_charts(analysis), square=True),
            samples=_drawn(sample_charts(analysis)),
            fss=_drawn(fss_charts(analysis, few)),
            spectra=_drawn(spectrum_charts(analysis, chosen_leads(analysis, 3))),
            ensembles=[(name, _drawn(charts)) for name, charts in ensemble_charts(analysis)],
            pooled=_pooled(analysis),
            scorecards=_scorecards(analysis),
            examples=[_example(example, analysis) for example in analysis.evaluation.examples],
            rain_legend=_rain_legend(),
        )

    def _common(self) -> dict[str, Any]:
        """What the HTML and the Markdown page say alike."""
        analysis = self.analysis
        return {
            "title": self.title,
            "synthetic": analysis.evaluation.is_synthetic,
            "models": analysis.models,
            "references": analysis.references,
            "summary": _summary(analysis),
            "opening": opening(analysis),
            "verdicts": _by_threshold(analysis),
            "remarks": remarks(analysis),
            "overall": _overall(analysis),
            "by_lead": _by_lead(analysis),
            "difference_names": [f"{c.model} − {c.reference}" for c in analysis.comparisons],
            "cases": _cases(analysis),
            "groups": _groups(analysis),
            "continuous": _continuous(analysis),
            "provenance": _provenance(analysis),
            "left_out": analysis.evaluation.left_out(),
            "marks": [(mark, tables.MEANINGS[name]) for name, mark in tables.MARKS.items()],
            "minimum_blocks": MIN_BLOCKS,
            "level": f"{100 * analysis.settings.level:g} %",
            "blocks_word": block_words(analysis, 2),
            "comparison": analysis.sign,
        }


def report_schema() -> dict[str, Any]:
    """The JSON schema of `SkillReport.to_dict`."""
    schema: dict[str, Any] = json.loads(_resource("report.schema.json"))
    return schema


def _resource(name: str) -> Any:
    from markupsafe import Markup

    return Markup(resources.files("nowcast.report").joinpath(name).read_text(encoding="utf-8"))


def _plain(value: Any) -> Any:
    """JSON values; NaN and infinities become None."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _drawn(charts: Sequence[Chart], *, square: bool = False) -> list[str]:
    return [draw_svg(chart, height=300 if square else 230) for chart in charts]


def _summary(analysis: Analysis) -> str:
    counts = analysis.case_counts
    minutes = analysis.lead_minutes
    masked = 1.0 - counts.valid.sum() / max(int(counts.pixels.sum()), 1)
    return (
        f"{len(counts.cases)} forecast{'s' if len(counts.cases) != 1 else ''} issued from "
        f"{utc(counts.issue_times.min())} to {utc(counts.issue_times.max())}, {minutes[0]:g} to {minutes[-1]:g} min "
        f"ahead; {tables.percent(float(masked))} of the pixels are masked and left out for all models alike."
    )


def _by_threshold(analysis: Analysis) -> list[dict[str, Any]]:
    found: dict[float, list[Any]] = {}
    for verdict in verdicts(analysis):
        found.setdefault(verdict.threshold, []).append(verdict)
    return [{"threshold": f"{threshold:g}", "verdicts": items} for threshold, items in found.items()]


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
                        {"text": tables.difference_cell(analysis, c, lead, t), "decision": c.decision[lead, t]}
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
                        f"{tables.difference_cell(analysis, comparison, lead, t)}, {analysis.n_blocks[lead, t]} "
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
    """Seasons and hours at the middle threshold; all thresholds are in the JSON file."""
    return [
        {
            **row,
            "threshold": f"{row['threshold']:g}",
            "observed": tables.whole(row["observed"]),
            "csi": [tables.number(row["csi"][model]) for model in analysis.models],
        }
        for row in tables.group_rows(analysis)
        if row["threshold"] == float(analysis.thresholds[analysis.thresholds.size // 2])
    ]


def _continuous(analysis: Analysis) -> list[dict[str, Any]]:
    held = analysis.evaluation.sums.get("continuous", {})
    rows = []
    for model in analysis.models:
        if model not in held:
            continue
        by_lead = held[model].pool(0)
        for lead in chosen_leads(analysis, 4):
            sums: Any = by_lead[lead]
            rows.append(
                {
                    "model": model,
                    "lead": f"{analysis.lead_minutes[lead]:g}",
                    "values": [
                        tables.number(float(score(sums)))
                        for score in (root_mean_squared_error, mean_absolute_error, mean_error, pearson_correlation)
                    ],
                    "n": tables.whole(int(sums.n)),
                }
            )
    return rows


def _pooled(analysis: Analysis) -> dict[str, Any]:
    """CSI after taking maxima or means of blocks, lead times pooled: names of the poolings, and rows."""
    sums = pooled_sums(analysis, "pooled", PooledCounts, leads=True)
    names: list[str] = []
    rows = []
    for t, threshold in enumerate(analysis.thresholds):
        for model, counts in sums.items():
            names = counts.poolings.split(",") if counts.poolings else []
            values = csi(counts)[:, t]
            n = int(counts.hits[0, t] + counts.misses[0, t]) if names else 0
            cells = [tables.number(float(value)) for value in values]
            rows.append({"threshold": f"{threshold:g}", "model": model, "cells": cells, "observed": tables.whole(n)})
    words = [f"{kind} of {side}×{side}" for kind, side in (name.split(":") for name in names)]
    return {"names": words, "rows": rows if words else []}


def _example(example: Example, analysis: Analysis) -> dict[str, Any]:
    """A case as rows of small maps, observed first."""
    fields = {"observed": example.observed} | {
        model: example.forecasts[model] for model in analysis.models if model in example.forecasts
    }
    minutes = example.lead_times / np.timedelta64(60, "s")
    rows, columns = example.observed.shape[1:]
    dy, dx = example.pixel_km
    return {
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


def _provenance(analysis: Analysis) -> list[tuple[str, str]]:
    """Names and values, in the order a reader asks for them."""
    evaluation, counts, settings = analysis.evaluation, analysis.case_counts, analysis.settings
    held = evaluation.provenance
    rows: list[tuple[str, str]] = []
    for label, source in sorted(held["sources"].items()):
        length = source.get("interval_minutes")
        kind = "instantaneous values" if length is None else f"means over {length:g} min"
        rows += [
            (f"data: {label}", f"{source['name']}{' (synthetic)' if source['synthetic'] else ''}"),
            ("period of the data", f"{source['first_time']} to {source['last_time']}"),
            ("grid", source["grid"]),
            ("step", f"{source['step_minutes']:g} min, {kind}"),
            ("Z-R relation", _z_r(source.get("attributes", {}))),
            *((key.replace("_", " "), str(value)) for key, value in _told(source.get("attributes", {}))),
            ("fingerprint", source["fingerprint"]),
        ]
    for name in analysis.models:
        entry = held["models"].get(name, {})
        files = entry.get("files", {})
        told = [
            entry.get("kind", "forecast"),
            f"{entry.get('members', 1)} member{'s' if entry.get('members', 1) != 1 else ''}",
        ]
        told += [f"{key.replace('_', ' ')} {value}" for key, value in entry.get("attributes", {}).items()]
        if files:
            first = next(iter(files.items()))
            told.append(f"{len(files)} file{'s' if len(files) != 1 else ''}, {first[0]} sha256 {first[1][:16]}…")
        rows.append((f"model: {name}", "; ".join(told)))
    rows += [
        ("forecasts scored", _summary(analysis)),
        ("event", f"rain rate {counts.comparison} threshold [mm/h], compared in the data's own type"),
        ("0/0", "undefined: never 0, never 1"),
        ("aggregation", "pooled: counts are summed over cases, then divided"),
        ("ensembles", str(held.get("ensembles", "deterministic"))),
        (
            "intervals",
            f"{100 * settings.level:g} %, studentised bootstrap of {block_words(analysis, 2)}, the same resamples for "
            f"all models, {settings.replicates} for CSI and its differences, at most {SHOWN_REPLICATES} for the other "
            f"scores, seed {settings.seed}",
        ),
        ("independent blocks", _blocks(analysis)),
        (
            "tests",
            f"{analysis.n_tests} differences, false-discovery rate {settings.false_discovery:g} "
            "(Benjamini and Hochberg 1995)",
        ),
        ("versions", ", ".join(f"{name} {' / '.join(found)}" for name, found in held.get("versions", {}).items())),
    ]
    return rows


def _blocks(analysis: Analysis) -> str:
    number = f"{analysis.total_blocks} {block_words(analysis, analysis.total_blocks)}"
    if analysis.settings.blocks == "day":
        return f"{number} (UTC)"
    gap = analysis.gap / np.timedelta64(60, "s")
    return f"{number}: parted by {gap:g} min without a forecast of rain, cut after a day"


def _z_r(attributes: dict[str, Any]) -> str:
    if "zr_a" in attributes and "zr_b" in attributes:
        return f"Z = {attributes['zr_a']:g} R^{attributes['zr_b']:g}"
    return "not stated by the archive"


def _told(attributes: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in attributes.items() if key not in ("zr_a", "zr_b")]
