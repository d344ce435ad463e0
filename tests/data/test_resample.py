"""Resampling by area keeps what fell, and knows missing from dry."""

from __future__ import annotations

import numpy as np
import pytest

from nowcast.data.grid import Grid
from nowcast.data.resample import Resampler

GRID = Grid.from_corner(100.0, 900.0, 500.0, 500.0, (8, 6), "EPSG:3035")


def test_whole_multiples_are_block_means_on_the_same_area() -> None:
    field = np.random.default_rng(0).random((8, 6)).astype(np.float32)
    resample = Resampler.to_pixel_size(GRID, (1.0, 1.0))
    np.testing.assert_allclose(resample(field), field.reshape(4, 2, 3, 2).mean(axis=(1, 3)), rtol=1e-6)
    assert resample.grid.pixel_size_km == pytest.approx((1.0, 1.0))
    assert resample.grid.x[0] - 500.0 == GRID.x[0] - 250.0 and resample.grid.y[0] + 500.0 == GRID.y[0] + 250.0


@pytest.mark.parametrize("size", [0.75, 0.25, 1.5])
def test_the_rain_that_fell_is_kept_at_any_ratio(size: float) -> None:
    field = np.random.default_rng(1).random((12, 12))
    grid = Grid.from_corner(0.0, 0.0, 500.0, 500.0, (12, 12), "EPSG:3035")
    coarse = Resampler.to_pixel_size(grid, (size, size))(field)
    assert coarse.sum() * size**2 == pytest.approx(field.sum() * 0.25, rel=1e-5)


def test_missing_pixels_are_left_out_of_the_mean_and_half_is_enough() -> None:
    field = np.ones((8, 6), dtype=np.float32)
    field[0, :2] = np.nan  # half of the first new pixel
    field[2:4, :2] = np.nan  # all of one
    field[4, :2] = field[5, 0] = np.nan  # three quarters of one
    coarse = Resampler.to_pixel_size(GRID, (1.0, 1.0))(field)
    assert coarse[0, 0] == 1.0
    assert np.isnan(coarse[1, 0]) and np.isnan(coarse[2, 0])
    assert np.isfinite(coarse[:, 1:]).all()
