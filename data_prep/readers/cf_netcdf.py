"""Any CF netCDF file or Zarr store: the variable of rain by standard name and units, its grid mapping and its time.

Values are decoded here and not by xarray: a packed value must be the float32 nearest to its decimal number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import cftime
import netCDF4
import numpy as np

from data_prep.readers.cf_dataset import CfDataset, CfVariable, open_dataset
from data_prep.readers.cf_grid import file_grid, time_dimension
from data_prep.readers.cf_quantity import Quantity, quantity_of, standard_kind
from data_prep.readers.frame import RadarFrame
from data_prep.readers.netcdf_classic import MAGIC
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import Reader
from data_prep.readers.scaling import convert, per_hour, rescale
from data_prep.readers.selection import select
from data_prep.readers.source import HDF5, Source, text
from nowcast.data.units import ZRelation

MARSHALL_PALMER = ZRelation(200.0, 1.6)
# Which of `ReadOptions` CF files heed.
CF_OPTIONS = ("z_relation", "accumulation_minutes", "variable", "missing_values", "time_pattern")
_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
# Whole seconds since a date of which all calendars of `_CALENDARS` think alike, and how far from it they still do.
_SECONDS_SINCE = re.compile(r"seconds since ((?:19|20)\d\d-\d\d-\d\d)(?:[T ](\d\d:\d\d:\d\d)(?:Z| ?UTC)?)?")
_FAR_SECONDS = 9e9
# A value this little below zero is rounding of a packed or computed dry pixel [mm/h].
_ROUNDING_MM_H = 1e-4


def read(source: Source, options: ReadOptions) -> Iterator[RadarFrame]:
    with open_dataset(source, options) as dataset:
        yield from frames(source, dataset, options, source_format=READER.name)


def frames(
    source: Source,
    dataset: CfDataset,
    options: ReadOptions,
    *,
    source_format: str,
    minutes: float | None = None,
) -> Iterator[RadarFrame]:
    """The frames of a dataset opened undecoded.

    Args:
        source, dataset, options: The file.
        source_format: Name of the reader, for the frames' attributes.
        minutes: Interval of accumulations where the caller found it outside of CF.
    """
    variable = _rain_variable(source, dataset, options)
    quantity = _quantity(source, variable)
    time = time_dimension(dataset, variable)
    placed = file_grid(source, dataset, variable)
    _check_dimensions(source, variable, {time, placed.y_dimension, placed.x_dimension})
    source.check_size(placed.grid.shape, options)
    part = select(placed.grid, options, source)
    source.check_declared(options, {"depth": "accumulation", "rate": "rain rate"}.get(quantity.kind, quantity.kind))
    ends, intervals = _times(source, dataset, variable, time, options)
    if quantity.kind == "depth":
        intervals = _depth_intervals(source, variable, [minutes or length for length in intervals], options)
    elif "mean" not in text(variable.attributes.get("cell_methods", "")):
        intervals = [None] * len(ends)
    rows, columns = placed.stored(part.rows, part.columns)
    # What is neither time nor space has a length of one.
    wanted: dict[str, slice | int] = dict.fromkeys(variable.dimensions, 0)
    wanted |= {placed.y_dimension: rows, placed.x_dimension: columns}
    is_transposed = variable.dimensions.index(placed.x_dimension) < variable.dimensions.index(placed.y_dimension)
    relation = _relation(dataset, variable, options) if quantity.kind == "reflectivity" else None
    attributes = _description(dataset, variable, source_format, relation)
    for index in _readable(dataset, options.wanted_frames(len(ends)), len(ends)):
        stored = variable.window(wanted if time is None else {**wanted, time: index})
        stored = stored.T if is_transposed else stored
        rate = _rain_rate(source, variable, placed.upright(stored), quantity, intervals[index], relation, options)
        yield RadarFrame(
            part.coarse(rate), ends[index], part.grid, interval_minutes=intervals[index], attributes=attributes
        )


def _matches(source: Source) -> bool:
    if source.is_folder:
        return any((source.path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata"))
    return source.head.startswith(MAGIC) or source.head.startswith(HDF5)


def _rain_variable(source: Source, dataset: CfDataset, options: ReadOptions) -> CfVariable:
    """The one variable of rain: declared, or the only one by standard name, or the only one by units."""
    if options.variable is not None:
        if options.variable not in dataset.variables:
            raise source.error(
                f"holds no variable {options.variable!r}", "it holds " + ", ".join(map(str, dataset.variables))
            )
        return dataset[options.variable]
    fields = [variable for variable in dataset.variables if len(dataset[variable].shape) >= 2]
    for known in (lambda a: standard_kind(a) and quantity_of(a), lambda a: quantity_of(a) and "units" in a):
        found = [name for name in fields if known(dataset[name].attributes) and not _is_coordinate(dataset[name])]
        if len(found) == 1:
            return dataset[found[0]]
        if len(found) > 1:
            raise source.error(
                f"holds several variables of rain: {', '.join(map(str, found))}",
                "choose one: variable (--variable NAME)",
            )
    described = ", ".join(f"{name} [{text(dataset[name].attributes.get('units', 'no units'))}]" for name in fields)
    raise source.error(
        f"holds no variable of rain rate, depth or reflectivity, only {described or 'nothing of two dimensions'}",
        "wanted units such as mm/h, kg m-2 s-1, mm or dBZ",
    )


def _is_coordinate(variable: CfVariable) -> bool:
    """2-D coordinates in metres are no depth of rain."""
    name = text(variable.attributes.get("standard_name", "")).lower()
    return "coordinate" in name or name in ("altitude", "height", "surface_altitude")


def _quantity(source: Source, variable: CfVariable) -> Quantity:
    quantity = quantity_of(variable.attributes)
    units = text(variable.attributes.get("units", ""))
    if quantity is None:
        raise source.error(
            f"variable {variable.name!r} has units {units!r}, wanted those of a rain rate (mm/h), a depth (mm) or dBZ"
        )
    named = standard_kind(variable.attributes)
    if named is not None and named != quantity.kind:
        raise source.error(
            f"variable {variable.name!r} is a {named} by its standard name and a {quantity.kind} by its units {units!r}"
        )
    return quantity


def _check_dimensions(source: Source, variable: CfVariable, known: set[str | None]) -> None:
    sizes = zip(variable.dimensions, variable.shape, strict=True)
    others = {name: size for name, size in sizes if name not in known and size != 1}
    if others:
        raise source.error(
            f"variable {variable.name!r} has further dimensions {others}", "select one level or member of it first"
        )


def _times(
    source: Source, dataset: CfDataset, variable: CfVariable, dimension: str | None, options: ReadOptions
) -> tuple[np.ndarray, list[float | None]]:
    """Valid times, datetime64[s], and the lengths of the intervals [minutes] that bounds give."""
    coordinate = dataset[dimension] if dimension is not None else _scalar_time(dataset)
    if coordinate is None:
        named = options.time_from_name(source.path)
        if named is None:
            raise source.error(
                "holds no time coordinate", "declare time_pattern to take it from the file's name (--time-pattern)"
            )
        return np.array([named]), [None]
    ends = decode_times(source, coordinate)
    bounds = text(coordinate.attributes.get("bounds", ""))
    if bounds not in dataset.variables or not bounds:
        return ends, [None] * ends.size
    units = {key: coordinate.attributes[key] for key in ("units", "calendar") if key in coordinate.attributes}
    edges = decode_times(source, dataset[bounds], **units).reshape(-1, 2)
    lengths = (edges[:, 1] - edges[:, 0]) / np.timedelta64(60, "s")
    if lengths.size != ends.size or np.any(lengths < 0):
        raise source.error(f"the bounds {bounds!r} do not fit its times")
    # The coordinate may stand at the middle or the start of the interval; the valid time is its end.
    return np.where(lengths > 0, edges[:, 1], ends), [float(length) or None for length in lengths]


def _scalar_time(dataset: CfDataset) -> CfVariable | None:
    for variable in dataset.variables.values():
        if variable.size == 1 and text(variable.attributes.get("standard_name", "")) == "time":
            return variable
    found = dataset.variables.get("time")
    if found is not None and found.size == 1 and " since " in text(found.attributes.get("units", "")):
        return found
    return None


def decode_times(source: Source, coordinate: CfVariable, **above: Any) -> np.ndarray:
    """CF times, flattened, as datetime64[s] UTC, rounded to the second.

    Args:
        above: units and calendar that hold instead of the variable's own, for bounds.
    """
    said = {**coordinate.attributes, **above}
    units, calendar = text(said.get("units", "")), text(said.get("calendar", "standard"))
    values = np.atleast_1d(np.asarray(coordinate.values))
    if calendar.lower() not in _CALENDARS:
        raise source.error(f"its times are of the calendar {calendar!r}, wanted a real one ({_CALENDARS[0]})")
    if values.dtype.kind not in "iuf" or " since " not in units:
        raise source.error(f"time {coordinate.name!r} has units {units!r}, wanted such as 'seconds since 1970-01-01'")
    fill = coordinate.attributes.get("_FillValue")
    if not np.all(np.isfinite(values)) or (fill is not None and np.any(values == fill)):
        raise source.error(f"time {coordinate.name!r} holds missing values")
    if values.dtype.kind in "iu":
        epoch = _plain_epoch(units)
        if epoch is not None and np.all(np.abs(values.astype(np.float64)) < _FAR_SECONDS):
            return epoch + values.ravel().astype(np.int64).astype("timedelta64[s]")
    try:
        dates = cftime.num2date(
            values.ravel(), units, calendar, only_use_cftime_datetimes=False, only_use_python_datetimes=True
        )
    except (ValueError, OverflowError) as error:
        raise source.error(f"time {coordinate.name!r} cannot be decoded: {error}") from error
    microseconds = np.array([np.datetime64(date, "us") for date in dates])
    return (microseconds + np.timedelta64(500_000, "us")).astype("datetime64[s]")


@lru_cache(maxsize=8)
def _plain_epoch(units: str) -> np.datetime64 | None:
    """The date in units of whole seconds UTC since 1900 or later; None for others, which are left to cftime.

    cftime takes as long over one time as netCDF over a small field.
    """
    date = _SECONDS_SINCE.fullmatch(units)
    if date is None:
        return None
    try:
        return np.datetime64(f"{date.group(1)}T{date.group(2) or '00:00:00'}", "s")
    except ValueError:
        return None


def _depth_intervals(
    source: Source, variable: CfVariable, declared: list[float | None], options: ReadOptions
) -> list[float | None]:
    if options.accumulation_minutes is None and None in declared:
        raise source.error(
            f"variable {variable.name!r} has units {text(variable.attributes['units'])!r}, a depth, and no time bounds "
            "say over what interval",
            "expected 'mm/h'; pass accumulation_minutes to convert (--accumulation-minutes)",
        )
    return [source.interval_minutes(minutes, options, lacking="") for minutes in declared]


@dataclass(frozen=True)
class Missing:
    """Where a variable is not measured: _FillValue, missing_value, netCDF's own fill, outside valid_range, NaN."""

    codes: tuple[Any, ...]
    low: Any
    high: Any

    @classmethod
    def of(cls, attributes: Mapping[str, Any], dtype: np.dtype) -> Missing:
        """By a variable's attributes and the type of what it stores."""
        codes = [value for key in ("_FillValue", "missing_value") for value in np.atleast_1d(attributes.get(key, []))]
        if "_FillValue" not in attributes and dtype.str[1:] in netCDF4.default_fillvals and dtype.itemsize > 1:
            codes.append(np.asarray(netCDF4.default_fillvals[dtype.str[1:]]).astype(dtype)[()])
        low, high = attributes.get("valid_range", (attributes.get("valid_min"), attributes.get("valid_max")))
        return cls(tuple(codes), *(None if bound is None else _scalar(bound) for bound in (low, high)))

    def mask(self, stored: np.ndarray) -> np.ndarray:
        missing = np.isnan(stored) if stored.dtype.kind == "f" else np.zeros(stored.shape, dtype=bool)
        for code in self.codes:
            missing |= stored == code
        if self.low is not None:
            missing |= stored < self.low
        if self.high is not None:
            missing |= stored > self.high
        return missing


@dataclass(frozen=True)
class _Decoding:
    """From stored numbers to rain rates, with `relation` from reflectivity.

    Gain and offset as they are written: 0.1 in float32 is a tenth, and equals a float64 that is not.
    """

    gain: str
    offset: str
    factor: Fraction
    relation: ZRelation | None
    missing: Missing
    declared_missing: tuple[float, ...]

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        missing = self.missing.mask(stored)
        if self.declared_missing:
            declared = rescale(stored, self.gain, self.offset)
            for value in self.declared_missing:
                missing |= np.isclose(declared, value, rtol=1e-6, atol=0)
        values = rescale(stored, self.gain, self.offset, factor=Fraction(1) if self.relation else self.factor)
        values[missing] = np.nan
        if self.relation is not None:
            values = self.relation.rain_rate(values)
        values[(values < 0) & (values > -_ROUNDING_MM_H)] = 0.0
        return values


def _rain_rate(
    source: Source,
    variable: CfVariable,
    stored: np.ndarray,
    quantity: Quantity,
    minutes: float | None,
    relation: ZRelation | None,
    options: ReadOptions,
) -> np.ndarray:
    """(h, w) float32 [mm/h] of a window as stored; what is not measured is NaN."""
    if stored.dtype.kind not in "iuf":
        raise source.error(f"variable {variable.name!r} holds {stored.dtype}, wanted numbers")
    factor = quantity.factor
    if quantity.kind == "depth" and minutes is not None:
        factor = factor * per_hour(minutes)
    gain, offset = (str(_scalar(variable.attributes.get(*key))) for key in (("scale_factor", 1), ("add_offset", 0)))
    missing = Missing.of(variable.attributes, stored.dtype)
    decoding = _Decoding(gain, offset, factor, relation, missing, options.missing_values)
    with np.errstate(invalid="ignore"):
        values = convert(stored, decoding)
    if np.fmin.reduce(values, axis=None) < 0 or np.isinf(np.fmax.reduce(values, axis=None)):
        wrong = (values < 0) | np.isinf(values)
        raise source.error(
            f"{int(wrong.sum())} pixels of {variable.name!r} are negative or infinite "
            f"(such as {values[wrong][0]:g} mm/h) and not declared as missing",
            "name the value in missing_values if it means 'not measured' (--missing-value)",
        )
    return values


def _relation(dataset: CfDataset, variable: CfVariable, options: ReadOptions) -> ZRelation:
    if options.z_relation is not None:
        return options.z_relation
    for attributes in (variable.attributes, dataset.attributes):
        if "zr_a" in attributes and "zr_b" in attributes:
            return ZRelation(float(attributes["zr_a"]), float(attributes["zr_b"]))
    return MARSHALL_PALMER


def _readable(dataset: CfDataset, wanted: range, slots: int) -> Iterator[int]:
    """The frames that are there: an archive of this program marks slots that hold none."""
    status = dataset.variables.get("frame_status")
    values = None if status is None or status.shape != (slots,) else status.values
    meanings = [] if status is None else text(status.attributes.get("flag_meanings", "")).split()
    for index in wanted:
        if values is None or not meanings or meanings[int(values[index])] in ("present", "partial"):
            yield index


def _description(
    dataset: CfDataset, variable: CfVariable, source_format: str, relation: ZRelation | None
) -> dict[str, str | float]:
    # An archive of this program tells what its rain was made from, so that files of that may join it.
    quantity = text(dataset.attributes.get("quantity", "")) or str(variable.name)
    found: dict[str, str | float] = {"source_format": source_format, "quantity": quantity}
    for name, keys in (
        ("institution", ("institution",)),
        ("licence", ("license", "licence")),
        ("product", ("title", "product_name")),
    ):
        for key in keys:
            if text(dataset.attributes.get(key, "")):
                found[name] = text(dataset.attributes[key])
    if relation is not None:
        found |= {"zr_a": relation.a, "zr_b": relation.b}
    return found


def _scalar(value: Any) -> Any:
    """An attribute stored as an array of one as the number it holds, keeping its precision."""
    return np.asarray(value).reshape(-1)[0]


READER = Reader("cf_netcdf", "CF netCDF files and Zarr stores", _matches, read, uses=CF_OPTIONS)
