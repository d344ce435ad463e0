"""Errors and correlations of rain-rate fields, from sums that add up.

Rain rates are in mm/h; a pixel counts only where forecast and observation are both valid (not NaN).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from nowcast.data.units import ZRelation
from nowcast.verification.sums import Sums, paired_fields, ratio

HKO7_Z = ZRelation(58.53, 1.56)
# Weights of the observed rain rate, Shi et al. 2017 (arXiv:1706.03458), section 4.2.
HKO7_WEIGHT_EDGES_MM_H = (2.0, 5.0, 10.0, 30.0)
HKO7_WEIGHTS = (1.0, 2.0, 5.0, 10.0, 30.0)
# Rows of the kernel's output, in this order.
_MOMENTS = (
    "error",
    "absolute_error",
    "squared_error",
    "forecast",
    "observed",
    "forecast_squared",
    "observed_squared",
    "product",
    "balanced_absolute",
    "balanced_squared",
)
_EDGES, _WEIGHTS = np.array(HKO7_WEIGHT_EDGES_MM_H), np.array(HKO7_WEIGHTS)
_LOG_A, _B = float(np.log10(HKO7_Z.a)), HKO7_Z.b
# A variance below this share of the mean square is the rounding of a constant field, not a variance.
_CONSTANT = 1e-13


@dataclass(frozen=True, eq=False)
class ContinuousSums(Sums):
    """Sums over the valid pixels of each frame; n counts them, `frames` the frames with at least one.

    Rain rates enter as they are [mm/h]; the balanced sums are in HKO-7 pixel units (see `hko7_pixels`).
    """

    n: np.ndarray
    frames: np.ndarray
    error: np.ndarray
    absolute_error: np.ndarray
    squared_error: np.ndarray
    forecast: np.ndarray
    observed: np.ndarray
    forecast_squared: np.ndarray
    observed_squared: np.ndarray
    product: np.ndarray
    balanced_absolute: np.ndarray
    balanced_squared: np.ndarray


def continuous_sums(forecast: np.ndarray, observed: np.ndarray) -> ContinuousSums:
    """Sums of error, its absolute and square, of both fields, their squares and their product, frame by frame.

    Args:
        forecast: (..., y, x) [mm/h]; NaN is missing.
        observed: The same shape.

    Returns:
        Sums with the leading axes (...). The pixels of a frame are added in float64, row by row, so any cut of the
        leading axes gives the same bits. An infinite value makes its sums infinite or NaN: it is not hidden.
    """
    f, o = paired_fields(forecast, observed)
    lead = f.shape[:-2]
    counts, moments = _moments(f.reshape(-1, *f.shape[-2:]), o.reshape(-1, *o.shape[-2:]), _EDGES, _WEIGHTS)
    return ContinuousSums(
        n=counts.reshape(lead),
        frames=(counts > 0).astype(np.int64).reshape(lead),
        **{name: moments[:, i].reshape(lead) for i, name in enumerate(_MOMENTS)},
    )


@numba.njit(cache=True)
def _moments(
    forecast: np.ndarray, observed: np.ndarray, edges: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    frames, rows, columns = forecast.shape
    counts = np.zeros(frames, np.int64)
    sums = np.zeros((frames, 10))
    for k in range(frames):
        for i in range(rows):
            n = 0
            e = ae = se = sf = so = ff = oo = fo = ba = bs = 0.0
            for j in range(columns):
                f, o = np.float64(forecast[k, i, j]), np.float64(observed[k, i, j])
                if f == f and o == o:
                    n += 1
                    # Most pixels are dry in both: nothing to add.
                    if f != 0.0 or o != 0.0:
                        e += f - o
                        ae += abs(f - o)
                        se += (f - o) * (f - o)
                        sf += f
                        so += o
                        ff += f * f
                        oo += o * o
                        fo += f * o
                        weight = weights[np.searchsorted(edges, o, side="right")]
                        difference = _pixel(f) - _pixel(o)
                        ba += weight * abs(difference)
                        bs += weight * difference * difference
            counts[k] += n
            # One partial sum per row keeps the rounding of a frame at about (rows + columns) * 1e-16.
            for m, value in enumerate((e, ae, se, sf, so, ff, oo, fo, ba, bs)):
                sums[k, m] += value
    return counts, sums


@numba.njit(cache=True)
def _pixel(rain_rate: float) -> float:
    """`hko7_pixels` of one rain rate, with one logarithm and no power."""
    if rain_rate <= 0.0:
        return 0.0
    return min(max((10.0 * _LOG_A + 10.0 * _B * np.log10(rain_rate) + 10.0) / 70.0, 0.0), 1.0)


def hko7_pixels(rain_rate_mm_h: np.ndarray) -> np.ndarray:
    """Pixel value p in [0, 1] of a rain rate [mm/h]: dBZ = 70 p - 10 with Z = 58.53 R^1.56, clipped; NaN stays NaN.

    Source: Shi et al. 2017 (arXiv:1706.03458), appendix, and the HKO-7 benchmark code.
    """
    reflectivity = HKO7_Z.reflectivity(np.asarray(rain_rate_mm_h, dtype=np.float64))
    return np.clip((reflectivity + 10.0) / 70.0, 0.0, 1.0)


def hko7_weights(observed_mm_h: np.ndarray) -> np.ndarray:
    """Weight of an observed rain rate [mm/h]: 1 below 2, 2 in [2, 5), 5 in [5, 10), 10 in [10, 30), 30 from 30."""
    observed = np.asarray(observed_mm_h)
    return _WEIGHTS[np.searchsorted(_EDGES, np.nan_to_num(observed, nan=0.0), side="right")]


def mean_error(sums: ContinuousSums) -> np.ndarray:
    """Mean of forecast minus observed [mm/h], the bias; NaN where no pixel is valid."""
    return ratio(sums.error, sums.n)


def mean_absolute_error(sums: ContinuousSums) -> np.ndarray:
    """Mean absolute error [mm/h]; NaN where no pixel is valid."""
    return ratio(sums.absolute_error, sums.n)


def mean_squared_error(sums: ContinuousSums) -> np.ndarray:
    """Mean squared error [(mm/h)^2]: the rainfall-MSE of Shi et al. 2015; NaN where no pixel is valid."""
    return ratio(sums.squared_error, sums.n)


def root_mean_squared_error(sums: ContinuousSums) -> np.ndarray:
    """Root of the pooled mean squared error [mm/h], not a mean of roots; NaN where no pixel is valid."""
    return np.sqrt(mean_squared_error(sums))


def pearson_correlation(sums: ContinuousSums) -> np.ndarray:
    """Pearson correlation over all valid pixels pooled, in [-1, 1].

    NaN where a field is constant (its variance below 1e-13 of its mean square is rounding) or no pixel is valid.
    """
    n = sums.n.astype(np.float64)
    covariance = n * sums.product - sums.forecast * sums.observed
    variances = []
    for total, square in ((sums.forecast, sums.forecast_squared), (sums.observed, sums.observed_squared)):
        variance = n * square - total**2
        variances.append(np.where(variance > _CONSTANT * n * square, variance, 0.0))
    correlation = ratio(covariance, np.sqrt(variances[0]) * np.sqrt(variances[1]))
    return np.clip(correlation, -1.0, 1.0)


def uncentred_correlation(sums: ContinuousSums) -> np.ndarray:
    """The "correlation" of Shi et al. 2015, sum(FO) / (sqrt(sum F^2) sqrt(sum O^2)): no means are taken off.

    High for any two rainy fields, so not comparable with Pearson's. The paper adds 1e-9 to the denominator; here 0/0
    is NaN.

    Source: arXiv:1506.04214, section 4.2.
    """
    return ratio(sums.product, np.sqrt(sums.forecast_squared) * np.sqrt(sums.observed_squared))


def balanced_mse(sums: ContinuousSums) -> np.ndarray:
    """B-MSE of HKO-7: sum over a frame of weight times squared pixel difference, mean over frames.

    A sum, so it grows with the area: comparable only between grids of one size (480 x 480 in the paper). Frames
    without a valid pixel are left out of the mean.

    Source: Shi et al. 2017 (arXiv:1706.03458), section 4.2.
    """
    return ratio(sums.balanced_squared, sums.frames)


def balanced_mae(sums: ContinuousSums) -> np.ndarray:
    """B-MAE of HKO-7: as `balanced_mse` with the absolute pixel difference."""
    return ratio(sums.balanced_absolute, sums.frames)
