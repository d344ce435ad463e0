"""What every frame of an archive must have in common: grid, interval, quantity, Z-R relation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_prep.decode import DecodedFrame, describe_grid
from nowcast.data.grid import Grid


class Fit:
    """What one archive, or one frame, asks of another frame.

    Args:
        file: Where it comes from, for the reason of a refusal.
        relation: (a, b) of the Z = a R^b by which reflectivity became rain; None where that is not known.
    """

    def __init__(
        self,
        grid: Grid,
        interval_minutes: float | None,
        quantity: str,
        file: str,
        relation: tuple[float, float] | None,
    ) -> None:
        self._grid, self._interval_minutes, self._quantity, self._file = grid, interval_minutes, quantity, file
        self._relation = relation

    def objection(self, frame: DecodedFrame) -> str:
        """Why a frame does not belong in the archive; empty where it does."""
        if not same_grid(self._grid, frame.grid):
            return (
                f"its grid is {describe_grid(frame.grid)}, that of the archive, from {self._file}, "
                f"is {describe_grid(self._grid)}"
            )
        if frame.interval_minutes != self._interval_minutes:
            return (
                f"it is {_kind(frame.interval_minutes)}, the archive, from {self._file}, "
                f"holds {_kind(self._interval_minutes)}"
            )
        if self._quantity and frame.quantity and frame.quantity != self._quantity:
            return f"it holds {frame.quantity}, the archive, from {self._file}, is made of {self._quantity}"
        if self._relation and frame.relation and frame.relation != self._relation:
            return (
                f"its rain rate is by {_formula(frame.relation)}, that of the archive, from {self._file}, "
                f"by {_formula(self._relation)}"
            )
        return ""

    @classmethod
    def of_frame(cls, frame: DecodedFrame, file: str = "") -> Fit:
        """What goes with a frame."""
        return cls(frame.grid, frame.interval_minutes, frame.quantity, file, frame.relation)

    @classmethod
    def of_archive(cls, grid: Grid, attributes: Mapping[str, Any], path: str) -> Fit:
        """What an existing archive is made of, by its attributes."""
        quantity, file = str(attributes.get("quantity", "")), str(attributes.get("grid_file", path))
        return cls(grid, attributes.get("interval_minutes"), quantity, file, _relation(attributes))


def fits(model: DecodedFrame, frame: DecodedFrame) -> bool:
    """Whether two frames can stand in one archive."""
    return not Fit.of_frame(model).objection(frame)


def same_grid(one: Grid, other: Grid) -> bool:
    same = one is other
    same = same or (one.crs_wkt == other.crs_wkt and np.array_equal(one.x, other.x) and np.array_equal(one.y, other.y))
    return same or one.matches(other)


def _relation(attributes: Mapping[str, Any]) -> tuple[float, float] | None:
    """The Z-R relation that an archive records, if any."""
    if "zr_a" not in attributes or "zr_b" not in attributes:
        return None
    return float(attributes["zr_a"]), float(attributes["zr_b"])


def _formula(relation: tuple[float, float]) -> str:
    return f"Z = {relation[0]:g} R^{relation[1]:g}"


def _kind(interval_minutes: float | None) -> str:
    return "an instantaneous rate" if interval_minutes is None else f"a mean over {interval_minutes:g} min"
