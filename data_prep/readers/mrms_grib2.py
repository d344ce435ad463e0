"""MRMS PrecipRate: GRIB2 on a latitude-longitude grid of 0.01 degrees, kept as it is or cropped and coarsened.

Reading needs eccodes, the extra `grib`; its tables do not know MRMS' discipline 209: the parameter is told by number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from data_prep.readers.frame import RadarFrame
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import Reader
from data_prep.readers.selection import select
from data_prep.readers.source import Source
from nowcast.data.grid import Grid
from nowcast.errors import MissingPackageError

# (discipline, category, number) of the instantaneous rate in mm/h.
PRECIP_RATE = (209, 6, 1)
_MAX_FILE_BYTES = 512 << 20
# GRIB2 code table 3.2: 2 is the IAU ellipsoid, within metres of WGS 84; 0, 6 are spheres; 4, 5 GRS80 and WGS 84.
_EARTHS = {
    0: "+proj=longlat +R=6367470 +type=crs",
    2: "+proj=longlat +a=6378160 +rf=297 +type=crs",
    4: "+proj=longlat +ellps=GRS80 +type=crs",
    5: "EPSG:4326",
    6: "+proj=longlat +R=6371229 +type=crs",
}


def read(source: Source, options: ReadOptions) -> Iterator[RadarFrame]:
    try:
        import eccodes
    except ImportError as error:
        raise MissingPackageError("eccodes", "grib", f"reading the GRIB file {source}") from error
    contents = source.read(_MAX_FILE_BYTES)
    position = 0
    while position < len(contents):
        length = _message_length(source, contents, position)
        with _message(eccodes, contents[position : position + length]) as message:
            frame = _frame(source, eccodes, message, options)
        yield frame
        position += length


def _matches(source: Source) -> bool:
    return source.head[:4] == b"GRIB"


def _message_length(source: Source, contents: bytes, position: int) -> int:
    """Length of the message at a position; eccodes itself skips what it cannot make out."""
    start = contents[position : position + 16]
    if start[:4] != b"GRIB" or len(start) < 16 or start[7] != 2:
        raise source.error(f"byte {position} begins no GRIB2 message")
    length = int.from_bytes(start[8:16], "big")
    if length < 20 or contents[position + length - 4 : position + length] != b"7777":
        raise source.error(f"the message at byte {position} of {length} bytes is cut short", "fetch the file again")
    return length


@contextmanager
def _message(eccodes: Any, contents: bytes) -> Iterator[Any]:
    message = eccodes.codes_new_from_message(contents)
    try:
        yield message
    finally:
        eccodes.codes_release(message)


def _frame(source: Source, eccodes: Any, message: Any, options: ReadOptions) -> RadarFrame:
    def get(name: str) -> Any:
        return eccodes.codes_get(message, name)

    parameter = tuple(get(name) for name in ("discipline", "parameterCategory", "parameterNumber"))
    if parameter != PRECIP_RATE:
        raise source.error(f"holds the parameter {parameter}, wanted MRMS PrecipRate {PRECIP_RATE}")
    grid = _grid(source, get, options)
    part = select(grid, options, source)
    values = eccodes.codes_get_values(message)
    if values.size != grid.shape[0] * grid.shape[1]:
        raise source.error(f"holds {values.size} values for a grid of {grid.shape}")
    # The packing is decimal: rounding undoes what 10^-D leaves of it in binary.
    digits = int(get("decimalScaleFactor"))
    rate = (
        np.round(part.cut(values.reshape(grid.shape)), digits) if digits > 0 else part.cut(values.reshape(grid.shape))
    )
    missing = rate < 0
    if get("bitmapPresent"):
        missing |= rate == get("missingValue")
    rate = np.where(missing, np.nan, rate)
    return RadarFrame(
        part.coarse(rate),
        _time(source, get),
        part.grid,
        attributes={
            "source_format": READER.name,
            "institution": "NOAA NSSL/NCEP MRMS" if get("centre") == 161 else f"GRIB centre {get('centre')}",
            "quantity": "rate",
            "product": "PrecipRate",
        },
    )


def _grid(source: Source, get: Any, options: ReadOptions) -> Grid:
    if get("gridType") != "regular_ll":
        raise source.error(f"a grid of type {get('gridType')!r}, wanted regular_ll")
    columns, rows = int(get("Ni")), int(get("Nj"))
    source.check_size((rows, columns), options)
    if get("scanningMode") != 0:
        raise source.error(f"scanning mode {get('scanningMode')}, wanted 0 (rows from the north, west to east)")
    earth = int(get("shapeOfTheEarth"))
    if earth not in _EARTHS:
        raise source.error(f"shape of the Earth {earth} of GRIB2 table 3.2, known are {sorted(_EARTHS)}")
    north, south = (float(get(f"latitudeOf{which}GridPointInDegrees")) for which in ("First", "Last"))
    west, east = (float(get(f"longitudeOf{which}GridPointInDegrees")) for which in ("First", "Last"))
    east += 360.0 if east < west else 0.0
    turn = 360.0 if west >= 180.0 else 0.0
    # First and last are whole microdegrees and some writers round them badly, so the increments come first.
    dx, dy = (float(get(f"{axis}DirectionIncrementInDegrees")) for axis in "ij")
    if abs((east - west) - (columns - 1) * dx) > 0.1 * dx or abs((north - south) - (rows - 1) * dy) > 0.1 * dy:
        raise source.error(
            f"{rows}x{columns} steps of {dy:g} and {dx:g} degrees do not lead "
            f"from {north:g}, {west:g} to {south:g}, {east:g}"
        )
    return Grid(west - turn + dx * np.arange(columns), north - dy * np.arange(rows), _EARTHS[earth])


def _time(source: Source, get: Any) -> np.datetime64:
    date, time, second = int(get("validityDate")), int(get("validityTime")), int(get("second"))
    stamp = f"{date:08d}"
    try:
        day = np.datetime64(f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:]}", "s")
    except ValueError as error:
        raise source.error(f"its validity date {date} is not a date") from error
    hours, minutes = divmod(time, 100)
    return day + np.timedelta64(3600 * hours + 60 * minutes + second, "s")


READER = Reader("mrms_grib2", "MRMS PrecipRate (GRIB2)", _matches, read)
