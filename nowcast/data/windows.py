"""Windows: runs of present frames, time-blocked splits with guards, and rain-weighted choice.

Everything here works on the presence of frames and on their rain; nothing reads an archive or makes a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from nowcast.errors import DataError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

# Fewer blocks than this cannot be dealt out fairly: the time axis is then cut into three contiguous parts.
MINIMUM_BLOCKS = 12

# Importance sampling of DGMR (Ravuri et al. 2021, arXiv 2104.00954): q = min(1, Q_MIN + Q_SLOPE * mean(1 - exp(-R))).
Q_MIN = 2e-4
Q_SLOPE = 0.1


@dataclass(frozen=True)
class WindowReport:
    """How much of an archive can be used: frames, gap-free runs, windows."""

    frames: int
    present: int
    runs: int
    longest_run: int
    window_length: int
    windows: int

    def describe(self) -> str:
        return (
            f"{self.present} of {self.frames} frames present in {self.runs} gap-free runs, "
            f"the longest {self.longest_run}; {self.windows} windows of {self.window_length} frames"
        )


def present_runs(present: np.ndarray) -> np.ndarray:
    """Gap-free runs of frames as (number, 2) start and stop indices, stop exclusive."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(present, dtype=np.int8), [0]])))
    return edges.reshape(-1, 2)


def window_starts(usable: np.ndarray, length: int) -> np.ndarray:
    """Every index at which `length` consecutive frames are usable."""
    if length < 1:
        raise ValueError(f"a window needs at least one frame, got {length}")
    runs = present_runs(usable)
    starts = [np.arange(start, stop - length + 1) for start, stop in runs if stop - start >= length]
    return np.concatenate(starts) if starts else np.empty(0, dtype=np.int64)


def window_report(present: np.ndarray, length: int) -> WindowReport:
    """Frames, runs and windows of an archive."""
    runs = present_runs(present)
    longest = int(np.max(runs[:, 1] - runs[:, 0])) if len(runs) else 0
    return WindowReport(
        frames=len(present),
        present=int(np.count_nonzero(present)),
        runs=len(runs),
        longest_run=longest,
        window_length=length,
        windows=len(window_starts(present, length)),
    )


def require_windows(present: np.ndarray, length: int, name: str) -> None:
    """Refuse an archive that is too short or too gappy, with the counts.

    Raises:
        DataError: No window of `length` frames fits anywhere.
    """
    report = window_report(present, length)
    if report.windows == 0:
        raise DataError(
            f"{name} is too short or too gappy: {report.describe()}",
            "use fewer input or output frames, or ingest more data",
        )


def split_frames(
    num_frames: int, length: int, *, block_frames: int, validation_share: float, test_share: float
) -> np.ndarray:
    """The split of each frame: 0 train, 1 validation, 2 test, -1 guard.

    Contiguous blocks of `block_frames` are dealt to the splits by a low-discrepancy sequence, so that each split
    is spread over the whole period; an archive of few blocks is cut into three contiguous parts instead. The first
    `length` frames after every change of split are a guard that belongs to none: neighbouring windows
    share all but one frame, and weather does not stop at a boundary.

    Args:
        num_frames: Length of the time axis.
        length: Frames of one window, and so of the guard.
        block_frames: Frames of one block; at least four windows long, or guards would eat it.
        validation_share, test_share: Shares of the time axis, together below 1.
    """
    if validation_share + test_share >= 1:
        raise ValueError(f"validation {validation_share} and test {test_share} leave nothing to train on")
    block_frames = max(block_frames, 4 * length)
    position = np.arange(num_frames) / max(num_frames, 1)
    if num_frames >= MINIMUM_BLOCKS * block_frames:
        block = np.arange(num_frames) // block_frames
        position = (block * (np.sqrt(5.0) - 1) / 2 + 0.5) % 1.0
    labels = np.zeros(num_frames, dtype=np.int8)
    labels[position >= 1 - test_share - validation_share] = 1
    labels[position >= 1 - test_share] = 2
    guarded = labels.copy()
    for change in np.flatnonzero(np.diff(labels)) + 1:
        guarded[change : change + length] = -1
    return guarded


def split_windows(
    present: np.ndarray, length: int, *, block_frames: int, validation_share: float, test_share: float
) -> dict[Split, np.ndarray]:
    """Window starts of each split; no two splits share a frame or come nearer than one window."""
    labels = split_frames(
        len(present), length, block_frames=block_frames, validation_share=validation_share, test_share=test_share
    )
    return {name: window_starts(present & (labels == code), length) for code, name in enumerate(SPLITS)}


def keep_probability(rain_rate: np.ndarray) -> float:
    """Chance that importance sampling keeps a crop: min(1, 2e-4 + 0.1 mean(1 - exp(-R))).

    NaN pixels count as dry here, since a crop without data teaches nothing; 1/q restores an unbiased estimate.
    """
    saturated = 1.0 - np.exp(-np.nan_to_num(np.asarray(rain_rate, dtype=np.float32), nan=0.0))
    return float(min(1.0, Q_MIN + Q_SLOPE * saturated.mean(dtype=np.float64)))
