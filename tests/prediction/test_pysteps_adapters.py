"""pySTEPS behind our interface: found by name, silent, in mm/h with rows first, and asked for by name where absent."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from scipy import ndimage

from nowcast.data.grid import Grid
from nowcast.data.motion import estimate_motion
from nowcast.errors import MismatchError, MissingPackageError
from nowcast.prediction import BASELINES, baseline
from nowcast.prediction.extrapolation import Extrapolation
from nowcast.prediction.pysteps_adapters import PystepsLucasKanade, PystepsSprog, PystepsSteps, lucas_kanade

# What pySTEPS warns of is not ours to fail on.
pytestmark = pytest.mark.filterwarnings("default")


def moving_rain(velocity: tuple[float, float] = (2.0, -3.0), size: int = 96) -> np.ndarray:
    """Three frames of showers [mm/h] that move by `velocity` (rows, columns), with a missing corner."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((3 * size, 3 * size)), 4.0)
    field = np.where(noise > 0.3 * noise.std(), 0.5 * np.exp(1.2 * noise / noise.std()), 0.0)
    frames = [ndimage.shift(field, (k * velocity[0], k * velocity[1]), order=1) for k in range(3)]
    frames = np.stack(frames)[:, size:-size, size:-size].copy()
    frames[:, :12, :12] = np.nan
    return frames


def test_without_pysteps_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("pysteps-lk", "pysteps-sprog", "pysteps-steps"):
        assert name in BASELINES
        with pytest.raises(MissingPackageError, match=r"nowcast-pipeline\[pysteps\]"):
            baseline(name)


def test_without_opencv_the_lucas_kanade_motion_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "cv2" else found("numpy" if "." not in name else name)
    )
    with pytest.raises(MissingPackageError, match="opencv"):
        PystepsSprog()
    PystepsSprog(estimate_motion)


@pytest.mark.oracle
def test_rows_and_columns_are_where_they_belong(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pysteps")
    capsys.readouterr()
    frames = moving_rain()
    ours = Extrapolation().forecast_frames(frames, 4)
    theirs = PystepsLucasKanade(estimate_motion).forecast_frames(frames, 4)
    known = ~np.isnan(ours) & ~np.isnan(theirs)
    assert known.mean() > 0.6
    # The same motion, two advections: both bilinear, both by the midpoint, so they differ by rounding and edges.
    assert np.mean(np.abs(ours - theirs)[known]) < 0.01 * np.mean(ours[known])
    assert capsys.readouterr().out == ""


@pytest.mark.oracle
def test_the_lucas_kanade_motion_is_the_true_one_and_ours_agrees() -> None:
    pytest.importorskip("pysteps")
    pytest.importorskip("cv2")
    frames = moving_rain()
    middle = (slice(24, -24), slice(24, -24))
    for estimate in (lucas_kanade, estimate_motion):
        motion = estimate(frames)
        np.testing.assert_allclose(motion[0][middle].mean(), 2.0, atol=0.3)
        np.testing.assert_allclose(motion[1][middle].mean(), -3.0, atol=0.3)


@pytest.mark.oracle
def test_sprog_and_steps_forecast_the_moving_rain(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pysteps")
    capsys.readouterr()
    frames = moving_rain()
    sprog = PystepsSprog(estimate_motion).forecast_frames(frames, 3)
    steps = PystepsSteps(members=2, motion=estimate_motion)
    members = steps.forecast_members(frames, 3)
    assert members.shape == (2, *sprog.shape) and members.dtype == sprog.dtype == np.float32
    np.testing.assert_array_equal(members, steps.forecast_members(frames, 3))
    mean = steps.forecast_frames(frames, 3)
    np.testing.assert_allclose(mean, members.mean(axis=0), rtol=1e-5)
    expected = Extrapolation().forecast_frames(frames, 3)
    for forecast in (sprog, mean):
        known = ~np.isnan(forecast) & ~np.isnan(expected)
        assert known.mean() > 0.5 and np.nanmin(forecast) >= 0
        assert np.corrcoef(np.log(forecast[known] + 0.1), np.log(expected[known] + 0.1))[0, 1] > 0.8
    assert capsys.readouterr().out == ""


@pytest.mark.oracle
def test_dry_and_missing_frames_stay_as_they_are() -> None:
    pytest.importorskip("pysteps")
    frames = np.zeros((3, 32, 32))
    frames[:, :8] = np.nan
    for forecaster in (
        PystepsLucasKanade(estimate_motion),
        PystepsSprog(estimate_motion),
        PystepsSteps(members=2, motion=estimate_motion),
    ):
        np.testing.assert_array_equal(forecaster.forecast_frames(frames, 2), np.repeat(frames[-1:], 2, axis=0))


@pytest.mark.oracle
def test_steps_refuses_data_of_another_scale() -> None:
    pytest.importorskip("pysteps")
    grid = Grid.from_corner(0.0, 0.0, 2000.0, 2000.0, (8, 8), "EPSG:3067")
    steps = PystepsSteps(motion=estimate_motion)
    with pytest.raises(MismatchError, match="pixels of 1 km.*2x2 km"):
        steps.require_fit(grid, np.timedelta64(5, "m"), "the archive")
    PystepsSteps(motion=estimate_motion, pixel_km=2.0).require_fit(grid, np.timedelta64(5, "m"), "the archive")
