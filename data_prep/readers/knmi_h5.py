"""KNMI's own HDF5 (version 3.5, not ODIM): accumulations or reflectivity, scaled by a formula that is text."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import h5py
import numpy as np
import pyproj

from data_prep.readers.frame import RadarFrame
from data_prep.readers.hdf5 import read_window
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import Reader
from data_prep.readers.scaling import convert, per_hour, rescale
from data_prep.readers.selection import select
from data_prep.readers.source import Source, number, text
from nowcast.data.grid import Grid
from nowcast.data.units import ZRelation
from nowcast.errors import DataError

KNMI_Z_RELATION = ZRelation(200.0, 1.6)
ACCUMULATION, REFLECTIVITY = "ACCUMULATED_PRECIPITATION_[MM]", "REFLECTIVITY_[DBZ]"
_FORMULA = re.compile(r"GEO\s*=\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*\*\s*PV\s*([-+]\s*[\d.]+(?:[eE][-+]?\d+)?)?$")


def read(source: Source, options: ReadOptions) -> Iterator[RadarFrame]:
    with source.open_hdf5(options) as file:
        image, overview = file["image1"], file["overview"].attrs
        kind = text(image.attrs["image_geo_parameter"]).upper()
        if kind not in (ACCUMULATION, REFLECTIVITY):
            raise source.error(f"image1 holds {kind!r}, wanted {ACCUMULATION} or {REFLECTIVITY}")
        source.check_declared(options, "accumulation" if kind == ACCUMULATION else "reflectivity")
        pixels = image["image_data"]
        part = select(_grid(pixels.shape, _geometry(source, file, pixels.shape, options)), options, source)
        stored = read_window(source, pixels, part.rows, part.columns, options)
        start, end = (_moment(source, overview, f"product_datetime_{which}") for which in ("start", "end"))
        minutes = _interval_minutes(source, start, end, options) if kind == ACCUMULATION else None
        relation = options.z_relation or KNMI_Z_RELATION
        frame = RadarFrame(
            part.coarse(_rain_rate(source, image["calibration"].attrs, stored, minutes, relation, options)),
            end,
            part.grid,
            interval_minutes=minutes,
            attributes={
                "source_format": READER.name,
                "institution": "KNMI",
                "quantity": kind.lower(),
                "product": text(overview.get("product_group_name", "")),
                "zr_a": relation.a,
                "zr_b": relation.b,
            },
        )
    yield frame


def _matches(source: Source) -> bool:
    if not {"overview", "image1", "geographic"} <= source.hdf5_names:
        return False
    with source.open_hdf5(ReadOptions()) as file:
        return "hdftag_version_number" in file["overview"].attrs


@dataclass(frozen=True)
class _Calibration:
    """From stored numbers to rain rates; of depths over so many minutes, or of reflectivity."""

    gain: str
    offset: str
    missing: tuple[float, ...]
    minutes: float | None
    relation: ZRelation

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        if self.minutes is not None:
            rate = rescale(stored, self.gain, self.offset, factor=per_hour(self.minutes))
        else:
            # The code 0 is "below the lowest reflectivity", whatever the formula makes of it.
            rate = np.where(stored == 0, 0.0, self.relation.rain_rate(rescale(stored, self.gain, self.offset)))
        for code in self.missing:
            rate[stored == code] = np.nan
        return rate


def _rain_rate(
    source: Source,
    calibration: Mapping[str, Any],
    stored: np.ndarray,
    minutes: float | None,
    relation: ZRelation,
    options: ReadOptions,
) -> np.ndarray:
    formula = _FORMULA.match(text(calibration.get("calibration_formulas", "")))
    if formula is None:
        found = text(calibration.get("calibration_formulas", ""))
        raise source.error(f"its calibration is {found!r}, wanted such as 'GEO=0.01*PV+0.0'")
    names = [name for name in ("calibration_missing_data", "calibration_out_of_image") if name in calibration]
    rate = convert(
        stored,
        _Calibration(
            gain=formula.group(1),
            offset=(formula.group(2) or "0").replace(" ", ""),
            missing=(*(number(calibration[name]) for name in names), *options.missing_values),
            minutes=minutes,
            relation=relation,
        ),
    )
    lowest = np.fmin.reduce(rate, axis=None)
    if lowest < 0:
        raise source.error(f"its formula {formula.group(0)!r} gives negative rain, {lowest:g} mm/h")
    return rate


def _interval_minutes(source: Source, start: np.datetime64, end: np.datetime64, options: ReadOptions) -> float:
    declared = float((end - start) / np.timedelta64(60, "s")) if end > start else None
    return source.interval_minutes(
        declared, options, lacking=f"an accumulation from {start} to {end}, wanted its interval"
    )


def _moment(source: Source, overview: Mapping[str, Any], name: str) -> np.datetime64:
    stamp = text(overview.get(name, ""))
    try:
        return np.datetime64(datetime.datetime.strptime(stamp.title(), "%d-%b-%Y;%H:%M:%S.%f"), "s")
    except ValueError as error:
        raise source.error(f"its {name} {stamp!r} is not a time such as 26-AUG-2010;00:05:00.000") from error


class _Geometry(NamedTuple):
    """What a file says of the place of its pixels, in km and in pixels; corners in degrees."""

    proj: str
    dx: float
    dy: float
    column_offset: float
    row_offset: float
    corners: tuple[float, ...]


def _geometry(source: Source, file: h5py.File, shape: tuple[int, ...], options: ReadOptions) -> _Geometry:
    source.check_size(shape, options)
    geographic = file["geographic"].attrs
    declared = tuple(int(number(geographic[f"geo_number_{axis}"])) for axis in ("rows", "columns"))
    if declared != shape:
        raise source.error(f"declares {declared} rows and columns, but its image has {shape}")
    if text(geographic.get("geo_pixel_def", "")) != "LU" or text(geographic.get("geo_dim_pixel", "")) != "KM,KM":
        raise source.error("its pixels are not defined by their upper left corner in km")
    dx, dy = (number(geographic[f"geo_pixel_size_{axis}"]) for axis in ("x", "y"))
    if not (dx > 0 > dy):
        raise source.error(f"pixels of {dx} by {dy} km, wanted a positive and a negative size (north first)")
    return _Geometry(
        text(file["geographic/map_projection"].attrs["projection_proj4_params"]),
        dx,
        dy,
        number(geographic["geo_column_offset"]),
        number(geographic["geo_row_offset"]),
        tuple(np.asarray(geographic.get("geo_product_corners", ()), dtype=float).tolist()),
    )


# File after file has the same, and parsing the projection takes as long as decoding the pixels.
@lru_cache(maxsize=8)
def _grid(shape: tuple[int, int], geometry: _Geometry) -> Grid:
    """From the projection, in km, and the offsets in pixels of the north-west corner (pixel definition LU)."""
    dx, dy = geometry.dx * 1000.0, geometry.dy * 1000.0
    left, top = geometry.column_offset * dx, geometry.row_offset * dy
    grid = Grid.from_corner(left, top, dx, -dy, shape, _projection_in_metres(geometry.proj))
    _check_corners(grid, np.array(geometry.corners))
    return grid


def _projection_in_metres(proj: str) -> pyproj.CRS:
    """The declared projection; its radii are in km, which PROJ takes for metres."""
    parts = dict(part.lstrip("+").split("=", 1) for part in proj.split() if "=" in part)
    for name in ("a", "b"):
        if name in parts and float(parts[name]) < 10_000:
            parts[name] = str(float(parts[name]) * 1000)
    try:
        return pyproj.CRS.from_user_input(" ".join(f"+{key}={value}" for key, value in parts.items()) + " +type=crs")
    except pyproj.exceptions.CRSError as error:
        raise DataError(f"its projection {proj!r} is not understood") from error


def _check_corners(grid: Grid, corners: np.ndarray) -> None:
    """The declared corners (longitude, latitude; lower left, upper left, upper right, lower right) against the grid."""
    if corners.size != 8:
        return
    to_grid = pyproj.Transformer.from_crs(grid.crs.geodetic_crs or grid.crs, grid.crs, always_xy=True)
    x, y = to_grid.transform(corners[0::2], corners[1::2])
    dy, dx = grid.spacing
    west, east = grid.x[0] - dx / 2, grid.x[-1] + dx / 2
    north, south = grid.y[0] + dy / 2, grid.y[-1] - dy / 2
    apart = np.hypot(np.array(x) - [west, west, east, east], np.array(y) - [south, north, north, south]).max()
    # They are given in thousandths of a degree.
    if not apart < dx:
        raise DataError(f"its declared corners lie {apart / 1000:.1f} km from those of its offsets and pixel size")


READER = Reader(
    "knmi_h5",
    "KNMI accumulations (HDF5 3.5)",
    _matches,
    read,
    uses=("z_relation", "accumulation_minutes", "missing_values"),
)
