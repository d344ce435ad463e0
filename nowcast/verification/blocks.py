"""Blocks of cases that share weather, storms or days: which case belongs to which, and sums over them."""

from __future__ import annotations

import numpy as np


def blocks_by_day(issue_times: np.ndarray, *, days: int = 1, utc_offset_hours: float = 0.0) -> np.ndarray:
    """Block number of each case, cases of the same `days` days together; int64, ascending in time from 0.

    Args:
        issue_times: (case,) datetime64, UTC, in any order.
        days: Days in a block; take more where the weather of neighbouring days is alike.
        utc_offset_hours: Moves midnight to the local one, or to an hour with little rain.
    """
    times = _times(issue_times)
    if days < 1:
        raise ValueError(f"a block needs at least one day, got {days}")
    shifted = times + np.timedelta64(round(utc_offset_hours * 3600), "s")
    day = shifted.astype("datetime64[D]").astype(np.int64)
    return np.unique(day // days, return_inverse=True)[1].astype(np.int64)


def blocks_by_event(issue_times: np.ndarray, *, gap: np.timedelta64) -> np.ndarray:
    """Block number of each case; a new event begins where no case was issued for `gap` or longer.

    Args:
        issue_times: (case,) datetime64, UTC, in any order. Give the cases with rain alone: dry ones join events.
        gap: At least the longest lead time plus the span of the input frames, or two events share frames.

    Returns:
        (case,) int64, ascending in time from 0.
    """
    times = _times(issue_times)
    if gap <= np.timedelta64(0, "s"):
        raise ValueError(f"the gap between events must be positive, got {gap}")
    order = np.argsort(times, kind="stable")
    starts = np.diff(times[order], prepend=times[order][:1]) >= gap
    blocks = np.empty(times.size, dtype=np.int64)
    blocks[order] = np.cumsum(starts)
    return blocks


def _times(issue_times: np.ndarray) -> np.ndarray:
    times = np.asarray(issue_times, dtype="datetime64[s]")
    if times.ndim != 1 or np.isnat(times).any():
        raise ValueError("issue times must be one axis of valid times")
    return times


def block_totals(table: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Numbers summed over the cases of each block, (model, case, ...) -> (model, block, ...).

    Args:
        table: (model, case, ...); whole numbers are added exactly, floats in the order of the cases.
        blocks: (case,) whole numbers; equal numbers belong together, wherever they stand.
    """
    labels = np.asarray(blocks)
    if labels.shape != table.shape[1:2]:
        raise ValueError(f"{labels.shape} block numbers do not fit {table.shape[1]} cases")
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=labels[order][:1] - 1))
    sorted_already = np.array_equal(order, np.arange(order.size))
    dtype = np.dtype(np.int64) if table.dtype.kind in "iub" else np.dtype(np.float64)
    # Model by model: a sorted copy of the whole table would double the memory.
    parts = [np.add.reduceat(m if sorted_already else m[order], starts, axis=0, dtype=dtype) for m in table]
    return np.stack(parts)


def number_with(totals: np.ndarray) -> np.ndarray:
    """Blocks that have any of something (events, rain, error), from its totals (block, ...), not negative: (...)."""
    return np.asarray(np.count_nonzero(totals > 0, axis=0))
