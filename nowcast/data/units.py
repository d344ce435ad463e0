"""Reflectivity, accumulation and rain rate: the only arithmetic between them.

Readers call it once per file; everything after them is in mm/h. NaN stays NaN everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ZRelation:
    """The power law Z = a R^b between the reflectivity factor Z [mm^6 m^-3] and the rain rate R [mm/h].

    Common pairs: 200/1.6 (Marshall and Palmer 1948; OPERA, KNMI), 223/1.53 (FMI), 316/1.5 (MeteoSwiss),
    58.53/1.56 (HKO-7).
    """

    a: float
    b: float

    def __post_init__(self) -> None:
        if not (self.a > 0 and self.b > 0):
            raise ValueError(f"a Z-R relation needs a > 0 and b > 0, got a={self.a}, b={self.b}")

    def rain_rate(self, reflectivity_dbz: np.ndarray) -> np.ndarray:
        """Rain rate [mm/h] of a reflectivity [dBZ]; -inf dBZ is 0 mm/h, NaN stays NaN."""
        return (10.0 ** (np.asarray(reflectivity_dbz) / 10.0) / self.a) ** (1.0 / self.b)

    def reflectivity(self, rain_rate_mm_h: np.ndarray) -> np.ndarray:
        """Reflectivity [dBZ] of a rain rate [mm/h]; 0 mm/h is -inf dBZ, NaN stays NaN."""
        with np.errstate(divide="ignore"):
            return 10.0 * np.log10(self.a * np.asarray(rain_rate_mm_h) ** self.b)


def rate_from_accumulation(depth_mm: np.ndarray, *, interval_minutes: float) -> np.ndarray:
    """Mean rain rate [mm/h] of a depth [mm] that fell in `interval_minutes`."""
    if not interval_minutes > 0:
        raise ValueError(f"an accumulation interval must be positive, got {interval_minutes} min")
    return np.asarray(depth_mm) * (60.0 / interval_minutes)
