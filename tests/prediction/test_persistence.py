"""Persistence keeps the last frame, missing pixels and all."""

from __future__ import annotations

import numpy as np
import pytest

from nowcast.errors import DataError
from nowcast.prediction import baseline
from nowcast.prediction.persistence import Persistence


def test_the_last_frame_stays_and_nan_stays_nan() -> None:
    frames = np.arange(24.0).reshape(2, 3, 4)
    frames[1, 0, 0] = np.nan
    forecast = Persistence().forecast_frames(frames, 5)
    assert forecast.shape == (5, 3, 4) and forecast.dtype == np.float32
    for lead in forecast:
        np.testing.assert_array_equal(lead, frames[1])


def test_it_is_found_by_its_name() -> None:
    assert isinstance(baseline("persistence"), Persistence)
    assert baseline("perseverance") is None


def test_no_frame_is_refused() -> None:
    with pytest.raises(DataError, match="needs 1 frames"):
        Persistence().forecast_frames(np.zeros((0, 4, 4)), 3)
