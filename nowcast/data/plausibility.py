"""Frames that do not go with their neighbours in time, found from the archive's per-frame series.

A format without checksums lets a damaged file through as a frame that looks like rain. What gives it away, if
anything, is its difference from the frames around it. This reports and never removes: an outage or a first shower can
look the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# Frames on either side that a frame is compared with, and the least number of them that must be present.
NEIGHBOURS, FEWEST = 2, 2
# A share of pixels (valid, wet, on the edge of rain) is odd when it leaves the range of its neighbours by this.
SHARE_MARGIN = {"valid_pixels": 0.02, "wet_share": 0.10, "edge_share": 0.02}
# A mean rate is odd at this many times, or this share of, that of its neighbours, when it matters at all [mm/h].
RATE_FACTOR, LEAST_MEAN_RATE = 1.8, 0.02
# A largest rate is odd above this many times that of its neighbours plus this [mm/h]: one wrong pixel is enough.
PEAK_FACTOR, LEAST_PEAK = 2.0, 20.0
COMPARED = ("valid_pixels", "wet_share", "edge_share", "mean_rate", "maximum_rate")
WHAT = {
    "valid_pixels": "the measured share of pixels",
    "wet_share": "the wet share",
    "edge_share": "the roughness of rain",
}


def implausible_frames(series: Mapping[str, np.ndarray], present: np.ndarray, *, pixels: int) -> list[tuple[int, str]]:
    """Frames that leave the range of their neighbours by far, with what gives them away.

    Where the frames around all measure the same number of pixels, one pixel more or fewer is odd.

    Args:
        series: (T,) arrays by the names of `COMPARED`.
        present: (T,) bool.
        pixels: Number of pixels of the grid.
    """
    found: dict[int, str] = {}
    measured = np.where(present, series["valid_pixels"].astype(np.float64), np.nan)
    low, high, number = _neighbour_range(measured)
    for index in np.flatnonzero((number == 2 * NEIGHBOURS) & (low == high) & (measured != low)):
        more = int(measured[index] - low[index])
        found[int(index)] = f"{abs(more)} pixels {'more' if more > 0 else 'fewer'} are measured than in all around it"
    shares = {
        "valid_pixels": series["valid_pixels"] / pixels,
        "wet_share": series["wet_share"],
        "edge_share": series["edge_share"],
    }
    for name, values in shares.items():
        values = np.where(present, np.nan_to_num(values.astype(np.float64)), np.nan)
        low, high, number = _neighbour_range(values)
        margin = SHARE_MARGIN[name]
        for index in np.flatnonzero((number >= FEWEST) & ((values < low - margin) | (values > high + margin))):
            found.setdefault(
                int(index),
                f"{WHAT[name]} is {values[index]:.3f}, between {low[index]:.3f} and {high[index]:.3f} around it",
            )
    rate = np.where(present, np.nan_to_num(series["mean_rate"].astype(np.float64)), np.nan)
    low, high, number = _neighbour_range(rate)
    with np.errstate(invalid="ignore"):
        odd = (rate > RATE_FACTOR * high + LEAST_MEAN_RATE) | (rate + LEAST_MEAN_RATE < low / RATE_FACTOR)
    for index in np.flatnonzero((number >= FEWEST) & odd):
        found.setdefault(
            int(index),
            f"the mean rain rate is {rate[index]:.3f} mm/h, between {low[index]:.3f} and {high[index]:.3f} around it",
        )
    peak = np.where(present, np.nan_to_num(series["maximum_rate"].astype(np.float64)), np.nan)
    _, high, number = _neighbour_range(peak)
    with np.errstate(invalid="ignore"):
        odd = peak > PEAK_FACTOR * high + LEAST_PEAK
    for index in np.flatnonzero((number >= FEWEST) & odd):
        found.setdefault(
            int(index), f"the largest rain rate is {peak[index]:.1f} mm/h, around it {high[index]:.1f} at most"
        )
    return sorted(found.items())


def _neighbour_range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least and largest value among the neighbours of each frame, and their number; 0 where it is not there itself."""
    padded = np.pad(values, NEIGHBOURS, constant_values=np.nan)
    offsets = [offset for offset in range(2 * NEIGHBOURS + 1) if offset != NEIGHBOURS]
    around = np.stack([padded[offset : offset + values.size] for offset in offsets])
    number = np.where(np.isnan(values), 0, (~np.isnan(around)).sum(axis=0))
    low, high = np.fmin.reduce(around, axis=0), np.fmax.reduce(around, axis=0)
    return low, high, number
