"""Extrapolation carries rain on at the speed it has; it beats persistence as soon as rain moves."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.synthetic_rain import synthetic_rain
from nowcast.errors import DataError
from nowcast.prediction import baseline
from nowcast.prediction.extrapolation import Extrapolation
from nowcast.prediction.persistence import Persistence


def blob(row: float, column: float, size: int = 96) -> np.ndarray:
    y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    return (10 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 50)).astype(np.float32)


def hit_rate(forecast: np.ndarray, observed: np.ndarray, threshold: float) -> float:
    """Critical success index where both are known."""
    known = np.isfinite(forecast) & np.isfinite(observed)
    forecast_event, event = forecast[known] >= threshold, observed[known] >= threshold
    return float(np.sum(forecast_event & event) / np.sum(forecast_event | event))


def test_a_blob_at_known_speed_arrives_where_it_should() -> None:
    frames = np.stack([blob(30 + 1.5 * k, 20 + 2.5 * k) for k in range(3)])
    forecast = Extrapolation().forecast_frames(frames, 10)
    for lead in (1, 5, 10):
        expected = blob(33 + 1.5 * lead, 25 + 2.5 * lead)
        known = ~np.isnan(forecast[lead - 1])
        # Half a pixel of the way after ten steps.
        np.testing.assert_allclose(forecast[lead - 1][known], expected[known], atol=0.8)


def test_missing_pixels_stay_unknown_and_dry_ones_dry() -> None:
    frames = np.zeros((3, 32, 32), dtype=np.float32)
    frames[:, :, :8] = np.nan
    forecast = Extrapolation().forecast_frames(frames, 6)
    np.testing.assert_array_equal(forecast, np.repeat(frames[-1:], 6, axis=0))


def test_only_the_last_three_frames_count() -> None:
    frames = np.stack([blob(30 + k, 40 + 2 * k) for k in range(5)])
    older = frames.copy()
    older[:2] = np.nan
    forecaster = Extrapolation()
    np.testing.assert_array_equal(forecaster.forecast_frames(frames, 3), forecaster.forecast_frames(older, 3))
    assert forecaster.input_frames == 3 and isinstance(baseline("extrapolation"), Extrapolation)


def test_two_frames_are_refused() -> None:
    with pytest.raises(DataError, match="needs 3 frames"):
        Extrapolation().forecast_frames(np.zeros((2, 16, 16)), 3)


def test_it_beats_persistence_on_moving_rain() -> None:
    frames = synthetic_rain(15, (96, 96), seed=2, preset="stratiform", range_km=np.inf)
    scores = {}
    for forecaster in (Persistence(), Extrapolation()):
        forecast = forecaster.forecast_frames(frames[:5], 6)
        scores[forecaster.name] = hit_rate(forecast[5], frames[10], 0.5)
    assert scores["extrapolation"] > scores["persistence"] + 0.1
