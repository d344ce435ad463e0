"""Bring a field to another pixel size by area: the mean rain rate over each new pixel is what fell on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from nowcast.data.grid import Grid

# A new pixel is measured when at least this share of its area is.
MINIMUM_VALID = 0.5


@dataclass(frozen=True, eq=False)
class Resampler:
    """A conservative map from one grid to a grid of another pixel size over the same area.

    Attributes:
        grid: The new grid; its north-west corner is that of the old one, ragged edges are left out.
        rows, columns: Overlap of each new row (column) with the old ones, as shares of the new pixel; sparse.
    """

    grid: Grid
    rows: sparse.csr_array
    columns: sparse.csr_array

    @classmethod
    def to_pixel_size(cls, grid: Grid, pixel_size_km: tuple[float, float]) -> Resampler:
        """The map from `grid` to pixels of (dy, dx) km."""
        (dy, dx), (dy_km, dx_km) = grid.spacing, grid.pixel_size_km
        new_dy, new_dx = dy * pixel_size_km[0] / dy_km, dx * pixel_size_km[1] / dx_km
        rows, columns = _overlaps(grid.shape[0], new_dy / dy), _overlaps(grid.shape[1], new_dx / dx)
        left, top = grid.x[0] - dx / 2, grid.y[0] + dy / 2
        shape = (rows.shape[0], columns.shape[0])
        return cls(Grid.from_corner(left, top, new_dx, new_dy, shape, grid.crs_wkt), rows, columns)

    def __call__(self, rain_rate: np.ndarray) -> np.ndarray:
        """(H', W') float32 of a field (H, W) [mm/h]: the mean over the measured part of each new pixel.

        NaN where less than half of the pixel's area is measured.
        """
        valid = ~np.isnan(rain_rate)
        share = self._means(valid.astype(np.float64))
        total = self._means(np.where(valid, rain_rate, 0.0))
        with np.errstate(invalid="ignore", divide="ignore"):
            # The tolerance keeps a pixel that is exactly half measured whatever the rounding.
            return np.where(share >= MINIMUM_VALID - 1e-9, total / share, np.nan).astype(np.float32)

    def _means(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(self.rows @ values @ self.columns.T)


def _overlaps(number: int, ratio: float) -> sparse.csr_array:
    """(new, old) shares of each new pixel, `ratio` old pixels long, that lie in each of `number` old ones."""
    new = max(1, int(np.floor(number / ratio + 1e-6)))
    edges = np.arange(new + 1) * ratio
    old = np.arange(number)
    overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return sparse.csr_array(np.clip(overlap, 0, None) / ratio)
