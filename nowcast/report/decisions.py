"""Decisions from intervals: when a difference is shown, when one model is called better, and when nothing is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nowcast.errors import ConfigError
from nowcast.verification.bootstrap import MIN_BLOCKS, Intervals
from nowcast.verification.significance import benjamini_hochberg

Decision = Literal["better", "worse", "none", "few", "undefined"]
BlockKind = Literal["episode", "day"]
# Resamples behind everything but the differences of CSI.
SHOWN_REPLICATES = 2000
# Below this many blocks not even a rough interval is shown.
MIN_BLOCKS_SHOWN = 5


@dataclass(frozen=True)
class Settings:
    """How intervals and decisions are made.

    Attributes:
        level: Of the intervals.
        replicates: Resamples behind CSI and its tests; the other intervals take at most 2,000.
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

    @property
    def shown_replicates(self) -> int:
        return min(self.replicates, SHOWN_REPLICATES)

    def check(self) -> None:
        """Raises ConfigError for settings out of range."""
        for name in ("level", "false_discovery"):
            value = getattr(self, name)
            if not 0.0 < value < 1.0:
                raise ConfigError(f"{name.replace('_', ' ')} must lie between 0 and 1, got {value:g}")
        if self.replicates < 100:
            raise ConfigError(f"{self.replicates} resamples are too few for an interval", "take 1000 or more")


@dataclass(frozen=True, eq=False)
class Estimate:
    """A score with its interval, (model, lead, threshold or cell); NaN bounds where there is none."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class Comparison:
    """Score of a model minus score of a reference on the same cases, (lead, threshold or cell)."""

    model: str
    reference: str
    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    decision: np.ndarray


def shown_interval(
    found: Intervals | None, shape: tuple[int, ...], n_blocks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Low, high and p-value where there are blocks enough to show them; NaN elsewhere."""
    if found is None:
        return np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    shown = np.broadcast_to(n_blocks >= MIN_BLOCKS_SHOWN, shape)
    low, high, p_value = (np.where(shown, part, np.nan) for part in (found.low, found.high, found.p_value))
    return low, high, p_value


def decide(
    pairs: Sequence[tuple[str, str]],
    difference: np.ndarray,
    found: Intervals | None,
    n_blocks: np.ndarray,
    settings: Settings,
    *,
    higher_is_better: bool = True,
) -> tuple[tuple[Comparison, ...], int]:
    """A comparison a pair and the number of tests, all of them one family for the false-discovery control.

    Args:
        pairs: (model, reference).
        difference: (pair, lead, cell), score of the model minus score of the reference.
        found: Their intervals; None where there are too few blocks for any.
        n_blocks: (lead, cell).
        settings: False-discovery rate.
        higher_is_better: Of the score.
    """
    low, high, p_value = shown_interval(found, difference.shape, n_blocks)
    tested = np.where(np.broadcast_to(n_blocks >= MIN_BLOCKS, difference.shape), p_value, np.nan)
    found_out = benjamini_hochberg(tested, rate=settings.false_discovery)
    above, below = ("better", "worse") if higher_is_better else ("worse", "better")
    decision = undecided(difference, tested, n_blocks)
    decision[found_out.rejected & (low > 0)] = above
    decision[found_out.rejected & (high < 0)] = below
    comparisons = tuple(
        Comparison(model, reference, difference[k], low[k], high[k], p_value[k], decision[k])
        for k, (model, reference) in enumerate(pairs)
    )
    return comparisons, found_out.tests


def undecided(difference: np.ndarray, tested: np.ndarray, n_blocks: np.ndarray) -> np.ndarray:
    """`few` below the least number of blocks, `undefined` without a difference or test, else `none`."""
    enough = np.broadcast_to(n_blocks >= MIN_BLOCKS, difference.shape)
    decision = np.full(difference.shape, "none", dtype=object)
    decision[~enough] = "few"
    decision[np.isnan(difference) | (enough & np.isnan(tested))] = "undefined"
    return decision
