"""Small files of each format, built byte by byte for the tests of the readers."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import h5py
import numpy as np

PGM_COMMENTS = {
    "obstime": "201609281445",
    "producttype": "CAPPI",
    "metersperpixel_x": "999.674053",
    "metersperpixel_y": "999.62859",
    "projection": "radar {",
    "type": "stereographic",
    "centrallongitude": "25",
    "centrallatitude": "90",
    "truelatitude": "60",
    "bottomleft": "18.600000 57.930000",
    "topright": "18.655526 57.987028",
}
MCH_COMMENT = "PRDT=AQC151351545 SCALE=mmh2LASSEN8bitmm_mn COLOR=reddish ACCUm=000005 DeltaT=000005"
# A little piece of the OPERA domain: 4 rows, 5 columns of 2 km.
ODIM_PROJECTION = "+proj=laea +lat_0=55.0 +lon_0=10.0 +x_0=1950000.0 +y_0=-2100000.0 +units=m +ellps=WGS84"


def write_pgm(
    path: Path, values: np.ndarray, *, zipped: bool = True, maximum: int = 255, **comments: str | None
) -> Path:
    lines = [f"# {key} {value}" for key, value in {**PGM_COMMENTS, **comments}.items() if value is not None]
    header = "\n".join(["P5", *lines, f"{values.shape[1]} {values.shape[0]}", str(maximum), ""])
    contents = header.encode() + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(contents) if zipped else contents)
    return path


def gif_bytes(indices: np.ndarray, *, comment: str = MCH_COMMENT, end: bool = True) -> bytes:
    """A GIF whose stream never uses its table: a clear code before it could grow."""
    height, width = indices.shape
    codes: list[int] = []
    for number, value in enumerate(indices.ravel().tolist()):
        if number % 250 == 0:
            codes.append(256)
        codes.append(value)
    if end:
        codes.append(257)
    return gif_of_codes(codes, (height, width), comment=comment)


def gif_of_codes(codes: list[int], shape: tuple[int, ...], *, comment: str = MCH_COMMENT) -> bytes:
    """A GIF of 256 colours around a compressed stream; codes get wider where the table has grown so far."""
    height, width = shape
    sizes = []
    entries, size, first = 258, 9, True
    for code in codes:
        sizes.append(size)
        if code == 256:
            entries, size, first = 258, 9, True
            continue
        entries += not first
        first = False
        size += entries == 1 << size
    bits = (np.array(codes)[:, np.newaxis] >> np.arange(12)) & 1
    used = np.arange(12) < np.array(sizes)[:, np.newaxis]
    data = np.packbits(bits[used].astype(np.uint8), bitorder="little").tobytes()
    blocks = b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))
    size = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    note = comment.encode()
    return (
        b"GIF89a" + size + b"\xf7\x00\x00" + bytes(768)
        + b"\x21\xfe" + bytes([len(note)]) + note + b"\x00"
        + b"\x2c" + bytes(4) + size + b"\x00\x08" + blocks + b"\x00\x3b"
    )  # fmt: skip


def write_odim(
    path: Path,
    values: np.ndarray,
    *,
    quantity: str = "RATE",
    what: dict[str, Any] | None = None,
    how: dict[str, Any] | None = None,
    where: dict[str, Any] | None = None,
    top: dict[str, Any] | None = None,
    dataset: dict[str, Any] | None = None,
    conventions: str = "ODIM_H5/V2_4",
) -> Path:
    """A composite with nothing declared but what is passed; None leaves an attribute out."""
    rows, columns = values.shape
    with h5py.File(path, "w") as file:
        file.attrs["Conventions"] = np.bytes_(conventions)
        _attributes(
            file.create_group("what"),
            {"object": "COMP", "date": "20180824", "time": "180000", "source": "ORG:247", **(top or {})},
        )
        _attributes(file.create_group("where"), {**odim_where(rows, columns), **(where or {})})
        group = file.create_group("dataset1/data1")
        group.create_dataset("data", data=values)
        _attributes(file.create_group("dataset1/what"), dataset or {})
        _attributes(group.create_group("what"), {"quantity": quantity, **(what or {})})
        if how:
            _attributes(group.create_group("how"), how)
    return path


def odim_where(rows: int, columns: int, *, pixel: float = 2000.0, centres: bool = False) -> dict[str, Any]:
    """Corners of a grid whose north-west edge is (1,000,000, -1,000,000)."""
    import pyproj

    crs = pyproj.CRS(ODIM_PROJECTION + " +type=crs")
    to_degrees = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    inset = pixel / 2 if centres else 0.0
    left, right = 1e6 + inset, 1e6 + columns * pixel - inset
    upper, lower = -1e6 - inset, -1e6 - rows * pixel + inset
    where: dict[str, Any] = {
        "projdef": ODIM_PROJECTION,
        "xsize": columns,
        "ysize": rows,
        "xscale": pixel,
        "yscale": pixel,
    }
    for name, x, y in (("UL", left, upper), ("UR", right, upper), ("LL", left, lower), ("LR", right, lower)):
        where[f"{name}_lon"], where[f"{name}_lat"] = to_degrees.transform(x, y)
    return where


def _attributes(group: h5py.Group, values: dict[str, Any]) -> None:
    for key, value in values.items():
        if value is not None:
            group.attrs[key] = np.bytes_(value) if isinstance(value, str) else value


def radolan_bytes(
    values: np.ndarray,
    *,
    product: str = "RW",
    stamp: str = "220050100001118",
    interval: str = "INT  60",
    precision: str = "E-01",
    version: int = 3,
    extra: str = "",
    total: int | None = None,
) -> bytes:
    """A RADOLAN composite; `values` as stored, south first."""
    rows, columns = values.shape
    end = f"VS{version:2d}SW   2.21.0PR {precision}{interval}GP{rows:4d}x{columns:4d}{extra}MS 10<asb,boo>\x03"
    head = f"{product}{stamp}BY"
    size = len(head) + 7 + len(end) + values.nbytes if total is None else total
    return f"{head}{size:7d}{end}".encode() + values.tobytes()


def write_knmi(path: Path, values: np.ndarray, **changes: Any) -> Path:
    """A KNMI file of 4 rows and 5 columns' geography at the pole's side of the Netherlands."""
    rows, columns = values.shape
    overview = {
        "hdftag_version_number": "3.5",
        "product_datetime_start": "25-AUG-2010;23:55:00.000",
        "product_datetime_end": "26-AUG-2010;00:00:00.000",
        "product_group_name": "RAD_NL25_RAU_5mi",
    }
    calibration = {
        "calibration_formulas": "GEO=0.01*PV+0.0",
        "calibration_missing_data": np.int32([65535]),
        "calibration_out_of_image": np.int32([65535]),
    }
    geographic = {
        "geo_number_rows": np.int32([rows]),
        "geo_number_columns": np.int32([columns]),
        "geo_pixel_def": "LU",
        "geo_dim_pixel": "KM,KM",
        "geo_pixel_size_x": np.float32([1.0]),
        "geo_pixel_size_y": np.float32([-1.0]),
        "geo_column_offset": np.float32([0.0]),
        "geo_row_offset": np.float32([3650.0]),
    }
    projection = {
        "projection_proj4_params": "+proj=stere +lat_0=90 +lon_0=0.0 +lat_ts=60.0 +a=6378.137 +b=6356.752 +x_0=0 +y_0=0"
    }
    image = {"image_geo_parameter": "ACCUMULATED_PRECIPITATION_[MM]"}
    with h5py.File(path, "w") as file:
        file["image1/image_data"] = values
        for group, attributes in (
            ("overview", overview),
            ("image1", image),
            ("image1/calibration", calibration),
            ("geographic", geographic),
            ("geographic/map_projection", projection),
        ):
            _attributes(
                file.require_group(group),
                {key: changes.get(key, value) for key, value in attributes.items()},
            )
    return path


def write_netcdf(
    path: Path,
    values: np.ndarray,
    *,
    units: str = "mm/h",
    standard_name: str | None = None,
    name: str = "rain",
    attributes: dict[str, Any] | None = None,
    y: Any = (3000.0, 2000.0, 1000.0),
    x: Any = (1000.0, 2000.0, 3000.0, 4000.0),
    axis_units: str = "m",
    times: Any = (0, 5),
    time_units: str = "minutes since 2020-06-01 00:00:00",
    bounds: Any = None,
    mapping: dict[str, Any] | None = None,
    format: str = "NETCDF4",
    top: dict[str, Any] | None = None,
    fill: Any = None,
) -> Path:
    """A CF file of (time, y, x) on a transverse Mercator grid, or on latitude and longitude where units are degrees."""
    import netCDF4

    geographic = axis_units.startswith("degree")
    with netCDF4.Dataset(path, "w", format=format) as file:
        for key, size in (("time", len(times)), ("y", len(y)), ("x", len(x)), ("edge", 2)):
            file.createDimension(key, size)
        time = file.createVariable("time", "f8", ("time",))
        time.setncatts({"standard_name": "time", "units": time_units})
        time[:] = times
        if bounds is not None:
            time.bounds = "time_bounds"
            file.createVariable("time_bounds", "f8", ("time", "edge"))[:] = bounds
        names = ("latitude", "longitude") if geographic else ("projection_y_coordinate", "projection_x_coordinate")
        for key, axis, standard in (("y", y, names[0]), ("x", x, names[1])):
            variable = file.createVariable(key, "f8", (key,))
            variable.setncatts({"standard_name": standard, "units": axis_units})
            variable[:] = axis
        field = file.createVariable(name, values.dtype, ("time", "y", "x"), fill_value=fill)
        field.set_auto_maskandscale(False)
        found = {"units": units, "standard_name": standard_name, **(attributes or {})}
        if not geographic:
            found["grid_mapping"] = "crs"
            crs = file.createVariable("crs", "i4")
            crs.setncatts(
                {
                    "grid_mapping_name": "transverse_mercator",
                    "latitude_of_projection_origin": 50.0,
                    "longitude_of_central_meridian": 10.0,
                    "scale_factor_at_central_meridian": 1.0,
                    "false_easting": 0.0,
                    "false_northing": 0.0,
                    "semi_major_axis": 6378137.0,
                    "inverse_flattening": 298.257223563,
                    **(mapping or {}),
                }
            )
        field.setncatts({key: value for key, value in found.items() if value is not None})
        field[:] = values
        file.setncatts({"Conventions": "CF-1.8", **(top or {})})
    return path
