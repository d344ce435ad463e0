"""RadarFrame: what every reader returns. One field of rain rate, its time and its grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from nowcast.data.grid import Grid
from nowcast.errors import DataError


@dataclass(frozen=True)
class RadarFrame:
    """Rain rate at one time.

    Attributes:
        rain_rate: (H, W) float32 [mm/h], north first; NaN where nothing was measured, 0 where dry.
        valid_time: UTC, datetime64[s]; the end of the interval for accumulations, the nominal time for rates.
        grid: Where the pixels are.
        interval_minutes: Length of the accumulation that the rate is the mean of; None for an instantaneous rate.
        quality: Optional (H, W) float32 in [0, 1], NaN where unknown.
        attributes: What the file says of itself: source format, institution, quantity, zr_a, zr_b, licence, ...
        marks: Of a raster that no checksum guards, what `data_prep.readers.texture` measures; empty for others.
    """

    rain_rate: np.ndarray
    valid_time: np.datetime64
    grid: Grid
    interval_minutes: float | None = None
    quality: np.ndarray | None = None
    attributes: Mapping[str, str | float] = field(default_factory=lambda: MappingProxyType({}))
    marks: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        rain_rate = np.asarray(self.rain_rate, dtype=np.float32)
        if rain_rate.shape != self.grid.shape:
            raise DataError(f"a field of shape {rain_rate.shape} does not fit its grid of {self.grid.shape}")
        # fmin and fmax pass over NaN, and no field of booleans is made; where all is NaN, so are they.
        if np.fmin.reduce(rain_rate, axis=None) < 0 or np.fmax.reduce(rain_rate, axis=None) == np.inf:
            raise DataError("a rain rate must be finite and not negative; missing pixels are NaN")
        object.__setattr__(self, "rain_rate", rain_rate)
        object.__setattr__(self, "valid_time", self.valid_time.astype("datetime64[s]"))
