"""OPERA's HDF5 (ODIM_H5 V2.0 to V2.4): cartesian composites and images of RATE, ACRR or reflectivity, with quality.

gain, offset, nodata and undetect are each optional and looked for from the data upwards, as the standard says.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
import pyproj

from data_prep.readers.frame import RadarFrame
from data_prep.readers.hdf5 import read_window
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import Reader
from data_prep.readers.scaling import per_hour, rescale
from data_prep.readers.selection import Selection, select
from data_prep.readers.source import HDF5, Source, number, text
from nowcast.data.grid import Grid
from nowcast.data.units import ZRelation
from nowcast.errors import DataError

RATE, ACCUMULATION = ("RATE",), ("ACRR",)
REFLECTIVITY = ("DBZH", "TH", "DBZV", "TV", "DBZ")
QUALITY = "QIND"
# In the order of preference where a file holds several.
QUANTITIES = RATE + ACCUMULATION + REFLECTIVITY
OPERA_Z_RELATION = ZRelation(200.0, 1.6)


def read(source: Source, options: ReadOptions) -> Iterator[RadarFrame]:
    with source.open_hdf5(options) as file:
        _check_object(source, file)
        data, quantity = _wanted_data(source, file, options)
        grid = _grid(source, file, data, options)
        part = select(grid, options, source)
        rate, minutes, attributes = _rain_rate(source, data, quantity, part, options)
        frame = RadarFrame(
            part.coarse(rate),
            _valid_time(source, file, data, quantity, options),
            part.grid,
            interval_minutes=minutes,
            quality=_quality(source, file, data, part, options),
            attributes={**_description(file, data), **attributes},
        )
    yield frame


def _matches(source: Source) -> bool:
    if not source.head.startswith(HDF5):
        return False
    with source.open_hdf5(ReadOptions()) as file:
        return text(file.attrs.get("Conventions", "")).startswith("ODIM_H5") or (
            "what" in file and text(file["what"].attrs.get("version", "")).startswith("H5rad")
        )


def _check_object(source: Source, file: h5py.File) -> None:
    kind = text(_up(file, "what", "object", ""))
    if kind not in ("COMP", "IMAGE"):
        raise source.error(
            f"an ODIM object of kind {kind!r}, wanted a cartesian COMP or IMAGE", "make a composite of it first"
        )


def _wanted_data(source: Source, file: h5py.File, options: ReadOptions) -> tuple[h5py.Group, str]:
    """The first dataN group of the wanted quantity."""
    found: dict[str, h5py.Group] = {}
    for dataset in _numbered(file, "dataset"):
        for data in _numbered(dataset, "data"):
            found.setdefault(text(_up(data, "what", "quantity", "")), data)
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


def _rain_rate(
    source: Source, data: h5py.Group, quantity: str, part: Selection, options: ReadOptions
) -> tuple[np.ndarray, float | None, dict[str, str | float]]:
    """(rain rate of the window, interval, what was used); missing is NaN, undetected is 0."""
    stored = read_window(source, _array(source, data), part.rows, part.columns, options)
    missing, dry = _masks(data, stored, options)
    gain, offset = (_scale(source, data, name, neutral) for name, neutral in (("gain", 1.0), ("offset", 0.0)))
    minutes: float | None = None
    used: dict[str, str | float] = {"quantity": quantity}
    declared = _declared_relation(source, data)
    source.check_declared(options, _kind(quantity))
    if quantity in REFLECTIVITY:
        relation = options.z_relation or declared or OPERA_Z_RELATION
        # The power is slow and most pixels are dry or missing.
        values, wet = np.zeros(stored.shape), ~(missing | dry)
        values[wet] = relation.rain_rate(rescale(stored[wet], gain, offset))
        used |= {"zr_a": relation.a, "zr_b": relation.b}
    else:
        if declared is not None:
            used |= {"zr_a": declared.a, "zr_b": declared.b}
        minutes = _interval_minutes(source, data, options) if quantity in ACCUMULATION else None
        values = (
            rescale(stored, gain, offset)
            if minutes is None
            else rescale(stored, gain, offset, factor=per_hour(minutes))
        )
    values[dry] = 0.0
    values[missing] = np.nan
    _check_values(source, values, quantity)
    return values, minutes, used


def _kind(quantity: str) -> str:
    return "reflectivity" if quantity in REFLECTIVITY else "accumulation" if quantity in ACCUMULATION else "rain rate"


def _masks(data: h5py.Group, stored: np.ndarray, options: ReadOptions) -> tuple[np.ndarray, np.ndarray]:
    """(nothing measured, measured and dry), by the stored values."""
    missing = np.isnan(stored) if stored.dtype.kind == "f" else np.zeros(stored.shape, dtype=bool)
    for value in (_up(data, "what", "nodata"), *options.missing_values):
        if value is not None:
            missing |= stored == number(value)
    undetect = _up(data, "what", "undetect")
    dry = np.zeros(stored.shape, dtype=bool) if undetect is None else stored == number(undetect)
    return missing, dry


def _check_values(source: Source, values: np.ndarray, quantity: str) -> None:
    with np.errstate(invalid="ignore"):
        wrong = (values < 0) | np.isinf(values)
    if wrong.any():
        raise source.error(
            f"{int(wrong.sum())} pixels of {quantity} are negative or infinite (such as {values[wrong][0]:g}) "
            "and are declared neither nodata nor undetect",
            "name the stored value in missing_values if it means 'not measured' (--missing-value)",
        )


def _scale(source: Source, data: h5py.Group, name: str, neutral: float) -> float:
    value = _up(data, "what", name)
    if value is None:
        return neutral
    if not np.isfinite(number(value)) or (name == "gain" and number(value) == 0):
        raise source.error(f"its {name} is {value}")
    return number(value)


def _declared_relation(source: Source, data: h5py.Group) -> ZRelation | None:
    a, b = (_up(data, "how", name) for name in ("zr_a", "zr_b"))
    if a is None or b is None:
        return None
    if not (number(a) > 0 and number(b) > 0):
        raise source.error(f"declares the Z-R relation {a}, {b}; both must be positive")
    return ZRelation(number(a), number(b))


def _quality(
    source: Source, file: h5py.File, data: h5py.Group, part: Selection, options: ReadOptions
) -> np.ndarray | None:
    """The quality index of the data, from a quality group below it or from a dataset of its own (QIND)."""
    places = [*_numbered(data, "quality"), *_numbered(data.parent, "quality")]
    for dataset in _numbered(file, "dataset"):
        places += [group for group in _numbered(dataset, "data") if text(_up(group, "what", "quantity", "")) == QUALITY]
    for group in places:
        if "data" not in group or group["data"].shape != data["data"].shape:
            continue
        stored = read_window(source, group["data"], part.rows, part.columns, options)
        gain, offset = (_own(group, name, neutral) for name, neutral in (("gain", 1.0), ("offset", 0.0)))
        index = rescale(stored, gain, offset)
        # Sentinels of the data that a quality group leaves undeclared are no quality either.
        index[~((index >= 0) & (index <= 1))] = np.nan
        return part.coarse(index)
    return None


def _interval_minutes(source: Source, data: h5py.Group, options: ReadOptions) -> float:
    """Length of an accumulation, from the dataset's start and end."""
    ends = [_moment(data, f"{which}date", f"{which}time") for which in ("start", "end")]
    declared = None
    if ends[0] is not None and ends[1] is not None and ends[1] > ends[0]:
        declared = float((ends[1] - ends[0]) / np.timedelta64(60, "s"))
    return source.interval_minutes(
        declared, options, lacking=f"an accumulation from {ends[0]} to {ends[1]}, wanted its interval"
    )


def _valid_time(
    source: Source, file: h5py.File, data: h5py.Group, quantity: str, options: ReadOptions
) -> np.datetime64:
    """The nominal time for rates, the end of the interval for accumulations."""
    nominal = _moment(file, "date", "time")
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


def _moment(group: h5py.Group, date_name: str, time_name: str) -> np.datetime64 | None:
    date, time = _up(group, "what", date_name), _up(group, "what", time_name)
    if date is None or time is None:
        return None
    stamp = text(date) + text(time)
    try:
        return np.datetime64(datetime.datetime.strptime(stamp, "%Y%m%d%H%M%S"), "s")
    except ValueError as error:
        raise DataError(f"its {date_name} and {time_name} {stamp!r} are not a time YYYYmmddHHMMSS") from error


def _grid(source: Source, file: h5py.File, data: h5py.Group, options: ReadOptions) -> Grid:
    """From projdef and the corners in `where`, which are the outer edges of the image; checked for size."""
    shape = _array(source, data).shape
    if len(shape) != 2:
        raise source.error(f"data of shape {shape}, wanted an image of two dimensions")
    source.check_size(shape, options)
    where = {name: _up(data, "where", name) for name in ("projdef", "xsize", "ysize", "xscale", "yscale")}
    lacking = [name for name in ("projdef", "xscale", "yscale") if where[name] is None]
    if lacking:
        raise source.error(f"lacks where/{lacking[0]}")
    declared = tuple(int(number(where[name])) for name in ("ysize", "xsize") if where[name] is not None)
    if declared and declared != shape:
        raise source.error(f"where declares {declared} pixels, but the data have {shape}")
    crs = projection(source, text(where["projdef"]))
    dx, dy = (number(where[name]) for name in ("xscale", "yscale"))
    if crs.is_geographic is False and not (np.isfinite([dx, dy]).all() and dx > 0 and dy > 0):
        raise source.error(f"pixels of {dx} by {dy}")
    left, top = _north_west_corner(source, data, crs, (dx, dy), shape)
    return Grid.from_corner(left, top, dx, dy, shape, crs)


def projection(source: Source, projdef: str) -> pyproj.CRS:
    """The reference system of a PROJ string."""
    try:
        return pyproj.CRS.from_user_input(projdef if "+type=" in projdef else f"{projdef} +type=crs")
    except pyproj.exceptions.CRSError as error:
        raise source.error(f"its projection {projdef!r} is not understood") from error


def _north_west_corner(
    source: Source, data: h5py.Group, crs: pyproj.CRS, pixel: tuple[float, float], shape: tuple[int, ...]
) -> tuple[float, float]:
    to_grid = pyproj.Transformer.from_crs(crs.geodetic_crs or crs, crs, always_xy=True)
    corners: dict[str, np.ndarray] = {}
    for name in ("UL", "UR", "LL", "LR"):
        longitude, latitude = (_up(data, "where", f"{name}_{axis}") for axis in ("lon", "lat"))
        if longitude is not None and latitude is not None:
            corners[name] = np.array(to_grid.transform(number(longitude), number(latitude)))
    size = np.array([shape[1] * pixel[0], -shape[0] * pixel[1]])
    steps = {"UL": (0, 0), "UR": (1, 0), "LL": (0, 1), "LR": (1, 1)}
    if "LL" not in corners and "UL" not in corners:
        raise source.error("lacks the corners where/LL_lon, LL_lat")
    edges = [corner - size * steps[name] for name, corner in corners.items()]
    # Some producers give the centres of the corner pixels, which lie one pixel closer together.
    shrunk = size - np.array([pixel[0], -pixel[1]])
    centres = [corner - shrunk * steps[name] for name, corner in corners.items()]
    for candidates, shift in ((edges, 0.0), (centres, 0.5)):
        spread = np.ptp(np.array(candidates), axis=0)
        # Corners are rounded by their producers: metres between files of one product, up to a fifth of a pixel.
        if np.all(spread <= 0.2 * np.array(pixel)):
            best = candidates[list(corners).index("UL")] if "UL" in corners else candidates[0]
            return float(best[0] - shift * pixel[0]), float(best[1] + shift * pixel[1])
    raise source.error(
        f"its corners do not fit {shape[0]}x{shape[1]} pixels of {pixel[0]:g} by {pixel[1]:g} "
        f"(the north-west corner differs by {np.max(np.ptp(np.array(edges), axis=0)):g} between them)"
    )


def _description(file: h5py.File, data: h5py.Group) -> dict[str, str | float]:
    found = {
        "conventions": file.attrs.get("Conventions"),
        "institution": _up(file, "what", "source"),
        "product": _up(data, "what", "prodname") or _up(data, "what", "product"),
        "licence": _up(data, "how", "license") or _up(data, "how", "licence"),
    }
    return {"source_format": READER.name, **{key: text(value) for key, value in found.items() if value is not None}}


def _numbered(group: h5py.Group, prefix: str) -> list[h5py.Group]:
    """The members prefix1, prefix2, ... in order of their numbers."""
    names = [name for name in group if name.startswith(prefix) and name[len(prefix) :].isdigit()]
    members = [group[name] for name in sorted(names, key=lambda name: int(name[len(prefix) :]))]
    return [member for member in members if isinstance(member, h5py.Group)]


def _array(source: Source, data: h5py.Group) -> h5py.Dataset:
    array = data.get("data")
    if not isinstance(array, h5py.Dataset):
        raise source.error(f"the group {data.name} holds no array 'data'")
    return array


def _own(group: h5py.Group, name: str, default: float) -> float:
    return number(group["what"].attrs[name]) if "what" in group and name in group["what"].attrs else default


def _up(group: h5py.Group, kind: str, name: str, default: Any = None) -> Any:
    """An attribute of what, where or how: of the group itself, or else of the nearest group above."""
    while True:
        if kind in group and name in group[kind].attrs:
            return group[kind].attrs[name]
        if group.name in ("/", None):
            return default
        group = group.parent


READER = Reader(
    "odim_h5",
    "ODIM_H5 composites: RATE, ACRR, DBZH (HDF5)",
    _matches,
    read,
    uses=("z_relation", "accumulation_minutes", "variable", "missing_values", "time_pattern"),
)
