"""Intervals, differences and decisions of the scores that are made of sums: errors, FSS, block CSI, CRPS and Brier.

The same blocks, resamples and rules as for CSI; each score is a family of tests of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nowcast.report.decisions import MIN_BLOCKS_SHOWN, Comparison, Estimate, Settings, decide, shown_interval
from nowcast.verification.blocks import block_totals, number_with
from nowcast.verification.bootstrap import BlockBootstrap, sum_bootstrap
from nowcast.verification.counts import ContingencyCounts, EventCounts
from nowcast.verification.evaluation import Evaluation
from nowcast.verification.sum_scores import SUM_SCORES, Cell, SumScore


@dataclass(frozen=True, eq=False)
class SumAnalysis:
    """One score of sums; arrays have the axes (model, lead, cell), the last lead stands for all lead times pooled.

    Attributes:
        score: Which one.
        models: Those that have it.
        cells: Threshold and scale of each cell.
        estimate: Values with their intervals.
        n_blocks: (lead, cell) blocks with rain or events.
        comparisons: Differences, (lead, cell); none of a score of which neither way is better.
        n_tests: Differences that were tested together.
    """

    score: SumScore
    models: tuple[str, ...]
    cells: tuple[Cell, ...]
    estimate: Estimate
    n_blocks: np.ndarray
    comparisons: tuple[Comparison, ...]
    n_tests: int


def analyse_sums(
    evaluation: Evaluation,
    counts: ContingencyCounts,
    blocks: np.ndarray,
    pairs: Sequence[tuple[str, str]],
    settings: Settings,
) -> dict[str, SumAnalysis]:
    """By metric, every score of sums that the evaluation holds.

    Args:
        counts: The evaluation's counts, models in the order of the report.
        blocks: (case,) number of the independent block.
        pairs: Models to compare.
        settings: How intervals and decisions are made.
    """
    found = {}
    for score in SUM_SCORES:
        parts = _parts_by_model(score, evaluation, counts)
        if parts:
            found[score.metric] = _analysis(score, parts, evaluation, blocks, pairs, settings)
    return found


def _parts_by_model(score: SumScore, evaluation: Evaluation, counts: ContingencyCounts) -> dict[str, np.ndarray]:
    """(case, lead, cell, part) by model; single forecasts beside ensembles have the score of one member."""
    held = evaluation.sums.get(score.kind, {})
    if not any(model in held for model in counts.models):
        return {}
    found = {}
    for m, model in enumerate(counts.models):
        if model in held:
            found[model] = score.parts(held[model])
        elif score.single is not None:
            kind, parts = score.single
            if kind == "counts":
                found[model] = parts(EventCounts(*np.moveaxis(counts.table()[m], -1, 0)))
            elif model in evaluation.sums.get(kind, {}):
                found[model] = parts(evaluation.sums[kind][model])
    return found


def _analysis(
    score: SumScore,
    parts: dict[str, np.ndarray],
    evaluation: Evaluation,
    blocks: np.ndarray,
    pairs: Sequence[tuple[str, str]],
    settings: Settings,
) -> SumAnalysis:
    held = evaluation.sums[score.kind]
    models = tuple(parts)
    table = np.stack(list(parts.values()))
    weight = np.sum([score.weight(held[model]) for model in models if model in held], axis=0)
    table, weight = (np.concatenate([part, part.sum(axis=axis, keepdims=True)], axis=axis)
                     for part, axis in ((table, 2), (weight, 1)))  # fmt: skip
    n_blocks = number_with(block_totals(weight[None], blocks)[0])
    value = score.score(table.sum(axis=1))
    places = [(models.index(a), models.index(b)) for a, b in pairs if a in models and b in models]
    places = places if score.better is not None else []
    made: BlockBootstrap | None = None
    if np.unique(blocks).size >= MIN_BLOCKS_SHOWN:
        # Where a score is undefined its slope is too; such resamples count as undefined.
        with np.errstate(invalid="ignore"):
            made = sum_bootstrap(
                table,
                weight,
                blocks,
                score.score,
                pairs=places,
                bounds=score.bounds,
                scale=score.scale,
                level=settings.level,
                replicates=settings.shown_replicates,
                seed=settings.seed,
            )
    low, high, _ = shown_interval(None if made is None else made.scores, value.shape, n_blocks)
    difference = np.stack([value[i] - value[j] for i, j in places]) if places else np.empty((0, *value.shape[1:]))
    comparisons, tests = decide(
        [(models[i], models[j]) for i, j in places],
        difference,
        None if made is None else made.differences,
        n_blocks,
        settings,
        higher_is_better=score.better == "higher",
    )
    cells = score.cells(held[next(model for model in models if model in held)], evaluation.provenance["pixel_km"])
    return SumAnalysis(score, models, cells, Estimate(value, low, high), n_blocks, comparisons, tests)
