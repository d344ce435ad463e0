"""Scale-dependent decay: rain moves on, and each scale fades as fast as it did in the last frames.

The idea of S-PROG (Seed 2003): large scales can be foreseen longer than small ones. A leaner form of it.
"""

from __future__ import annotations

import numpy as np
from scipy import fft

from nowcast.data.motion import advect, carry, estimate_motion
from nowcast.prediction.persistence import require_frames

# Rates below this are dry; in the decibel scale dry lies a step below it.
WET_MM_H = 0.1
DRY_STEP_DB = 3.0
# Scales are an octave apart, down to this wavelength [pixels].
SHORTEST_PIXELS = 4.0
# Correlations are kept below 1, or a scale would live for ever and its AR(2) process would have no solution.
LARGEST_CORRELATION = 0.9999


class ScaleDecay:
    """Extrapolation in which small scales fade first, brought back to the rates of the last frame.

    In the moving frame, each octave of dB rain follows an AR(2) process whose correlations at one and two steps
    are those of the last three frames (Bowler et al. 2006, doi 10.1256/qj.04.100; the idea: Seed 2003,
    doi 10.1175/1520-0450(2003)042<0381:ADASSA>2.0.CO;2). The sum is matched by rank to the last frame, which gives
    its wet area and rates back to the smoothed field. Where neither is known to come, NaN.
    """

    name = "scale-decay"
    input_frames = 3

    def forecast_frames(self, frames: np.ndarray, num_leads: int) -> np.ndarray:
        """(num_leads, H, W) float32 [mm/h] after the last of `frames` (T, H, W); NaN where nobody knows what comes."""
        require_frames(frames, self.input_frames, self.name)
        recent = np.asarray(frames[-self.input_frames :], dtype=np.float32)
        motion = estimate_motion(recent)
        last = recent[-1]
        if not np.any(last >= WET_MM_H):
            return advect(last, motion, num_leads)
        moved = np.stack([carry(frame, motion, age) for age, frame in zip((2, 1, 0), recent, strict=True)])
        decayed = _decayed(_decibel(moved), num_leads)
        known = ~np.isnan(last)
        for field in decayed:
            field[known] = _matched(field[known], last[known])
            field[~known] = np.nan
        return advect(decayed, motion, num_leads)


def _decibel(rain_rate: np.ndarray) -> np.ndarray:
    """dB above 0.1 mm/h of fields (T, H, W), dry one step below; what the last field misses is dry in all of them.

    What an older field misses, such as the strip that the motion left empty, is taken from the next one: dry, it would
    look like rain that comes.
    """
    wet = rain_rate >= WET_MM_H
    decibel = np.where(wet, 10.0 * np.log10(np.where(wet, rain_rate, WET_MM_H) / WET_MM_H), -DRY_STEP_DB)
    missing = np.isnan(rain_rate)
    decibel[:, missing[-1]] = -DRY_STEP_DB
    for age in range(len(rain_rate) - 2, -1, -1):
        decibel[age] = np.where(missing[age], decibel[age + 1], decibel[age])
    return decibel


def _decayed(decibel: np.ndarray, num_leads: int) -> np.ndarray:
    """The expected field (num_leads, H, W) of each lead in the moving frame, from fields (3, H, W) in it.

    A process is linear in the last two fields, so each lead is one filter on either of them.
    """
    shape = decibel.shape[1:]
    grid = tuple(fft.next_fast_len(size, real=True) for size in shape)
    mean = decibel[-1].mean()
    spectra = fft.rfft2(decibel - mean, s=grid).astype(np.complex64)
    octaves = _octaves(grid)
    first, second = (_correlations(spectra, octaves, grid, lag) for lag in (1, 2))
    weights = _lead_weights(first, second, num_leads)
    decayed = np.empty((num_leads, *shape), dtype=np.float32)
    for lead, (last, before) in enumerate(weights):
        filtered = np.tensordot(last, octaves, 1) * spectra[2] + np.tensordot(before, octaves, 1) * spectra[1]
        decayed[lead] = fft.irfft2(filtered, s=grid)[: shape[0], : shape[1]] + mean
    return decayed


def _octaves(grid: tuple[int, ...]) -> np.ndarray:
    """Weights (scales, rows, columns // 2 + 1) of each wave number in each octave; over the octaves they sum to 1."""
    frequency = np.hypot(fft.fftfreq(grid[0])[:, None], fft.rfftfreq(grid[1])[None])
    longest = min(grid)
    number = max(2, int(np.log2(longest / SHORTEST_PIXELS)) + 1)
    position = np.clip(np.log2(np.maximum(frequency * longest, 1e-9)), 0, number - 1)
    scales = np.arange(number)[:, None, None]
    return np.maximum(1.0 - np.abs(position - scales), 0.0).astype(np.float32)


def _correlations(spectra: np.ndarray, octaves: np.ndarray, grid: tuple[int, ...], lag: int) -> np.ndarray:
    """Correlation (scales,) of fields `lag` steps apart, over all pairs; 0 where there is no rain of a scale."""
    # The half plane stands for the whole: all columns but the first (and the last of an even grid) count twice.
    twice = np.full(spectra.shape[-1], 2.0, dtype=np.float32)
    twice[0] = 1.0
    if grid[1] % 2 == 0:
        twice[-1] = 1.0
    products = np.zeros((3, len(octaves)))
    for before, after in zip(spectra[:-lag], spectra[lag:], strict=True):
        for row, power in enumerate(((after * before.conj()).real, np.abs(before) ** 2, np.abs(after) ** 2)):
            products[row] += np.tensordot(octaves, power * twice, 2)
    together, before_power, after_power = products
    return together / np.maximum(np.sqrt(before_power * after_power), 1e-12)


def _lead_weights(first: np.ndarray, second: np.ndarray, num_leads: int) -> np.ndarray:
    """Weights (num_leads, 2, scales) of the last field and the one before, from the correlations at lags 1 and 2.

    Yule-Walker. Rain fades and does not swing to and fro: a second correlation so low that the process would (complex
    roots) is raised to where it just does not (a double root r, with first = 2 r / (1 + r^2)).
    """
    first = np.clip(first, 1e-6, LARGEST_CORRELATION)
    root = (1 - np.sqrt(1 - first**2)) / first
    second = np.clip(second, first * 2 * root - root**2, first)
    phi1 = first * (1 - second) / (1 - first**2)
    phi2 = (second - first**2) / (1 - first**2)
    last, before = np.ones_like(first), np.zeros_like(first)
    older_last, older_before = np.zeros_like(first), np.ones_like(first)
    weights = []
    for _ in range(num_leads):
        last, older_last = phi1 * last + phi2 * older_last, last
        before, older_before = phi1 * before + phi2 * older_before, before
        weights.append((last, before))
    return np.asarray(weights, dtype=np.float32)


def _matched(field: np.ndarray, rain_rate: np.ndarray) -> np.ndarray:
    """Rates with the ranks of `field` and the distribution of `rain_rate`, both (n,)."""
    order = np.sort(field)
    rates = np.sort(np.where(rain_rate >= WET_MM_H, rain_rate, 0.0))
    # Only the wet ranks differ; the dry ones are all 0.
    start = max(int(np.searchsorted(rates, WET_MM_H)) - 1, 0)
    return np.interp(field, order[start:], rates[start:]).astype(np.float32)
