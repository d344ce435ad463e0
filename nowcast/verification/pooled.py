"""Contingency counts of block maxima and block means: the threshold is applied after pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from nowcast.verification.counting import count_events
from nowcast.verification.counts import EventCounts
from nowcast.verification.sums import unmasked

Pooling = Literal["max", "mean"]
SCALES = (4, 16)


def pool_blocks(rain_rate: np.ndarray, scale: int, *, pooling: Pooling, min_valid_share: float = 0.5) -> np.ndarray:
    """Maximum or mean of the valid pixels of each block of `scale` x `scale` pixels.

    Blocks lie side by side from the first row and column; a ragged edge narrower than a block is dropped. The mean is
    taken in float64 and rounded to the field's own float type, so a constant field keeps its value exactly.

    Args:
        rain_rate: (..., y, x) [mm/h]; NaN is missing.
        scale: Side of a block in pixels; 1 gives the field itself.
        min_valid_share: A block is valid if at least this share of its pixels, and at least one, is valid.

    Returns:
        (..., y // scale, x // scale); NaN where the block is not valid.

    Raises:
        ValueError: A scale below 1 or beyond the field, a share outside [0, 1].
    """
    field = unmasked(rain_rate)
    if pooling not in ("max", "mean"):
        raise ValueError(f"pooling is 'max' or 'mean', got {pooling!r}")
    if field.ndim < 2 or not 1 <= scale <= min(field.shape[-2:]):
        raise ValueError(f"blocks of {scale} pixels do not fit a field of shape {field.shape}")
    if not 0.0 <= min_valid_share <= 1.0:
        raise ValueError(f"the least valid share of a block must lie in [0, 1], got {min_valid_share}")
    rows, columns = (side // scale for side in field.shape[-2:])
    blocks = field[..., : rows * scale, : columns * scale].reshape(*field.shape[:-2], rows, scale, columns, scale)
    dtype = field.dtype if field.dtype.kind == "f" else np.dtype(np.float64)
    valid = ~np.isnan(blocks)
    n = valid.sum(axis=(-3, -1))
    if pooling == "max":
        pooled = np.where(valid, blocks, -np.inf).max(axis=(-3, -1))
    else:
        pooled = np.where(valid, blocks, 0.0).sum(axis=(-3, -1), dtype=np.float64) / np.maximum(n, 1)
    enough = n >= max(1.0, min_valid_share * scale**2)
    return np.where(enough, pooled, np.nan).astype(dtype)


def pooled_events(
    forecast: np.ndarray,
    observed: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    scale: int,
    *,
    pooling: Pooling = "max",
    min_valid_share: float = 0.5,
) -> EventCounts:
    """Contingency counts of pooled blocks, for pooled CSI, POD and FAR.

    Only pixels valid in both fields enter a block, so the two maxima are taken over the same pixels.

    Args:
        forecast: (..., y, x) [mm/h]; NaN is missing.
        observed: The same shape.
        thresholds: Ascending [mm/h]; an event is a block value >= threshold.
        scale, pooling, min_valid_share: As in `pool_blocks`; the usual scales are `SCALES`.

    Returns:
        Counts of shape (..., threshold), int64, to be merged like any other counts.

    Source: pooled CSI as in Ravuri et al. 2021, doi:10.1038/s41586-021-03854-z (pooled scores at 4 and 16 km), and
        Gao et al. 2023, arXiv:2307.10422 (max-pool CSI at 4 and 16 pixels).
    """
    f, o = unmasked(forecast), unmasked(observed)
    if f.shape != o.shape:
        raise ValueError(f"the forecast has shape {f.shape} and the observation {o.shape}; they must be equal")
    common = ~np.isnan(f) & ~np.isnan(o)

    def pooled(field: np.ndarray) -> np.ndarray:
        masked = field if common.all() else np.where(common, field, np.nan)
        return pool_blocks(masked, scale, pooling=pooling, min_valid_share=min_valid_share)

    return count_events(pooled(f), pooled(o), thresholds)
