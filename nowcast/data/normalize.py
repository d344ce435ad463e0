"""Normalizer: rain rate [mm/h] to the numbers a net learns from, and back.

Every scaling maps 0 mm/h to 0 and its largest rate to 1, rises everywhere in between and inverts exactly there.
What is missing stays NaN: filling it is the business of `nowcast.models.inputs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from nowcast.data.units import ZRelation
from nowcast.errors import ConfigError

Kind = Literal["db", "log", "pixel", "linear"]

# The HKO-7 convention: pixel = (dBZ + 10) / 70 with Z = 58.53 R^1.56 (Shi et al. 2017, arXiv 1706.03458).
HKO7_RELATION = ZRelation(58.53, 1.56)
# Share of the range of `db` that the rates below its minimum take, so that dry and drizzle stay apart.
DB_FOOT = 0.1


@dataclass(frozen=True)
class Normalizer:
    """A monotone map from [0, `largest_mm_h`] onto [0, 1]; rates above saturate at 1.

    Kinds:
        db: linear in R up to `minimum_mm_h`, then linear in 10 log10 R up to `maximum_mm_h`.
        log: log(R + c) with c = `minimum_mm_h` / 10.
        pixel: the HKO-7 pixel, (dBZ + 10) / 70; rates below -10 dBZ (0.017 mm/h) become 0.
        linear: R / `maximum_mm_h`.

    Attributes:
        mean: Mean of the normalised training fields, NaN until fitted; nets start their output there.
    """

    kind: Kind = "db"
    minimum_mm_h: float = 0.1
    maximum_mm_h: float = 100.0
    mean: float = float("nan")

    def __post_init__(self) -> None:
        if self.kind not in ("db", "log", "pixel", "linear"):
            raise ConfigError(f"normalizer kind '{self.kind}' is not known", "use db, log, pixel or linear")
        if not 0 < self.minimum_mm_h < self.maximum_mm_h:
            raise ConfigError(
                f"normalizer needs 0 < minimum < maximum, got {self.minimum_mm_h} and {self.maximum_mm_h} mm/h"
            )

    @property
    def range(self) -> tuple[float, float]:
        """The values that `transform` returns lie in this closed interval; losses and heads check it."""
        return 0.0, 1.0

    @property
    def largest_mm_h(self) -> float:
        """The rate at which the scale saturates [mm/h]."""
        return float(HKO7_RELATION.rain_rate(np.array(60.0))) if self.kind == "pixel" else self.maximum_mm_h

    def transform(self, rain_rate: np.ndarray) -> np.ndarray:
        """Normalised values in [0, 1], float32, of rain rates [mm/h]; NaN stays NaN."""
        rate = np.clip(np.asarray(rain_rate, dtype=np.float32), 0.0, np.float32(self.largest_mm_h))
        if self.kind == "linear":
            return rate / np.float32(self.maximum_mm_h)
        if self.kind == "log":
            offset = np.float32(self.minimum_mm_h / 10)
            # Rounding may lead beyond 1 at the largest rate, here and below.
            return np.minimum(np.log1p(rate / offset) / np.log1p(np.float32(self.maximum_mm_h) / offset), np.float32(1))
        if self.kind == "pixel":
            return np.clip((HKO7_RELATION.reflectivity(rate) + 10.0) / 70.0, 0.0, 1.0).astype(np.float32)
        with np.errstate(divide="ignore"):
            decibel = np.log10(rate / np.float32(self.minimum_mm_h)) / np.float32(self._decades)
        foot = np.float32(DB_FOOT)
        wet = foot + (1 - foot) * decibel
        value = np.where(rate < self.minimum_mm_h, foot * rate / np.float32(self.minimum_mm_h), wet)
        return np.minimum(value, np.float32(1))

    def inverse(self, values: np.ndarray) -> np.ndarray:
        """Rain rates [mm/h], float32, of normalised values; below 0 and above 1 saturate, NaN stays NaN."""
        value = np.clip(np.asarray(values, dtype=np.float32), 0.0, 1.0)
        if self.kind == "linear":
            return value * np.float32(self.maximum_mm_h)
        if self.kind == "log":
            offset = np.float32(self.minimum_mm_h / 10)
            return offset * np.expm1(value * np.log1p(np.float32(self.maximum_mm_h) / offset))
        if self.kind == "pixel":
            rate = HKO7_RELATION.rain_rate(70.0 * value - 10.0).astype(np.float32)
            return np.where(value > 0, rate, np.where(np.isnan(value), np.float32(np.nan), np.float32(0.0)))
        foot = np.float32(DB_FOOT)
        wet = np.float32(self.minimum_mm_h) * 10 ** ((value - foot) / (1 - foot) * np.float32(self._decades))
        return np.where(value < foot, value / foot * np.float32(self.minimum_mm_h), wet)

    @property
    def _decades(self) -> float:
        return float(np.log10(self.maximum_mm_h / self.minimum_mm_h))

    def fit(self, fields: Iterable[np.ndarray]) -> Normalizer:
        """A copy whose `mean` is that of the valid pixels of `fields` [mm/h]; give it the training split alone.

        Fields without a valid pixel count for nothing; without any valid pixel at all the mean stays NaN.
        """
        total, count = 0.0, 0
        for field in fields:
            values = self.transform(field)
            total += float(np.nansum(values, dtype=np.float64))
            count += int(np.count_nonzero(~np.isnan(values)))
        return replace(self, mean=total / count if count else float("nan"))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` brings the same normalizer back."""
        return asdict(self) | {"mean": None if np.isnan(self.mean) else self.mean}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Normalizer:
        mean = values.get("mean")
        return cls(
            kind=values["kind"],
            minimum_mm_h=float(values["minimum_mm_h"]),
            maximum_mm_h=float(values["maximum_mm_h"]),
            mean=float("nan") if mean is None else float(mean),
        )
