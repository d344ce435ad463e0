"""Marks of damage in a raster without a checksum: lines cut straight through rain, and pixels that stand alone.

Two numbers for each frame, taken from the codes as they are stored. Neither says that a file is damaged: real frames
have small ones too, and what is odd is told by the other frames of an archive (`nowcast.data.plausibility`).
"""

from __future__ import annotations

import numpy as np

# Rows that a cut may be high; one of 4096 bytes takes up to so many of a grid 760 pixels wide.
TALLEST_CUT = 6
# Shorter cuts are not counted: rain is full of them.
SHORTEST_CUT = 5
WET_MM_H = 0.1
BLOCK_PIXELS = 1 << 17
# A pixel that stands alone with less than this does not matter [mm/h].
LEAST_ALONE = 1.0


def measure_codes(codes: np.ndarray, rates: np.ndarray) -> dict[str, float]:
    """`cut_pixels` and `lone_rate` of a raster, as the archive's series describe them.

    Arrays of codes are compared, and only what is left of them is looked at; a block of rows at a time, so that what is
    made on the way stays in the processor's cache.

    Args:
        codes: (H, W) unsigned. Larger codes stand for more rain, and the largest of its type for what is not measured.
        rates: (codes,) [mm/h], 0 where dry, NaN where not measured; ascending from the dry codes on.
    """
    rows, columns = codes.shape
    if min(rows, columns) < 3:
        return {}
    wet_code, rain_code = _first_from(rates, WET_MM_H), _first_from(rates, np.nextafter(0.0, 1.0))
    amount = np.concatenate([[0.0], np.nan_to_num(rates)])
    doubled = _codes_to_double(amount)
    cut, lone = 0, 0.0
    step = max(1, BLOCK_PIXELS // columns)
    for row in range(0, rows - 2, step):
        # With as many rows more as the tallest cut that begins in the block needs.
        block = np.ascontiguousarray(codes[row : row + step + TALLEST_CUT + 1])
        missing = block == np.iinfo(codes.dtype).max
        measured = ~missing
        wet, dry = (block >= wet_code) & measured, block < rain_code
        cut = max(cut, _longest_cut(dry, wet), _longest_cut(measured, missing))
        lone = max(lone, _lone_rate(block, amount, doubled))
    return {"cut_pixels": cut, "lone_rate": lone}


def _first_from(rates: np.ndarray, least: float) -> int:
    """The first code that stands for so much; one beyond all where none does."""
    enough = np.flatnonzero(rates >= least)
    return int(enough[0]) if enough.size else rates.size


def _longest_cut(inside: np.ndarray, outside: np.ndarray) -> int:
    """Pixels of the longest straight cut: `inside` along a row, one to six rows high, with `outside` above and below.

    Args:
        inside, outside: (H, W) bool, never both true.

    Returns:
        0 where none is as long as the shortest that counts.
    """
    columns = inside.shape[1]
    inside, outside = inside.ravel(), outside.ravel()
    # The upper edges of all cuts, whatever their height, as far as five of them follow one another.
    edges = inside[columns:-columns] & outside[: -2 * columns]
    pairs = edges[:-1] & edges[1:]
    firsts = np.flatnonzero(pairs[:-3] & pairs[2:-1] & edges[4:])
    if firsts.size == 0:
        return 0
    positions = np.unique(firsts[:, None] + np.arange(SHORTEST_CUT)) + columns
    height = _heights(positions, inside, outside, columns)
    return max(_longest_run(positions[height == rows], columns) for rows in range(1, TALLEST_CUT + 1))


def _heights(edges: np.ndarray, inside: np.ndarray, outside: np.ndarray, columns: int) -> np.ndarray:
    """Rows from each upper edge down to the lower edge of its cut; 0 where there is none within reach."""
    height = np.zeros(edges.size, dtype=np.int8)
    going_on = np.arange(edges.size)
    for rows in range(1, TALLEST_CUT + 1):
        below = edges[going_on] + rows * columns
        going_on, below = going_on[below < inside.size], below[below < inside.size]
        height[going_on[outside[below]]] = rows
        going_on = going_on[inside[below]]
    return height


def _longest_run(positions: np.ndarray, columns: int) -> int:
    """Of neighbours in a row, among ascending positions; 0 where it is shorter than what counts."""
    if positions.size == 0:
        return 0
    breaks = np.flatnonzero((np.diff(positions) != 1) | (positions[1:] % columns == 0)) + 1
    longest = int(np.diff(np.concatenate([[0], breaks, [positions.size]])).max())
    return longest if longest >= SHORTEST_CUT else 0


def _lone_rate(codes: np.ndarray, amount: np.ndarray, doubled: int) -> float:
    """How far one pixel lies above twice the largest of its eight neighbours, at most [mm/h]; 0 where none does.

    Args:
        amount: The rate of each code plus one, of the first for what is not measured.
        doubled: `_codes_to_double` of them.
    """
    # What is not measured counts as nothing: its code becomes the smallest.
    raised = (codes + codes.dtype.type(1)).ravel()
    columns = codes.shape[1]
    # Of each pixel, the largest of the three in its row; then of the rows above and below, and those beside it.
    beside = np.maximum(raised[:-2], raised[2:])
    in_row = np.maximum(beside, raised[1:-1])
    around = np.maximum(beside[columns:-columns], np.maximum(in_row[: -2 * columns], in_row[2 * columns :]))
    middle = raised[columns + 1 : -columns - 1]
    lone = np.flatnonzero((middle > around) & (middle - around >= doubled))
    # Rows that follow one another in memory are no neighbours: a pixel at either edge has not eight.
    column = (lone + 1) % columns
    lone = lone[(column > 0) & (column < columns - 1)]
    return max(0.0, float((amount[middle[lone]] - 2 * amount[around[lone]]).max(initial=0.0)))


def _codes_to_double(amount: np.ndarray) -> int:
    """The fewest codes from any rate to one twice as large, among rates that matter; for ascending amounts."""
    enough = np.flatnonzero(amount >= LEAST_ALONE)
    halves = np.searchsorted(np.maximum.accumulate(amount), amount[enough] / 2)
    return int((enough - halves).min(initial=amount.size))
