"""The compiled inner loop of `count_events`: three counts a threshold and the valid pairs of every field.

Four rows are read one after the other, as memory likes it, for their valid pairs and the highest values of each column.
The blocks of 4 x 16 pixels that reach the lowest threshold are then counted, from the nearest cache, up to the highest
threshold that they reach: dry blocks cost a look, and heavy rain is looked for only where it is.
"""

from __future__ import annotations

import numpy as np
from numba import njit

BLOCK_ROWS, BLOCK_COLUMNS = 4, 16
BLOCK = BLOCK_ROWS * BLOCK_COLUMNS
HALF = BLOCK_COLUMNS // 2
# Where the rows of a block begin: those of the forecast, then those of the observation.
F1, F2, F3 = BLOCK_COLUMNS, 2 * BLOCK_COLUMNS, 3 * BLOCK_COLUMNS
O0, O1, O2, O3 = BLOCK, BLOCK + F1, BLOCK + F2, BLOCK + F3
# The three counts of a column share one int32, so that one addition counts all of them. A block adds at most four to
# each: 255 blocks fit into ten bits. Sums of 64 bits would halve the pixels that the processor counts at once.
BITS = 10
MASK = (1 << BITS) - 1
MOST_BLOCKS = MASK // BLOCK_ROWS

# float32, which becomes float64 beside float64 and leaves float32 what it is.
MISSING, LOWEST = np.float32(np.nan), np.float32(-np.inf)


@njit(nogil=True, cache=True)
def count_fields(forecast, observed, forecast_thresholds, observed_thresholds, events, valid):  # type: ignore[no-untyped-def]
    """Add to `events` (field, threshold, [hits, forecast events, observed events]) and `valid` (field), int64.

    forecast, observed: (field, y, x), C order. Thresholds ascend, each list in the dtype of its field.
    """
    fields, rows, columns = forecast.shape
    width = -(-columns // BLOCK_COLUMNS) * BLOCK_COLUMNS
    highest_f, highest_o = np.full(width, LOWEST, forecast.dtype), np.full(width, LOWEST, observed.dtype)
    block = np.empty(2 * BLOCK, forecast.dtype)
    sums = np.zeros((forecast_thresholds.size, BLOCK_COLUMNS), np.int32)
    for k in range(fields):
        blocks = 0
        for top in range(0, rows, BLOCK_ROWS):
            f, o = forecast[k, top : top + BLOCK_ROWS], observed[k, top : top + BLOCK_ROWS]
            highest_f[:], highest_o[:] = LOWEST, LOWEST
            for j in range(f.shape[0]):
                valid[k] += _look(f[j], o[j], highest_f[:columns], highest_o[:columns])
            for left in range(0, width, BLOCK_COLUMNS):
                peak_f = _peak(highest_f[left : left + BLOCK_COLUMNS])
                peak_o = _peak(highest_o[left : left + BLOCK_COLUMNS])
                if (peak_f < forecast_thresholds[0]) & (peak_o < observed_thresholds[0]):
                    continue
                right = min(left + BLOCK_COLUMNS, columns)
                if right - left == BLOCK_COLUMNS and f.shape[0] == BLOCK_ROWS:
                    for j in range(BLOCK_ROWS):
                        at = j * BLOCK_COLUMNS
                        _copy_valid(f[j, left:right], o[j, left:right], block[at : at + BLOCK_COLUMNS])
                        _copy_valid(o[j, left:right], f[j, left:right], block[BLOCK + at : BLOCK + at + BLOCK_COLUMNS])
                else:
                    _copy_ragged(f[:, left:right], o[:, left:right], block)
                _count_block(block, forecast_thresholds, observed_thresholds, peak_f, peak_o, sums)
                blocks += 1
                if blocks == MOST_BLOCKS:
                    _collect(sums, events[k])
                    blocks = 0
        _collect(sums, events[k])


@njit(nogil=True, cache=True)
def _look(f, o, highest_f, highest_o):  # type: ignore[no-untyped-def]
    """The valid pairs of a row; the highest value of every column rises to what the row's valid pairs have."""
    pairs = np.int32(0)
    for i in range(f.size):
        both = (f[i] == f[i]) & (o[i] == o[i])
        pairs = np.int32(pairs + np.int32(both))
        value_f, value_o = f[i] if both else LOWEST, o[i] if both else LOWEST
        highest_f[i] = value_f if value_f > highest_f[i] else highest_f[i]
        highest_o[i] = value_o if value_o > highest_o[i] else highest_o[i]
    return pairs


@njit(nogil=True, cache=True)
def _peak(v):  # type: ignore[no-untyped-def]
    """The highest of the values of a block's columns, by halves: one after the other would wait for each."""
    a, b = _higher(v[0], v[HALF]), _higher(v[1], v[HALF + 1])
    c, d = _higher(v[2], v[HALF + 2]), _higher(v[3], v[HALF + 3])
    e, f = _higher(v[4], v[HALF + 4]), _higher(v[5], v[HALF + 5])
    g, h = _higher(v[6], v[HALF + 6]), _higher(v[7], v[HALF + 7])
    return _higher(_higher(_higher(a, e), _higher(b, f)), _higher(_higher(c, g), _higher(d, h)))


@njit(nogil=True, cache=True, inline="always")
def _higher(a, b):  # type: ignore[no-untyped-def]
    # `max` would ask for NaN, of which there is none here.
    return a if a > b else b


@njit(nogil=True, cache=True)
def _copy_valid(values, others, row):  # type: ignore[no-untyped-def]
    """Values of a row of a block, NaN where the other field has none: no threshold is reached there."""
    for i in range(BLOCK_COLUMNS):
        row[i] = values[i] if (values[i] == values[i]) & (others[i] == others[i]) else MISSING


@njit(nogil=True, cache=True)
def _copy_ragged(f, o, block):  # type: ignore[no-untyped-def]
    """A block that the edge of the field cuts, filled up with missing pixels."""
    block[:] = MISSING
    for j in range(f.shape[0]):
        for i in range(f.shape[1]):
            if f[j, i] == f[j, i] and o[j, i] == o[j, i]:
                block[j * BLOCK_COLUMNS + i] = f[j, i]
                block[BLOCK + j * BLOCK_COLUMNS + i] = o[j, i]


@njit(nogil=True, cache=True)
def _count_block(block, forecast_thresholds, observed_thresholds, peak_f, peak_o, sums):  # type: ignore[no-untyped-def]
    for k in range(forecast_thresholds.size):
        t, u = forecast_thresholds[k], observed_thresholds[k]
        if (peak_f < t) & (peak_o < u):
            break
        row = sums[k]
        for i in range(BLOCK_COLUMNS):
            row[i] += (
                _outcome(block[i], block[O0 + i], t, u)
                + _outcome(block[F1 + i], block[O1 + i], t, u)
                + _outcome(block[F2 + i], block[O2 + i], t, u)
                + _outcome(block[F3 + i], block[O3 + i], t, u)
            )


@njit(nogil=True, cache=True, inline="always")
def _outcome(f, o, forecast_threshold, observed_threshold):  # type: ignore[no-untyped-def]
    """What one pair adds to the shared sum."""
    forecast_event, observed_event = f >= forecast_threshold, o >= observed_threshold
    return np.int32(
        np.int32(forecast_event)
        + np.int32(np.int32(observed_event) << np.int32(BITS))
        + np.int32(np.int32(forecast_event & observed_event) << np.int32(2 * BITS))
    )


@njit(nogil=True, cache=True)
def _collect(sums, events):  # type: ignore[no-untyped-def]
    """Move the sums of the columns into `events`."""
    for k in range(sums.shape[0]):
        for i in range(BLOCK_COLUMNS):
            events[k, 0] += sums[k, i] >> 2 * BITS
            events[k, 1] += sums[k, i] & MASK
            events[k, 2] += (sums[k, i] >> BITS) & MASK
            sums[k, i] = 0
