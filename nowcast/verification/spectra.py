"""Radially averaged power spectra of rain in decibels, model against observed: does a forecast keep its small scales?

A forecast can have a high CSI and no power below 30 km; the ratio by wavelength band shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from nowcast.verification.sums import Sums, paired_fields, ratio

DRY_BELOW_MM_H = 0.1
DRY_DBR = -15.0
BANDS_KM = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
MIN_VALID_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class SpectrumSums(Sums):
    """Sums of spectral power by ring of wavenumber, (..., wavenumber), and the frames behind them.

    Attributes:
        frames: Frames with enough valid pixels, int64, of shape (...).
        forecast_power, observed_power: Total power [dB^2] of each ring: all rings together give the variance of dBR
            over the frame.
        coefficients: Fourier coefficients in each ring times frames, int64.
        frequencies: Centre of each ring [cycles per pixel].
    """

    frames: np.ndarray
    forecast_power: np.ndarray
    observed_power: np.ndarray
    coefficients: np.ndarray
    frequencies: np.ndarray

    LABELS: ClassVar[tuple[str, ...]] = ("frequencies",)
    TRAILING: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(
        ("forecast_power", "observed_power", "coefficients"), ("wavenumber",)
    )


def decibels(rain_rate_mm_h: np.ndarray) -> np.ndarray:
    """Rain rate in dBR, 10 log10(R), in float64; below 0.1 mm/h -15 dBR, as in pySTEPS. NaN stays NaN."""
    rain = np.asarray(rain_rate_mm_h, dtype=np.float64)
    dry = rain < DRY_BELOW_MM_H
    return np.where(dry, DRY_DBR, 10.0 * np.log10(np.where(dry, 1.0, rain)))


def spectrum_sums(
    forecast: np.ndarray, observed: np.ndarray, *, min_valid_share: float = MIN_VALID_SHARE
) -> SpectrumSums:
    """Power of dBR by ring of wavenumber, frame by frame.

    Missing pixels: where either field is NaN, both take the mean of their valid pixels, so that neither has power
    there and both spectra have the same support. The edge of the mask leaks a little power into both alike, so read the
    ratio of the two rather than either; frames with fewer valid pixels than `min_valid_share` are left out. No taper.

    Args:
        forecast: (..., y, x) [mm/h]; NaN is missing.
        observed: The same shape.
        min_valid_share: Least share of valid pixels of a frame that counts.

    Returns:
        Sums with leading axes (...). Ring r holds the wavenumbers nearest to r/N cycles per pixel, N the longer side,
        r = 0 ... N/2 and beyond for the corners of the spectrum; ring 0 is empty because the mean is taken off.

    Source: Pulkkinen et al. 2019 (pySTEPS), doi:10.5194/gmd-12-4185-2019, section 2; Parseval's theorem for the norm.
    """
    f, o = paired_fields(forecast, observed)
    lead, (rows, columns) = f.shape[:-2], f.shape[-2:]
    ring, weight, frequencies = _rings(rows, columns)
    flat_f, flat_o = f.reshape(-1, rows, columns), o.reshape(-1, rows, columns)
    power = np.zeros((2, len(flat_f), frequencies.size))
    frames = np.zeros(len(flat_f), dtype=np.int64)
    for k, pair in enumerate(zip(flat_f, flat_o, strict=True)):
        valid = ~np.isnan(pair[0]) & ~np.isnan(pair[1])
        if valid.sum() < max(1.0, min_valid_share * valid.size):
            continue
        frames[k] = 1
        for side, field in enumerate(pair):
            power[side, k] = np.bincount(ring, weight * _power(field, valid), minlength=frequencies.size)
    cells = (*lead, frequencies.size)
    coefficients = np.bincount(ring, weight, minlength=frequencies.size).astype(np.int64)
    return SpectrumSums(
        frames=frames.reshape(lead),
        forecast_power=power[0].reshape(cells),
        observed_power=power[1].reshape(cells),
        coefficients=(frames[:, None] * coefficients).reshape(cells),
        frequencies=frequencies,
    )


def _power(rain_rate: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Power of the Fourier coefficients of the half plane, flat; their weighted sum is the mean square anomaly."""
    dbr = decibels(rain_rate)
    mean = dbr[valid].mean()
    anomaly = np.where(valid, dbr - mean, 0.0)
    return (np.abs(np.fft.rfft2(anomaly)) ** 2 / anomaly.size**2).ravel()


def _rings(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ring and multiplicity of each coefficient of `rfft2`, flat, and the rings' centres [cycles per pixel]."""
    fy, fx = np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :]
    longer = max(rows, columns)
    ring = np.rint(np.hypot(fy, fx) * longer).astype(np.int64)
    # Each coefficient of the half plane stands for two, but for the columns that are their own mirror image.
    twice = np.full(ring.shape, 2.0)
    twice[:, 0] = 1.0
    if columns % 2 == 0:
        twice[:, -1] = 1.0
    return ring.ravel(), twice.ravel(), np.arange(ring.max() + 1) / longer


@dataclass(frozen=True)
class Spectrum:
    """Radially averaged power [dB^2 per coefficient] of forecast and observed against wavelength, (..., wavenumber)."""

    wavelength_km: np.ndarray
    forecast: np.ndarray
    observed: np.ndarray


def spectrum(sums: SpectrumSums, *, pixel_km: float) -> Spectrum:
    """Mean power of a coefficient in each ring up to the Nyquist frequency, without ring 0; NaN without a frame.

    Args:
        sums: Pool the cases first; wetter frames weigh more, having more power.
        pixel_km: Side of a pixel [km].
    """
    kept = (sums.frequencies > 0) & (sums.frequencies <= 0.5)
    n = sums.coefficients[..., kept]
    return Spectrum(
        wavelength_km=pixel_km / sums.frequencies[kept],
        forecast=ratio(sums.forecast_power[..., kept], n),
        observed=ratio(sums.observed_power[..., kept], n),
    )


def band_power_ratio(sums: SpectrumSums, *, pixel_km: float, bands_km: Sequence[float] = BANDS_KM) -> np.ndarray:
    """Power of the forecast over power of the observation in bands of wavelength, of shape (..., band).

    1 keeps the variance of the scale; below 1 the forecast is too smooth there, above 1 too rough. Band b holds the
    wavelengths in [bands_km[b], bands_km[b + 1]); NaN where a band holds no ring or the observation no power.

    Args:
        sums: Pool the cases first.
        pixel_km: Side of a pixel [km].
        bands_km: Ascending edges [km].
    """
    edges = np.asarray(bands_km, dtype=np.float64)
    if edges.ndim != 1 or edges.size < 2 or np.any(np.diff(edges) <= 0):
        raise ValueError(f"the edges of wavelength bands must ascend, got {bands_km!r}")
    with np.errstate(divide="ignore"):
        wavelength = pixel_km / sums.frequencies
    ratios = []
    for low, high in pairwise(edges):
        inside = (wavelength >= low) & (wavelength < high)
        ratios.append(ratio(sums.forecast_power[..., inside].sum(-1), sums.observed_power[..., inside].sum(-1)))
    return np.stack(ratios, axis=-1)
