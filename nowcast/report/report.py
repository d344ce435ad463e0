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
from nowcast.report.analysis import Analysis, analyse
from nowcast.report.decisions import Settings
from nowcast.report.html import render
from nowcast.report.pages import pictures_of, words_of
from nowcast.report.verdict import opening, remarks, verdicts
from nowcast.report.words import listed
from nowcast.verification.bootstrap import MIN_BLOCKS
from nowcast.verification.evaluation import Evaluation, merge_evaluations

FORMAT = "nowcast-report-2"


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
        """Every score with its interval where there is one, every difference and its tests, one row each."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, tables.CSV_COLUMNS, lineterminator="\n")
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
                    "tests_by_metric": {
                        "csi": analysis.n_tests,
                        **{name: found.n_tests for name, found in analysis.sum_scores.items() if found.comparisons},
                    },
                    "false_discovery_rate": settings.false_discovery,
                },
                "scores": [
                    {key: None if value == "" else value for key, value in row.items()}
                    for row in tables.score_table_rows(analysis)
                    if row["aggregation"] == "pooled"
                ],
                "differences": list(tables.difference_rows(analysis)),
                "cross_checks": list(tables.cross_check_rows(analysis)),
                "samples": list(tables.sample_rows(analysis)),
                "masks": list(tables.mask_rows(analysis)),
                "best_and_worst_cases": tables.case_rows(analysis),
                "groups": tables.group_rows(analysis),
                # Sorted, so that the order of merging changes nothing.
                "provenance": json.loads(json.dumps(dict(analysis.evaluation.provenance), sort_keys=True)),
            }
        )

    def to_json(self) -> str:
        """`to_dict` as text, a line for each row of a table."""
        parts = []
        for key, value in self.to_dict().items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                rows = ",\n  ".join(json.dumps(row, allow_nan=False, ensure_ascii=False) for row in value)
                text = f"[\n  {rows}\n ]"
            else:
                text = json.dumps(value, allow_nan=False, ensure_ascii=False)
            parts.append(f" {json.dumps(key)}: {text}")
        return "{\n" + ",\n".join(parts) + "\n}\n"

    def to_markdown(self) -> str:
        return render("report.md.jinja", **words_of(self.analysis, self.title))

    def to_html(self) -> str:
        """One page that needs no other file and no network."""
        return render(
            "report.html.jinja",
            **words_of(self.analysis, self.title),
            **pictures_of(self.analysis),
            report_css=_resource("report.css"),
        )


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
