"""In the moving frame rain that only moves stands still, and goes back to where it will be."""

from __future__ import annotations

import numpy as np
import pytest

from nowcast.data.motion import advect, estimate_motion
from nowcast.models.moving_frame import future_into_moving_frame, into_moving_frame

PAST, LEADS, SIDE = 4, 5, 96
VELOCITY = (1.5, -2.0)  # pixels per step, rows then columns


def blobs(step: float) -> np.ndarray:
    """A field of soft blobs that has moved `step` steps."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    rng = np.random.default_rng(5)
    field = np.zeros((SIDE, SIDE))
    for row, column, size in zip(rng.uniform(20, 76, 9), rng.uniform(20, 76, 9), rng.uniform(4, 8, 9), strict=True):
        away = (y - row - VELOCITY[0] * step) ** 2 + (x - column - VELOCITY[1] * step) ** 2
        field += 8 * np.exp(-away / (2 * size**2))
    return np.where(field < 0.1, 0, field).astype(np.float32)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.stack([blobs(step) for step in range(-PAST + 1, LEADS + 1)])


def inner_error(seen: np.ndarray, wanted: np.ndarray) -> float:
    """Root mean square difference of the inner pixels as a share of the field's own."""
    inner = (..., slice(16, -16), slice(16, -16))
    difference = seen[inner] - np.broadcast_to(wanted, seen.shape)[inner]
    return float(np.sqrt(np.nanmean(difference**2)) / np.sqrt(np.mean(wanted[16:-16, 16:-16] ** 2)))


def test_past_and_future_stand_still_where_the_last_frame_is(frames: np.ndarray) -> None:
    now = frames[PAST - 1]
    motion = estimate_motion(frames[:PAST])
    past = into_moving_frame(frames[:PAST], motion)
    future = future_into_moving_frame(frames[PAST:], motion)
    np.testing.assert_array_equal(past[-1], now)
    # Without moving the frames differ by more than half of the field; what is left is the motion's own error.
    assert inner_error(past[0], now) < 0.12 < 0.4 < inner_error(frames[0], now)
    assert inner_error(future[-1], now) < 0.2 < 0.5 < inner_error(frames[-1], now)


def test_a_forecast_of_no_change_comes_out_where_the_rain_will_be(frames: np.ndarray) -> None:
    motion = estimate_motion(frames[:PAST])
    assert inner_error(advect(frames[PAST - 1], motion, LEADS)[-1], frames[-1]) < 0.2


def test_what_comes_from_outside_is_missing_not_dry(frames: np.ndarray) -> None:
    motion = estimate_motion(frames[:PAST])
    past = into_moving_frame(frames[:PAST], motion)
    assert np.isnan(past[0]).any() and not np.isnan(past[-1]).any()
    assert np.isnan(advect(frames[PAST - 1], motion, LEADS)[-1]).any()
