"""DWD RADOLAN and RADKLIM binaries: RY, YW, RZ (5 min), RW (60 min), SF (24 h) and RX (reflectivity).

An ASCII header up to ETX, then the pixels from the south-west corner eastwards and northwards: the first row is the
southernmost. Format: DWD, RADOLAN/RADVOR-OP composite format description, version 2.4.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyproj

from data_prep.readers.frame import RadarFrame
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import Reader
from data_prep.readers.scaling import per_hour, rescale
from data_prep.readers.selection import select
from data_prep.readers.source import Source
from data_prep.readers.texture import measure_codes
from nowcast.data.grid import Grid
from nowcast.data.units import ZRelation

DEPTHS = ("RY", "YW", "RZ", "RW", "SF")
REFLECTIVITY = ("RX",)
# DWD's standard relation.
DWD_Z_RELATION = ZRelation(256.0, 1.42)

_ETX = b"\x03"
_HEADER = re.compile(
    r"(?P<product>[A-Z]{2})(?P<day>\d{2})(?P<hour>\d{2})(?P<minute>\d{2})\d{5}(?P<month>\d{2})(?P<year>\d{2})BY"
)
# Of 16 bits, 12 are the value; the others flag it.
_VALUE, _SECONDARY, _NO_DATA, _NEGATIVE, _CLUTTER = 0x0FFF, 0x1000, 0x2000, 0x4000, 0x8000
_NOT_RAIN = _NO_DATA | _NEGATIVE | _CLUTTER
# Where nothing was measured DWD writes 2500 with its flag.
_NOT_MEASURED = 2500 | _NO_DATA
# Of a byte of reflectivity.
_BYTE_CLUTTER, _BYTE_NO_DATA = 249, 250

# The pixels west and south of the reference point 9 E 51 N, by (rows, columns).
_REFERENCE_LONGITUDE, _REFERENCE_LATITUDE = 9.0, 51.0
_OFFSETS = {(900, 900): (450, 450), (1100, 900): (370, 550), (1200, 1100): (470, 600), (1500, 1400): (600, 800)}
_SPHERE = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040 +units=m +type=crs"
_WGS84 = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +ellps=WGS84 +units=m +type=crs"
# From format version 5 on, the composites lie on the ellipsoid.
_ELLIPSOID_VERSION = 5


@dataclass(frozen=True)
class _Header:
    product: str
    time: np.datetime64
    total_bytes: int
    version: int
    precision: Fraction
    interval_minutes: float | None
    shape: tuple[int, int]
    length: int


def read(source: Source, options: ReadOptions) -> Iterator[RadarFrame]:
    header = _parse(source)
    source.check_size(header.shape, options)
    source.check_declared(options, "reflectivity" if header.product in REFLECTIVITY else "accumulation")
    width = 1 if header.product in REFLECTIVITY else 2
    wanted = header.length + width * header.shape[0] * header.shape[1]
    if header.total_bytes not in (wanted, wanted - header.length):
        raise source.error(
            f"declares {header.total_bytes} bytes, but {header.shape[0]}x{header.shape[1]} pixels of {width} byte(s) "
            f"and the header make {wanted}"
        )
    contents = source.read(wanted)
    if len(contents) != wanted:
        raise source.error(f"cut short: {len(contents)} of {wanted} bytes", "fetch the file again")
    stored = np.frombuffer(contents, dtype=f"<u{width}", offset=header.length).reshape(header.shape)[::-1]
    part = select(grid(source, header.shape, header.version), options, source)
    window = part.cut(stored)
    attributes: dict[str, str | float] = {
        "source_format": READER.name,
        "institution": "Deutscher Wetterdienst",
        "product": header.product,
        "quantity": "accumulation" if width == 2 else "reflectivity",
    }
    minutes: float | None = None
    if header.product in REFLECTIVITY:
        relation = options.z_relation or DWD_Z_RELATION
        rates = _byte_rates(relation)
        rate = rates[window]
        marks = measure_codes(np.where(window < _BYTE_CLUTTER, window, np.uint8(255)), rates)
        attributes |= {"zr_a": relation.a, "zr_b": relation.b}
    else:
        minutes = source.interval_minutes(
            header.interval_minutes, options, lacking="its header declares no interval INT"
        )
        _require_one_no_data(source, window)
        scale = header.precision * per_hour(minutes)
        rate = _rates(window, scale)
        codes = np.where(window & _NOT_RAIN, np.uint16(0xFFFF), window & _VALUE)
        marks = measure_codes(codes, rescale(np.arange(_VALUE + 1), scale))
    yield RadarFrame(
        part.coarse(rate), header.time, part.grid, interval_minutes=minutes, attributes=attributes, marks=marks
    )


def grid(source: Source, shape: tuple[int, int], version: int) -> Grid:
    """The grid of a composite of `shape`; of the sphere before format version 5, of WGS 84 since."""
    if shape not in _OFFSETS:
        raise source.error(
            f"a composite of {shape[0]}x{shape[1]} pixels, whose place is not known",
            "known are " + ", ".join(f"{rows}x{columns}" for rows, columns in _OFFSETS),
        )
    crs = pyproj.CRS(_WGS84 if version >= _ELLIPSOID_VERSION else _SPHERE)
    west, south = _OFFSETS[shape]
    to_grid = pyproj.Transformer.from_crs(crs.geodetic_crs or crs, crs, always_xy=True)
    x, y = to_grid.transform(_REFERENCE_LONGITUDE, _REFERENCE_LATITUDE)
    return Grid.from_corner(x - 1000.0 * west, y + 1000.0 * (shape[0] - south), 1000.0, 1000.0, shape, crs)


def _rates(stored: np.ndarray, scale: Fraction) -> np.ndarray:
    """Rain rates of 16-bit depths: those of a secondary source count, clutter and negatives are not rain measured."""
    rate = rescale(stored & _VALUE, scale)
    rate[(stored & _NOT_RAIN) != 0] = np.nan
    return rate


def _require_one_no_data(source: Source, stored: np.ndarray) -> None:
    """Refuse a file in which some words flagged as no data hold what DWD writes there, and some do not."""
    known = stored & (_VALUE | _NO_DATA)
    flagged, as_written = np.count_nonzero(known >= _NO_DATA), np.count_nonzero(known == _NOT_MEASURED)
    if 0 < as_written < flagged:
        raise source.error(
            f"{flagged - as_written} of {flagged} pixels flagged as no data hold other values than the rest: damaged",
            "fetch the file again",
        )


def _byte_rates(relation: ZRelation) -> np.ndarray:
    """(256,) float32 [mm/h] of the bytes of RX: dBZ = v / 2 - 32.5, and 0 is dry."""
    rates = relation.rain_rate(np.arange(256) / 2 - 32.5)
    rates[0] = 0.0
    rates[_BYTE_CLUTTER:] = np.nan
    return rates.astype(np.float32)


def _matches(source: Source) -> bool:
    return _HEADER.match(source.head[:32].decode("latin-1")) is not None


def _parse(source: Source) -> _Header:
    end = source.head.find(_ETX)
    if end < 0:
        raise source.error("its header does not end (no ETX)", "fetch the file again")
    line = source.head[:end].decode("latin-1")
    start = _HEADER.match(line)
    if start is None:
        raise source.error(f"begins with {line[:20]!r}, wanted a RADOLAN header")
    product = start["product"]
    if product not in DEPTHS + REFLECTIVITY:
        raise source.error(f"the product {product}", "read are " + ", ".join(DEPTHS + REFLECTIVITY))
    forecast = _token(line, r"VV\s*(\d{3})")
    if forecast is not None and int(forecast) != 0:
        raise source.error(f"a forecast for {int(forecast)} min ahead, wanted an analysis")
    rows_columns = re.search(r"GP\s*(\d{3,4})x\s*(\d{3,4})", line)
    total, version = _token(line, r"BY\s*(\d+?)VS"), _token(line, r"VS\s*(\d{1,2})")
    if rows_columns is None or total is None or version is None:
        raise source.error("its header lacks BY, VS or GP (size, version, grid)")
    return _Header(
        product,
        _time(source, start),
        int(total),
        int(version),
        _precision(source, line, product),
        _interval_minutes(source, line),
        (int(rows_columns[1]), int(rows_columns[2])),
        end + 1,
    )


def _token(line: str, pattern: str) -> str | None:
    found = re.search(pattern, line)
    return None if found is None else found.group(1)


def _time(source: Source, start: re.Match[str]) -> np.datetime64:
    """The end of the interval: day, hour and minute come first, month and year behind the site number."""
    try:
        time = datetime.datetime(
            2000 + int(start["year"]), int(start["month"]), int(start["day"]), int(start["hour"]), int(start["minute"])
        )
    except ValueError as error:
        raise source.error(f"its header's time {start.group(0)!r} is not a time") from error
    return np.datetime64(time, "s")


def _precision(source: Source, line: str, product: str) -> Fraction:
    if product in REFLECTIVITY:
        return Fraction(1, 2)
    power = _token(line, r"PR\s*E([-+]\d{2})")
    if power is None or not -3 <= int(power) <= 0:
        raise source.error(f"declares the precision {power!r}, wanted E-03 to E+00 mm")
    return Fraction(10) ** int(power)


def _interval_minutes(source: Source, line: str) -> float | None:
    length, unit = _token(line, r"INT\s*(\d{1,4})"), _token(line, r"INT\s*\d{1,4}U(\d)")
    if length is None:
        return None
    if unit not in (None, "0", "1") or int(length) == 0:
        raise source.error(f"declares an interval of {length} in the unit {unit}, wanted minutes (U0) or days (U1)")
    return float(int(length)) * (1440.0 if unit == "1" else 1.0)


READER = Reader(
    "radolan",
    "DWD RADOLAN and RADKLIM composites (binary)",
    _matches,
    read,
    uses=("z_relation", "accumulation_minutes"),
)
