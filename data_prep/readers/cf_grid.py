"""The grid of a CF variable: its axes, their units, direction and projection; and the way back to north first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyproj

from data_prep.readers.cf_dataset import CfDataset, CfVariable
from data_prep.readers.source import Source, number, text
from nowcast.data.grid import Grid
from nowcast.errors import DataError

_METRES = {
    "m": 1.0,
    "metre": 1.0,
    "metres": 1.0,
    "meter": 1.0,
    "meters": 1.0,
    "km": 1000.0,
    "kilometre": 1000.0,
    "kilometres": 1000.0,
    "kilometer": 1000.0,
    "kilometers": 1000.0,
}
_RADIANS = {"rad": 1.0, "radian": 1.0, "radians": 1.0, "microradian": 1e-6, "microradians": 1e-6}
_NAMES = {
    "x": ("projection_x_coordinate", "longitude", "projection_x_angular_coordinate", "grid_longitude"),
    "y": ("projection_y_coordinate", "latitude", "projection_y_angular_coordinate", "grid_latitude"),
    "time": ("time",),
}
_UNITS = {"x": "degrees_east", "y": "degrees_north"}
_AXES = {"x": "X", "y": "Y", "time": "T"}


@dataclass(frozen=True)
class FileGrid:
    """A grid, and how the stored array lies on it.

    Attributes:
        grid: North first, x ascending.
        y_dimension, x_dimension: Names of the stored dimensions.
        flip_y, flip_x: Whether the stored axis runs the other way.
    """

    grid: Grid
    y_dimension: str
    x_dimension: str
    flip_y: bool
    flip_x: bool

    def stored(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """A window of the grid as slices of the stored axes."""
        height, width = self.grid.shape
        return (
            slice(height - rows.stop, height - rows.start) if self.flip_y else rows,
            slice(width - columns.stop, width - columns.start) if self.flip_x else columns,
        )

    def upright(self, window: np.ndarray) -> np.ndarray:
        """A stored window (y, x) turned north first."""
        return window[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


class _Axis(NamedTuple):
    """What a coordinate says, in a form that can be compared."""

    name: str
    contents: bytes
    dtype: str
    units: str
    standard_name: str

    @classmethod
    def of(cls, coordinate: CfVariable) -> _Axis:
        said = (text(coordinate.attributes.get(key, "")) for key in ("units", "standard_name"))
        return cls(coordinate.name, coordinate.values.tobytes(), coordinate.values.dtype.str, *said)


def file_grid(source: Source, dataset: CfDataset, variable: CfVariable) -> FileGrid:
    """The grid of a variable.

    Raises:
        DataError: No axes of one dimension, unknown units, an irregular axis, or a projection not understood.
    """
    y_dimension, x_dimension = (axis_dimension(source, dataset, variable, axis) for axis in ("y", "x"))
    mapping = text(variable.attributes.get("grid_mapping", "")).split(":")[0].strip()
    if mapping and mapping not in dataset.variables:
        raise source.error(f"variable {variable.name!r} names the grid mapping {mapping!r}, which is not there")
    y, x = (_Axis.of(dataset[dimension]) for dimension in (y_dimension, x_dimension))
    if not mapping and not (x.standard_name == "longitude" or x.units.startswith("degree")):
        raise source.error(f"variable {variable.name!r} names no grid mapping, so where its pixels are is not known")
    grid, flip_y, flip_x = _placed(y, x, mapping, _as_json(dataset[mapping].attributes) if mapping else "")
    return FileGrid(grid, y_dimension, x_dimension, flip_y, flip_x)


# File after file has the same, and PROJ takes longer over it than a small field takes to decode.
@lru_cache(maxsize=16)
def _placed(y_axis: _Axis, x_axis: _Axis, mapping: str, attributes: str) -> tuple[Grid, bool, bool]:
    """The grid, north first and x ascending, and whether the stored y and x run the other way."""
    crs, height = _projection(mapping, attributes)
    y, x = (_axis_values(axis, crs, height) for axis in (y_axis, x_axis))
    flip_y, flip_x = bool(y[0] < y[-1]), bool(x[0] > x[-1])
    y, x = y[:: -1 if flip_y else 1], x[:: -1 if flip_x else 1]
    if crs.is_geographic:
        x = _turned(x)
    return Grid(x, y, crs.to_wkt()), flip_y, flip_x


def _axis_values(axis: _Axis, crs: pyproj.CRS, height: float | None) -> np.ndarray:
    """Centres in metres or degrees."""
    values = np.frombuffer(axis.contents, dtype=axis.dtype).astype(np.float64)
    if np.dtype(axis.dtype).itemsize == 4 and np.dtype(axis.dtype).kind == "f":
        values = _unrounded(values)
    return values * _to_axis_unit(axis, crs, height)


def axis_dimension(source: Source, dataset: CfDataset, variable: CfVariable, axis: str) -> str:
    """The dimension of a variable that is its x or y axis, by standard name, axis attribute, units or name."""
    found = [str(dim) for dim in variable.dimensions if str(dim) in dataset.variables and _is_axis(dataset[dim], axis)]
    if len(found) != 1:
        raise source.error(
            f"variable {variable.name!r} with dimensions {', '.join(map(str, variable.dimensions))} has "
            f"{len(found) or 'no'} {axis} axes of one dimension",
            "wanted one with standard_name projection_x/y_coordinate or longitude/latitude; regrid the source",
        )
    return found[0]


def time_dimension(dataset: CfDataset, variable: CfVariable) -> str | None:
    """The dimension of a variable that is time, if there is one."""
    for dim in variable.dimensions:
        if str(dim) in dataset.variables and _is_axis(dataset[dim], "time"):
            return str(dim)
    return None


def _is_axis(coordinate: CfVariable, axis: str) -> bool:
    attributes = coordinate.attributes
    name = text(attributes.get("standard_name", "")).lower()
    units = text(attributes.get("units", "")).lower()
    if name in _NAMES[axis]:
        return True
    if any(name in names for other, names in _NAMES.items() if other != axis):
        return False
    if axis == "time":
        return text(attributes.get("axis", "")) == "T" or " since " in units
    if units in (_UNITS[axis], _UNITS[axis].replace("degrees", "degree")):
        return True
    return text(attributes.get("axis", "")).upper() == _AXES[axis]


def _projection(mapping: str, attributes: str) -> tuple[pyproj.CRS, float | None]:
    """The reference system in metres or degrees, and the satellite's height where it has one."""
    if not mapping:
        # CF: without a grid mapping, latitude and longitude on an unnamed Earth; WGS 84 is within a pixel of any.
        return pyproj.CRS("EPSG:4326"), None
    said = json.loads(attributes)
    try:
        crs = _from_attributes(said)
    except (pyproj.exceptions.CRSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"its grid mapping {mapping!r} is not understood: {error}") from error
    if crs.is_geographic and crs.is_derived:
        raise DataError("its grid has a rotated pole", "regrid it to a projection in metres first")
    height = said.get("perspective_point_height")
    return in_metres(crs), None if height is None else number(height)


def _as_json(attributes: Mapping[str, Any]) -> str:
    plain = {
        key: value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        for key, value in attributes.items()
    }
    return json.dumps(plain, sort_keys=True, default=str)


def _from_attributes(attributes: dict[str, Any]) -> pyproj.CRS:
    for key in ("crs_wkt", "spatial_ref"):
        if text(attributes.get(key, "")):
            return pyproj.CRS.from_wkt(text(attributes[key]))
    parallel = attributes.get("standard_parallel")
    if isinstance(parallel, list) and len(parallel) == 1:
        attributes["standard_parallel"] = parallel[0]
    return pyproj.CRS.from_cf(attributes)


def in_metres(crs: pyproj.CRS) -> pyproj.CRS:
    """The same projection with axes in metres."""
    if not crs.is_projected or all(axis.unit_conversion_factor == 1.0 for axis in crs.axis_info):
        return crs
    parts = crs.to_json_dict()
    projected = parts["source_crs"] if parts["type"] == "BoundCRS" else parts
    for axis in projected["coordinate_system"]["axis"]:
        axis["unit"] = "metre"
    projected.pop("id", None)
    return pyproj.CRS.from_json_dict(parts)


def _to_axis_unit(axis: _Axis, crs: pyproj.CRS, height: float | None) -> float:
    """The factor from the axis' stored unit to metres or degrees."""
    units = axis.units
    if crs.is_geographic and units.lower().startswith("degree"):
        return 1.0
    if not crs.is_geographic and units.lower() in _METRES:
        return _METRES[units.lower()]
    if height is not None and units.lower() in _RADIANS:
        # CF: the scanning angle of a geostationary imager times the height gives metres.
        return _RADIANS[units.lower()] * height
    wanted = "degrees" if crs.is_geographic else "m or km"
    raise DataError(f"axis {axis.name!r} has units {units!r}, wanted {wanted}")


def _turned(longitude: np.ndarray) -> np.ndarray:
    """Longitudes of 230 to 300 as -130 to -60; an axis that holds both sides of 180 stays as it is."""
    if np.ptp(longitude) > 360.0 + 1e-6 or not np.all(np.isfinite(longitude)) or np.abs(longitude).max() > 540.0:
        raise DataError(f"its longitudes run from {longitude[0]:g} to {longitude[-1]:g}")
    return longitude - 360.0 if longitude.min() >= 180.0 else longitude


def _unrounded(values: np.ndarray) -> np.ndarray:
    """Centres that float32 rounded, put back on the regular axis they stand for."""
    if values.size < 3 or not np.all(np.isfinite(values)):
        return values
    regular = np.linspace(values[0], values[-1], values.size)
    rounding = np.abs(values).max() * np.finfo(np.float32).eps
    return regular if np.max(np.abs(values - regular)) <= 2 * rounding else values
