"""Synthetic rain has the statistics of the real rain that it stands for, is the same for the same seed, and says so."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from data_prep.synthetic_rain import PRESETS, synthetic_rain, write_synthetic_archive
from nowcast.data.archive import open_archive
from nowcast.data.units import ZRelation
from nowcast.errors import ConfigError

# Real events (512 km windows): wet share, quantiles 50/90/99/99.9 of wet rates, spectral slopes 20-128 and 4-20 km.
REAL = {
    "stratiform": (0.42, (0.69, 2.1, 5.3, 13.0), (-2.3, -2.7)),
    "convective": (0.15, (1.6, 6.8, 25.0, 54.0), (-2.8, -4.0)),
    "mixed": (0.19, (1.1, 4.6, 16.0, 46.0), (-2.5, -3.7)),
}
# Lagrangian correlation of stratiform rain, by scale [km], at 5, 15 and 30 minutes.
REAL_CORRELATION = {
    145: (0.99, 0.96, 0.87),
    65: (0.99, 0.89, 0.71),
    30: (0.95, 0.73, 0.46),
    13: (0.86, 0.53, 0.20),
    6: (0.64, 0.22, 0.03),
}


def decibel(rain_rate: np.ndarray) -> np.ndarray:
    return np.where(rain_rate >= 0.1, 10 * np.log10(np.maximum(rain_rate, 0.1)), -15.0)


def spectral_slope(rain_rate: np.ndarray, longest: float, shortest: float) -> float:
    """Slope of the ring-mean power of dB rain between two wavelengths in pixels."""
    size = rain_rate.shape[-1]
    power = np.mean(np.abs(np.fft.fft2(decibel(rain_rate))) ** 2, axis=0)
    number = np.rint(np.hypot(*np.meshgrid(*[np.fft.fftfreq(size, 1 / size)] * 2, indexing="ij"))).astype(int)
    ring = np.bincount(number.ravel(), power.ravel()) / np.bincount(number.ravel())
    used = np.arange(int(np.ceil(size / longest)), int(size / shortest) + 1)
    return float(np.polyfit(np.log(used), np.log(ring[used]), 1)[0])


def band(fields: np.ndarray, scale: float) -> np.ndarray:
    """Fields of dB rain filtered to a band of wavelengths about `scale` pixels."""
    size = fields.shape[-1]
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    weight = np.exp(-0.5 * (np.log(np.maximum(frequency, 1e-9) * scale) / 0.35) ** 2)
    return np.fft.irfft2(np.fft.rfft2(decibel(fields)) * weight, s=fields.shape[1:])


@pytest.fixture(scope="module")
def still_rain() -> np.ndarray:
    """Stratiform rain without motion: what changes, changes in the moving frame."""
    return synthetic_rain(16, (512, 512), seed=3, preset="stratiform", speed_km_h=(0.0, 0.0), range_km=np.inf)


def test_the_same_seed_gives_the_same_rain_and_another_seed_other_rain() -> None:
    first, again = (synthetic_rain(4, (40, 48), seed=7) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(np.nan_to_num(first), np.nan_to_num(synthetic_rain(4, (40, 48), seed=8)))
    assert first.dtype == np.float32 and first.shape == (4, 40, 48)


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_wet_share_rates_and_slopes_are_those_of_real_rain(preset: str) -> None:
    wet_share, quantiles, slopes = REAL[preset]
    rain_rate = synthetic_rain(16, (512, 512), seed=1, preset=preset, range_km=np.inf)
    wet = rain_rate[rain_rate >= 0.1]
    assert wet.size / rain_rate.size == pytest.approx(wet_share, abs=0.03)
    # `mixed` stands for no single event and spreads its rates wider; 50 % is less than real events differ by.
    np.testing.assert_allclose(np.quantile(wet, [0.5, 0.9, 0.99, 0.999]), quantiles, rtol=0.5)
    if preset != "mixed":
        np.testing.assert_allclose(np.quantile(wet, [0.5, 0.9, 0.99]), quantiles[:3], rtol=0.25)
    # Cut at the dry edge, the field cannot fall off as steeply at small scales as summer storms do.
    assert spectral_slope(rain_rate, 128, 20) == pytest.approx(slopes[0], abs=0.4)
    assert spectral_slope(rain_rate, 20, 4) == pytest.approx(slopes[1], abs=1.2)
    assert wet.max() <= 150.0


def test_each_scale_lives_as_long_as_in_real_rain(still_rain: np.ndarray) -> None:
    for scale, expected in REAL_CORRELATION.items():
        filtered = band(still_rain, scale)
        for lag, wanted in zip((1, 3, 6), expected, strict=True):
            pairs = [(filtered[i].ravel(), filtered[i + lag].ravel()) for i in range(0, 16 - lag, 3)]
            found = np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs])
            # The law of life times is a fit to within some .05, and sixteen frames sample the largest scale poorly.
            assert found == pytest.approx(wanted, abs=0.09), (scale, lag)


def test_rain_moves_at_the_speed_asked_for() -> None:
    rain_rate = synthetic_rain(12, (160, 160), seed=2, speed_km_h=(42.0, 42.0), range_km=np.inf)
    fields = decibel(rain_rate) - decibel(rain_rate).mean()
    speeds = []
    for before, after in itertools.pairwise(fields):
        surface = np.fft.irfft2(np.fft.rfft2(after) * np.conj(np.fft.rfft2(before)))
        row, column = np.unravel_index(np.argmax(surface), surface.shape)
        row, column = ((row + 80) % 160 - 80, (column + 80) % 160 - 80)
        speeds.append(np.hypot(row, column) * 12)
    # The deformation of the flow, the window's edge and whole pixels leave some 8 km/h.
    assert np.mean(speeds) == pytest.approx(42.0, abs=8.0)


def test_rates_fall_on_steps_of_half_a_decibel(still_rain: np.ndarray) -> None:
    wet = still_rain[still_rain > 0]
    steps = ZRelation(223.0, 1.53).reflectivity(wet.astype(np.float64)) / 0.5
    # float32 keeps seven digits of the rate.
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    assert wet.min() >= 0.1


def test_nothing_is_known_out_of_range() -> None:
    rain_rate = synthetic_rain(3, (40, 60), seed=1, pixel_km=2.0, range_km=30.0)
    rows, columns = (np.arange(40) - 19.5) * 2, (np.arange(60) - 29.5) * 2
    outside = np.hypot(rows[:, None], columns[None]) > 30.0
    assert np.isnan(rain_rate[:, outside]).all()
    assert np.isfinite(rain_rate[:, ~outside]).all()


def test_dropped_frames_are_missing_and_leave_the_others_as_they_are() -> None:
    whole = synthetic_rain(40, (24, 24), seed=5)
    gappy = synthetic_rain(40, (24, 24), seed=5, dropped_share=0.3)
    missing = np.isnan(gappy).all(axis=(1, 2))
    assert 4 <= missing.sum() <= 20
    np.testing.assert_array_equal(gappy[~missing], whole[~missing])


def test_speckle_comes_only_on_request_and_only_adds() -> None:
    clean = synthetic_rain(10, (64, 64), seed=5, range_km=np.inf)
    speckled = synthetic_rain(10, (64, 64), seed=5, range_km=np.inf, speckle_share=0.02)
    changed = speckled != clean
    assert (speckled >= clean).all()
    # Speckle weaker than the rain beneath does not show.
    assert 0.012 < changed.mean() <= 0.021


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "monsoon"}, "stratiform, convective, mixed"),
        ({"num_frames": 0}, "0 frames"),
        ({"dropped_share": 1.0}, "dropped share"),
        ({"speckle_share": -0.1}, "speckle share"),
        ({"speed_km_h": (50.0, 30.0)}, "speeds must rise"),
        ({"step_minutes": 0.0}, "step and pixel"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        synthetic_rain(**({"num_frames": 2, "shape": (16, 16), "seed": 1} | arguments))  # type: ignore[arg-type]


def test_the_archive_is_labelled_synthetic_and_lacks_the_dropped_frames(tmp_path) -> None:
    path = write_synthetic_archive(tmp_path / "rain.zarr", 30, (32, 48), seed=4, dropped_share=0.2, pixel_km=2.0)
    archive = open_archive(path)
    direct = synthetic_rain(30, (32, 48), seed=4, dropped_share=0.2, pixel_km=2.0)
    assert archive.is_synthetic
    assert archive.grid.shape == (32, 48) and archive.grid.pixel_size_km == pytest.approx((2.0, 2.0))
    assert 0 < (~archive.present).sum() < 15
    np.testing.assert_array_equal(archive.rain_rate(0, 30), direct)
