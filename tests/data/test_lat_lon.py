"""Latitude and longitude of every pixel, against PROJ pixel by pixel."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest

from nowcast.data.grid import Grid
from nowcast.data.lat_lon import lon_lat_of_pixels

SMOOTH = {
    "Europe": Grid.from_corner(2.5e6, 5.5e6, 15_000, 15_000, (290, 250), "EPSG:3035"),
    "Netherlands": Grid.from_corner(0, -3.65e6, 4000, 4000, (190, 175), "+proj=stere +lat_0=90 +lat_ts=60 +R=6378137"),
    "Switzerland": Grid.from_corner(255_000, 480_000, 4000, 4000, (160, 177), "EPSG:21781"),
}
NOT_SMOOTH = {
    "over the pole": Grid.from_corner(-1e6, 1e6, 10_000, 10_000, (200, 200), "+proj=stere +lat_0=90 +R=6371288"),
    "over 180 E": Grid.from_corner(-5e5, 5e5, 5000, 5000, (200, 200), "+proj=tmerc +lon_0=180 +datum=WGS84"),
    "the whole disk": Grid.from_corner(-5.6e6, 5.6e6, 56_000, 56_000, (200, 200), "+proj=geos +lon_0=0 +h=35785831"),
}


def by_proj(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    transformer = pyproj.Transformer.from_crs(grid.crs, grid.crs.geodetic_crs, always_xy=True)
    longitude, latitude = transformer.transform(*np.meshgrid(grid.x, grid.y))
    return latitude, longitude


@pytest.mark.parametrize("name", SMOOTH)
def test_polynomials_give_what_proj_gives(name: str) -> None:
    grid = SMOOTH[name]
    for found, wanted in zip(grid.lat_lon(), by_proj(grid), strict=True):
        # 1e-10 degrees are a hundredth of a millimetre.
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", NOT_SMOOTH)
def test_where_a_projection_is_not_smooth_proj_is_asked_for_every_pixel(name: str) -> None:
    grid = NOT_SMOOTH[name]
    for found, wanted in zip(grid.lat_lon(), by_proj(grid), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_few_points_are_projected() -> None:
    asked = 0

    def bend(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal asked
        asked += x.size
        return np.sin(x) * y, np.cos(y + x)

    x, y = np.linspace(-1, 2, 300), np.linspace(1, -1, 400)
    first, second = lon_lat_of_pixels(x, y, bend)
    assert asked < 0.03 * x.size * y.size
    np.testing.assert_allclose(first, np.sin(x) * y[:, None], atol=1e-12)
    np.testing.assert_allclose(second, np.cos(x + y[:, None]), atol=1e-12)


def test_degrees_stay_as_they_are() -> None:
    grid = Grid.from_corner(230.0, 55.0, 0.01, 0.01, (300, 400), "EPSG:4326")
    latitude, longitude = grid.lat_lon()
    np.testing.assert_array_equal(longitude[7], grid.x)
    np.testing.assert_array_equal(latitude[:, 9], grid.y)
