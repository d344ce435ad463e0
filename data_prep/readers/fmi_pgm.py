"""FMI composites as PGM (P5): 8-bit reflectivity, with time and projection in the comments of the header."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyproj

from data_prep.readers.frame import RadarFrame
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import Reader
from data_prep.readers.scaling import look_up
from data_prep.readers.selection import select
from data_prep.readers.source import Source
from data_prep.readers.texture import measure_codes
from nowcast.data.grid import Grid
from nowcast.data.units import ZRelation
from nowcast.errors import DataError

# dBZ = 0.5 v - 32, from the product's documentation: the header does not say it.
GAIN, OFFSET = 0.5, -32.0
DRY, NO_DATA = 0, 255
FMI_Z_RELATION = ZRelation(223.0, 1.53)
# The sphere that makes the declared corners and metres per pixel agree; the header leaves it out.
_SPHERE_M = 6_371_288.0
_MAX_HEADER_BYTES = 65_536


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    maximum: int
    comments: dict[str, str]
    length: int


def read(source: Source, options: ReadOptions) -> Iterator[RadarFrame]:
    header = _parse(source, source.head)
    source.check_size((header.height, header.width), options)
    if header.maximum != 255:
        raise source.error(f"values up to {header.maximum}, wanted 8-bit values up to 255")
    pixels = header.width * header.height
    contents = source.read(header.length + pixels)
    if len(contents) < header.length + pixels:
        raise source.error(
            f"cut short: {len(contents) - header.length} of {header.height}x{header.width} pixels", "fetch it again"
        )
    values = np.frombuffer(contents, dtype=np.uint8, offset=header.length).reshape(header.height, header.width)
    relation = options.z_relation or FMI_Z_RELATION
    part = select(_grid(header.width, header.height, _geometry(source, header.comments)), options, source)
    rates, values = byte_rain_rates(relation), part.cut(values)
    yield RadarFrame(
        part.coarse(look_up(rates, values)),
        _time(source, header.comments, options),
        part.grid,
        attributes={
            "source_format": READER.name,
            "institution": "Finnish Meteorological Institute",
            "quantity": "reflectivity",
            "product": " ".join(filter(None, (header.comments.get(key) for key in ("producttype", "productname")))),
            "zr_a": relation.a,
            "zr_b": relation.b,
        },
        marks=measure_codes(values, rates),
    )


@lru_cache(maxsize=8)
def byte_rain_rates(
    relation: ZRelation, *, gain: float = GAIN, offset: float = OFFSET, dry: int = DRY, no_data: int = NO_DATA
) -> np.ndarray:
    """(256,) float32 [mm/h]: the rain rate of each byte; 0 where dry, NaN where nothing was measured."""
    rates = relation.rain_rate(np.arange(256) * gain + offset)
    rates[dry] = 0.0
    rates[no_data] = np.nan
    table = rates.astype(np.float32)
    table.setflags(write=False)
    return table


def _matches(source: Source) -> bool:
    return (
        source.head[:2] == b"P5" and re.search(rb"\n# *(obstime|metersperpixel_x|projection) ", source.head) is not None
    )


def _parse(source: Source, head: bytes) -> _Header:
    """The P5 header: comments begin with # and end with their line; three numbers; one white space."""
    if head[:2] != b"P5":
        raise source.error(f"begins with {head[:2]!r}, wanted P5")
    comments: dict[str, str] = {}
    numbers: list[int] = []
    position = 2
    while len(numbers) < 3:
        token = re.compile(rb"\s*(?:#([^\n]*)\n|(\d{1,9})(?=\s))").match(head, position)
        if token is None:
            raise source.error("its PGM header is damaged or cut short", "fetch the file again")
        position = token.end()
        if token.group(2) is not None:
            numbers.append(int(token.group(2)))
        else:
            key, _, value = token.group(1).decode("latin-1").strip().partition(" ")
            comments.setdefault(key, value.strip())
    width, height, maximum = numbers
    return _Header(width, height, maximum, comments, position + 1)


def _time(source: Source, comments: dict[str, str], options: ReadOptions) -> np.datetime64:
    stamp = comments.get("obstime")
    if stamp is None:
        named = options.time_from_name(source.path)
        if named is None:
            raise source.error(
                "its header holds no '# obstime'", "declare time_pattern to take it from the name (--time-pattern)"
            )
        return named
    if re.fullmatch(r"\d{12}", stamp) is None:
        raise source.error(f"its obstime {stamp!r} is not a time YYYYmmddHHMM")
    try:
        return np.datetime64(datetime.datetime.strptime(stamp, "%Y%m%d%H%M"), "s")
    except ValueError as error:
        raise source.error(f"its obstime {stamp!r} is not a time YYYYmmddHHMM") from error


class _Geometry(NamedTuple):
    """What the header says of the place of its pixels: (longitude, latitude) in degrees, pixels in metres."""

    longitude_0: float
    latitude_0: float
    parallel: float
    dx: float
    dy: float
    bottom_left: tuple[float, ...]
    top_right: tuple[float, ...]


def _geometry(source: Source, comments: dict[str, str]) -> _Geometry:
    if comments.get("type") != "stereographic":
        raise source.error(f"its projection is {comments.get('type')!r}, wanted stereographic")
    names = ("centrallongitude", "centrallatitude", "truelatitude", "metersperpixel_x", "metersperpixel_y")
    numbers = [_numbers(source, comments, name, 1)[0] for name in names]
    if not (numbers[3] > 0 and numbers[4] > 0):
        raise source.error(f"pixels of {numbers[3]} by {numbers[4]} m")
    corners = [tuple(_numbers(source, comments, name, 2)) for name in ("bottomleft", "topright")]
    return _Geometry(*numbers, *corners)  # type: ignore[arg-type]


# File after file has the same, and projecting its corners takes as long as a third of the pixels.
@lru_cache(maxsize=8)
def _grid(width: int, height: int, geometry: _Geometry) -> Grid:
    """From the outer corner bottomleft and metres per pixel; checked against topright."""
    dx, dy = geometry.dx, geometry.dy
    crs = pyproj.CRS(
        f"+proj=stere +lat_0={geometry.latitude_0} +lat_ts={geometry.parallel} +lon_0={geometry.longitude_0} "
        f"+R={_SPHERE_M} +units=m +type=crs"
    )
    to_grid = pyproj.Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
    (left, right), (bottom, top) = to_grid.transform(*np.transpose([geometry.bottom_left, geometry.top_right]))
    size = (width * dx, height * dy)
    if not (abs(right - left - size[0]) < 0.5 * dx and abs(top - bottom - size[1]) < 0.5 * dy):
        raise DataError(
            f"its corners lie {right - left:.0f} by {top - bottom:.0f} m apart, but {height}x{width} "
            f"pixels of {dx:g} by {dy:g} m make {size[0]:.0f} by {size[1]:.0f} m"
        )
    return Grid.from_corner(left, bottom + size[1], dx, dy, (height, width), crs)


def _numbers(source: Source, comments: dict[str, str], key: str, count: int) -> list[float]:
    try:
        values = [float(word) for word in comments[key].split()]
    except (KeyError, ValueError):
        values = []
    if len(values) != count or not np.all(np.isfinite(values)):
        found = f"{comments[key]!r}" if key in comments else "missing"
        raise DataError(f"{source}: '# {key}' of its header is {found}, wanted {count} number(s)")
    return values


READER = Reader("fmi_pgm", "FMI reflectivity composites (PGM)", _matches, read, uses=("z_relation", "time_pattern"))
