"""Where the numbers of a report come from, in the order in which a reader asks."""

from __future__ import annotations

from typing import Any

import numpy as np

from nowcast.report import tables
from nowcast.report.analysis import DAY, Analysis
from nowcast.report.decisions import SHOWN_REPLICATES
from nowcast.report.verdict import block_words
from nowcast.report.words import utc


def summary(analysis: Analysis) -> str:
    """How many forecasts, when, how far ahead, and how much of the area is left out."""
    counts = analysis.case_counts
    minutes = analysis.lead_minutes
    masked = 1.0 - counts.valid.sum() / max(int(counts.pixels.sum()), 1)
    return (
        f"{len(counts.cases)} forecast{'s' if len(counts.cases) != 1 else ''} issued from "
        f"{utc(counts.issue_times.min())} to {utc(counts.issue_times.max())}, {minutes[0]:g} to {minutes[-1]:g} min "
        f"ahead; {tables.percent(float(masked))} of the pixels are masked and left out for all models alike."
    )


def provenance_rows(analysis: Analysis) -> list[tuple[str, str]]:
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
        ("forecasts scored", summary(analysis)),
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
            f"{analysis.n_tests} differences of CSI, false-discovery rate {settings.false_discovery:g} "
            "(Benjamini and Hochberg 1995); every other score is a family of tests of its own" + _families(analysis),
        ),
        (
            "cross-check",
            "Diebold and Mariano 1995 with the correction of Harvey, Leybourne and Newbold 1997 on 1 − CSI of "
            f"{block_words(analysis, 2)}, neighbours' autocovariance taken in, the same false-discovery rate",
        ),
        ("versions", ", ".join(f"{name} {' / '.join(found)}" for name, found in held.get("versions", {}).items())),
    ]
    return rows


def _families(analysis: Analysis) -> str:
    made = [f"{found.n_tests} of {found.score.name}" for found in analysis.sum_scores.values() if found.n_tests]
    return f": {', '.join(made)}" if made else ""


def _blocks(analysis: Analysis) -> str:
    number = f"{analysis.total_blocks} {block_words(analysis, analysis.total_blocks)}"
    if analysis.settings.blocks == "day":
        return f"{number} (UTC); neighbours share frames at midnight"
    gap = analysis.gap / np.timedelta64(60, "s")
    parted = f"{number}: parted by {gap:g} min without a forecast of rain"
    held = analysis.evaluation.counts.issue_times
    if held.max() - held.min() < DAY:
        return parted
    return f"{parted}; an episode of more than a day is cut every 24 hours, and its parts share frames at the cuts"


def _z_r(attributes: dict[str, Any]) -> str:
    if "zr_a" in attributes and "zr_b" in attributes:
        return f"Z = {attributes['zr_a']:g} R^{attributes['zr_b']:g}"
    return "not stated by the archive"


def _told(attributes: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in attributes.items() if key not in ("zr_a", "zr_b")]
