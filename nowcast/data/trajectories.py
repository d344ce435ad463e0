"""Where rain comes from: each pixel traced back along a constant motion field, and fields looked up there.

One step after the other, so that a forecast of many fields can be made lead time by lead time while it is in reach of
the processor. How motion is found is the business of `nowcast.data.motion`.

Shapes: K fields that travel together, H rows, W columns.
"""

from __future__ import annotations

import numpy as np
from numba import njit


class Trajectories:
    """The place from which the rain at each pixel came, at first the pixel itself.

    Semi-Lagrangian: pixels are traced back by the midpoint rule (Germann and Zawadzki 2002,
    doi 10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2), and fields are looked up once, bilinearly, so that blur does
    not add up over the steps.

    Args:
        motion: (2, H, W) finite [pixels per step], rows then columns.
    """

    def __init__(self, motion: np.ndarray) -> None:
        self._motion = np.ascontiguousarray(motion, dtype=np.float32)
        rows, columns = self._motion.shape[1:]
        self._places = np.empty((2, rows, columns))
        self._places[0], self._places[1] = np.arange(rows)[:, None], np.arange(columns)

    def trace(self) -> None:
        """Go back one step more."""
        _trace(self._motion, self._places)

    def bring(self, fields: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The fields (K, H, W) at the places, float32; NaN outside the frame and where most of the weight is missing.

        Bilinear among the valid pixels. A pixel reaches half a pixel beyond its centre, so that much beyond the last
        centres is still inside. Between equal values it gives that value to the bit: a threshold may lie there.

        Args:
            fields: Any unit, NaN where missing.
            out: (K, H, W) float32 to write to, any but the last axis strided.
        """
        fields = np.ascontiguousarray(fields, dtype=np.float32)
        if fields.ndim != 3 or fields.shape[1:] != self._places.shape[1:]:
            raise ValueError(f"fields {fields.shape} do not lie on the grid {self._places.shape[1:]}")
        out = np.empty_like(fields) if out is None else out
        _bring(fields.reshape(len(fields), -1), self._places, out)
        return out


@njit(cache=True, nogil=True)
def value_at(field: np.ndarray, y: float, x: float) -> float:
    """The field (H, W) at a position [pixels], bilinear among the valid pixels, NaN as `Trajectories.bring` says."""
    rows, columns = field.shape
    if not (-0.5 <= y <= rows - 0.5 and -0.5 <= x <= columns - 0.5):
        return np.nan
    y, x = min(max(y, 0.0), rows - 1.0), min(max(x, 0.0), columns - 1.0)
    top, left = min(int(y), max(rows - 2, 0)), min(int(x), max(columns - 2, 0))
    # A side of one pixel has no next one; its weight is 0 then.
    next_row, next_column = min(1, rows - 1), min(1, columns - 1)
    down, right = y - top, x - left
    total = 0.0
    weight = 0.0
    for row in range(2):
        for column in range(2):
            share = (down if row else 1.0 - down) * (right if column else 1.0 - right)
            value = field[top + row * next_row, left + column * next_column]
            if not np.isnan(value):
                total += share * value
                weight += share
    return total / weight if weight >= 0.5 else np.nan


@njit(cache=True, nogil=True)
def _motion_at(motion: np.ndarray, y: float, x: float) -> tuple[float, float]:
    """Motion at a position [pixels], bilinear; beyond the frame that of its edge."""
    rows, columns = motion.shape[1:]
    y, x = min(max(y, 0.0), rows - 1.0), min(max(x, 0.0), columns - 1.0)
    top, left = min(int(y), max(rows - 2, 0)), min(int(x), max(columns - 2, 0))
    bottom, beside = min(top + 1, rows - 1), min(left + 1, columns - 1)
    down, right = y - top, x - left
    a, b, c, d = (1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right
    dy = a * motion[0, top, left] + b * motion[0, top, beside]
    dy += c * motion[0, bottom, left] + d * motion[0, bottom, beside]
    dx = a * motion[1, top, left] + b * motion[1, top, beside]
    dx += c * motion[1, bottom, left] + d * motion[1, bottom, beside]
    return dy, dx


@njit(cache=True, nogil=True)
def _trace(motion: np.ndarray, places: np.ndarray) -> None:
    """Move `places` (2, H, W) one step back along the motion (2, H, W)."""
    for row in range(places.shape[1]):
        for column in range(places.shape[2]):
            y, x = places[0, row, column], places[1, row, column]
            dy, dx = _motion_at(motion, y, x)
            dy, dx = _motion_at(motion, y - 0.5 * dy, x - 0.5 * dx)
            places[0, row, column], places[1, row, column] = y - dy, x - dx


@njit(cache=True, nogil=True)
def _bring(fields: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` (K, H, W) with the fields (K, H * W) at `places` (2, H, W).

    Indices and weights of a row are made once and serve all fields. Most pixels have four valid neighbours; the
    others come out as NaN and are looked up again, one by one.
    """
    several, rows, columns = out.shape
    # Unsigned: a signed index would be asked whether it counts from the end.
    corners = np.zeros((4, columns), dtype=np.uint32)
    down, right = np.zeros(columns, dtype=np.float32), np.zeros(columns, dtype=np.float32)
    for row in range(rows):
        for column in range(columns):
            y, x = places[0, row, column], places[1, row, column]
            inside = -0.5 <= y <= rows - 0.5 and -0.5 <= x <= columns - 0.5
            y, x = (min(max(y, 0.0), rows - 1.0), min(max(x, 0.0), columns - 1.0)) if inside else (0.0, 0.0)
            top, left = int(y), int(x)
            below, beside = min(top + 1, rows - 1), min(left + 1, columns - 1)
            corners[0, column], corners[1, column] = top * columns + left, top * columns + beside
            corners[2, column], corners[3, column] = below * columns + left, below * columns + beside
            down[column], right[column] = (y - top, x - left) if inside else (np.nan, np.nan)
        for k in range(several):
            if _blend(fields[k], corners, down, right, out[k, row]):
                _complete(fields[k].reshape((rows, columns)), corners, down, places[:, row], out[k, row])


@njit(cache=True, nogil=True)
def _blend(field: np.ndarray, corners: np.ndarray, down: np.ndarray, right: np.ndarray, out: np.ndarray) -> int:
    """Fill `out` (W,) with the flat field between four corners (4, W), NaN where one of them is; how many are NaN."""
    missing = 0
    for column in range(out.size):
        a, b = field[corners[0, column]], field[corners[1, column]]
        c, d = field[corners[2, column]], field[corners[3, column]]
        above = a + right[column] * (b - a)
        below = c + right[column] * (d - c)
        value = above + down[column] * (below - above)
        out[column] = value
        missing += np.isnan(value)
    return missing


@njit(cache=True, nogil=True)
def _complete(field: np.ndarray, corners: np.ndarray, down: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
    """Look again where `out` (W,) is NaN, though inside the frame: some corners may be valid."""
    flat = field.reshape(-1)
    for column in range(out.size):
        if np.isnan(out[column]) and not np.isnan(down[column]):
            for corner in range(4):
                if not np.isnan(flat[corners[corner, column]]):
                    out[column] = value_at(field, places[0, column], places[1, column])
                    break
