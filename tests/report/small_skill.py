"""Evaluations made of numbers alone: counts of a few cases, with and without sums, storms and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nowcast.verification.counts import Case, ContingencyCounts
from nowcast.verification.evaluation import Evaluation, Example, best_and_worst
from nowcast.verification.measures import FieldRules, field_sums, stack_cases
from nowcast.verification.sums import Sums

PIXELS = 10_000
MODELS = ("net", "persistence", "extrapolation")


def small_evaluation(
    *,
    cases: int = 60,
    leads: int = 4,
    thresholds: Sequence[float] = (0.1, 1.0, 10.0),
    models: Sequence[str] = MODELS,
    hours_apart: float = 30.0,
    skill: Mapping[str, float] | None = None,
    start: str = "2024-05-01T00:00",
    source: str = "rain",
    synthetic: bool = False,
    seed: int = 0,
) -> Evaluation:
    """Counts of random storms, `hours_apart` from each other; `skill` is the share of events a model hits."""
    rng = np.random.default_rng(seed)
    skill = {"net": 0.7, "persistence": 0.4, "extrapolation": 0.6} if skill is None else skill
    times = np.datetime64(start, "s") + np.round(np.arange(cases) * hours_apart * 3600).astype("timedelta64[s]")
    share = np.array([0.3 * 0.4**k for k in range(len(thresholds))])
    storm = rng.uniform(0.2, 1.0, (cases, 1, 1))
    observed = np.broadcast_to((0.85 * PIXELS * storm * share).astype(np.int64), (cases, leads, len(thresholds)))
    table = np.zeros((len(models), *observed.shape, 4), dtype=np.int64)
    for m, name in enumerate(models):
        fade = skill.get(name, 0.5) * 0.95 ** np.arange(leads)[None, :, None]
        hits = np.round(observed * np.clip(fade + rng.normal(0, 0.03, (cases, 1, 1)), 0, 1)).astype(np.int64)
        misses = observed - hits
        false_alarms = misses // 2
        table[m] = np.stack([hits, false_alarms, misses, int(0.85 * PIXELS) - hits - false_alarms - misses], axis=-1)
    counts = ContingencyCounts(
        tuple(models),
        tuple(Case(source, time) for time in times),
        (np.arange(1, leads + 1) * 900).astype("timedelta64[s]"),
        np.array(thresholds),
        *np.moveaxis(table, -1, 0),
        pixels=np.full((cases, leads), PIXELS),
        mask_digest=np.ones((cases, leads), dtype=np.uint64),
    )
    return Evaluation(counts, {}, provenance(counts, source, synthetic=synthetic))


def provenance(counts: ContingencyCounts, source: str, *, synthetic: bool) -> dict[str, Any]:
    """What evaluate would say of such counts."""
    baselines = ("persistence", "extrapolation")
    return {
        "comparison": ">=",
        "thresholds": counts.thresholds.tolist(),
        "units": "mm h-1",
        "zero_by_zero": "undefined",
        "ensembles": "counts and errors are those of the members' mean",
        "windows": [1, 5],
        "pixel_km": 1.0,
        "sources": {
            source: {
                "name": f"{source}.zarr",
                "fingerprint": "0123456789abcdef",
                "grid": "100x100 pixels of 1x1 km, somewhere",
                "shape": [100, 100],
                "step_minutes": 15.0,
                "interval_minutes": 5.0,
                "first_time": f"{counts.issue_times[0]}Z",
                "last_time": f"{counts.issue_times[-1]}Z",
                "synthetic": synthetic,
                "attributes": {"institution": "nobody & sons", "zr_a": 200.0, "zr_b": 1.6},
            }
        },
        "models": {
            name: {
                "kind": "baseline" if name in baselines else "forecast",
                "members": 1,
                "attributes": {},
                "files": {} if name in baselines else {"one.nc": "ab" * 32},
            }
            for name in counts.models
        },
        "left_out": {},
        "versions": {"python": ["3.11"]},
    }


def with_fields(evaluation: Evaluation, *, members: int = 1, size: int = 32) -> Evaluation:
    """The same counts with sums and examples of small random fields beside them."""
    rng = np.random.default_rng(1)
    counts = evaluation.counts
    leads, rules = counts.lead_times.size, FieldRules(tuple(counts.thresholds.tolist()), (1, 5))
    shape = (leads, size, size)
    sums: dict[str, dict[str, Sums]] = {}
    for model in counts.models:
        number = members if model == counts.models[0] else 1
        parts: dict[str, list[Sums]] = {}
        for _ in counts.cases:
            fields = rng.gamma(0.4, 4.0, (number, *shape)).astype(np.float32)
            observed = rng.gamma(0.4, 4.0, shape).astype(np.float32)
            for kind, part in field_sums(fields, fields.mean(axis=0), observed, rules).items():
                parts.setdefault(kind, []).append(part)
        for kind, found in parts.items():
            sums.setdefault(kind, {})[model] = stack_cases(found)
    observed = rng.gamma(0.4, 4.0, shape).astype(np.float32)
    observed[:, 0] = np.nan
    examples = tuple(
        Example(case, counts.lead_times, observed, dict.fromkeys(counts.models, observed), (1.0, 1.0))
        for case in best_and_worst(counts)
    )
    return Evaluation(counts, sums, evaluation.provenance, examples)
