"""Motion of whole frames, estimated once for each window and kept beside the packed archive.

A crop shows too little of the rain to see how it moves; prediction sees the whole composite, so training must too.
"""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nowcast.data.motion import ESTIMATOR_VERSION, estimate_motion
from nowcast.training.arrays import make_array
from nowcast.training.packed import PackedArchive

log = logging.getLogger(__name__)

# Motion is smooth: the mean over blocks of this many pixels, looked up bilinearly, stands for it.
BLOCK = 4
# What a new file reads as: "not estimated yet"; no stored motion is exactly this.
ABSENT = np.float16(0)
STILL = np.float16(1e-6)


@dataclass(frozen=True, eq=False)
class Motions:
    """The motion over the inputs of every window of a packed archive [pixels per step], made when first asked for.

    Kept in `motion-v<ESTIMATOR_VERSION>-<input_frames>f-<BLOCK>px.npy` in the folder, 2 bytes for each of two
    components of each block: any process may fill it, for all would write the same. Where the folder cannot be written,
    nothing is kept; where the disk has no room, that is an error: each sample's motion would be estimated every time.

    Attributes:
        archive: What the windows are of.
        input_frames: Frames of a window that are seen.
    """

    archive: PackedArchive
    input_frames: int

    def prepare(self) -> None:
        """Make the file now, in the process that can say best what is wrong.

        Raises:
            DataError: The disk has no room for it.
        """
        _ = self._kept

    def crop(self, start: int, rows: slice, columns: slice) -> np.ndarray:
        """Motion (2, h, w) float32 of the window that begins at frame `start`, for a crop."""
        blocks = self._kept[start] if self._kept is not None else np.zeros((2, *self._blocks), dtype=np.float16)
        if np.any(blocks == ABSENT):
            blocks = self._estimated(start)
            if self._kept is not None:
                self._kept[start] = blocks
        return self._looked_up(np.asarray(blocks, dtype=np.float32), rows, columns)

    def __reduce__(self) -> tuple[type[Motions], tuple[PackedArchive, int]]:
        return Motions, (self.archive, self.input_frames)

    @property
    def _blocks(self) -> tuple[int, int]:
        height, width = self.archive.rain_rate.shape[1:]
        return -(-height // BLOCK), -(-width // BLOCK)

    @cached_property
    def _kept(self) -> np.ndarray | None:
        path = self.archive.folder / f"motion-v{ESTIMATOR_VERSION}-{self.input_frames}f-{BLOCK}px.npy"
        shape = (len(self.archive.rain_rate), 2, *self._blocks)
        try:
            kept = _opened(path, shape)
            if kept is None:  # none yet, or cut short
                _make(path, shape)
                kept = _opened(path, shape)
        except OSError as error:
            log.info("motion is not kept beside the packed archive: %s", error)
            return None
        return kept

    def _estimated(self, start: int) -> np.ndarray:
        motion = estimate_motion(np.asarray(self.archive.rain_rate[start : start + self.input_frames]))
        edges = [np.arange(0, side, BLOCK) for side in motion.shape[1:]]
        sums = np.add.reduceat(np.add.reduceat(motion, edges[0], axis=1), edges[1], axis=2)
        counts = np.outer(*(np.diff(np.append(edge, side)) for edge, side in zip(edges, motion.shape[1:], strict=True)))
        blocks = (sums / counts).astype(np.float16)
        return np.where(blocks == ABSENT, STILL, blocks)

    def _looked_up(self, blocks: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """Bilinear between the middles of the blocks; beyond them that of the nearest."""
        down, across = (_interpolation(part, side) for part, side in zip((rows, columns), self._blocks, strict=True))
        return np.asarray(down @ blocks @ across.T, dtype=np.float32)


def _opened(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The file, writable in place; None where it is not there or not what it should be."""
    try:
        kept = np.load(path, mmap_mode="r+", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return kept if kept.shape == shape and kept.dtype == ABSENT.dtype else None


def _make(path: Path, shape: tuple[int, ...]) -> None:
    """A file in which nothing is estimated yet, whole or not at all, unless another process has made it meanwhile.

    What the others fill must be the file that has the name: one that replaced it would lose their work.
    """
    with tempfile.TemporaryDirectory(prefix=".motion-", dir=path.parent) as scratch:
        draft = Path(scratch) / path.name
        make_array(draft, ABSENT.dtype, shape, place=path.parent)
        try:
            os.link(draft, path)
        except OSError:  # it is there, or the file system has no links
            if _opened(path, shape) is None:
                os.replace(draft, path)


def _interpolation(pixels: slice, blocks: int) -> np.ndarray:
    """Weights (pixels, blocks) of linear interpolation."""
    position = np.clip((np.arange(pixels.start, pixels.stop) + 0.5) / BLOCK - 0.5, 0, blocks - 1)
    below = np.minimum(position.astype(int), max(blocks - 2, 0))
    weights = np.zeros((position.size, blocks), dtype=np.float32)
    row = np.arange(position.size)
    weights[row, below] = 1 - (position - below)
    if blocks > 1:
        weights[row, below + 1] = position - below
    return weights
