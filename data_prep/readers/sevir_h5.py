"""SEVIR events: HDF5 of vertically integrated liquid (VIL), with times and places in a catalogue beside it.

VIL [kg m-2] is the water in the column, not the rain that reaches the ground. It is read only with a declared
conversion R = a VIL^b, and the frames' attributes say that their rain rate is derived from VIL.
"""

from __future__ import annotations

import csv
import datetime
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache

import h5py
import numpy as np
import pyproj

from data_prep.readers.frame import RadarFrame
from data_prep.readers.hdf5 import check_chunks
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import Reader
from data_prep.readers.scaling import look_up
from data_prep.readers.selection import select
from data_prep.readers.source import Source, text
from nowcast.data.grid import Grid
from nowcast.errors import DataError

NO_DATA = 255
_CATALOG = ("id", "img_type", "time_utc", "minute_offsets", "proj", "llcrnrlat", "llcrnrlon", "width_m", "height_m")


def vil_kg_m2() -> np.ndarray:
    """(256,) float64: VIL of each byte, NaN for no data.

    Source: Veillette, Samsi and Mattioli (2020), SEVIR, NeurIPS 33, supplement: linear up to 18, exponential above.
    """
    byte = np.arange(256.0)
    vil = np.where(byte <= 18, (byte - 2) / 90.66, np.exp((byte - 83.9) / 38.9))
    vil[byte <= 5] = 0.0
    vil[NO_DATA] = np.nan
    return vil


def read(source: Source, options: ReadOptions) -> Iterator[RadarFrame]:
    if options.vil_rain_rate is None:
        raise source.error(
            "holds VIL, the water in the column, which is not rain at the ground",
            "declare a conversion R = a VIL^b with vil_rain_rate=(a, b) to read it as an estimate of rain "
            "(--vil-rain-rate A,B)",
        )
    a, b = options.vil_rain_rate
    if not (0 < a < np.inf and 0 < b < np.inf):
        raise source.error(f"vil_rain_rate is {options.vil_rain_rate}, wanted two positive numbers")
    catalog = _catalog(source, options)
    with np.errstate(invalid="ignore"):
        rates = (a * vil_kg_m2() ** b).astype(np.float32)
    attributes: dict[str, str | float] = {
        "source_format": READER.name,
        "quantity": "rain rate derived from VIL",
        "conversion": f"R = {a:g} VIL^{b:g}",
    }
    with source.open_hdf5(options) as file:
        array = file["vil"]
        if array.ndim != 4 or array.dtype != np.uint8:
            raise source.error(
                f"its vil is {array.shape} of {array.dtype}, wanted events, rows, columns, times of bytes"
            )
        source.check_size(array.shape[1:3], options)
        source.check_size((array.shape[1] * array.shape[2], array.shape[3]), options)
        check_chunks(source, array)
        frames = array.shape[3]
        events = _wanted_events(source, file, array.shape[0], options)
        wanted = options.wanted_frames(len(events) * frames)
        for place, (number, identity) in enumerate(events):
            among = range(max(wanted.start - place * frames, 0), min(wanted.stop - place * frames, frames))
            if not among:
                continue
            if identity not in catalog:
                raise source.error(
                    f"its event {identity} is not in the catalogue", "name the catalogue of this file (--catalog)"
                )
            row = catalog[identity]
            grid = _grid(source, row, array.shape[1:3])
            part = select(grid, options, source)
            times = _times(source, row, array.shape[3])
            # Stored from the south, like the corner that the catalogue gives.
            event = array[number][::-1]
            for index in among:
                yield RadarFrame(
                    part.coarse(look_up(rates, part.cut(event[:, :, index]))),
                    times[index],
                    part.grid,
                    attributes={**attributes, "event": identity},
                )


def _matches(source: Source) -> bool:
    if not {"vil", "id"} <= source.hdf5_names:
        return False
    with source.open_hdf5(ReadOptions()) as file:
        return isinstance(file["vil"], h5py.Dataset) and file["vil"].ndim == 4


def _wanted_events(source: Source, file: h5py.File, number: int, options: ReadOptions) -> list[tuple[int, str]]:
    """Positions and ids."""
    found = [text(value) for value in file["id"][()]]
    if len(found) != number:
        raise source.error(f"holds {number} events and {len(found)} ids")
    return [(at, identity) for at, identity in enumerate(found) if options.event in (None, identity)]


def _catalog(source: Source, options: ReadOptions) -> Mapping[str, Mapping[str, str]]:
    if options.catalog is None:
        raise source.error("holds no times and places", "name its table CATALOG.csv in catalog (--catalog)")
    try:
        return _rows_of_vil(str(options.catalog), os.stat(options.catalog).st_mtime_ns)
    except OSError as error:
        finding = f"its catalogue {options.catalog} cannot be read: {error.strerror or error}"
        raise source.error(finding, "name the table that belongs to it with --catalog") from error


# One table belongs to all files, and has as many rows as they have events.
@lru_cache(maxsize=2)
def _rows_of_vil(path: str, modified_ns: int) -> Mapping[str, Mapping[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        lacking = [name for name in _CATALOG if name not in (rows.fieldnames or ())]
        if lacking:
            raise DataError(f"its catalogue {path} has no column {lacking[0]!r}")
        return {row["id"]: row for row in rows if row["img_type"] == "vil"}


def _times(source: Source, row: Mapping[str, str], count: int) -> np.ndarray:
    try:
        start = np.datetime64(datetime.datetime.fromisoformat(row["time_utc"]), "s")
        offsets = np.array([round(60 * float(minutes)) for minutes in row["minute_offsets"].split(":")])
    except ValueError as error:
        raise source.error(f"the catalogue's time {row['time_utc']!r} is not read: {error}") from error
    if offsets.size != count:
        raise source.error(f"holds {count} frames an event, but the catalogue gives {offsets.size} offsets")
    return start + offsets.astype("timedelta64[s]")


def _grid(source: Source, row: Mapping[str, str], shape: tuple[int, int]) -> Grid:
    """From the south-west corner and the size in metres."""
    try:
        crs = pyproj.CRS.from_user_input(f"{row['proj'].strip()} +type=crs")
        latitude, longitude, width, height = (float(row[name]) for name in _CATALOG[5:])
    except (pyproj.exceptions.CRSError, ValueError) as error:
        raise source.error(f"the catalogue's place of event {row['id']} is not read: {error}") from error
    to_grid = pyproj.Transformer.from_crs(crs.geodetic_crs or crs, crs, always_xy=True)
    left, bottom = to_grid.transform(longitude, latitude)
    return Grid.from_corner(left, bottom + height, width / shape[1], height / shape[0], shape, crs)


READER = Reader(
    "sevir_h5",
    "SEVIR vertically integrated liquid (HDF5), with a declared conversion",
    _matches,
    read,
    uses=("vil_rain_rate", "catalog", "event"),
)
