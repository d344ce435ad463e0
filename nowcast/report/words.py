"""Values as words, the same on every page and picture."""

from __future__ import annotations

import numpy as np


def utc(time: np.datetime64) -> str:
    """`2016-07-11 21:00 UTC`."""
    return str(time.astype("datetime64[m]")).replace("T", " ") + " UTC"


def listed(names: tuple[str, ...]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
