"""ChanceMap: from the chances that a model says to those that came true, as `nowcast calibrate` found them.

It travels in the bundle and acts on chances as they are written; the rain-rate field is none of its business. The fit
is that of `nowcast.verification.calibration`.

Shapes: L lead times, K thresholds, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from nowcast.errors import ConfigError

Knots = tuple[float, ...]


@dataclass(frozen=True)
class ChanceMap:
    """For each lead time and threshold a map that never falls, linear between knots and level beyond them.

    Attributes:
        thresholds_mm_h: Thresholds of the chances [mm/h].
        said: For each lead time and threshold the knots, rising chances as a model says them; none leaves them as
            they are.
        happened: The share of events at each knot.

    Raises:
        ConfigError: Knots that do not rise, shares that fall or lie outside [0, 1], or other numbers of them.
    """

    thresholds_mm_h: tuple[float, ...]
    said: tuple[tuple[Knots, ...], ...]
    happened: tuple[tuple[Knots, ...], ...]

    def __post_init__(self) -> None:
        if not self.said or len(self.said) != len(self.happened):
            raise ConfigError(f"a map of chances has {len(self.said)} and {len(self.happened)} lead times")
        for row in (*self.said, *self.happened):
            if len(row) != len(self.thresholds_mm_h):
                raise ConfigError(
                    f"{len(self.thresholds_mm_h)} thresholds need as many maps of chances, got {len(row)}"
                )
        for said, happened in zip(_all(self.said), _all(self.happened), strict=True):
            rises = all(low < high for low, high in pairwise(said))
            keeps = all(low <= high for low, high in pairwise(happened))
            inside = all(0 <= value <= 1 for value in (*said, *happened))
            if len(said) != len(happened) or not (rises and keeps and inside):
                raise ConfigError(f"a map of chances must not fall, nor leave [0, 1], got {said} to {happened}")

    @property
    def fitted(self) -> np.ndarray:
        """(L, K) bool: where there were enough events for a map."""
        return np.array([[bool(knots) for knots in row] for row in self.said])

    def __call__(self, chances: np.ndarray) -> np.ndarray:
        """Calibrated chances (L, K, H, W) float32, never rising with the threshold; NaN stays NaN.

        Leads beyond the last one of the map take its last one.
        """
        if chances.ndim != 4 or chances.shape[1] != len(self.thresholds_mm_h):
            raise ValueError(
                f"chances (lead, threshold, y, x) of shape {chances.shape} do not fit {len(self.thresholds_mm_h)} "
                "thresholds"
            )
        out = np.array(chances, dtype=np.float32)
        for lead, fields in enumerate(out):
            row = min(lead, len(self.said) - 1)
            for field, said, happened in zip(fields, self.said[row], self.happened[row], strict=True):
                if said:
                    field[...] = np.interp(field, said, happened)
        # Each map alone keeps the order of pixels, not that of thresholds.
        return np.minimum.accumulate(out, axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a JSON file."""
        return {"thresholds_mm_h": self.thresholds_mm_h, "said": self.said, "happened": self.happened}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ChanceMap:
        """The map that `to_dict` wrote."""
        thresholds = tuple(float(value) for value in values["thresholds_mm_h"])
        return cls(thresholds, _knots(values["said"]), _knots(values["happened"]))


def _all(rows: tuple[tuple[Knots, ...], ...]) -> list[Knots]:
    return [knots for row in rows for knots in row]


def _knots(rows: Sequence[Sequence[Sequence[float]]]) -> tuple[tuple[Knots, ...], ...]:
    return tuple(tuple(tuple(float(value) for value in knots) for knots in row) for row in rows)
