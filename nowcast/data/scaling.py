"""Stored integers to physical values, exactly: a step of 0.05 mm in 6 min lands on 0.5 mm/h and not beside it.

Thresholds are compared in float32, so a value must be the float32 nearest to the decimal number that it stands for.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np


def exact(value: Any) -> Fraction:
    """A number as the shortest decimal that stands for it: 0.1 in float32 is one tenth."""
    return Fraction(str(value))


def rescale(stored: np.ndarray, gain: Any = 1, offset: Any = 0, *, factor: Fraction = Fraction(1)) -> np.ndarray:
    """(stored * gain + offset) * factor in float64; integers with one rounding only.

    Args:
        stored: Integers, or floats (which are multiplied as they are).
        gain, offset: As the file gives them.
        factor: Exact further factor, such as 60 / minutes.
    """
    scale, shift, denominator = _common_scale(str(gain), str(offset), factor)
    values = stored.astype(np.float64)
    if not np.issubdtype(stored.dtype, np.integer) or denominator == 0:
        values *= float(scale)
        values += float(shift)
        return values
    # Below 2^53 every product is exact in float64 and the division rounds once.
    values *= int(scale * denominator)
    values += int(shift * denominator)
    values /= float(denominator)
    return values


@lru_cache(maxsize=64)
def _common_scale(gain: str, offset: str, factor: Fraction) -> tuple[Fraction, Fraction, int]:
    """Gain and offset times `factor`, and their common denominator; 0 where the numbers are too large to be exact."""
    scale, shift = Fraction(gain) * factor, Fraction(offset) * factor
    denominator = math.lcm(scale.denominator, shift.denominator) if _is_small(scale, shift) else 0
    return scale, shift, denominator


def per_hour(interval_minutes: float) -> Fraction:
    """The factor from a depth in `interval_minutes` to mm/h."""
    if not 0 < interval_minutes < float("inf"):
        raise ValueError(f"an accumulation interval must be positive, got {interval_minutes} min")
    return Fraction(60) / exact(interval_minutes)


def _is_small(*values: Fraction) -> bool:
    return all(value.denominator < 2**31 and abs(value.numerator) < 2**31 for value in values)
