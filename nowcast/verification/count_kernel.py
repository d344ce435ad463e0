"""The compiled inner loop of `count_events`: three counts a threshold and the valid pairs of every row.

Blocks of 256 pixels stay in the nearest cache while the thresholds pass over them, and the first threshold that
nothing reaches ends a block: dry blocks cost one pass.
"""

from __future__ import annotations

import numpy as np
from numba import njit

BLOCK = 256


# Only the order of additions is freed, and whole numbers up to 256 add up exactly in float32 in any order:
# this is what lets the compiler count eight or sixteen pixels at once. NaN keeps its meaning.
@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"}, error_model="numpy")
def count_rows(forecast, observed, forecast_thresholds, observed_thresholds, events, valid):  # type: ignore[no-untyped-def]
    """Add to `events` (row, threshold, [hits, forecast events, observed events]) and `valid` (row), int64.

    forecast, observed: (row, pixel), C order. Thresholds ascend, each list in the dtype of its field.
    """
    rows, pixels = forecast.shape
    one, none = np.float32(1), np.float32(0)
    for row in range(rows):
        for start in range(0, pixels, BLOCK):
            f = forecast[row, start : start + BLOCK]
            o = observed[row, start : start + BLOCK]
            pairs = none
            for i in range(f.size):
                pairs += one if (f[i] == f[i]) & (o[i] == o[i]) else none
            valid[row] += np.int64(pairs)
            for k in range(forecast_thresholds.size):
                hits, forecast_events, observed_events = none, none, none
                for i in range(f.size):
                    forecast_event = f[i] >= forecast_thresholds[k]
                    observed_event = o[i] >= observed_thresholds[k]
                    hits += one if forecast_event & observed_event else none
                    forecast_events += one if forecast_event & (o[i] == o[i]) else none
                    observed_events += one if observed_event & (f[i] == f[i]) else none
                if forecast_events + observed_events == none:
                    break
                events[row, k, 0] += np.int64(hits)
                events[row, k, 1] += np.int64(forecast_events)
                events[row, k, 2] += np.int64(observed_events)
