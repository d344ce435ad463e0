"""MeteoSwiss AQC composites: 8-bit GIFs whose palette indices are logarithmic classes of an accumulation.

The classes' formula and the grid stand in the product's documentation, not in the file.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from functools import cache, lru_cache

import numpy as np

from data_prep.readers.frame import RadarFrame
from data_prep.readers.gif import GifError, comment_of, parse_gif
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import Reader
from data_prep.readers.scaling import look_up
from data_prep.readers.selection import select
from data_prep.readers.source import Source
from nowcast.data.grid import Grid
from nowcast.data.units import rate_from_accumulation

SCALE = "mmh2LASSEN8bitmm_mn"
_SHAPE = (640, 710)
# North-west corner of the composite in the Swiss national grid CH1903 / LV03 [m].
_LEFT, _TOP = 255_000.0, 480_000.0
_NO_DATA = 255
# 0 and 1 are below the smallest class; 251 to 254 are reserved for drawing and stand where no rain is.
_DRY = (0, 1, 251, 252, 253, 254)
_MAX_FILE_BYTES = 4_000_000


def class_depths_mm() -> np.ndarray:
    """(256,) float64: the depth [mm] of each class, NaN for no data; from 10 log10(316 R^1.5) in half-decibel steps."""
    classes = np.arange(256.0)
    depth = (10.0 ** ((classes - 71.5) / 20.0) / 316.0) ** (1 / 1.5)
    depth[list(_DRY)] = 0.0
    depth[_NO_DATA] = np.nan
    return depth


@lru_cache(maxsize=8)
def _class_rates(minutes: float) -> np.ndarray:
    """(256,) float32 [mm/h]: the rain rate of each class."""
    rates = rate_from_accumulation(class_depths_mm(), interval_minutes=minutes).astype(np.float32)
    rates.setflags(write=False)
    return rates


@cache
def _grid() -> Grid:
    return Grid.from_corner(_LEFT, _TOP, 1000.0, 1000.0, _SHAPE, "EPSG:21781")


def read(source: Source, options: ReadOptions) -> Iterator[RadarFrame]:
    try:
        gif = parse_gif(source.read(_MAX_FILE_BYTES))
        _check(source, gif.width, gif.height, gif.comment)
        classes = gif.indices()
    except GifError as error:
        raise source.error(f"a damaged GIF: {error}", "fetch the file again") from error
    minutes = _interval_minutes(source, gif.comment, options)
    part = select(_grid(), options, source)
    yield RadarFrame(
        part.coarse(look_up(_class_rates(minutes), part.cut(classes))),
        _time(source, gif.comment),
        part.grid,
        interval_minutes=minutes,
        attributes={
            "source_format": READER.name,
            "institution": "MeteoSwiss",
            "quantity": "accumulation",
            "product": "AQC",
            "zr_a": 316.0,
            "zr_b": 1.5,
        },
    )


def _matches(source: Source) -> bool:
    return source.head.startswith(b"GIF8") and "PRDT=" in comment_of(source.head)


def _check(source: Source, width: int, height: int, comment: str) -> None:
    if (height, width) != _SHAPE:
        raise source.error(
            f"an image of {height}x{width} pixels, where the AQC composite has 640x710", "its grid is not known"
        )
    scale = re.search(r"SCALE=(\S+)", comment)
    if scale is None or scale.group(1) != SCALE:
        found = "nothing" if scale is None else scale.group(1)
        raise source.error(f"its comment declares the scale {found}, wanted {SCALE}", "only AQC products are read")


def _time(source: Source, comment: str) -> np.datetime64:
    """The end of the accumulation: PRDT=AQCyydddHHMM."""
    stamp = re.search(r"PRDT=AQC(\d{9})", comment)
    if stamp is None:
        raise source.error("its comment holds no product time PRDT=AQCyydddHHMM", "only AQC products are read")
    named = re.match(r"AQC(\d{9})\D", source.path.name)
    if named is not None and named.group(1) != stamp.group(1):
        # The file has no checksum: a flipped bit in its time is seen by this alone.
        raise source.error(
            f"its name says {named.group(1)} and its contents {stamp.group(1)}", "fetch it again, or rename it"
        )
    try:
        return np.datetime64(datetime.datetime.strptime(stamp.group(1), "%y%j%H%M"), "s")
    except ValueError as error:
        raise source.error(f"its product time {stamp.group(1)!r} is not a time yydddHHMM") from error


def _interval_minutes(source: Source, comment: str, options: ReadOptions) -> float:
    minutes = re.search(r"ACCUm=(\d{6})", comment)
    declared = None if minutes is None or int(minutes.group(1)) == 0 else float(int(minutes.group(1)))
    return source.interval_minutes(declared, options, lacking="its comment declares no interval ACCUm")


READER = Reader("mch_gif", "MeteoSwiss AQC accumulations (GIF)", _matches, read, uses=("accumulation_minutes",))
