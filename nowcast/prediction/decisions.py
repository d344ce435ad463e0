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
    for lead, (fields, rain_rate) in enumerate(zip(logits, moved, strict=True)):
        known = np.flatnonzero(~(np.isnan(rain_rate) | np.isnan(fields[0])))
        rates = rain_rate.reshape(-1)[known]
        for k, threshold in enumerate(thresholds_mm_h):
            area = int(np.count_nonzero(rates >= threshold))
            if area:
                likely = fields[k].reshape(-1)[known]
                levels[lead, k] = _level_near(likely, *(round(area * share) for share in areas)) * (1 - ROUNDING)
    return tuple(tuple(float(level) for level in row) for row in np.clip(levels, *LEVEL_RANGE))


def _level_near(logits: np.ndarray, fewest: int, most: int) -> float:
    """The chance of the last pixel that is forecast, of logits (n,), with the highest expected CSI."""
    most = min(logits.size, most)
    fewest = max(1, min(fewest, most))
    # Pixels are ordered by their logits, as they would be by their chances; only those in question are sorted.
    likeliest = np.partition(logits, -most)[-most:]
    surest = np.partition(likeliest, -fewest)
    if fewest == most:
        return float(_chances(surest[-fewest : most - fewest + 1])[0])
    in_question = _chances(np.sort(surest[: most - fewest + 1])[::-1])
    hits = np.cumsum(in_question) + _chances(surest[most - fewest + 1 :]).sum()
    expected_csi = hits / (np.arange(fewest, most + 1) + _chances(logits).sum() - hits)
    return float(in_question[int(np.argmax(expected_csi))])


def _chances(logits: np.ndarray) -> np.ndarray:
    """In double precision, as the head takes them."""
    return torch.from_numpy(np.ascontiguousarray(logits)).double().sigmoid_().numpy()  # type: ignore[no-any-return]
