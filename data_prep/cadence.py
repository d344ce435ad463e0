"""The step of a set of frames: found, or refused with what was found. Nothing is resampled."""

from __future__ import annotations

import datetime
import os
import re
from collections import Counter
from collections.abc import Iterable

import numpy as np

from nowcast.errors import DataError

# A step must explain at least this share of the distances between neighbouring frames.
REGULAR_SHARE = 0.5


def infer_step(blocks: Iterable[np.ndarray]) -> np.timedelta64:
    """The step of frames whose valid times come in blocks of neighbours.

    The most frequent distance; or the smallest, where every other is a whole multiple of it (a gap, or a part of the
    period at half the rate).

    Args:
        blocks: Arrays of datetime64[s]; distances are taken inside each, after sorting.

    Raises:
        DataError: Fewer than two times, or no distance that stands out.
    """
    distances = np.concatenate([np.diff(np.unique(block)) for block in blocks] or [np.empty(0, "timedelta64[s]")])
    seconds = distances.astype("timedelta64[s]").astype(np.int64)
    if seconds.size == 0:
        raise DataError("one time alone has no step", "give it, for example --step 5min")
    smallest = int(seconds.min())
    if np.all(seconds % smallest == 0) and smallest >= 60:
        return np.timedelta64(smallest, "s")
    values, counts = np.unique(seconds, return_counts=True)
    commonest = int(values[np.argmax(counts)])
    if counts.max() < REGULAR_SHARE * seconds.size:
        raise DataError(
            f"the frames come at no regular step: distances of {describe_distances(seconds)}",
            "give --step, and --time-tolerance to move frames to the nearest slot",
        )
    return np.timedelta64(commonest, "s")


def describe_distances(seconds: Iterable[int]) -> str:
    """The commonest distances between frames, for people: "5 min (39 times), 10 min (once)"."""
    counts = Counter(int(value) for value in seconds).most_common(4)
    texts = [f"{value / 60:g} min ({'once' if number == 1 else f'{number} times'})" for value, number in counts]
    return ", ".join(texts)


def nearest_slot(
    time: np.datetime64, first: np.datetime64, step: np.timedelta64, tolerance: np.timedelta64
) -> np.datetime64:
    """The slot of the axis within `tolerance` of a time, or the time itself where there is none."""
    if not tolerance:
        return time
    offset = time.astype("datetime64[s]") - first
    slot = first + ((offset + step // 2) // step) * step
    return slot if abs(time - slot) <= tolerance else time


# How times stand in file names, and the strptime pattern of the digits found.
NAME_PATTERNS = (
    (re.compile(r"(?<!\d)((?:19|20)\d{6})[-_T]?(\d{4})(?:\d{2})?(?!\d)"), "%Y%m%d%H%M"),
    (re.compile(r"(?<!\d)(\d{6})(\d{4})(?!\d)"), "%y%m%d%H%M"),
    (re.compile(r"(?<!\d)(\d{5})(\d{4})\d?(?!\d)"), "%y%j%H%M"),
)


def time_in_name(path: str) -> np.datetime64 | None:
    """The time that a file's name seems to tell, by the usual patterns, to the minute.

    A check on the time inside, never in its place.
    """
    for pattern, form in NAME_PATTERNS:
        for match in pattern.finditer(os.path.basename(path)):
            try:
                return np.datetime64(datetime.datetime.strptime("".join(match.groups()), form), "s")
            except ValueError:
                continue
    return None
