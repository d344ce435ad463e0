"""Scale decay: large scales outlive small ones, the rain area stays, and what does not change is not changed."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.synthetic_rain import synthetic_rain
from nowcast.errors import DataError
from nowcast.prediction import baseline, scale_decay
from nowcast.prediction.extrapolation import Extrapolation
from nowcast.prediction.scale_decay import ScaleDecay, _correlations, _decayed, _lead_weights, _matched, _octaves


@pytest.fixture
def without_motion(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested is the decay in the moving frame, not where it goes."""
    monkeypatch.setattr(scale_decay, "estimate_motion", lambda frames: np.zeros((2, *frames.shape[1:])))


def test_the_weights_of_an_ar2_process_are_those_of_its_recursion() -> None:
    phi1, phi2 = 1.2, -0.3
    first = phi1 / (1 - phi2)
    second = phi1 * first + phi2
    weights = _lead_weights(np.array([first]), np.array([second]), 5)[..., 0]
    last, before = 0.7, -0.3
    series = [before, last]
    for _ in range(5):
        series.append(phi1 * series[-1] + phi2 * series[-2])
    np.testing.assert_allclose(weights @ [last, before], series[2:], rtol=1e-6)


@pytest.mark.parametrize(
    ("first", "second"), [(0.9, 0.5), (0.99, 1.0), (1.0, 1.0), (-0.3, 0.2), (0.2, 0.9), (0.0, 0.0)]
)
def test_no_correlation_makes_a_scale_grow(first: float, second: float) -> None:
    weights = _lead_weights(np.array([first]), np.array([second]), 200)
    assert np.isfinite(weights).all()
    # Two equal fields stay or fade; they are never amplified.
    assert np.abs(weights.sum(axis=1)).max() <= 1.0 + 1e-3


def test_octaves_add_up_to_the_whole() -> None:
    np.testing.assert_allclose(_octaves((48, 60)).sum(axis=0), 1.0, rtol=1e-6)


def test_the_correlation_of_an_octave_is_that_of_its_wave() -> None:
    x = np.arange(64)
    fast, slow = np.cos(2 * np.pi * 8 * x / 64), np.cos(2 * np.pi * 1 * x / 64)
    quarter = np.cos(2 * np.pi * 8 * x / 64 + np.pi / 3)
    fields = np.stack([np.broadcast_to(slow + part, (64, 64)) for part in (fast, quarter)])
    correlation = _correlations(np.fft.rfft2(fields), _octaves((64, 64)), (64, 64), 1)
    # Octave k holds wave number 2^k: the slow wave stands still, the fast one turned its phase by 60 degrees.
    assert correlation[0] == pytest.approx(1.0, abs=1e-6)
    assert correlation[3] == pytest.approx(0.5, abs=1e-6)


def test_a_scale_that_lives_outlives_one_that_does_not() -> None:
    rng = np.random.default_rng(0)
    x = np.arange(64)
    wave = np.broadcast_to(10 * np.cos(2 * np.pi * x / 64), (64, 64))
    frames = np.stack([wave + 3 * rng.standard_normal((64, 64)) for _ in range(3)])
    decayed = _decayed(frames, 6)[-1]
    noise_left = decayed - decayed.mean(axis=0)
    assert decayed.std() > 0.9 * wave.std()
    assert noise_left.std() < 0.5


def test_matching_keeps_ranks_and_gives_the_rates_of_the_last_frame() -> None:
    rng = np.random.default_rng(1)
    field, rates = rng.standard_normal(500), np.where(rng.random(500) < 0.3, rng.gamma(1.0, 3.0, 500) + 0.1, 0.0)
    matched = _matched(field.astype(np.float32), rates.astype(np.float32))
    np.testing.assert_allclose(np.sort(matched), np.sort(rates), rtol=1e-5)
    assert (np.diff(matched[np.argsort(field)]) >= 0).all()


def test_still_rain_is_kept() -> None:
    frames = np.repeat(synthetic_rain(1, (64, 64), seed=3, preset="stratiform"), 3, axis=0)
    forecast = ScaleDecay().forecast_frames(frames, 12)
    known = ~np.isnan(frames[-1])
    np.testing.assert_allclose(forecast[-1][known], frames[-1][known], rtol=0.02, atol=0.15)


def test_the_wet_area_of_the_last_frame_is_kept_while_it_smooths(without_motion: None) -> None:
    frames = synthetic_rain(3, (96, 96), seed=2, preset="stratiform", speed_km_h=(0, 0), range_km=np.inf)
    forecast = ScaleDecay().forecast_frames(frames, 12)
    wet_share = np.nanmean(forecast >= 0.1, axis=(1, 2))
    # Interpolated between the values at the dry edge, a pixel or two may tip over.
    np.testing.assert_allclose(wet_share, np.mean(frames[-1] >= 0.1), atol=0.01)
    roughness = [np.nanmean(np.abs(np.diff(np.log10(np.maximum(field, 0.05)), axis=1))) for field in forecast]
    assert roughness[11] < 0.8 * roughness[0]


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_dry_and_missing_frames_stay_so(value: float) -> None:
    forecast = ScaleDecay().forecast_frames(np.full((3, 40, 40), value), 4)
    np.testing.assert_array_equal(forecast, np.full((4, 40, 40), value))


def test_what_is_missing_never_becomes_dry(without_motion: None) -> None:
    frames = synthetic_rain(3, (64, 64), seed=5, preset="stratiform", speed_km_h=(0, 0), range_km=np.inf)
    frames[:, :, :16] = np.nan
    forecast = ScaleDecay().forecast_frames(frames, 6)
    assert np.isnan(forecast[:, :, :16]).all()
    assert np.isfinite(forecast[:, :, 16:]).all()


def test_it_is_found_by_its_name_and_refuses_two_frames() -> None:
    forecaster = baseline("scale-decay")
    assert isinstance(forecaster, ScaleDecay) and forecaster.input_frames == 3
    with pytest.raises(DataError, match="needs 3 frames"):
        forecaster.forecast_frames(np.zeros((2, 16, 16)), 3)


def test_it_beats_extrapolation_an_hour_ahead() -> None:
    totals = dict.fromkeys(("extrapolation", "scale-decay"), 0.0)
    for seed in range(4):
        frames = synthetic_rain(15, (128, 128), seed=seed, preset="stratiform", range_km=np.inf)
        for forecaster in (Extrapolation(), ScaleDecay()):
            forecast = forecaster.forecast_frames(frames[:3], 12)[-1]
            known = ~np.isnan(forecast)
            event, observed = forecast[known] >= 0.1, frames[-1][known] >= 0.1
            totals[forecaster.name] += np.sum(event & observed) / np.sum(event | observed) / 4
    assert totals["scale-decay"] > totals["extrapolation"]
