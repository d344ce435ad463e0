"""Frames that do not go with their neighbours in time, found from the archive's per-frame series.

A format without checksums lets a damaged file through as a frame that looks like rain. What gives it away, if
anything, is its difference from the frames around it. This reports and never removes: an outage or a first shower can
look the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Frames on either side that a frame is compared with, and the least number of them that must be present.
NEIGHBOURS, FEWEST = 2, 2
# A share of pixels (valid, wet, on the edge of rain) is odd when it leaves the range of its neighbours by this.
# Far fewer valid pixels are no mark of damage: a radar was out, and the frame's status says partial.
PARTIAL_SHARE = 0.02
SHARE_MARGIN = {"valid_pixels": 0.02, "wet_share": 0.10, "edge_share": 0.02}
# A mean rate is odd at this many times, or this share of, that of its neighbours, when it matters at all [mm/h].
RATE_FACTOR, LEAST_MEAN_RATE = 1.8, 0.02
# A largest rate is odd above this many times that of its neighbours plus this [mm/h]: one wrong pixel is enough.
PEAK_FACTOR, LEAST_PEAK = 2.5, 20.0
COMPARED = ("valid_pixels", "wet_share", "edge_share", "mean_rate", "maximum_rate", "cut_pixels", "lone_rate")
WHAT = {
    "valid_pixels": "the measured share of pixels",
    "wet_share": "the wet share",
    "edge_share": "the roughness of rain",
}


@dataclass(frozen=True)
class _Mark:
    """When a mark of damage is odd: above `factor` times the largest of all other frames plus `margin`.

    Real frames have marks of their own, more in one source than in another, and a source keeps its kind: so it is all
    others that they are compared with, and not before there are `fewest` of them.
    """

    factor: float
    margin: float
    fewest: int
    reason: str


# In none of the real archives that are measured, and in no run of frames of one, is a frame odd by these.
MARKS = {
    "cut_pixels": _Mark(2.0, 8.0, 6, "a straight cut of {:.0f} pixels along a row, elsewhere {:.0f} at most"),
    "lone_rate": _Mark(5.0, 2.0, 20, "one pixel stands {:.1f} mm/h above all around it, elsewhere {:.1f} at most"),
}
# So many frames, or such a share, may be odd together.
ODD_TOGETHER, ODD_SHARE = 2, 0.02


def implausible_frames(series: Mapping[str, np.ndarray], present: np.ndarray, *, pixels: int) -> list[tuple[int, str]]:
    """Frames that leave the range of their neighbours by far, with what gives them away.

    Where the frames around all measure the same number of pixels, one pixel more or fewer is odd; so many fewer that
    the frame is partial are not.

    Args:
        series: (T,) arrays by the names of `COMPARED`; those of `MARKS` may be left out.
        present: (T,) bool.
        pixels: Number of pixels of the grid.
    """
    found: dict[int, str] = {}
    measured = np.where(present, series["valid_pixels"].astype(np.float64), np.nan)
    low, high, number = _neighbour_range(measured)
    outage = measured < (1 - PARTIAL_SHARE) * low
    for index in np.flatnonzero((number == 2 * NEIGHBOURS) & (low == high) & (measured != low) & ~outage):
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
        odd = (values > high + margin) | ((values < low - margin) & (name != "valid_pixels"))
        for index in np.flatnonzero((number >= FEWEST) & odd):
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
    for name, mark in MARKS.items():
        if name in series:
            for odd_one, reason in _standing_out(np.where(present, series[name], np.nan), mark):
                found.setdefault(odd_one, reason)
    return sorted(found.items())


def _standing_out(values: np.ndarray, mark: _Mark) -> list[tuple[int, str]]:
    """Frames above all others by far; NaN where the mark was not measured."""
    measured = np.flatnonzero(~np.isnan(values))
    descending = measured[np.argsort(-values[measured], kind="stable")]
    for number in range(max(ODD_TOGETHER, int(ODD_SHARE * measured.size)), 0, -1):
        if measured.size - number < mark.fewest:
            continue
        largest_other = float(values[descending[number]])
        if values[descending[number - 1]] > mark.factor * largest_other + mark.margin:
            return [(int(index), mark.reason.format(values[index], largest_other)) for index in descending[:number]]
    return []


def _neighbour_range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least and largest value among the neighbours of each frame, and their number; 0 where it is not there itself."""
    padded = np.pad(values, NEIGHBOURS, constant_values=np.nan)
    offsets = [offset for offset in range(2 * NEIGHBOURS + 1) if offset != NEIGHBOURS]
    around = np.stack([padded[offset : offset + values.size] for offset in offsets])
    number = np.where(np.isnan(values), 0, (~np.isnan(around)).sum(axis=0))
    low, high = np.fmin.reduce(around, axis=0), np.fmax.reduce(around, axis=0)
    return low, high, number
