"""RainClimate: how often and how hard it rains in a sample of fields, and when two such climates are far apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

# From here on a pixel is wet.
WET_MM_H = 0.1
# A sample with fewer wet pixels says nothing of a climate: it may just be a dry spell.
FEWEST_WET_PIXELS = 500
# Rates further apart than this factor are far: 4 dB, as much as two radars with different Z-R relations seldom reach.
FAR_RATE = 2.5
# Shares of wet pixels vary more from one week to the next.
FAR_SHARE = 5.0


class FieldSource(Protocol):
    """Frames that a sample is taken from: an archive."""

    @property
    def present(self) -> np.ndarray: ...

    def rain_rate(self, start: int, stop: int) -> np.ndarray: ...


@dataclass(frozen=True)
class RainClimate:
    """Rain in a sample of fields.

    Attributes:
        wet_share: Share of the measured pixels at 0.1 mm/h or more.
        mean_mm_h: Mean rate of the measured pixels.
        wet_p95_mm_h, wet_p99_mm_h: Percentiles of the rates of the wet pixels; 0 where none is wet.
        wet_pixels: How many wet pixels the percentiles rest on.
    """

    wet_share: float
    mean_mm_h: float
    wet_p95_mm_h: float
    wet_p99_mm_h: float
    wet_pixels: int

    @classmethod
    def of(cls, fields: Iterable[np.ndarray]) -> RainClimate | None:
        """The climate of rain rates [mm/h], NaN where missing; None where nothing was measured."""
        measured, total, wet = 0, 0.0, []
        for field in fields:
            values = field[~np.isnan(field)]
            measured += values.size
            total += float(values.sum(dtype=np.float64))
            wet.append(values[values >= WET_MM_H])
        if measured == 0:
            return None
        rates = np.concatenate(wet)
        p95, p99 = np.percentile(rates, (95, 99)) if rates.size else (0.0, 0.0)
        return cls(rates.size / measured, total / measured, float(p95), float(p99), int(rates.size))

    @classmethod
    def of_source(cls, source: FieldSource, number: int = 24) -> RainClimate | None:
        """The climate of up to `number` frames, evenly spread over those that are present."""
        present = np.flatnonzero(source.present)
        if present.size == 0:
            return None
        chosen = present[np.unique(np.linspace(0, present.size - 1, min(number, present.size)).round().astype(int))]
        return cls.of(source.rain_rate(int(index), int(index) + 1) for index in chosen)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RainClimate:
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def differences(self, other: RainClimate) -> list[str]:
        """In words, all in which this climate is far from another; empty where none is, or a sample is too dry.

        Far is: a percentile of wet rates (95th or 99th) more than 2.5 times the other or less than 1 / 2.5 of it, or a
        wet share more than 5 times the other or less than a fifth. The mean follows from these.
        """
        if min(self.wet_pixels, other.wet_pixels) < FEWEST_WET_PIXELS:
            return []
        compared = (
            ("95th percentile of wet rates", self.wet_p95_mm_h, other.wet_p95_mm_h, FAR_RATE, "mm/h"),
            ("99th percentile of wet rates", self.wet_p99_mm_h, other.wet_p99_mm_h, FAR_RATE, "mm/h"),
            ("share of wet pixels", 100 * self.wet_share, 100 * other.wet_share, FAR_SHARE, "%"),
        )
        return [
            f"{name} {here:.3g} {unit} against {there:.3g} {unit}"
            for name, here, there, factor, unit in compared
            if not 1 / factor <= here / there <= factor
        ]
