"""EUMETSAT NWC SAF convective rain rate: netCDF on the geostationary grid, its geometry in global attributes.

It is what a satellite infers, not what a radar measures; the frames say so in their attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import h5py
import numpy as np
import pyproj

from data_prep.readers.cf_netcdf import Missing
from data_prep.readers.frame import RadarFrame
from data_prep.readers.hdf5 import read_window
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import Reader
from data_prep.readers.scaling import rescale
from data_prep.readers.selection import select
from data_prep.readers.source import Source, number, text
from nowcast.data.grid import Grid

VARIABLE = "crr_intensity"


def read(source: Source, options: ReadOptions) -> Iterator[RadarFrame]:
    with source.open_hdf5(options) as file:
        variable = file[VARIABLE]
        units = text(variable.attrs.get("units", ""))
        if units != "mm/h":
            raise source.error(f"{VARIABLE} has units {units!r}, wanted 'mm/h'")
        part = select(_grid(source, file, variable.shape, options), options, source)
        stored = read_window(source, variable, part.rows, part.columns, options)
        attributes = {key: value for key, value in variable.attrs.items() if not isinstance(value, h5py.Reference)}
        rate = rescale(
            stored,
            *(
                np.asarray(attributes.get(key, neutral)).reshape(-1)[0]
                for key, neutral in (("scale_factor", 1), ("add_offset", 0))
            ),
        )
        rate[Missing.of(attributes, stored.dtype).mask(stored)] = np.nan
        frame = RadarFrame(
            part.coarse(rate),
            _time(source, file),
            part.grid,
            attributes={
                "source_format": READER.name,
                "institution": text(file.attrs.get("institution", "")),
                "quantity": "satellite convective rain rate",
                "product": text(file.attrs.get("title", "")),
                "licence": text(file.attrs.get("license", "")),
            },
        )
    yield frame


def _matches(source: Source) -> bool:
    if VARIABLE not in source.hdf5_names:
        return False
    with source.open_hdf5(ReadOptions()) as file:
        return "gdal_projection" in file.attrs


def _time(source: Source, file: h5py.File) -> np.datetime64:
    stamp = text(file.attrs.get("nominal_product_time", ""))
    if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", stamp) is None:
        raise source.error(f"its nominal_product_time is {stamp!r}, wanted such as 2018-06-01T07:00:00Z")
    return np.datetime64(stamp[:-1], "s")


def _grid(source: Source, file: h5py.File, shape: tuple[int, ...], options: ReadOptions) -> Grid:
    """From the declared outer corners, in metres of the view plane; checked against the centres nx, ny."""
    source.check_size(shape, options)
    projection = text(file.attrs["gdal_projection"])
    try:
        crs = pyproj.CRS.from_user_input(f"{projection} +units=m +type=crs")
    except pyproj.exceptions.CRSError as error:
        raise source.error(f"its projection {projection!r} is not understood") from error
    if (file["ny"].shape[0], file["nx"].shape[0]) != shape:
        raise source.error(f"axes of {file['ny'].shape[0]} and {file['nx'].shape[0]} pixels for an image of {shape}")
    left, right, top, bottom = (
        number(file.attrs[f"gdal_{axis}geo_{corner}"]) for axis in "xy" for corner in ("up_left", "low_right")
    )
    if not (left < right and bottom < top):
        raise source.error(f"its corners run from {left:g} to {right:g} and from {top:g} to {bottom:g}")
    grid = Grid.from_corner(left, top, (right - left) / shape[1], (top - bottom) / shape[0], (shape[0], shape[1]), crs)
    dy, dx = grid.spacing
    x, y = (np.asarray(file[name][()], dtype=np.float64) for name in ("nx", "ny"))
    if not (np.allclose(x, grid.x, rtol=0, atol=0.1 * dx) and np.allclose(y, grid.y, rtol=0, atol=0.1 * dy)):
        raise source.error(
            f"its axes {x[0]:g} to {x[-1]:g} and {y[0]:g} to {y[-1]:g} do not fit its corners {left:g}, {top:g}"
        )
    return grid


READER = Reader("saf_crr", "NWC SAF convective rain rate (netCDF, geostationary)", _matches, read)
