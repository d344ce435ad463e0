"""Fractions skill score by threshold and window, from sums that add up.

One integer summed-area table per frame and threshold serves all windows; the sums are exact integers by the number of
valid pixels in a window and are divided only at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numba
import numpy as np

from nowcast.verification.sums import Sums, ascending_thresholds, paired_fields, ratio, thresholds_like

Edges = Literal["clip", "zero"]
_CELLS = ("threshold", "window")
# Two sums up to here, and the square of a count below 2^30, add up to less than 2^63.
_LARGE = 2**61


@dataclass(frozen=True, eq=False)
class FssSums(Sums):
    """Sums over the windows centred on valid pixels, of shape (..., threshold, window).

    Attributes:
        n_windows: Windows, one for each valid pixel, int64.
        observed_events: Valid pixels with an observed event, int64 (the same for every window).
        squared_difference: Sum of (Pf - Po)^2 over the windows; P is the fraction of valid pixels with an event.
        forecast_squared, observed_squared: Sums of Pf^2 and Po^2.
        thresholds: [mm/h]; an event is a value >= threshold.
        windows: Odd side lengths [pixels].
        edges: "clip" or "zero", see `fss_sums`.
    """

    n_windows: np.ndarray
    observed_events: np.ndarray
    squared_difference: np.ndarray
    forecast_squared: np.ndarray
    observed_squared: np.ndarray
    thresholds: np.ndarray
    windows: np.ndarray
    edges: Edges

    LABELS: ClassVar[tuple[str, ...]] = ("thresholds", "windows", "edges")
    TRAILING: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(
        ("n_windows", "observed_events", "squared_difference", "forecast_squared", "observed_squared"), _CELLS
    )


def fss_sums(
    forecast: np.ndarray,
    observed: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    windows: Sequence[int] | np.ndarray,
    *,
    edges: Edges = "clip",
) -> FssSums:
    """Sums of the fractions skill score, frame by frame.

    A pixel is valid where forecast and observation are both not NaN. One window is centred on each valid pixel, and its
    fractions are taken over the valid pixels inside, so a margin of NaN round a frame changes nothing.

    Args:
        forecast: (..., y, x) [mm/h]; NaN is missing.
        observed: The same shape.
        thresholds: Ascending [mm/h]; an event is a value >= threshold in the data's own float type.
        windows: Odd side lengths in pixels.
        edges: What lies beyond the array: "clip" takes the fraction over the part of the window inside; "zero" counts
            the pixels outside as valid and dry, as pySTEPS does.

    Returns:
        Sums with leading axes (...). Within a frame they come from exact integers in a fixed order: flipping or
        transposing both fields changes no bit (but for windows of more than about 700 pixels on frames of more than
        3000 by 3000, whose sums leave the integers).

    Raises:
        ValueError: Even or non-positive windows, thresholds that do not ascend, fields of other shapes.

    Source: Roberts and Lean 2008, doi:10.1175/2007MWR2123.1, equations 2 to 7.
    """
    f, o = paired_fields(forecast, observed)
    levels = ascending_thresholds(thresholds)
    sides = _odd_windows(windows)
    if edges not in ("clip", "zero"):
        raise ValueError(f"edges are 'clip' or 'zero', got {edges!r}")
    shape = f.shape[:-2]
    n, events, sums = _fss_frames(
        f.reshape(-1, *f.shape[-2:]),
        o.reshape(-1, *o.shape[-2:]),
        thresholds_like(levels, forecast),
        thresholds_like(levels, observed),
        sides,
        edges == "zero",
    )
    cells = (*shape, levels.size, sides.size)
    return FssSums(
        n_windows=np.broadcast_to(n.reshape(*shape, 1, 1), cells).copy(),
        observed_events=np.broadcast_to(events.reshape(*shape, levels.size, 1), cells).copy(),
        squared_difference=sums[..., 0].reshape(cells),
        forecast_squared=sums[..., 1].reshape(cells),
        observed_squared=sums[..., 2].reshape(cells),
        thresholds=levels,
        windows=sides,
        edges=edges,
    )


def _odd_windows(windows: Sequence[int] | np.ndarray) -> np.ndarray:
    sides = np.atleast_1d(np.asarray(windows))
    whole = sides.ndim == 1 and sides.size > 0 and sides.dtype.kind in "iu"
    if not whole or np.any(sides < 1) or np.any(sides % 2 == 0):
        raise ValueError(f"FSS windows must be odd, positive whole numbers of pixels, got {windows!r}")
    return sides.astype(np.int64)


def fractions_skill_score(sums: FssSums) -> np.ndarray:
    """1 - sum (Pf - Po)^2 / (sum Pf^2 + sum Po^2), in [0, 1], 1 is perfect; NaN where there is no event at all.

    Pooled: add the sums of all cases first. A mean of the FSS of single frames is another, noisier number.
    """
    return 1.0 - ratio(sums.squared_difference, sums.forecast_squared + sums.observed_squared)


def useful_skill(sums: FssSums) -> np.ndarray:
    """0.5 + f0 / 2 with the observed base rate f0: the FSS from which a scale counts as useful; NaN without a pixel.

    Source: Roberts and Lean 2008, section 3c (FSS of a uniform forecast of the base rate).
    """
    return 0.5 + ratio(sums.observed_events, sums.n_windows) / 2.0


@numba.njit(cache=True)
def _fss_frames(forecast, observed, levels_f, levels_o, windows, zero):  # type: ignore[no-untyped-def]
    frames, rows, columns = forecast.shape
    n = np.zeros(frames, np.int64)
    events = np.zeros((frames, levels_f.size), np.int64)
    sums = np.zeros((frames, levels_f.size, windows.size, 3))
    valid = np.zeros((rows, columns), np.bool_)
    valid_table = np.zeros((rows + 1, columns + 1), np.int64)
    event_table = np.zeros((rows + 1, columns + 1), np.int64)
    # Exact sums of squared event counts, by the number of valid pixels in the window.
    by_valid = np.zeros((windows.max() ** 2 + 1, 3), np.int64)
    # What of them would not fit an integer any more, divided already; only large windows on large frames need it.
    spilled = np.zeros(3)
    for k in range(frames):
        n[k] = _fill_valid(forecast[k], observed[k], valid, valid_table)
        for t in range(levels_f.size):
            total = _fill_events(forecast[k], observed[k], valid, levels_f[t], levels_o[t], event_table)
            events[k, t] = total >> 32
            if total == 0:
                continue
            for w in range(windows.size):
                by_valid[:] = 0
                spilled[:] = 0
                _add_windows(
                    event_table, valid_table, valid, windows[w] // 2, zero, n[k] == rows * columns, by_valid, spilled
                )
                sums[k, t, w] += spilled
                for m in range(1, windows[w] ** 2 + 1):
                    for q in range(3):
                        if by_valid[m, q] != 0:
                            sums[k, t, w, q] += by_valid[m, q] / (np.float64(m) * np.float64(m))
    return n, events, sums


@numba.njit(cache=True)
def _fill_valid(forecast, observed, valid, table):  # type: ignore[no-untyped-def]
    for i in range(valid.shape[0]):
        row = 0
        for j in range(valid.shape[1]):
            ok = forecast[i, j] == forecast[i, j] and observed[i, j] == observed[i, j]
            valid[i, j] = ok
            row += ok
            table[i + 1, j + 1] = table[i, j + 1] + row
    return table[-1, -1]


@numba.njit(cache=True)
def _fill_events(forecast, observed, valid, level_f, level_o, table):  # type: ignore[no-untyped-def]
    """Forecast events in the low 32 bits of the summed-area table, observed ones in the high; returns the total."""
    for i in range(valid.shape[0]):
        row = 0
        for j in range(valid.shape[1]):
            ok = valid[i, j]
            row += (ok & (forecast[i, j] >= level_f)) + ((ok & (observed[i, j] >= level_o)) << 32)
            table[i + 1, j + 1] = table[i, j + 1] + row
    return table[-1, -1]


@numba.njit(cache=True)
def _add_windows(events, valid_table, valid, half, zero, all_valid, by_valid, spilled):  # type: ignore[no-untyped-def]
    rows, columns = valid.shape
    side = 2 * half + 1
    last, difference, forecast, observed = 0, 0, 0, 0
    for i in range(rows):
        top, bottom = max(i - half, 0), min(i + half + 1, rows)
        for j in range(columns):
            left, right = max(j - half, 0), min(j + half + 1, columns)
            both = _box(events, top, bottom, left, right)
            if both == 0 or not valid[i, j]:
                continue
            inside = (bottom - top) * (right - left)
            m = inside if all_valid else _box(valid_table, top, bottom, left, right)
            if zero:
                m += side * side - inside
            if m != last or forecast > _LARGE or observed > _LARGE:
                _flush(by_valid, spilled, last, difference, forecast, observed)
                last, difference, forecast, observed = m, 0, 0, 0
            a, b = both & 0xFFFFFFFF, both >> 32
            difference += (a - b) * (a - b)
            forecast += a * a
            observed += b * b
    _flush(by_valid, spilled, last, difference, forecast, observed)


@numba.njit(cache=True)
def _flush(by_valid, spilled, m, difference, forecast, observed):  # type: ignore[no-untyped-def]
    """Add a run of windows of m valid pixels; a sum that has grown large is divided and moved to `spilled`."""
    by_valid[m, 0] += difference
    by_valid[m, 1] += forecast
    by_valid[m, 2] += observed
    for q in range(3):
        if by_valid[m, q] > _LARGE:
            spilled[q] += by_valid[m, q] / (np.float64(m) * np.float64(m))
            by_valid[m, q] = 0


@numba.njit(inline="always")
def _box(table, top, bottom, left, right):  # type: ignore[no-untyped-def]
    return table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
