"""Decision rules: from the chances of one forecast to the levels from which an event is forecast.

They need no observation, so they hold in a rain climate that nobody calibrated for. Both are tied to the area that the
rain of the last frame covers once it has moved; neither can foresee that much more or much less of it.

Shapes: L lead times, K thresholds, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

# Decision levels lie strictly between never and always.
LEVEL_RANGE = (1e-6, 1.0 - 1e-6)
# A sigmoid taken alone and one taken of many differ in the last digit; a level is put a little lower than its pixel.
ROUNDING = 1e-12
# Where the area of the highest expected CSI is sought, in areas of the last frame: small chances are never so well
# calibrated that they should decide alone, and of heavy rain a forecast that is unsure would say ever less.
AREA_RANGE = (1.0, 1.1)


def area_levels(
    logits: np.ndarray, moved: np.ndarray, thresholds_mm_h: Sequence[float]
) -> tuple[tuple[float, ...], ...]:
    """Decision levels, a row a lead time, at which each event covers as many pixels as in the last frame moved on.

    Only pixels that are known count. It knows nothing of growth and decay.

    Args:
        logits: (L, K, H, W) of an exceedance head, NaN where unknown.
        moved: (L, H, W) rain rates of the last frame where they will be [mm/h], NaN where unknown.
    """
    return _levels(logits, moved, thresholds_mm_h, (1.0, 1.0))


def expected_csi_levels(
    logits: np.ndarray, moved: np.ndarray, thresholds_mm_h: Sequence[float], areas: tuple[float, float] = AREA_RANGE
) -> tuple[tuple[float, ...], ...]:
    """Decision levels, a row a lead time, of the area with the highest expected CSI near that of `area_levels`.

    Of the n likeliest pixels, with the sum c_n of their chances out of c in all, the expected hits are c_n and hits,
    false alarms and misses together n + c - c_n.

    Args:
        logits, moved: As for `area_levels`.
        areas: The best n is sought between these multiples of the area of the last frame moved on.
    """
    return _levels(logits, moved, thresholds_mm_h, areas)


def _levels(
    logits: np.ndarray, moved: np.ndarray, thresholds_mm_h: Sequence[float], areas: tuple[float, float]
) -> tuple[tuple[float, ...], ...]:
    levels = np.full(logits.shape[:2], LEVEL_RANGE[1])
    for lead, rain_rate in enumerate(moved):
        known = ~np.isnan(rain_rate) & ~np.isnan(logits[lead, 0])
        for k, threshold in enumerate(thresholds_mm_h):
            area = int(np.count_nonzero(rain_rate[known] >= threshold))
            if area:
                # In double precision, as the head takes it.
                chances = torch.sigmoid(torch.from_numpy(logits[lead, k][known]).double()).numpy()
                levels[lead, k] = _level_near(chances, *(round(area * share) for share in areas)) * (1 - ROUNDING)
    return tuple(tuple(float(level) for level in row) for row in np.clip(levels, *LEVEL_RANGE))


def _level_near(chances: np.ndarray, fewest: int, most: int) -> float:
    """The chance of the last pixel that is forecast, of chances (n,), with the highest expected CSI."""
    most = min(chances.size, most)
    fewest = max(1, min(fewest, most))
    likeliest = np.sort(np.partition(chances, -most)[-most:])[::-1]
    if fewest == most:
        return float(likeliest[-1])
    hits = np.cumsum(likeliest)
    expected_csi = hits / (np.arange(1, most + 1) + chances.sum() - hits)
    return float(likeliest[fewest - 1 + int(np.argmax(expected_csi[fewest - 1 :]))])
