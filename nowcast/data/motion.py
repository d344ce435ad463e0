"""How rain moves: a dense motion field from the last frames, and rain carried along it.

Motion is (2, H, W) float32 [pixels per step]: along rows (positive to the south), then along columns (positive to the
east). What becomes of the rain on its way is not the business of this module; how it is traced and looked up is that of
`nowcast.data.trajectories`.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numba import njit
from scipy import ndimage

from nowcast.data.trajectories import Trajectories, value_at
from nowcast.errors import DataError

# Of `estimate_motion`: raised whenever it gives another motion for the same frames, so that motion kept somewhere by an
# older one is not taken for its own.
ESTIMATOR_VERSION = 1
# Motion is seen in dB rain above this rate: what lies below is one flat floor, so that drizzle and noise do not count.
FLOOR_MM_H = 0.1
# From coarse to fine: the shortest side of the coarsest level, the factor of the finest, and rounds on each level.
COARSEST_SIDE = 12
FINEST_FACTOR = 2
ROUNDS = 3
# Blur [pixels of a level] before gradients are taken.
BLUR = 1.0
# The motion of a pixel is that of its neighbourhood: Gaussian windows [pixels], each with a tenth of the weight of the
# one before, so that the nearest texture decides and a place without any takes the motion of what is about it.
WINDOWS = (10.0, 30.0, 90.0)
WINDOW_WEIGHT = 0.1
# The whole frame as the last window, and the pull to no motion, both against the mean structure of the frame.
FRAME_WEIGHT = 1e-3
STILL_WEIGHT = 1e-6
# Larger differences [dB] are growth and decay rather than motion, and count less.
ROBUST_DB = 3.0


def estimate_motion(frames: np.ndarray) -> np.ndarray:
    """The motion field (2, H, W) float32 [pixels per step] that carries each of `frames` into the next.

    Least squares on the optical-flow equation of dB rain in Gaussian windows of three sizes, all pairs of frames
    together, from coarse to fine. Pixels that are NaN in either frame of a pair do not count. Where there is no rain
    to see, the motion is that of the rain about it; it is zero in a dry or missing field.

    Args:
        frames: (T, H, W) rain rates [mm/h], two or more, oldest first; NaN where missing.

    Raises:
        DataError: Fewer than two frames.

    Source: the equation is that of Lucas and Kanade (1981); windows, weights and pyramid are our own.
    """
    frames = np.asarray(frames, dtype=np.float32)
    if frames.ndim != 3 or len(frames) < 2:
        raise DataError(f"motion needs two frames (T, H, W) or more, got an array of shape {frames.shape}")
    shape = frames.shape[1:]
    valid = ~np.isnan(frames)
    decibel = 10.0 * np.log10(np.maximum(np.where(valid, frames, 0.0), FLOOR_MM_H) / FLOOR_MM_H)
    factors = _factors(shape)
    motion = np.zeros((2, *(-(-size // factors[0]) for size in shape)), dtype=np.float32)
    for factor in factors:
        fields = _level(decibel, valid, factor)
        motion = _enlarged(motion, fields.shape[1:], 2)
        for _ in range(ROUNDS):
            motion = _refined(motion * np.float32(1 / factor), fields, factor) * np.float32(factor)
    return _enlarged(motion, shape, factors[-1])


def advect(fields: np.ndarray, motion: np.ndarray, num_leads: int) -> np.ndarray:
    """Rain carried 1, 2, ... `num_leads` steps along a constant motion field, (num_leads, H, W) float32.

    Each pixel is traced back along the motion and looked up once (see `Trajectories`). NaN where the rain would come
    from a missing pixel or from outside the frame: nothing that is unknown becomes dry.

    Args:
        fields: (H, W), or (num_leads, H, W) with a field of its own for each lead; any unit, NaN where missing.
        motion: (2, H, W) finite [pixels per step].
    """
    fields = np.asarray(fields, dtype=np.float32)
    stacked = fields if fields.ndim == 3 else fields[None]
    if stacked.ndim != 3 or len(stacked) not in (1, num_leads) or motion.shape != (2, *stacked.shape[1:]):
        raise ValueError(f"fields {fields.shape} and motion {motion.shape} do not give {num_leads} leads")
    advected = np.empty((num_leads, *stacked.shape[1:]), dtype=np.float32)
    trajectories = Trajectories(motion)
    for lead in range(num_leads):
        own = lead if len(stacked) > 1 else 0
        trajectories.trace()
        trajectories.bring(stacked[own : own + 1], out=advected[lead : lead + 1])
    return advected


def carry(field: np.ndarray, motion: np.ndarray, steps: int) -> np.ndarray:
    """The field (H, W) carried `steps` along the motion, or against it where negative; otherwise as `advect`."""
    if steps == 0:
        return np.array(field, dtype=np.float32)
    trajectories = Trajectories(motion if steps > 0 else -motion)
    for _ in range(abs(steps)):
        trajectories.trace()
    return trajectories.bring(field[None])[0]


def _factors(shape: tuple[int, ...]) -> list[int]:
    """Reductions of the pyramid's levels, powers of two, coarsest first."""
    factor = 1
    while min(shape) // (2 * factor) >= COARSEST_SIDE:
        factor *= 2
    factors = [factor]
    while factors[-1] > FINEST_FACTOR:
        factors.append(factors[-1] // 2)
    return factors


def _level(decibel: np.ndarray, valid: np.ndarray, factor: int) -> np.ndarray:
    """The fields of one level, (T, h, w) float32, blurred; NaN at missing pixels and so near that the blur saw them."""
    share = _block_mean(valid.astype(np.float32), factor)
    mean = _block_mean(decibel.astype(np.float32), factor) / np.maximum(share, 1e-6)
    blurred = ndimage.gaussian_filter(mean, (0, BLUR, BLUR), mode="nearest", truncate=3.0)
    known = ndimage.binary_erosion(share > 0.5, np.ones((1, 5, 5)), border_value=1)
    blurred[~known] = np.nan
    return blurred


def _refined(motion: np.ndarray, fields: np.ndarray, factor: int) -> np.ndarray:
    """A better motion [pixels of the level per step], from what is left when `motion` has carried each field on.

    Solves, in the windows about each pixel, the weighted least squares of g . v = g . motion + d, with the gradient g
    and the difference d that is left.
    """
    rows, columns = fields.shape[1:]
    normal = np.zeros((5, rows, columns), dtype=np.float32)
    for before, after in pairwise(fields):
        carried = _look_up(before, motion)
        left = carried - after
        along_y, along_x = (0.5 * (_slope(carried, axis) + _slope(after, axis)) for axis in (0, 1))
        known = np.isfinite(left + along_y + along_x)
        left, along_y, along_x = (np.where(known, part, 0.0) for part in (left, along_y, along_x))
        weight = 1.0 / (1.0 + (left / ROBUST_DB) ** 2)
        target = along_y * motion[0] + along_x * motion[1] + left
        products = (along_y * along_y, along_y * along_x, along_x * along_x, along_y * target, along_x * target)
        normal += weight * np.stack(products)
    frame_mean = normal.mean(axis=(1, 2), dtype=np.float64)[:, None, None]
    yy, yx, xx, y_target, x_target = _window_sums(normal, factor) + FRAME_WEIGHT * frame_mean
    still = STILL_WEIGHT * (frame_mean[0] + frame_mean[2]) + 1e-12
    yy, xx = yy + still, xx + still
    # In double precision: along a straight edge of rain the determinant nearly vanishes.
    determinant = yy * xx - yx.astype(np.float64) ** 2
    solved = np.stack([xx * y_target - yx * x_target, yy * x_target - yx * y_target])
    return np.asarray(solved / determinant, dtype=np.float32)


def _slope(field: np.ndarray, axis: int) -> np.ndarray:
    """The gradient along one axis; a frame that is one pixel wide has none across."""
    return np.asarray(np.gradient(field, axis=axis)) if field.shape[axis] > 1 else np.zeros_like(field)


def _window_sums(normal: np.ndarray, factor: int) -> np.ndarray:
    """The sum of the Gaussian windows; the wide ones are taken from block means, where they cost little."""
    total = np.zeros_like(normal)
    for number, window in enumerate(WINDOWS):
        width = window / factor
        block = max(1, int(width / 3))
        means = _block_mean(normal, block)
        blurred = ndimage.gaussian_filter(means, (0, width / block, width / block), mode="nearest", truncate=3.0)
        total += np.float32(WINDOW_WEIGHT**number) * _enlarged(blurred, normal.shape[1:], block)
    return total


def _block_mean(fields: np.ndarray, factor: int) -> np.ndarray:
    """Means over blocks of `factor` by `factor` pixels; an odd edge is filled up by its own last pixels."""
    if factor == 1:
        return fields
    rows, columns = fields.shape[1:]
    padded = np.pad(fields, ((0, 0), (0, -rows % factor), (0, -columns % factor)), mode="edge")
    blocks = padded.reshape(len(fields), padded.shape[1] // factor, factor, padded.shape[2] // factor, factor)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def _enlarged(fields: np.ndarray, shape: tuple[int, ...], factor: int) -> np.ndarray:
    """Block means (C, h, w) brought to pixels (C, H, W), bilinearly; as they are where the grid is the same."""
    for axis, size in ((1, shape[0]), (2, shape[1])):
        last = fields.shape[axis] - 1
        if size == last + 1:
            continue
        position = np.clip((np.arange(size) + 0.5) / factor - 0.5, 0, last)
        before = np.minimum(position.astype(int), max(last - 1, 0))
        share = (position - before).astype(np.float32)
        share = share[:, None] if axis == 1 else share
        after = np.minimum(before + 1, last)
        fields = np.take(fields, before, axis) * (1 - share) + np.take(fields, after, axis) * share
    return fields


@njit(cache=True, nogil=True)
def _look_up(field: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """The field displaced: what lay `displacement` before each pixel."""
    moved = np.empty_like(field)
    for row in range(field.shape[0]):
        for column in range(field.shape[1]):
            y, x = row - displacement[0, row, column], column - displacement[1, row, column]
            moved[row, column] = value_at(field, y, x)
    return moved
