"""A small moving shower, as fields and as forecasts of them."""

from __future__ import annotations

import numpy as np

from nowcast.data.forecast import Forecast
from nowcast.data.grid import Grid

START = np.datetime64("2024-05-01T12:00:00", "s")
STEP = np.timedelta64(300, "s")
SHAPE = (40, 50)
GRID = Grid.from_corner(600_000, 250_000, 1000, 1000, SHAPE, "EPSG:21781")


def shower(frames: int, *, speed: float = 1.0) -> np.ndarray:
    """(T, 40, 50) mm/h: a shower of 30 mm/h that moves east by `speed` pixels a frame; the first rows are missing."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    centres = 12 + speed * np.arange(frames)
    distance = (rows - 22.0) ** 2 + (columns - centres[:, None, None]) ** 2
    rain = (30.0 * np.exp(-distance / 40.0)).astype(np.float32)
    rain[rain < 0.05] = 0.0
    rain[:, :3] = np.nan
    return rain


def forecast_of(rain: np.ndarray, model: str, issue: int = 2, **attributes: str) -> Forecast:
    """A forecast of (member, L, H, W) issued at frame `issue` of the archive."""
    leads = np.arange(1, rain.shape[1] + 1) * STEP
    return Forecast(rain[:, None], START + issue * STEP, leads, GRID, model, 5.0, attributes)
