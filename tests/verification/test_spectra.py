"""Spectra of fields whose power is known by construction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from nowcast.verification.spectra import SpectrumSums, band_power_ratio, decibels, spectrum, spectrum_sums


def wave(rows: int, columns: int, periods_y: int, periods_x: int, amplitude_db: float = 6.0) -> np.ndarray:
    """Rain [mm/h] whose dBR is a plane wave about 10 dBR."""
    y, x = np.mgrid[:rows, :columns]
    return 10 ** ((10 + amplitude_db * np.cos(2 * np.pi * (periods_y * y / rows + periods_x * x / columns))) / 10)


def rough_rain(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), (*[0] * (len(shape) - 2), 1.5, 1.5))
    return np.where(noise > 0.1, 12 * noise, 0.0)


@pytest.mark.parametrize(
    ("rows", "columns", "py", "px"), [(64, 64, 0, 8), (64, 48, 6, 0), (63, 51, 3, 4), (64, 64, 6, 8)]
)
def test_a_plane_wave_has_all_its_power_in_its_ring(rows, columns, py, px):
    field = wave(rows, columns, py, px)
    sums = spectrum_sums(field, 2 * field)
    ring = round(np.hypot(py / rows, px / columns) * max(rows, columns))
    # The mean square of a cosine of amplitude 6 dB is 18; a factor of 2 moves the mean alone.
    assert sums.forecast_power[ring] == pytest.approx(18.0, rel=1e-9)
    assert sums.forecast_power.sum() == pytest.approx(18.0, rel=1e-9)
    np.testing.assert_allclose(sums.forecast_power, sums.observed_power, atol=1e-9)


def test_total_power_is_the_variance_of_the_decibels():
    field = rough_rain((50, 71))
    sums = spectrum_sums(field, field)
    assert sums.forecast_power.sum() == pytest.approx(np.var(decibels(field)), rel=1e-12)
    assert sums.coefficients.sum() == 50 * 71 and sums.forecast_power[0] == pytest.approx(0, abs=1e-20)


def test_white_noise_has_the_same_mean_power_at_all_wavelengths():
    field = 10 ** (np.random.default_rng(1).normal(10, 3, (20, 64, 64)) / 10)
    curve = spectrum(spectrum_sums(field, field).pool(), pixel_km=2.0)
    # 20 frames times at least 8 coefficients a ring: a relative standard error of at most 0.11.
    np.testing.assert_allclose(curve.forecast, 9 / 64**2, rtol=0.4)
    assert np.mean(curve.forecast) == pytest.approx(9 / 64**2, rel=0.03)
    assert curve.wavelength_km[0] == 128.0 and curve.wavelength_km[-1] == 4.0


def test_smoothing_takes_the_power_of_the_short_waves_and_keeps_the_long_ones():
    observed = rough_rain((3, 128, 128))
    smooth = 10 ** (gaussian_filter(decibels(observed), (0, 2, 2), mode="wrap") / 10)
    ratio = band_power_ratio(spectrum_sums(smooth, observed).pool(), pixel_km=1.0, bands_km=[2, 6, 16, 64, 200])
    assert np.all(np.diff(ratio) > 0) and ratio[0] < 0.1 and ratio[-1] > 0.85
    assert np.all(band_power_ratio(spectrum_sums(observed, observed), pixel_km=1.0, bands_km=[2, 8, 32]) == 1)


def test_missing_pixels_are_missing_in_both_and_add_no_power():
    observed = rough_rain((64, 64))
    forecast = observed.copy()
    forecast[:10], observed = np.nan, observed.copy()
    observed[:, :5] = np.nan
    sums = spectrum_sums(forecast, observed)
    assert np.array_equal(sums.forecast_power, sums.observed_power)
    other = np.where(np.isnan(forecast), 77.0, observed)
    assert np.array_equal(spectrum_sums(forecast, other).observed_power, sums.observed_power)
    constant = np.full((64, 64), 3.0)
    constant[20:40, 20:40] = np.nan
    assert spectrum_sums(constant, constant).forecast_power.sum() == pytest.approx(0, abs=1e-20)


def test_a_frame_with_too_few_valid_pixels_does_not_count():
    field = rough_rain((2, 32, 32))
    field[1, :20] = np.nan
    sums = spectrum_sums(field, field)
    assert sums.frames.tolist() == [1, 0] and sums.coefficients[1].sum() == 0
    assert spectrum_sums(field, field, min_valid_share=0.3).frames.tolist() == [1, 1]
    assert np.isnan(spectrum(sums[1:].pool(), pixel_km=1.0).forecast).all()


def test_dry_frames_have_no_power_and_an_undefined_ratio():
    dry = np.zeros((32, 32))
    assert np.isnan(band_power_ratio(spectrum_sums(dry, dry), pixel_km=1.0, bands_km=[2, 32])).all()
    assert decibels(np.array([0.0, 0.0999, 0.1, 10.0])).tolist() == [-15, -15, -10, 10]


def test_leads_stay_apart_and_cases_pool_in_any_order():
    f, o = rough_rain((4, 3, 32, 32)), rough_rain((4, 3, 32, 32), 1)
    whole = spectrum_sums(f, o)
    parts = SpectrumSums.concatenate([spectrum_sums(f[2:], o[2:]), spectrum_sums(f[:2], o[:2])])
    assert np.array_equal(whole.pool(0).forecast_power, parts.pool(0).forecast_power)
    assert whole.pool(0).frames.tolist() == [4, 4, 4]


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_pysteps_has_the_same_radial_average():
    rapsd = pytest.importorskip("pysteps.utils.spectral").rapsd
    field = rough_rain((64, 64))
    curve = spectrum(spectrum_sums(field, field), pixel_km=1.0)
    theirs = rapsd(decibels(field) - decibels(field).mean(), fft_method=np.fft)
    # The same rings, normed by the pixels once and not twice.
    np.testing.assert_allclose(theirs[1:32], curve.forecast[:31] * 64**2, rtol=1e-10)
