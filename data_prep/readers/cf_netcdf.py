"""Any CF netCDF file or Zarr store: the variable of rain by standard name and units, its grid mapping and its time.

Values are decoded here and not by xarray: a packed value must be the float32 nearest to its decimal number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import cftime
import netCDF4
import numpy as np
import xarray as xr

from data_prep.readers.cf_grid import file_grid, time_dimension
from data_prep.readers.cf_quantity import Quantity, quantity_of, standard_kind
from data_prep.readers.frame import RadarFrame
from data_prep.readers.netcdf_classic import MAGIC, required_bytes
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import Reader
from data_prep.readers.scaling import per_hour, rescale
from data_prep.readers.selection import select
from data_prep.readers.source import HDF5, Source, text
from nowcast.data.units import ZRelation

MARSHALL_PALMER = ZRelation(200.0, 1.6)
# Which of `ReadOptions` CF files heed.
CF_OPTIONS = ("z_relation", "accumulation_minutes", "variable", "missing_values", "time_pattern")
_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
# A value this little below zero is rounding of a packed or computed dry pixel [mm/h].
_ROUNDING_MM_H = 1e-4


def read(source: Source, options: ReadOptions) -> Iterator[RadarFrame]:
    with open_dataset(source, options) as dataset:
        yield from frames(source, dataset, options, source_format=READER.name)


def frames(
    source: Source,
    dataset: xr.Dataset,
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
    elif "mean" not in text(variable.attrs.get("cell_methods", "")):
        intervals = [None] * len(ends)
    rows, columns = placed.stored(part.rows, part.columns)
    window = variable.isel({placed.y_dimension: rows, placed.x_dimension: columns})
    relation = _relation(dataset, variable, options) if quantity.kind == "reflectivity" else None
    attributes = _description(dataset, variable, source_format, relation)
    for index in _readable(dataset, len(ends)):
        slab = window if time is None else window.isel({time: index})
        stored = np.asarray(slab.squeeze(drop=True).transpose(placed.y_dimension, placed.x_dimension).values)
        rate = _rain_rate(source, variable, placed.upright(stored), quantity, intervals[index], relation, options)
        yield RadarFrame(
            part.coarse(rate), ends[index], part.grid, interval_minutes=intervals[index], attributes=attributes
        )


@contextmanager
def open_dataset(source: Source, options: ReadOptions) -> Iterator[xr.Dataset]:
    """A netCDF file or Zarr store with nothing decoded."""
    if source.is_folder:
        with xr.open_zarr(
            source.path, chunks=None, consolidated=False, mask_and_scale=False, decode_times=False, decode_coords=False
        ) as dataset:
            yield dataset
        return
    _check_whole(source)
    if source.is_gzip:
        contents = source.read(8 * options.max_pixels + (1 << 20))
        file = netCDF4.Dataset("in-memory.nc", memory=contents)
    else:
        file = netCDF4.Dataset(source.path)
    try:
        store = xr.backends.NetCDF4DataStore(file)
        with xr.open_dataset(store, mask_and_scale=False, decode_times=False, decode_coords=False) as dataset:
            yield dataset
    finally:
        if file.isopen():
            file.close()


def _check_whole(source: Source) -> None:
    """Refuse a classic file shorter than its header says; HDF5 checks that itself, and gzip too."""
    if source.is_gzip or not source.head.startswith(MAGIC):
        return
    with source.path.open("rb") as file:
        required = required_bytes(file)
    found = source.path.stat().st_size
    if found < required:
        raise source.error(f"cut short: {found} of the {required} bytes that its header accounts for", "fetch it again")


def _matches(source: Source) -> bool:
    if source.is_folder:
        return any((source.path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata"))
    return source.head.startswith(MAGIC) or source.head.startswith(HDF5)


def _rain_variable(source: Source, dataset: xr.Dataset, options: ReadOptions) -> xr.DataArray:
    """The one variable of rain: declared, or the only one by standard name, or the only one by units."""
    if options.variable is not None:
        if options.variable not in dataset.variables:
            raise source.error(
                f"holds no variable {options.variable!r}", "it holds " + ", ".join(map(str, dataset.variables))
            )
        return dataset[options.variable]
    fields = [variable for variable in dataset.variables if dataset[variable].ndim >= 2]
    for known in (lambda a: standard_kind(a) and quantity_of(a), lambda a: quantity_of(a) and "units" in a):
        found = [name for name in fields if known(dataset[name].attrs) and not _is_coordinate(dataset[name])]
        if len(found) == 1:
            return dataset[found[0]]
        if len(found) > 1:
            raise source.error(
                f"holds several variables of rain: {', '.join(map(str, found))}",
                "choose one: variable (--variable NAME)",
            )
    described = ", ".join(f"{name} [{text(dataset[name].attrs.get('units', 'no units'))}]" for name in fields)
    raise source.error(
        f"holds no variable of rain rate, depth or reflectivity, only {described or 'nothing of two dimensions'}",
        "wanted units such as mm/h, kg m-2 s-1, mm or dBZ",
    )


def _is_coordinate(variable: xr.DataArray) -> bool:
    """2-D coordinates in metres are no depth of rain."""
    name = text(variable.attrs.get("standard_name", "")).lower()
    return "coordinate" in name or name in ("altitude", "height", "surface_altitude")


def _quantity(source: Source, variable: xr.DataArray) -> Quantity:
    quantity = quantity_of(variable.attrs)
    units = text(variable.attrs.get("units", ""))
    if quantity is None:
        raise source.error(
            f"variable {variable.name!r} has units {units!r}, wanted those of a rain rate (mm/h), a depth (mm) or dBZ"
        )
    named = standard_kind(variable.attrs)
    if named is not None and named != quantity.kind:
        raise source.error(
            f"variable {variable.name!r} is a {named} by its standard name and a {quantity.kind} by its units {units!r}"
        )
    return quantity


def _check_dimensions(source: Source, variable: xr.DataArray, known: set[str | None]) -> None:
    others = {str(dim): size for dim, size in variable.sizes.items() if dim not in known and size != 1}
    if others:
        raise source.error(
            f"variable {variable.name!r} has further dimensions {others}", "select one level or member of it first"
        )


def _times(
    source: Source, dataset: xr.Dataset, variable: xr.DataArray, dimension: str | None, options: ReadOptions
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
    bounds = text(coordinate.attrs.get("bounds", ""))
    if bounds not in dataset.variables or not bounds:
        return ends, [None] * ends.size
    units = {key: coordinate.attrs[key] for key in ("units", "calendar") if key in coordinate.attrs}
    edges = decode_times(source, dataset[bounds].assign_attrs(units)).reshape(-1, 2)
    lengths = (edges[:, 1] - edges[:, 0]) / np.timedelta64(60, "s")
    if lengths.size != ends.size or np.any(lengths < 0):
        raise source.error(f"the bounds {bounds!r} do not fit its times")
    # The coordinate may stand at the middle or the start of the interval; the valid time is its end.
    return np.where(lengths > 0, edges[:, 1], ends), [float(length) or None for length in lengths]


def _scalar_time(dataset: xr.Dataset) -> xr.DataArray | None:
    for name in dataset.variables:
        variable = dataset[name]
        if variable.size == 1 and text(variable.attrs.get("standard_name", "")) == "time":
            return variable
    found = dataset.variables.get("time")
    if found is not None and found.size == 1 and " since " in text(found.attrs.get("units", "")):
        return dataset["time"]
    return None


def decode_times(source: Source, coordinate: xr.DataArray) -> np.ndarray:
    """CF times, flattened, as datetime64[s] UTC, rounded to the second."""
    units, calendar = (
        text(coordinate.attrs.get(key, default)) for key, default in (("units", ""), ("calendar", "standard"))
    )
    values = np.atleast_1d(np.asarray(coordinate.values))
    if calendar.lower() not in _CALENDARS:
        raise source.error(f"its times are of the calendar {calendar!r}, wanted a real one ({_CALENDARS[0]})")
    if values.dtype.kind not in "iuf" or " since " not in units:
        raise source.error(f"time {coordinate.name!r} has units {units!r}, wanted such as 'seconds since 1970-01-01'")
    fill = coordinate.attrs.get("_FillValue")
    if not np.all(np.isfinite(values)) or (fill is not None and np.any(values == fill)):
        raise source.error(f"time {coordinate.name!r} holds missing values")
    try:
        dates = cftime.num2date(
            values.ravel(), units, calendar, only_use_cftime_datetimes=False, only_use_python_datetimes=True
        )
    except (ValueError, OverflowError) as error:
        raise source.error(f"time {coordinate.name!r} cannot be decoded: {error}") from error
    microseconds = np.array([np.datetime64(date, "us") for date in dates])
    return (microseconds + np.timedelta64(500_000, "us")).astype("datetime64[s]")


def _depth_intervals(
    source: Source, variable: xr.DataArray, declared: list[float | None], options: ReadOptions
) -> list[float | None]:
    if options.accumulation_minutes is None and None in declared:
        raise source.error(
            f"variable {variable.name!r} has units {text(variable.attrs['units'])!r}, a depth, and no time bounds say "
            "over what interval",
            "expected 'mm/h'; pass accumulation_minutes to convert (--accumulation-minutes)",
        )
    return [source.interval_minutes(minutes, options, lacking="") for minutes in declared]


def _rain_rate(
    source: Source,
    variable: xr.DataArray,
    stored: np.ndarray,
    quantity: Quantity,
    minutes: float | None,
    relation: ZRelation | None,
    options: ReadOptions,
) -> np.ndarray:
    """(h, w) float64 [mm/h] of a window as stored; what is not measured is NaN."""
    if stored.dtype.kind not in "iuf":
        raise source.error(f"variable {variable.name!r} holds {stored.dtype}, wanted numbers")
    gain, offset = variable.attrs.get("scale_factor", 1), variable.attrs.get("add_offset", 0)
    factor = quantity.factor
    if quantity.kind == "depth" and minutes is not None:
        factor = factor * per_hour(minutes)
    missing = missing_mask(variable.attrs, stored) | _declared_missing(stored, gain, offset, options)
    values = rescale(stored, _scalar(gain), _scalar(offset), factor=factor if relation is None else Fraction(1))
    values[missing] = np.nan
    if relation is not None:
        values = relation.rain_rate(values)
    with np.errstate(invalid="ignore"):
        values[(values < 0) & (values > -_ROUNDING_MM_H)] = 0.0
        wrong = (values < 0) | np.isinf(values)
    if wrong.any():
        raise source.error(
            f"{int(wrong.sum())} pixels of {variable.name!r} are negative or infinite "
            f"(such as {values[wrong][0]:g} mm/h) and not declared as missing",
            "name the value in missing_values if it means 'not measured' (--missing-value)",
        )
    return values


def missing_mask(attributes: dict[str, Any], stored: np.ndarray) -> np.ndarray:
    """Where a variable is not measured: _FillValue, missing_value, netCDF's own fill, outside valid_range, NaN."""
    missing = np.isnan(stored) if stored.dtype.kind == "f" else np.zeros(stored.shape, dtype=bool)
    declared = [value for key in ("_FillValue", "missing_value") for value in np.atleast_1d(attributes.get(key, []))]
    if (
        "_FillValue" not in attributes
        and stored.dtype.str[1:] in netCDF4.default_fillvals
        and stored.dtype.itemsize > 1
    ):
        declared.append(np.asarray(netCDF4.default_fillvals[stored.dtype.str[1:]]).astype(stored.dtype))
    for value in declared:
        missing |= stored == value
    low, high = attributes.get("valid_range", (attributes.get("valid_min"), attributes.get("valid_max")))
    if low is not None:
        missing |= stored < low
    if high is not None:
        missing |= stored > high
    return missing


def _declared_missing(stored: np.ndarray, gain: Any, offset: Any, options: ReadOptions) -> np.ndarray:
    missing = np.zeros(stored.shape, dtype=bool)
    if options.missing_values:
        values = rescale(stored, _scalar(gain), _scalar(offset))
        for value in options.missing_values:
            missing |= np.isclose(values, value, rtol=1e-6, atol=0)
    return missing


def _relation(dataset: xr.Dataset, variable: xr.DataArray, options: ReadOptions) -> ZRelation:
    if options.z_relation is not None:
        return options.z_relation
    for attributes in (variable.attrs, dataset.attrs):
        if "zr_a" in attributes and "zr_b" in attributes:
            return ZRelation(float(attributes["zr_a"]), float(attributes["zr_b"]))
    return MARSHALL_PALMER


def _readable(dataset: xr.Dataset, count: int) -> Iterator[int]:
    """The frames that are there: an archive of this program marks slots that hold none."""
    status = dataset.variables.get("frame_status")
    values = None if status is None or status.shape != (count,) else np.asarray(status.values)
    meanings = [] if status is None else text(status.attrs.get("flag_meanings", "")).split()
    for index in range(count):
        if values is None or not meanings or meanings[int(values[index])] in ("present", "partial"):
            yield index


def _description(
    dataset: xr.Dataset, variable: xr.DataArray, source_format: str, relation: ZRelation | None
) -> dict[str, str | float]:
    # An archive of this program tells what its rain was made from, so that files of that may join it.
    quantity = text(dataset.attrs.get("quantity", "")) or str(variable.name)
    found: dict[str, str | float] = {"source_format": source_format, "quantity": quantity}
    for name, keys in (
        ("institution", ("institution",)),
        ("licence", ("license", "licence")),
        ("product", ("title", "product_name")),
    ):
        for key in keys:
            if text(dataset.attrs.get(key, "")):
                found[name] = text(dataset.attrs[key])
    if relation is not None:
        found |= {"zr_a": relation.a, "zr_b": relation.b}
    return found


def _scalar(value: Any) -> Any:
    """An attribute stored as an array of one as the number it holds, keeping its precision."""
    return np.asarray(value).reshape(-1)[0]


READER = Reader("cf_netcdf", "CF netCDF files and Zarr stores", _matches, read, uses=CF_OPTIONS)
