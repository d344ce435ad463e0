"""The part of a file's grid that is wanted: crop, then coarsen by blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyproj

from data_prep.readers.options import BoundingBox, PixelWindow, ReadOptions
from data_prep.readers.source import Source
from nowcast.data.grid import Grid


@dataclass(frozen=True)
class Selection:
    """Rows and columns of the file's grid (north first), the side of a block, and the grid that results."""

    rows: slice
    columns: slice
    block: int
    grid: Grid

    def cut(self, field: np.ndarray) -> np.ndarray:
        """The window of a field on the file's grid."""
        return field[self.rows, self.columns]

    def coarse(self, window: np.ndarray) -> np.ndarray:
        """Means of blocks of a window, float32; NaN where less than half of a block is measured."""
        if self.block == 1:
            return np.asarray(window, dtype=np.float32)
        rows, columns = self.grid.shape
        # Strip by strip: a whole continent in float64 would be several times the frame itself.
        coarse = np.empty(self.grid.shape, dtype=np.float32)
        for row in range(rows):
            strip = window[row * self.block : (row + 1) * self.block].reshape(self.block, columns, self.block)
            measured = ~np.isnan(strip)
            count = measured.sum(axis=(0, 2))
            total = np.where(measured, strip, 0.0).sum(axis=(0, 2), dtype=np.float64)
            with np.errstate(invalid="ignore", divide="ignore"):
                coarse[row] = np.where(2 * count >= self.block**2, total / count, np.nan)
        return coarse


def select(grid: Grid, options: ReadOptions, source: Source) -> Selection:
    """What `options` want of a grid.

    Raises:
        DataError: The window lies outside the grid, or is smaller than two blocks a side.
    """
    rows, columns = _window(grid, options, source)
    block = options.coarsen
    height, width = (rows[1] - rows[0]) // block, (columns[1] - columns[0]) // block
    if height < 2 or width < 2:
        raise source.error(
            f"the wanted window of {rows[1] - rows[0]}x{columns[1] - columns[0]} pixels in blocks of {block} "
            "leaves less than 2x2 pixels",
            "widen crop, or lower coarsen (--crop, --crop-pixels, --coarsen)",
        )
    row_slice, column_slice = slice(rows[0], rows[0] + height * block), slice(columns[0], columns[0] + width * block)
    if (height, width) == grid.shape:
        return Selection(row_slice, column_slice, block, grid)
    cropped = grid.crop(row_slice, column_slice)
    if block > 1:
        x = cropped.x.reshape(width, block).mean(axis=1)
        y = cropped.y.reshape(height, block).mean(axis=1)
        cropped = Grid(x, y, grid.crs_wkt)
    return Selection(row_slice, column_slice, block, cropped)


def _window(grid: Grid, options: ReadOptions, source: Source) -> tuple[tuple[int, int], tuple[int, int]]:
    rows, columns = grid.shape
    if options.crop is None:
        return (0, rows), (0, columns)
    if isinstance(options.crop, PixelWindow):
        if options.crop.rows[1] > rows or options.crop.columns[1] > columns:
            raise source.error(
                f"the wanted rows {options.crop.rows} and columns {options.crop.columns} "
                f"reach beyond its grid of {rows}x{columns} pixels"
            )
        return options.crop.rows, options.crop.columns
    x, y = _outline(grid, options.crop)
    dy, dx = grid.spacing
    if x.size:
        # A pixel that the box only touches is not in it.
        reach = 0.5 - 1e-6
        first_column = max(0, int(np.ceil((x.min() - grid.x[0]) / dx - reach)))
        last_column = min(columns - 1, int(np.floor((x.max() - grid.x[0]) / dx + reach)))
        first_row = max(0, int(np.ceil((grid.y[0] - y.max()) / dy - reach)))
        last_row = min(rows - 1, int(np.floor((grid.y[0] - y.min()) / dy + reach)))
        if first_column <= last_column and first_row <= last_row:
            return (first_row, last_row + 1), (first_column, last_column + 1)
    box = options.crop
    raise source.error(
        f"the wanted box from {box.south:g} to {box.north:g} N and {box.west:g} to {box.east:g} E "
        f"lies outside its grid, which reaches {_extent(grid)}",
        "the order is south, west, north, east (--crop)",
    )


def _extent(grid: Grid) -> str:
    """The corners of a grid in degrees, for people."""
    x, y = grid.x[[0, -1, 0, -1]], grid.y[[0, 0, -1, -1]]
    if not grid.is_geographic:
        to_degrees = pyproj.Transformer.from_crs(grid.crs, grid.crs.geodetic_crs or "EPSG:4326", always_xy=True)
        x, y = to_degrees.transform(x, y)
    return f"from {np.min(y):.1f} to {np.max(y):.1f} N and {np.min(x):.1f} to {np.max(x):.1f} E"


def _outline(grid: Grid, box: BoundingBox) -> tuple[np.ndarray, np.ndarray]:
    """x and y of points within and on the box, as far as the projection shows them."""
    latitude = np.linspace(box.south, box.north, 65)
    longitude = np.linspace(box.west, box.east, 65)
    if grid.is_geographic:
        # The axis may run from 0 to 360, the box from -180 to 180.
        turn = 360.0 * np.round((grid.x.mean() - longitude.mean()) / 360.0)
        return longitude + turn, latitude
    longitudes, latitudes = np.meshgrid(longitude, latitude)
    to_grid = pyproj.Transformer.from_crs(grid.crs.geodetic_crs or "EPSG:4326", grid.crs, always_xy=True)
    x, y = to_grid.transform(longitudes.ravel(), latitudes.ravel())
    seen = np.isfinite(x) & np.isfinite(y)
    return np.asarray(x)[seen], np.asarray(y)[seen]
