"""OPERA's HDF5 (ODIM_H5 V2.0 to V2.4): cartesian composites and images of RATE, ACRR or reflectivity, with quality.

gain, offset, nodata and undetect are each optional and looked for from the data upwards, as the standard says.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import h5py
import numpy as np
import pyproj

from data_prep.readers.frame import RadarFrame
from data_prep.readers.hdf5 import Place, convert_window
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import Reader
from data_prep.readers.scaling import per_hour, rescale
from data_prep.readers.selection import Selection, select
from data_prep.readers.source import Source, number, text
from nowcast.data.grid import Grid
from nowcast.data.units import ZRelation
from nowcast.errors import DataError

RATE, ACCUMULATION = ("RATE",), ("ACRR",)
REFLECTIVITY = ("DBZH", "TH", "DBZV", "TV", "DBZ")
QUALITY = "QIND"
# In the order of preference where a file holds several.
QUANTITIES = RATE + ACCUMULATION + REFLECTIVITY
OPERA_Z_RELATION = ZRelation(200.0, 1.6)
# Corners of the image, and how many images to the right and down each lies from the north-west one.
_CORNERS = {"UL": (0, 0), "UR": (1, 0), "LL": (0, 1), "LR": (1, 1)}


def read(source: Source, options: ReadOptions) -> Iterator[RadarFrame]:
    with source.open_hdf5(options) as file:
        top = Place(file)
        _check_object(source, top)
        data, quantity = _wanted_data(source, top, options)
        part = select(_grid(source, data, options), options, source)
        rate, minutes, attributes = _rain_rate(source, data, quantity, part, options)
        frame = RadarFrame(
            part.coarse(rate),
            _valid_time(source, top, data, quantity, options),
            part.grid,
            interval_minutes=minutes,
            quality=_quality(source, top, data, part, options) if options.read_quality else None,
            attributes={**_description(top, data), **attributes},
        )
    yield frame


def _matches(source: Source) -> bool:
    if not source.hdf5_names:
        return False
    with source.open_hdf5(ReadOptions()) as file:
        return text(file.attrs.get("Conventions", "")).startswith("ODIM_H5") or (
            "what" in source.hdf5_names and text(file["what"].attrs.get("version", "")).startswith("H5rad")
        )


def _check_object(source: Source, top: Place) -> None:
    kind = text(top.attribute("what", "object", ""))
    if kind not in ("COMP", "IMAGE"):
        raise source.error(
            f"an ODIM object of kind {kind!r}, wanted a cartesian COMP or IMAGE", "make a composite of it first"
        )


def _wanted_data(source: Source, top: Place, options: ReadOptions) -> tuple[Place, str]:
    """The first dataN group of the wanted quantity."""
    found: dict[str, Place] = {}
    for dataset in top.numbered("dataset"):
        for data in dataset.numbered("data"):
            found.setdefault(text(data.inherited("what", "quantity", "")), data)
    if options.variable is not None:
        if options.variable in found and options.variable in QUANTITIES:
            return found[options.variable], options.variable
        wanted = options.variable
    else:
        for quantity in QUANTITIES:
            if quantity in found:
                return found[quantity], quantity
        wanted = "one of " + ", ".join(QUANTITIES)
    raise source.error(f"holds the quantities {', '.join(map(repr, found)) or 'none'}; wanted {wanted}")


@dataclass(frozen=True)
class _Scale:
    """From stored numbers to rain rates: of rates, of depths over so many minutes, of reflectivity by its relation."""

    gain: float
    offset: float
    dry: tuple[float, ...]
    missing: tuple[float, ...]
    minutes: float | None
    relation: ZRelation | None

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        dry, missing = _is_one_of(stored, self.dry), _is_one_of(stored, self.missing)
        if stored.dtype.kind == "f":
            missing |= np.isnan(stored)
        if self.relation is not None:
            # The power is slow and most pixels are dry or missing.
            values, wet = np.zeros(stored.shape), ~(missing | dry)
            values[wet] = self.relation.rain_rate(rescale(stored[wet], self.gain, self.offset))
        else:
            factor = Fraction(1) if self.minutes is None else per_hour(self.minutes)
            values = rescale(stored, self.gain, self.offset, factor=factor)
        np.copyto(values, 0.0, where=dry)
        np.copyto(values, np.nan, where=missing)
        return values


def _rain_rate(
    source: Source, data: Place, quantity: str, part: Selection, options: ReadOptions
) -> tuple[np.ndarray, float | None, dict[str, str | float]]:
    """(rain rate of the window, interval, what was used); missing is NaN, undetected is 0."""
    declared = _declared_relation(source, data)
    source.check_declared(options, _kind(quantity))
    minutes = _interval_minutes(source, data, options) if quantity in ACCUMULATION else None
    used: dict[str, str | float] = {"quantity": quantity}
    relation = declared
    if quantity in REFLECTIVITY:
        relation = options.z_relation or declared or OPERA_Z_RELATION
    if relation is not None:
        used |= {"zr_a": relation.a, "zr_b": relation.b}
    gain, offset = (_scale(source, data, name, neutral) for name, neutral in (("gain", 1.0), ("offset", 0.0)))
    dry, missing = _codes(data, options)
    rates = _Scale(gain, offset, dry, missing, minutes, relation if quantity in REFLECTIVITY else None)
    values = convert_window(source, _array(source, data), part.rows, part.columns, options, rates)
    _check_values(source, values, quantity)
    return values, minutes, used


def _kind(quantity: str) -> str:
    return "reflectivity" if quantity in REFLECTIVITY else "accumulation" if quantity in ACCUMULATION else "rain rate"


def _codes(data: Place, options: ReadOptions) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Stored values that mean (measured and dry, nothing measured)."""
    dry, missing = (data.inherited("what", name) for name in ("undetect", "nodata"))
    return (
        () if dry is None else (number(dry),),
        (*(() if missing is None else (number(missing),)), *options.missing_values),
    )


def _is_one_of(stored: np.ndarray, codes: tuple[float, ...]) -> np.ndarray:
    found = np.zeros(stored.shape, dtype=bool)
    for code in codes:
        # Against the number itself: numpy rounds it to the precision of the array.
        found |= stored == code
    return found


def _check_values(source: Source, values: np.ndarray, quantity: str) -> None:
    if not (np.fmin.reduce(values, axis=None) < 0 or np.isinf(np.fmax.reduce(values, axis=None))):
        return
    wrong = (values < 0) | np.isinf(values)
    raise source.error(
        f"{int(wrong.sum())} pixels of {quantity} are negative or infinite (such as {values[wrong][0]:g}) "
        "and are declared neither nodata nor undetect",
        "name the stored value in missing_values if it means 'not measured' (--missing-value)",
    )


def _scale(source: Source, data: Place, name: str, neutral: float) -> float:
    value = data.inherited("what", name)
    if value is None:
        return neutral
    if not np.isfinite(number(value)) or (name == "gain" and number(value) == 0):
        raise source.error(f"its {name} is {value}")
    return number(value)


def _declared_relation(source: Source, data: Place) -> ZRelation | None:
    a, b = (data.inherited("how", name) for name in ("zr_a", "zr_b"))
    if a is None or b is None:
        return None
    if not (number(a) > 0 and number(b) > 0):
        raise source.error(f"declares the Z-R relation {a}, {b}; both must be positive")
    return ZRelation(number(a), number(b))


@dataclass(frozen=True)
class _Index:
    """From stored numbers to the quality index."""

    gain: float
    offset: float

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        index = rescale(stored, self.gain, self.offset)
        # Sentinels of the data that a quality group leaves undeclared are no quality either.
        np.copyto(index, np.nan, where=~((index >= 0) & (index <= 1)))
        return index


def _quality(source: Source, top: Place, data: Place, part: Selection, options: ReadOptions) -> np.ndarray | None:
    """The quality index of the data, from a quality group below it or from a dataset of its own (QIND)."""
    places = [*data.numbered("quality"), *(data.parent or top).numbered("quality")]
    for dataset in top.numbered("dataset"):
        places += [
            group for group in dataset.numbered("data") if text(group.inherited("what", "quantity", "")) == QUALITY
        ]
    shape = _array(source, data).shape
    for place in places:
        array = place.array("data")
        if array is None or array.shape != shape:
            continue
        gain, offset = (
            number(place.attribute("what", name, neutral)) for name, neutral in (("gain", 1.0), ("offset", 0.0))
        )
        index = convert_window(source, array, part.rows, part.columns, options, _Index(gain, offset))
        return part.coarse(index)
    return None


def _interval_minutes(source: Source, data: Place, options: ReadOptions) -> float:
    """Length of an accumulation, from the dataset's start and end."""
    ends = [_moment(data, f"{which}date", f"{which}time") for which in ("start", "end")]
    declared = None
    if ends[0] is not None and ends[1] is not None and ends[1] > ends[0]:
        declared = float((ends[1] - ends[0]) / np.timedelta64(60, "s"))
    return source.interval_minutes(
        declared, options, lacking=f"an accumulation from {ends[0]} to {ends[1]}, wanted its interval"
    )


def _valid_time(source: Source, top: Place, data: Place, quantity: str, options: ReadOptions) -> np.datetime64:
    """The nominal time for rates, the end of the interval for accumulations."""
    nominal = _moment(top, "date", "time")
    end = _moment(data, "enddate", "endtime")
    time = (end or nominal) if quantity in ACCUMULATION else nominal
    if time is None:
        time = options.time_from_name(source.path)
    if time is None:
        raise source.error(
            "declares no nominal time what/date, what/time",
            "declare time_pattern to take it from the name (--time-pattern)",
        )
    return time


def _moment(place: Place, date_name: str, time_name: str) -> np.datetime64 | None:
    date, time = place.inherited("what", date_name), place.inherited("what", time_name)
    if date is None or time is None:
        return None
    stamp = text(date) + text(time)
    try:
        return np.datetime64(datetime.datetime.strptime(stamp, "%Y%m%d%H%M%S"), "s")
    except ValueError as error:
        raise DataError(f"its {date_name} and {time_name} {stamp!r} are not a time YYYYmmddHHMMSS") from error


class _Geometry(NamedTuple):
    """What `where` says of the place of the pixels."""

    shape: tuple[int, int]
    projdef: str
    pixel: tuple[float, float]
    corners: tuple[tuple[str, float, float], ...]


def _grid(source: Source, data: Place, options: ReadOptions) -> Grid:
    """From projdef and the corners in `where`, which are the outer edges of the image; checked for size."""
    shape = _array(source, data).shape
    if len(shape) != 2:
        raise source.error(f"data of shape {shape}, wanted an image of two dimensions")
    source.check_size(shape, options)
    where = {name: data.inherited("where", name) for name in ("projdef", "xsize", "ysize", "xscale", "yscale")}
    lacking = [name for name in ("projdef", "xscale", "yscale") if where[name] is None]
    if lacking:
        raise source.error(f"lacks where/{lacking[0]}")
    declared = tuple(int(number(where[name])) for name in ("ysize", "xsize") if where[name] is not None)
    if declared and declared != shape:
        raise source.error(f"where declares {declared} pixels, but the data have {shape}")
    corners = []
    for name in _CORNERS:
        longitude, latitude = (data.inherited("where", f"{name}_{axis}") for axis in ("lon", "lat"))
        if longitude is not None and latitude is not None:
            corners.append((name, number(longitude), number(latitude)))
    pixel = (number(where["xscale"]), number(where["yscale"]))
    return _placed(_Geometry(shape, text(where["projdef"]), pixel, tuple(corners)))


# File after file has the same, and PROJ takes as long as reading a small image.
@lru_cache(maxsize=8)
def _placed(geometry: _Geometry) -> Grid:
    crs = projection(geometry.projdef)
    dx, dy = geometry.pixel
    if crs.is_geographic is False and not (np.isfinite([dx, dy]).all() and dx > 0 and dy > 0):
        raise DataError(f"pixels of {dx} by {dy}")
    left, top = _north_west_corner(geometry, crs)
    return Grid.from_corner(left, top, dx, dy, geometry.shape, crs)


def projection(projdef: str) -> pyproj.CRS:
    """The reference system of a PROJ string."""
    try:
        return pyproj.CRS.from_user_input(projdef if "+type=" in projdef else f"{projdef} +type=crs")
    except pyproj.exceptions.CRSError as error:
        raise DataError(f"its projection {projdef!r} is not understood") from error


def _north_west_corner(geometry: _Geometry, crs: pyproj.CRS) -> tuple[float, float]:
    shape, pixel = geometry.shape, geometry.pixel
    to_grid = pyproj.Transformer.from_crs(crs.geodetic_crs or crs, crs, always_xy=True)
    corners = {name: np.array(to_grid.transform(longitude, latitude)) for name, longitude, latitude in geometry.corners}
    size = np.array([shape[1] * pixel[0], -shape[0] * pixel[1]])
    if "LL" not in corners and "UL" not in corners:
        raise DataError("lacks the corners where/LL_lon, LL_lat")
    edges = [corner - size * _CORNERS[name] for name, corner in corners.items()]
    # Some producers give the centres of the corner pixels, which lie one pixel closer together.
    shrunk = size - np.array([pixel[0], -pixel[1]])
    centres = [corner - shrunk * _CORNERS[name] for name, corner in corners.items()]
    for candidates, shift in ((edges, 0.0), (centres, 0.5)):
        spread = np.ptp(np.array(candidates), axis=0)
        # Corners are rounded by their producers: metres between files of one product, up to a fifth of a pixel.
        if np.all(spread <= 0.2 * np.array(pixel)):
            best = candidates[list(corners).index("UL")] if "UL" in corners else candidates[0]
            return float(best[0] - shift * pixel[0]), float(best[1] + shift * pixel[1])
    raise DataError(
        f"its corners do not fit {shape[0]}x{shape[1]} pixels of {pixel[0]:g} by {pixel[1]:g} "
        f"(the north-west corner differs by {np.max(np.ptp(np.array(edges), axis=0)):g} between them)"
    )


def _description(top: Place, data: Place) -> dict[str, str | float]:
    found = {
        "conventions": top.file.attrs.get("Conventions"),
        "institution": top.attribute("what", "source"),
        "product": data.inherited("what", "prodname") or data.inherited("what", "product"),
        "licence": data.inherited("how", "license") or data.inherited("how", "licence"),
    }
    return {"source_format": READER.name, **{key: text(value) for key, value in found.items() if value is not None}}


def _array(source: Source, data: Place) -> h5py.Dataset:
    array = data.array("data")
    if array is None:
        raise source.error(f"the group {data.path} holds no array 'data'")
    return array


READER = Reader(
    "odim_h5",
    "ODIM_H5 composites: RATE, ACRR, DBZH (HDF5)",
    _matches,
    read,
    uses=("z_relation", "accumulation_minutes", "variable", "missing_values", "time_pattern"),
)
