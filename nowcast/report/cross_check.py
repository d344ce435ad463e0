"""Diebold-Mariano beside the bootstrap: another test of the same question, with another weight for each block.

The bootstrap tests the difference of pooled CSI, in which a block counts by its events; Diebold-Mariano tests the mean
difference of the blocks' own 1 - CSI, in which every block counts alike. Where the two disagree, the verdict hangs on a
few large blocks or on many small ones, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nowcast.report.decisions import Comparison, Settings, undecided
from nowcast.verification.blocks import block_totals
from nowcast.verification.bootstrap import MIN_BLOCKS
from nowcast.verification.counts import EventCounts
from nowcast.verification.scores import csi
from nowcast.verification.significance import benjamini_hochberg, diebold_mariano

# Blocks are nearly independent: the autocovariance of neighbours is taken in, that of farther ones is not.
HORIZON_BLOCKS = 2
RANKED = ("better", "worse", "none")


@dataclass(frozen=True, eq=False)
class CrossCheck:
    """What Diebold-Mariano says of one comparison, (lead, threshold).

    Attributes:
        loss_difference: Mean over blocks of (1 - CSI) of the model minus that of the reference: negative is better.
        statistic, p_value: Of the test; NaN where it was not made.
        n_blocks: Blocks in which the CSI of both is defined.
        decision: As of the bootstrap, with a false-discovery control of its own.
    """

    model: str
    reference: str
    loss_difference: np.ndarray
    statistic: np.ndarray
    p_value: np.ndarray
    n_blocks: np.ndarray
    decision: np.ndarray


def cross_checks(
    models: Sequence[str],
    table: np.ndarray,
    blocks: np.ndarray,
    comparisons: Sequence[Comparison],
    settings: Settings,
) -> tuple[CrossCheck, ...]:
    """One check for each comparison.

    Args:
        models: On the first axis of the table.
        table: (model, case, lead, threshold, 4) counts.
        blocks: (case,) numbers, ascending in time.
        comparisons: What the bootstrap found.
        settings: False-discovery rate.
    """
    by_block = csi(EventCounts(*np.moveaxis(block_totals(table, blocks), -1, 0)))  # (model, block, lead, threshold)
    losses = [(1.0 - by_block[models.index(c.model)], 1.0 - by_block[models.index(c.reference)]) for c in comparisons]
    found = [_test(ours, theirs) for ours, theirs in losses]
    if not found:
        return ()
    difference, statistic, p_value, n_blocks = (np.stack(part) for part in zip(*found, strict=True))
    stands = benjamini_hochberg(p_value, rate=settings.false_discovery).rejected
    decision = np.stack([undecided(d, p, n) for d, p, n in zip(difference, p_value, n_blocks, strict=True)])
    decision[stands & (statistic < 0)] = "better"
    decision[stands & (statistic > 0)] = "worse"
    return tuple(
        CrossCheck(c.model, c.reference, difference[k], statistic[k], p_value[k], n_blocks[k], decision[k])
        for k, c in enumerate(comparisons)
    )


def _test(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean difference, statistic, p-value and blocks, (lead, threshold), of losses (block, lead, threshold)."""
    defined = ~np.isnan(ours) & ~np.isnan(theirs)
    n_blocks = defined.sum(axis=0)
    total = np.where(defined, ours - theirs, 0.0).sum(axis=0)
    mean = np.divide(total, n_blocks, out=np.full(total.shape, np.nan), where=n_blocks > 0)
    statistic, p_value = np.full(mean.shape, np.nan), np.full(mean.shape, np.nan)
    for at in zip(*np.nonzero(n_blocks >= MIN_BLOCKS), strict=True):
        made = diebold_mariano(ours[:, *at], theirs[:, *at], horizon=HORIZON_BLOCKS)
        statistic[at], p_value[at] = made.statistic, made.p_value
    return mean, statistic, p_value, n_blocks


def compared(comparison: Comparison, check: CrossCheck) -> np.ndarray:
    """(lead, threshold) whether both tests were made."""
    return np.asarray(np.isin(comparison.decision, RANKED) & np.isin(check.decision, RANKED))


def disagrees(comparison: Comparison, check: CrossCheck) -> np.ndarray:
    """(lead, threshold) whether both tests were made and say something else."""
    return np.asarray(compared(comparison, check) & (comparison.decision != check.decision))
