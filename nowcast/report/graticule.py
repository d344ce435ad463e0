"""Meridians, parallels and a km scale for any map of a grid, in km from its south-west corner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from contourpy import contour_generator

from nowcast.data.grid import Grid

NICE_STEPS_DEGREES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
NICE_LENGTHS_KM = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
SAMPLES = 60


@dataclass(frozen=True, eq=False)
class GraticuleLine:
    """A meridian or a parallel.

    Attributes:
        label: `8°E`, `46.5°N`.
        edge: Where its label stands: meridians at the bottom, parallels on the left.
        at_km: Place of the label along that edge; None where the line does not meet it.
        points_km: (n, 2) of x and y.
    """

    label: str
    edge: Literal["bottom", "left"]
    at_km: float | None
    points_km: np.ndarray


def extent_km(grid: Grid) -> tuple[float, float]:
    """(height, width) of a grid to the outer edges of its pixels; of a geographic grid at its middle latitude."""
    (rows, columns), (dy, dx) = grid.shape, grid.pixel_size_km
    return rows * dy, columns * dx


def graticule(grid: Grid) -> list[GraticuleLine]:
    """Meridians and parallels at round degrees, about four of each."""
    height, width = extent_km(grid)
    latitude, longitude = coarse_lat_lon(grid, SAMPLES)
    x_km, y_km = np.linspace(0, width, SAMPLES), np.linspace(height, 0, SAMPLES)
    lines = []
    for values, edge_values, positions, edge, letters in (
        (longitude, longitude[-1], x_km, "bottom", "EW"),
        (latitude, latitude[:, 0], y_km, "left", "NS"),
    ):
        contours = contour_generator(x_km, y_km, np.ma.masked_invalid(values))
        for level in _round_levels(values):
            at = _crossing(edge_values, positions, level)
            for points in contours.lines(level):
                lines.append(GraticuleLine(_degrees(level, letters), edge, at, np.asarray(points)))  # type: ignore[arg-type]
    return lines


def coarse_lat_lon(grid: Grid, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude [degrees] at size x size points from edge to edge, north first; NaN off the Earth.

    Longitudes are continuous: they run past 180 where the grid does.
    """
    dy, dx = grid.spacing
    x = np.linspace(grid.x[0] - dx / 2, grid.x[-1] + dx / 2, size)
    y = np.linspace(grid.y[0] + dy / 2, grid.y[-1] - dy / 2, size)
    latitude, longitude = (np.where(np.isfinite(part), part, np.nan) for part in Grid(x, y, grid.crs_wkt).lat_lon())
    if np.nanmax(longitude) - np.nanmin(longitude) > 180:
        longitude = longitude % 360.0
    return latitude, longitude


def scale_bar_km(width_km: float) -> int:
    """A round length of at most three tenths of the width."""
    return max((length for length in NICE_LENGTHS_KM if length <= 0.3 * width_km), default=NICE_LENGTHS_KM[0])


def _round_levels(values: np.ndarray) -> np.ndarray:
    """Multiples of a round step strictly within the values, at most six of them."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    step = next((step for step in NICE_STEPS_DEGREES if (high - low) / step <= 6), NICE_STEPS_DEGREES[-1])
    levels = np.round(np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step, 6)
    return np.asarray(levels[(levels > low) & (levels < high)])


def _crossing(edge: np.ndarray, positions: np.ndarray, level: float) -> float | None:
    """Where a level is met along an edge of the map, the first time; NaN there is off the Earth."""
    above, seen = edge >= level, np.isfinite(edge)
    changes = np.flatnonzero((above[1:] != above[:-1]) & seen[1:] & seen[:-1])
    if changes.size == 0:
        return None
    start = changes[0]
    share = (level - edge[start]) / (edge[start + 1] - edge[start])
    return float(positions[start] + share * (positions[start + 1] - positions[start]))


def _degrees(value: float, letters: str) -> str:
    wrapped = (value + 180.0) % 360.0 - 180.0 if letters == "EW" else value
    return f"{abs(wrapped):g}°{letters[0] if wrapped >= 0 else letters[1]}" if wrapped else "0°"
