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
    bits = 0
    for position, code in enumerate(codes):
        bits |= code << (9 * position)
    data = bits.to_bytes((9 * len(codes) + 7) // 8, "little")
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
