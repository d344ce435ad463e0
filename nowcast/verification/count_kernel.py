"""The compiled inner loop of `count_events`: three counts a threshold and the valid pairs of every field.

Tiles of 4 x 64 pixels stay in the nearest cache while the thresholds pass over them, and the first threshold that
nothing reaches ends a tile: dry tiles cost one pass, and heavy rain is looked for only where it is.
"""

from __future__ import annotations

import numpy as np
from numba import njit

TILE_ROWS, TILE_COLUMNS = 4, 64

# Sums are kept in int32 inside a tile: with the 64 bits that numba would take, the processor counts half as many
# pixels at once.


@njit(nogil=True, cache=True)
def count_fields(forecast, observed, forecast_thresholds, observed_thresholds, events, valid):  # type: ignore[no-untyped-def]
    """Add to `events` (field, threshold, [hits, forecast events, observed events]) and `valid` (field), int64.

    forecast, observed: (field, y, x), C order. Thresholds ascend, each list in the dtype of its field.
    """
    fields, rows, columns = forecast.shape
    f = np.empty(TILE_ROWS * TILE_COLUMNS, forecast.dtype)
    o = np.empty(TILE_ROWS * TILE_COLUMNS, observed.dtype)
    lowest_f, lowest_o = forecast_thresholds[0], observed_thresholds[0]
    for k in range(fields):
        for top in range(0, rows, TILE_ROWS):
            height = min(TILE_ROWS, rows - top)
            for left in range(0, columns, TILE_COLUMNS):
                right = min(left + TILE_COLUMNS, columns)
                # Rows are cut from the field itself: a row of a cut-out would not be known to lie in one piece.
                if height == TILE_ROWS:
                    pairs, wet = _look_at_four_rows(
                        forecast[k, top, left:right],
                        forecast[k, top + 1, left:right],
                        forecast[k, top + 2, left:right],
                        forecast[k, top + 3, left:right],
                        observed[k, top, left:right],
                        observed[k, top + 1, left:right],
                        observed[k, top + 2, left:right],
                        observed[k, top + 3, left:right],
                        lowest_f,
                        lowest_o,
                    )
                else:
                    pairs, wet = np.int32(0), np.int32(0)
                    for j in range(top, rows):
                        more = _look(forecast[k, j, left:right], observed[k, j, left:right], lowest_f, lowest_o)
                        pairs, wet = np.int32(pairs + more[0]), np.int32(wet + more[1])
                valid[k] += pairs
                if wet > 0:
                    width = right - left
                    for j in range(height):
                        _copy_pairs(
                            forecast[k, top + j, left:right],
                            observed[k, top + j, left:right],
                            f[j * width : (j + 1) * width],
                            o[j * width : (j + 1) * width],
                        )
                    size = height * width
                    _count_tile(f[:size], o[:size], forecast_thresholds, observed_thresholds, events[k])


@njit(nogil=True, cache=True, inline="always")
def _look_at_four_rows(f0, f1, f2, f3, o0, o1, o2, o3, lowest_f, lowest_o):  # type: ignore[no-untyped-def]
    """Valid pairs, and those that reach the lowest threshold, of four rows at a time: one sum for all of them."""
    pairs, wet = np.int32(0), np.int32(0)
    for i in range(f0.size):
        v0 = (f0[i] == f0[i]) & (o0[i] == o0[i])
        v1 = (f1[i] == f1[i]) & (o1[i] == o1[i])
        v2 = (f2[i] == f2[i]) & (o2[i] == o2[i])
        v3 = (f3[i] == f3[i]) & (o3[i] == o3[i])
        pairs = np.int32(pairs + np.int32(v0) + np.int32(v1) + np.int32(v2) + np.int32(v3))
        w0 = v0 & ((f0[i] >= lowest_f) | (o0[i] >= lowest_o))
        w1 = v1 & ((f1[i] >= lowest_f) | (o1[i] >= lowest_o))
        w2 = v2 & ((f2[i] >= lowest_f) | (o2[i] >= lowest_o))
        w3 = v3 & ((f3[i] >= lowest_f) | (o3[i] >= lowest_o))
        wet = np.int32(wet + np.int32(w0) + np.int32(w1) + np.int32(w2) + np.int32(w3))
    return pairs, wet


@njit(nogil=True, cache=True, inline="always")
def _look(f, o, lowest_f, lowest_o):  # type: ignore[no-untyped-def]
    """The same of one row."""
    pairs, wet = np.int32(0), np.int32(0)
    for i in range(f.size):
        both = (f[i] == f[i]) & (o[i] == o[i])
        pairs = np.int32(pairs + np.int32(both))
        wet = np.int32(wet + np.int32(both & ((f[i] >= lowest_f) | (o[i] >= lowest_o))))
    return pairs, wet


@njit(nogil=True, cache=True, inline="always")
def _copy_pairs(from_f, from_o, to_f, to_o):  # type: ignore[no-untyped-def]
    """A row with both values NaN where one of them is: no threshold is reached there."""
    missing = np.float32(np.nan)  # becomes float64 beside float64, and keeps float32 what it is
    for i in range(from_f.size):
        both = (from_f[i] == from_f[i]) & (from_o[i] == from_o[i])
        to_f[i] = from_f[i] if both else missing
        to_o[i] = from_o[i] if both else missing


@njit(nogil=True, cache=True, inline="always")
def _count_tile(f, o, forecast_thresholds, observed_thresholds, events):  # type: ignore[no-untyped-def]
    for k in range(forecast_thresholds.size):
        threshold_f, threshold_o = forecast_thresholds[k], observed_thresholds[k]
        hits, forecast_events, observed_events = np.int32(0), np.int32(0), np.int32(0)
        for i in range(f.size):
            forecast_event, observed_event = f[i] >= threshold_f, o[i] >= threshold_o
            hits = np.int32(hits + np.int32(forecast_event & observed_event))
            forecast_events = np.int32(forecast_events + np.int32(forecast_event))
            observed_events = np.int32(observed_events + np.int32(observed_event))
        if forecast_events + observed_events == 0:
            break
        events[k, 0] += hits
        events[k, 1] += forecast_events
        events[k, 2] += observed_events
