"""Stored integers to physical values: exactly (see `nowcast.data.scaling`), and once a code where pixels are many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from nowcast.data.scaling import per_hour, rescale

__all__ = ["convert", "look_up", "per_hour", "rescale"]

# Pixels at a time: what is made on the way, in float64, then stays in the processor's cache.
_BLOCK_PIXELS = 131_072
# Pixels that are looked up at a time: numpy makes an index of 8 bytes of each.
_LOOK_UP_PIXELS = 32_768


def convert(stored: np.ndarray, rates: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What `rates` makes of every stored value, (H, W) float32.

    A field has more pixels than an integer of one or two bytes has values: those are converted, and each pixel looks
    its own up.

    Args:
        stored: (H, W) numbers as they stand in the file.
        rates: Element by element, from stored numbers to rain rates; also for values that are not in the field. Two
            that are equal do the same: file after file has the same table.
    """
    size = stored.dtype.itemsize
    if stored.dtype.kind in "iu" and size <= 2 and stored.size >= 2 ** (8 * size):
        table = _table(rates, stored.dtype.kind, size)
        return look_up(table, stored.astype(stored.dtype.newbyteorder("="), copy=False).view(f"u{size}"))
    converted = np.empty(stored.shape, dtype=np.float32)
    for rows in _row_blocks(stored.shape, _BLOCK_PIXELS):
        converted[rows] = rates(stored[rows])
    return converted


@lru_cache(maxsize=8)
def _table(rates: Callable[[np.ndarray], np.ndarray], kind: str, size: int) -> np.ndarray:
    """What `rates` makes of every integer of so many bytes, by its bits."""
    codes = np.arange(2 ** (8 * size), dtype=f"u{size}").view(f"{kind}{size}")
    with np.errstate(over="ignore", invalid="ignore"):
        table = rates(codes).astype(np.float32)
    table.setflags(write=False)
    return table


def look_up(table: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(H, W): the value in the table of each of the codes, unsigned integers."""
    found = np.empty(codes.shape, dtype=table.dtype)
    for rows in _row_blocks(codes.shape, _LOOK_UP_PIXELS):
        table.take(codes[rows], out=found[rows], mode="clip")
    return found


def _row_blocks(shape: tuple[int, ...], pixels: int) -> Iterator[slice]:
    step = max(1, pixels // shape[1])
    for row in range(0, shape[0], step):
        yield slice(row, row + step)
