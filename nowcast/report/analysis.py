"""What an evaluation says: scores with intervals, paired comparisons with their decisions, sample sizes.

Arrays have the axes (model, lead, threshold); their last lead stands for all lead times pooled. Nothing is drawn here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nowcast.errors import ConfigError
from nowcast.report.cross_check import CrossCheck, cross_checks
from nowcast.report.decisions import (
    MIN_BLOCKS_SHOWN,
    BlockKind,
    Comparison,
    Estimate,
    Settings,
    decide,
    shown_interval,
)
from nowcast.report.sum_analysis import SumAnalysis, analyse_sums
from nowcast.verification.blocks import block_totals, blocks_by_day, blocks_by_event, number_with
from nowcast.verification.bootstrap import MIN_BLOCKS, BlockBootstrap, block_bootstrap
from nowcast.verification.counts import ContingencyCounts, EventCounts
from nowcast.verification.evaluation import Evaluation
from nowcast.verification.scores import SCORES, pool

# Ranges of the scores of counts that get an interval; of them CSI alone is tested.
BOUNDS = {"csi": (0.0, 1.0), "pod": (0.0, 1.0), "far": (0.0, 1.0), "frequency_bias": (0.0, np.inf)}
TESTED = "csi"
SIGNS = {">=": "≥", ">": ">"}
REFERENCES = ("persistence", "extrapolation", "scale-decay", "pysteps")
DAY = np.timedelta64(86400, "s")
HOUR = np.timedelta64(3600, "s")


@dataclass(frozen=True, eq=False)
class Analysis:
    """An evaluation with everything that its report says of it.

    Attributes:
        evaluation: What was counted and summed.
        settings: How it was analysed.
        case_counts: Its counts, the models that are compared first, then the references.
        references: Models that the others are compared with.
        blocks: (case,) number of the independent block.
        gap: Time without cases that parts two episodes.
        counts: (model, lead, threshold), pooled over cases.
        scores: By name, for those in `BOUNDS`.
        n_blocks: (lead, threshold) blocks with an event.
        comparisons: CSI of each model with each reference, and of the models with each other.
        n_tests: Differences that were tested together.
        cross_checks: Of each comparison.
        sum_scores: By metric, the scores that are made of sums.
        autocorrelation: Median over the tests of the lag-1 autocorrelation of the blocks; NaN without tests.
    """

    evaluation: Evaluation
    settings: Settings
    case_counts: ContingencyCounts
    references: tuple[str, ...]
    blocks: np.ndarray
    gap: np.timedelta64
    counts: EventCounts
    scores: Mapping[str, Estimate]
    n_blocks: np.ndarray
    comparisons: tuple[Comparison, ...]
    n_tests: int
    cross_checks: tuple[CrossCheck, ...]
    sum_scores: Mapping[str, SumAnalysis]
    autocorrelation: float

    @property
    def models(self) -> tuple[str, ...]:
        """References last."""
        return self.case_counts.models

    @property
    def candidates(self) -> tuple[str, ...]:
        """Models that are no references."""
        return tuple(name for name in self.models if name not in self.references)

    @property
    def thresholds(self) -> np.ndarray:
        return self.case_counts.thresholds

    @property
    def sign(self) -> str:
        """What stands before a threshold: ≥, or > where only more is an event."""
        return SIGNS[self.case_counts.comparison]

    @property
    def lead_minutes(self) -> np.ndarray:
        """Lead times alone, without the row of all leads."""
        return self.case_counts.lead_minutes

    @property
    def total_blocks(self) -> int:
        """Independent blocks of all cases, with events or without."""
        return int(np.unique(self.blocks).size)

    @cached_property
    def rankable(self) -> np.ndarray:
        """(lead, threshold) whether there are blocks enough to call one model better."""
        return np.asarray(self.n_blocks >= MIN_BLOCKS)


def analyse(evaluation: Evaluation, settings: Settings | None = None) -> Analysis:
    """Scores, intervals and decisions of an evaluation.

    Raises:
        ConfigError: A reference that the evaluation does not hold, or settings out of range.
    """
    settings = Settings() if settings is None else settings
    settings.check()
    references = _references(evaluation, settings)
    candidates = tuple(name for name in evaluation.models if name not in references)
    counts = evaluation.counts.select(models=[*candidates, *references])
    gap = np.timedelta64(int(counts.lead_times[-1].astype(np.int64)), "s") + HOUR
    blocks = independent_blocks(counts, settings.blocks, gap=gap)
    table = _with_all_leads(counts)
    pairs = _pairs(len(candidates), len(counts.models))
    made = _bootstraps(table, blocks, pairs, settings)
    pooled = EventCounts(*np.moveaxis(table.sum(axis=1), -1, 0))
    n_blocks = _blocks_with_events(table, blocks)
    named = [(counts.models[i], counts.models[j]) for i, j in pairs]
    value = SCORES[TESTED](pooled)
    difference = np.stack([value[i] - value[j] for i, j in pairs]) if pairs else np.empty((0, *value.shape[1:]))
    tested = made.get(TESTED)
    comparisons, n_tests = decide(named, difference, None if tested is None else tested.differences, n_blocks, settings)
    return Analysis(
        evaluation,
        settings,
        counts,
        references,
        blocks,
        gap,
        pooled,
        {name: _estimate(name, pooled, made.get(name), n_blocks) for name in BOUNDS},
        n_blocks,
        comparisons,
        n_tests,
        cross_checks(counts.models, table, blocks, comparisons, settings),
        analyse_sums(evaluation, counts, blocks, named, settings),
        _autocorrelation(made.get(TESTED), n_blocks),
    )


def independent_blocks(counts: ContingencyCounts, kind: BlockKind, *, gap: np.timedelta64) -> np.ndarray:
    """(case,) block numbers: cases of one block share weather.

    An episode is a run of cases with rain without a gap as long as `gap`; such cases of different episodes share no
    frame. One that lasts longer than a day is cut every 24 hours after it began: the last cases before a cut and the
    first after it do share frames, so such blocks are only nearly independent. The report's block autocorrelation
    measures how far they are. Days are cut at midnight UTC, with the same reservation. Cases of all archives at the
    same time belong together. Cases without any event follow the episode before them.
    """
    times = counts.issue_times
    if kind == "day":
        return blocks_by_day(times)
    lowest = (counts.hits + counts.false_alarms + counts.misses)[..., 0]
    wet = lowest.sum(axis=(0, 2)) > 0
    if not wet.any():
        return np.zeros(times.size, dtype=np.int64)
    episodes = blocks_by_event(times[wet], gap=gap)
    starts = np.array([times[wet][episodes == episode].min() for episode in range(episodes.max() + 1)])
    parts = (times[wet] - starts[episodes]) // DAY
    numbers = np.unique(np.stack([episodes, parts.astype(np.int64)]), axis=1, return_inverse=True)[1].reshape(-1)
    order = np.argsort(times[wet], kind="stable")
    place = np.searchsorted(times[wet][order], times, side="right") - 1
    blocks = np.asarray(numbers[order][np.maximum(place, 0)])
    blocks[wet] = numbers
    return blocks.astype(np.int64)


def _references(evaluation: Evaluation, settings: Settings) -> tuple[str, ...]:
    """Given ones, else the baselines, by kind or by name; of baselines alone, persistence."""
    if settings.references is not None:
        unknown = [name for name in settings.references if name not in evaluation.models]
        if unknown:
            raise ConfigError(
                f"no model '{unknown[0]}' to compare with", f"the evaluation has {', '.join(evaluation.models)}"
            )
        chosen = set(settings.references)
    else:
        described = evaluation.provenance["models"]
        kinds = {name: described.get(name, {}).get("kind") for name in evaluation.models}
        by_kind = {name for name, kind in kinds.items() if kind == "baseline"}
        chosen = by_kind or {name for name in evaluation.models if name.startswith(REFERENCES)}
    if chosen >= set(evaluation.models):
        chosen -= {name for name in evaluation.models if name != "persistence"} or set(evaluation.models[:1])
    return tuple(name for name in evaluation.models if name in chosen)


def _pairs(candidates: int, models: int) -> list[tuple[int, int]]:
    """Positions: each candidate with each reference, then the candidates among themselves."""
    with_references = [(i, j) for i in range(candidates) for j in range(candidates, models)]
    return with_references + [(i, j) for i in range(candidates) for j in range(i + 1, candidates)]


def _with_all_leads(counts: ContingencyCounts) -> np.ndarray:
    """(model, case, lead + 1, threshold, 4): the last lead is the sum of all."""
    table = counts.table()
    return np.concatenate([table, table.sum(axis=2, keepdims=True)], axis=2)


def _bootstraps(
    table: np.ndarray, blocks: np.ndarray, pairs: Sequence[tuple[int, int]], settings: Settings
) -> dict[str, BlockBootstrap]:
    """Empty where there are too few blocks for any interval."""
    if np.unique(blocks).size < MIN_BLOCKS_SHOWN:
        return {}
    # Where a score is 0/0 its slope has no value either; such resamples count as undefined.
    with np.errstate(invalid="ignore"):
        return {
            name: block_bootstrap(
                table,
                blocks,
                SCORES[name],
                pairs=pairs if name == TESTED else [],
                bounds=bounds,
                level=settings.level,
                replicates=settings.replicates if name == TESTED else settings.shown_replicates,
                seed=settings.seed,
            )
            for name, bounds in BOUNDS.items()
        }


def _blocks_with_events(table: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """(lead, threshold) blocks in which any model forecast, or the radar saw, an event."""
    events = table[..., :3].sum(axis=(0, -1))
    return number_with(block_totals(events[None], blocks)[0])


def _estimate(name: str, pooled: EventCounts, made: BlockBootstrap | None, n_blocks: np.ndarray) -> Estimate:
    value = SCORES[name](pooled)
    low, high, _ = shown_interval(None if made is None else made.scores, value.shape, n_blocks)
    return Estimate(value, low, high)


def _autocorrelation(made: BlockBootstrap | None, n_blocks: np.ndarray) -> float:
    if made is None:
        return float("nan")
    values = made.block_autocorrelation[:, n_blocks >= MIN_BLOCKS]
    values = values[~np.isnan(values)]
    return float(np.median(values)) if values.size else float("nan")


def group_cases(counts: ContingencyCounts) -> dict[str, dict[str, np.ndarray]]:
    """Masks of cases by season and by hour of the issue time (UTC); a grouping with one group is left out."""
    month = counts.issue_times.astype("datetime64[M]").astype(np.int64) % 12
    hour = (counts.issue_times - counts.issue_times.astype("datetime64[D]")) // HOUR
    seasons = {"Dec–Feb": (11, 0, 1), "Mar–May": (2, 3, 4), "Jun–Aug": (5, 6, 7), "Sep–Nov": (8, 9, 10)}
    hours = {f"{start:02d}–{start + 6:02d} UTC": range(start, start + 6) for start in (0, 6, 12, 18)}
    groupings = {
        "season": {name: np.isin(month, months) for name, months in seasons.items()},
        "hour of issue": {name: np.isin(hour.astype(np.int64), inside) for name, inside in hours.items()},
    }
    kept = {what: {name: mask for name, mask in groups.items() if mask.any()} for what, groups in groupings.items()}
    return {what: groups for what, groups in kept.items() if len(groups) > 1}


def score_of(name: str, counts: ContingencyCounts, cases: np.ndarray) -> tuple[np.ndarray, EventCounts]:
    """A score of some cases, leads pooled, (model, threshold), with the counts behind it."""
    together = pool(counts.select(cases=cases), ("case", "lead_time"))
    return SCORES[name](together), together
