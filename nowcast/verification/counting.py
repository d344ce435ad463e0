"""Count the events of fields: the compiled path, and the plain numpy path that it is checked by.

An event is a value >= the threshold, compared in the data's own dtype; a pixel counts only where forecast and
observation are both valid.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from nowcast.errors import ConfigError
from nowcast.verification.counts import ABOVE, AT_OR_ABOVE, Comparison, EventCounts, check_thresholds

# Fields that are not plain native floats or integers are converted in pieces of this many pixels.
PIECE = 1 << 20
# Whole numbers up to here are exact in float64.
LARGEST_WHOLE = 2**53
# Below this many pixels a second thread costs more than it brings.
PIXELS_A_THREAD = 1 << 19


def count_events(
    forecast: np.ndarray,
    observed: np.ndarray,
    thresholds: Any,
    *,
    comparison: Comparison = AT_OR_ABOVE,
) -> EventCounts:
    """Contingency counts over the last two axes for every threshold.

    A value is an event when it is >= the threshold, the threshold rounded to the value's own dtype (for whole
    numbers: rounded up). A pixel that is NaN in either field is left out; infinity is a value.

    Args:
        forecast, observed: (..., H, W), floats or integers, each of its own dtype.
        thresholds: Ascending, not negative, in the fields' units.
        comparison: ">" counts an event only above the threshold, as pySTEPS does.

    Returns:
        Counts of shape (..., threshold).

    Raises:
        ValueError: Fields of different shapes.
        TypeError: Masked arrays (their mask would be lost), complex or other fields that are not real numbers.
        ConfigError: Thresholds that are empty, negative, not finite or do not ascend.
    """
    forecast, observed, levels = _checked(forecast, observed, thresholds)
    leading, rows = forecast.shape[:-2], math.prod(forecast.shape[:-2])
    events = np.zeros((*leading, levels.size, 3), dtype=np.int64)
    valid = np.zeros(leading, dtype=np.int64)
    limits = [_limits(field.dtype, levels, comparison) for field in (forecast, observed)]
    # Reshaping the leading axes copies only what is not laid out in order.
    flat = [field.reshape(rows, *field.shape[-2:]) for field in (forecast, observed)]
    _count(flat, limits, events.reshape(rows, levels.size, 3), valid.reshape(rows))
    return _as_counts(events, valid)


def count_events_numpy(
    forecast: np.ndarray,
    observed: np.ndarray,
    thresholds: Any,
    *,
    comparison: Comparison = AT_OR_ABOVE,
) -> EventCounts:
    """The same as `count_events` in plain numpy, one field after the other: what the compiled path is checked by."""
    forecast, observed, levels = _checked(forecast, observed, thresholds)
    leading = forecast.shape[:-2]
    events = np.zeros((*leading, levels.size, 3), dtype=np.int64)
    valid = np.zeros(leading, dtype=np.int64)
    forecast_limits, observed_limits = (_limits(field.dtype, levels, comparison) for field in (forecast, observed))
    for index in np.ndindex(*leading):
        both = (forecast[index] == forecast[index]) & (observed[index] == observed[index])
        f, o = forecast[index][both], observed[index][both]
        valid[index] = f.size
        for k in range(levels.size):
            above, fell = f >= forecast_limits[k], o >= observed_limits[k]
            events[index][k] = np.count_nonzero(above & fell), np.count_nonzero(above), np.count_nonzero(fell)
    return _as_counts(events, valid)


def _checked(forecast: Any, observed: Any, thresholds: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    for name, field in (("forecast", forecast), ("observed", observed)):
        if isinstance(field, np.ma.MaskedArray):
            raise TypeError(f"{name} is a masked array; fill it with NaN first, its mask would be lost")
    forecast, observed = np.asarray(forecast), np.asarray(observed)
    for name, field in (("forecast", forecast), ("observed", observed)):
        if field.dtype.kind not in "fiub" or field.dtype.itemsize > 8:
            raise TypeError(f"{name} has dtype {field.dtype}, expected real numbers of at most 64 bits")
    if forecast.shape != observed.shape or forecast.ndim < 2:
        raise ValueError(f"forecast has shape {forecast.shape}, observed {observed.shape}; wanted the same (..., H, W)")
    levels = check_thresholds(thresholds)
    if levels[-1] > LARGEST_WHOLE and any(field.dtype.kind in "iu" for field in (forecast, observed)):
        raise ConfigError(f"the threshold {levels[-1]:g} is beyond what whole numbers are compared with, 2^53")
    return forecast, observed, levels


def _limits(dtype: np.dtype[Any], thresholds: np.ndarray, comparison: Comparison) -> np.ndarray:
    """Smallest value of `dtype` that is an event, for every threshold; float64 for whole numbers.

    In its own dtype, x > t is x >= the next number after t.
    """
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            limits = thresholds.astype(dtype.newbyteorder("="))
        if comparison == ABOVE:
            # Nothing is above infinity, nor at or above NaN.
            beyond = np.nextafter(limits, limits.dtype.type(np.inf))
            return np.where(np.isinf(limits), limits.dtype.type(np.nan), beyond)
        return limits
    return np.floor(thresholds) + 1 if comparison == ABOVE else np.ceil(thresholds)


def _count(fields: Sequence[np.ndarray], limits: Sequence[np.ndarray], events: np.ndarray, valid: np.ndarray) -> None:
    """Fill `events` and `valid` of all rows, on as many threads as numba may use."""
    import numba

    def work(part: slice) -> None:
        _count_rows([field[part] for field in fields], limits, events[part], valid[part])

    rows = fields[0].shape[0]
    threads = min(numba.get_num_threads(), rows, fields[0].size // PIXELS_A_THREAD)
    if threads <= 1:
        work(slice(0, rows))
        return
    edges = np.linspace(0, rows, threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [slice(*pair) for pair in itertools.pairwise(edges)]))


def _count_rows(
    fields: Sequence[np.ndarray], limits: Sequence[np.ndarray], events: np.ndarray, valid: np.ndarray
) -> None:
    """Fields (row, H, W) into the kernel: as they lie where it can take them, else in converted pieces.

    The kernel knows float32 and float64. Every value of a smaller dtype is one of theirs, so comparing after the
    conversion is comparing before it.
    """
    from nowcast.verification.count_kernel import count_fields

    exact = all(np.can_cast(field.dtype, np.float32) for field in fields)
    dtype = np.dtype(np.float32 if exact else np.float64)
    levels = [limit.astype(dtype) for limit in limits]
    rows, height, width = fields[0].shape
    if all(field.flags.c_contiguous and field.dtype == dtype for field in fields):
        count_fields(*fields, *levels, events, valid)  # type: ignore[call-arg]
        return
    lines = max(1, PIECE // max(1, width))
    for row, start in itertools.product(range(rows), range(0, height, lines)):
        pieces = [_converted(field[row, start : start + lines], dtype)[None] for field in fields]
        count_fields(*pieces, *levels, events[row : row + 1], valid[row : row + 1])  # type: ignore[call-arg]


def _converted(field: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    if field.dtype.kind in "iu" and field.dtype.itemsize == 8:
        # Beyond 2^53 float64 has gaps; thresholds end there, so the order to them is kept.
        field = np.clip(field, max(np.iinfo(field.dtype).min, -LARGEST_WHOLE), LARGEST_WHOLE)
    return np.ascontiguousarray(field, dtype=dtype)


def _as_counts(events: np.ndarray, valid: np.ndarray) -> EventCounts:
    """From (..., threshold, [hits, forecast events, observed events]) and (...) valid pairs."""
    hits, forecast, observed = np.moveaxis(events, -1, 0)
    return EventCounts(hits, forecast - hits, observed - hits, valid[..., None] - forecast - observed + hits)


def mask_digest(valid: np.ndarray) -> np.uint64:
    """A 64-bit digest of a mask's shape and pixels (BLAKE2b); another mask has another one."""
    digest = hashlib.blake2b(np.asarray(valid.shape, dtype="<i8").tobytes(), digest_size=8)
    digest.update(np.packbits(valid).tobytes())
    return np.uint64(int.from_bytes(digest.digest(), "little"))
