"""A small moving shower, as an archive and as a forecast of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nowcast.data.archive import RadarArchive, open_archive
from nowcast.data.archive_writer import write_archive
from nowcast.data.forecast import Forecast
from tests.report.moving_shower import GRID, START, STEP, forecast_of, shower


@pytest.fixture
def archive(tmp_path: Path) -> RadarArchive:
    """Ten frames, five minutes apart."""
    return open_archive(write_archive(tmp_path / "rain.zarr", shower(10), first_time=START, step=STEP, grid=GRID))


@pytest.fixture
def forecast() -> Forecast:
    """Persistence of the third frame over six lead times: the shower stands still."""
    return forecast_of(np.repeat(shower(10)[2:3], 6, axis=0)[None], "persistence")
