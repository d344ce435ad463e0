"""What an archive counts of each frame: how much is valid, how wet, how heavy, how rough, what quality steps changed.

Apart from the archive's schema, so that a process that only decodes need not load what stores.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# A pixel counts as wet from this rain rate on.
WET_MM_H = 0.1
# What the quality steps of an ingest may change: (name, what happened to the pixels that are counted).
CHANGES = {
    "low_quality": "pixels made missing for a low quality index",
    "clutter": "pixels made missing by the static clutter mask",
    "speckle": "pixels made dry as speckle",
    "capped": "pixels brought down to the rain rate cap",
    "below_threshold": "pixels made dry below the rain threshold",
}
# Pixels at a time: what is made on the way then stays in the processor's cache.
BLOCK_PIXELS = 1 << 17


def measure_frame(rain_rate: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """The per-frame numbers of one field, by their names in the archive's series.

    Args:
        rain_rate: (H, W) float32 [mm/h].
        valid: (H, W) bool: where it is not NaN.
    """
    number = int(np.count_nonzero(valid))
    if number == 0:
        return {"valid_pixels": 0}
    columns = rain_rate.shape[1]
    rows = max(1, BLOCK_PIXELS // columns)
    zeros, rates, wets = _zeros(rows, columns), np.empty((rows, columns), np.float32), np.empty((rows, columns), bool)
    wet_pixels, edges, total, maximum = 0, 0, 0.0, 0.0
    for start in range(0, rain_rate.shape[0], rows):
        block = rain_rate[start : start + rows]
        # fmax takes the number where the other is NaN.
        rate = np.fmax(block, zeros[: len(block)], out=rates[: len(block)])
        wet = np.greater_equal(rate, np.float32(WET_MM_H), out=wets[: len(block)])
        wet_pixels += int(np.count_nonzero(wet))
        # Neighbours in memory, less those of which one ends a row and the other begins the next.
        edges += int(np.count_nonzero(wet.ravel()[1:] != wet.ravel()[:-1]))
        edges -= int(np.count_nonzero(wet[1:, 0] != wet[:-1, -1]))
        # Down the columns of one block, float32 is as good as its digits.
        total += float(rate.sum(axis=0).sum(dtype=np.float64))
        maximum = max(maximum, float(rate.max()))
    return {
        "valid_pixels": number,
        "wet_share": wet_pixels / number,
        "maximum_rate": maximum,
        "mean_rate": total / number,
        "edge_share": edges / number,
    }


@lru_cache(maxsize=2)
def _zeros(rows: int, columns: int) -> np.ndarray:
    """To compare with: numpy is three times as slow with the number 0."""
    zeros = np.zeros((rows, columns), dtype=np.float32)
    zeros.setflags(write=False)
    return zeros
