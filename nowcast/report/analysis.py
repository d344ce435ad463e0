"""What an evaluation says: scores with intervals, paired comparisons with their decisions, sample sizes.

Arrays have the axes (model, lead, threshold); their last lead stands for all lead times pooled. Nothing is drawn here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from nowcast.errors import ConfigError
from nowcast.verification.bootstrap import MIN_BLOCKS, BlockBootstrap, block_bootstrap, blocks_by_day, blocks_by_event
from nowcast.verification.counts import ContingencyCounts, EventCounts
from nowcast.verification.evaluation import Evaluation
from nowcast.verification.score_table import score_rows
from nowcast.verification.scores import SCORES, pool
from nowcast.verification.significance import benjamini_hochberg

Decision = Literal["better", "worse", "none", "few", "undefined"]
BlockKind = Literal["episode", "day"]
# Ranges of the scores that get an interval; CSI alone is tested.
BOUNDS = {"csi": (0.0, 1.0), "pod": (0.0, 1.0), "far": (0.0, 1.0), "frequency_bias": (0.0, np.inf)}
TESTED = "csi"
# Resamples of the scores that are shown and not tested.
SHOWN_REPLICATES = 2000
# Below this many blocks not even a rough interval is shown.
MIN_BLOCKS_SHOWN = 5
SIGNS = {">=": "≥", ">": ">"}
REFERENCES = ("persistence", "extrapolation", "scale-decay", "pysteps")
DAY = np.timedelta64(86400, "s")
HOUR = np.timedelta64(3600, "s")


@dataclass(frozen=True)
class Settings:
    """How intervals and decisions are made.

    Attributes:
        level: Of the intervals.
        replicates: Resamples behind the tests; the other intervals take at most 2,000.
        seed: Of the resampling; the same seed gives the same report.
        blocks: What is resampled: rain episodes of at most a day, or UTC days.
        false_discovery: Share of false ones among the differences declared, by Benjamini and Hochberg.
        references: Models that the others are measured against; the baselines unless given.
    """

    level: float = 0.95
    replicates: int = 10_000
    seed: int = 0
    blocks: BlockKind = "episode"
    false_discovery: float = 0.05
    references: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Estimate:
    """A score with its interval, (model, lead, threshold); NaN bounds where there is none."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class Comparison:
    """CSI of a model minus CSI of a reference on the same cases, (lead, threshold)."""

    model: str
    reference: str
    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    decision: np.ndarray


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
        comparisons: Each model with each reference, and the models with each other.
        n_tests: Differences that were tested together.
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

    @cached_property
    def fss_sign(self) -> str:
        """The same of scores of scale: FSS, and counts after pooling; as their rows say."""
        return self._sign_of("fss")

    @cached_property
    def probability_sign(self) -> str:
        """The same of scores of probabilities, as their rows say."""
        return self._sign_of("brier_score")

    def _sign_of(self, metric: str) -> str:
        rows = (row for row in score_rows(self.evaluation) if row["metric"] == metric)
        return next((SIGNS[row["comparison"]] for row in rows), self.sign)

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
    _check(settings)
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
    comparisons, n_tests = _comparisons(counts.models, pairs, pooled, made.get(TESTED), n_blocks, settings)
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


def _check(settings: Settings) -> None:
    for name in ("level", "false_discovery"):
        value = getattr(settings, name)
        if not 0.0 < value < 1.0:
            raise ConfigError(f"{name.replace('_', ' ')} must lie between 0 and 1, got {value:g}")
    if settings.replicates < 100:
        raise ConfigError(f"{settings.replicates} resamples are too few for an interval", "take 1000 or more")


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
    table = np.stack([counts.hits, counts.false_alarms, counts.misses, counts.correct_negatives], axis=-1)
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
                replicates=settings.replicates if name == TESTED else min(settings.replicates, SHOWN_REPLICATES),
                seed=settings.seed,
            )
            for name, bounds in BOUNDS.items()
        }


def _blocks_with_events(table: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """(lead, threshold) blocks in which any model forecast, or the radar saw, an event."""
    events = table[..., :3].sum(axis=(0, -1))
    return np.count_nonzero([events[blocks == label].sum(axis=0) > 0 for label in np.unique(blocks)], axis=0)


def _estimate(name: str, pooled: EventCounts, made: BlockBootstrap | None, n_blocks: np.ndarray) -> Estimate:
    value = SCORES[name](pooled)
    if made is None:
        nothing = np.full(value.shape, np.nan)
        return Estimate(value, nothing, nothing)
    shown = np.broadcast_to(n_blocks >= MIN_BLOCKS_SHOWN, value.shape)
    low, high = (np.where(shown, bound, np.nan) for bound in (made.scores.low, made.scores.high))
    return Estimate(value, low, high)


def _comparisons(
    models: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    pooled: EventCounts,
    made: BlockBootstrap | None,
    n_blocks: np.ndarray,
    settings: Settings,
) -> tuple[tuple[Comparison, ...], int]:
    value = SCORES[TESTED](pooled)
    difference = np.stack([value[i] - value[j] for i, j in pairs]) if pairs else np.empty((0, *value.shape[1:]))
    enough = np.broadcast_to(n_blocks >= MIN_BLOCKS, difference.shape)
    nothing = np.full(difference.shape, np.nan)
    low, high, p_value = nothing, nothing, nothing
    if made is not None:
        shown = np.broadcast_to(n_blocks >= MIN_BLOCKS_SHOWN, difference.shape)
        found = made.differences
        low, high, p_value = (np.where(shown, bound, np.nan) for bound in (found.low, found.high, found.p_value))
    tested = np.where(enough, p_value, np.nan)
    found_out = benjamini_hochberg(tested, rate=settings.false_discovery)
    decision = np.full(difference.shape, "none", dtype=object)
    decision[found_out.rejected & (low > 0)] = "better"
    decision[found_out.rejected & (high < 0)] = "worse"
    decision[~enough] = "few"
    decision[np.isnan(difference) | (enough & np.isnan(p_value))] = "undefined"
    comparisons = tuple(
        Comparison(models[i], models[j], difference[k], low[k], high[k], p_value[k], decision[k])
        for k, (i, j) in enumerate(pairs)
    )
    return comparisons, found_out.tests


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
