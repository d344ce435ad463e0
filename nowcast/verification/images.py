"""Image scores of Moving MNIST with the conventions of the OpenSTL tables: MSE, MAE, SSIM and PSNR by frame.

For grey values in [0, 1] alone; rain rates have no largest value, and no place here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter

from nowcast.verification.sums import Sums, paired_fields, ratio

SSIM_WINDOW = 7
# scikit-image up to 0.19, which OpenSTL pins, takes float images to range from -1 to 1.
OPENSTL_DATA_RANGE = 2.0


@dataclass(frozen=True, eq=False)
class ImageSums(Sums):
    """Sums over frames: how many, errors summed over their pixels, SSIM and PSNR [dB] of each."""

    frames: np.ndarray
    squared_error: np.ndarray
    absolute_error: np.ndarray
    ssim: np.ndarray
    psnr: np.ndarray


def image_sums(forecast: np.ndarray, observed: np.ndarray, *, data_range: float = OPENSTL_DATA_RANGE) -> ImageSums:
    """Sums of the OpenSTL scores, frame by frame.

    The convention exactly: squared and absolute error of the forecast as it is, summed over the pixels of a frame and
    averaged over frames and sequences; then the forecast is clipped to [0, 1], and SSIM (`structural_similarity`) and
    PSNR (`peak_signal_to_noise`) are taken frame by frame and averaged over frames and sequences.

    Args:
        forecast: (..., y, x), one channel of grey values.
        observed: The same shape, in [0, 1].
        data_range: Of SSIM alone: 2 is what the published tables have, 1 is the true range and gives lower values.

    Raises:
        ValueError: Missing values (images have none) or observations outside [0, 1].

    Source: OpenSTL, https://github.com/chengtan9907/OpenSTL, openstl/core/metrics.py, with scikit-image <= 0.19.3.
    """
    f, o = (field.astype(np.float64) for field in paired_fields(forecast, observed))
    if not (np.isfinite(f).all() and np.isfinite(o).all()):
        raise ValueError("images must have no missing or infinite pixel")
    if o.min() < 0.0 or o.max() > 1.0:
        raise ValueError(f"observed grey values must lie in [0, 1], found {o.min():g} to {o.max():g}")
    clipped = np.clip(f, 0.0, 1.0)
    return ImageSums(
        frames=np.ones(f.shape[:-2], dtype=np.int64),
        squared_error=np.sum((f - o) ** 2, axis=(-2, -1)),
        absolute_error=np.sum(np.abs(f - o), axis=(-2, -1)),
        ssim=structural_similarity(clipped, o, data_range=data_range),
        psnr=peak_signal_to_noise(clipped, o),
    )


def structural_similarity(
    forecast: np.ndarray, observed: np.ndarray, *, data_range: float = OPENSTL_DATA_RANGE
) -> np.ndarray:
    """SSIM of each frame, (..., y, x) -> (...), in [-1, 1]; 1 for equal frames.

    Uniform 7 x 7 windows that lie wholly inside the frame, sample variances (divisor 48), K = (0.01, 0.03), float64;
    the mean over the windows.

    Raises:
        ValueError: Frames smaller than a window.

    Source: Wang et al. 2004, doi:10.1109/TIP.2003.819861, equation 13, with the defaults of scikit-image.
    """
    x, y = (np.asarray(field, dtype=np.float64) for field in (forecast, observed))
    if min(x.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs frames of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, got {x.shape[-2:]}")
    half = SSIM_WINDOW // 2
    size = (*[1] * (x.ndim - 2), SSIM_WINDOW, SSIM_WINDOW)

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, size)[..., half:-half, half:-half]

    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    mx, my = mean(x), mean(y)
    vx, vy = unbiased * (mean(x * x) - mx * mx), unbiased * (mean(y * y) - my * my)
    cxy = unbiased * (mean(x * y) - mx * my)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = (2 * mx * my + c1) * (2 * cxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return similarity.mean(axis=(-2, -1))


def peak_signal_to_noise(forecast: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """PSNR [dB] of each frame for a peak of 1, -10 log10(mean squared error); inf for equal frames."""
    error = np.asarray(forecast, dtype=np.float64) - np.asarray(observed, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return -10.0 * np.log10(np.mean(error**2, axis=(-2, -1)))


def mse_per_frame(sums: ImageSums) -> np.ndarray:
    """Squared error summed over the pixels of a frame, mean over frames: the "MSE" of the tables."""
    return ratio(sums.squared_error, sums.frames)


def mae_per_frame(sums: ImageSums) -> np.ndarray:
    """Absolute error summed over the pixels of a frame, mean over frames: the "MAE" of the tables."""
    return ratio(sums.absolute_error, sums.frames)


def mean_ssim(sums: ImageSums) -> np.ndarray:
    """Mean SSIM of the frames."""
    return ratio(sums.ssim, sums.frames)


def mean_psnr(sums: ImageSums) -> np.ndarray:
    """Mean PSNR [dB] of the frames, not the PSNR of the mean error; inf as soon as one frame is perfect."""
    return ratio(sums.psnr, sums.frames)
