"""FMI composites as GeoTIFF: 8-bit reflectivity whose scale, codes and time stand only in an XML tag.

Reading needs rasterio, the extra `geotiff`.
"""

from __future__ import annotations

import datetime
import re
import zlib
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyproj

from data_prep.readers.fmi_pgm import FMI_Z_RELATION, byte_rain_rates
from data_prep.readers.frame import RadarFrame
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import Reader
from data_prep.readers.scaling import look_up
from data_prep.readers.selection import select
from data_prep.readers.source import Source
from nowcast.data.grid import Grid
from nowcast.errors import MissingPackageError

_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_MAX_FILE_BYTES = 1 << 30
_MAX_XML = 65_536


def read(source: Source, options: ReadOptions) -> Iterator[RadarFrame]:
    try:
        import rasterio
    except ImportError as error:
        raise MissingPackageError("rasterio", "geotiff", f"reading the GeoTIFF {source}") from error
    contents = source.read(_MAX_FILE_BYTES)
    with rasterio.MemoryFile(contents) as memory, memory.open(driver="GTiff") as file:
        items = _items(source, file.tags().get("GDAL_METADATA", ""))
        grid = _grid(source, file, options)
        _check_blocks(source, file, contents)
        part = select(grid, options, source)
        values = file.read(1, window=((part.rows.start, part.rows.stop), (part.columns.start, part.columns.stop)))
    relation = options.z_relation or FMI_Z_RELATION
    gain, offset, no_data, dry = (_number(source, items, name) for name in ("gain", "offset", "nodata", "undetect"))
    if no_data not in range(256) or dry not in range(256):
        raise source.error(f"declares nodata {no_data:g} and undetect {dry:g}, wanted codes of a byte")
    rates = byte_rain_rates(relation, gain=gain, offset=offset, dry=int(dry), no_data=int(no_data))
    yield RadarFrame(
        part.coarse(look_up(rates, values)),
        _time(source, items, options),
        part.grid,
        attributes={
            "source_format": READER.name,
            "institution": "Finnish Meteorological Institute",
            "quantity": "reflectivity",
            "zr_a": relation.a,
            "zr_b": relation.b,
        },
    )


def _matches(source: Source) -> bool:
    return source.head[:4] in _TIFF


def _items(source: Source, xml: str) -> dict[str, str]:
    """The items of the metadata tag by name, with the unit of the quantity as `unit`."""
    if not xml or len(xml) > _MAX_XML or "<!" in xml:
        raise source.error("its tag GDAL_METADATA is missing or unusable, and with it scale, codes and time")
    try:
        found = ElementTree.fromstring(xml).iter("Item")
    except ElementTree.ParseError as error:
        raise source.error(f"its tag GDAL_METADATA is damaged: {error}") from error
    items: dict[str, str] = {}
    for item in found:
        name = item.get("name", "").lower()
        items[name] = (item.text or "").strip()
        if name == "quantity":
            items["unit"] = item.get("unit", "")
    if items.get("unit", "").lower() != "dbz":
        raise source.error(f"its quantity has the unit {items.get('unit', '')!r}, wanted dBZ")
    return items


def _number(source: Source, items: dict[str, str], name: str) -> float:
    try:
        value = float(items[name])
    except (KeyError, ValueError) as error:
        raise source.error(f"its metadata give {name} as {items.get(name)!r}, wanted a number") from error
    if not np.isfinite(value) or (name == "gain" and value <= 0):
        raise source.error(f"its metadata give {name} as {value}")
    return value


def _time(source: Source, items: dict[str, str], options: ReadOptions) -> np.datetime64:
    stamp = items.get("observation time", "")
    if re.fullmatch(r"\d{12}", stamp) is not None:
        try:
            return np.datetime64(datetime.datetime.strptime(stamp, "%Y%m%d%H%M"), "s")
        except ValueError as error:
            raise source.error(f"its observation time {stamp!r} is not a time YYYYmmddHHMM") from error
    named = options.time_from_name(source.path)
    if stamp or named is None:
        raise source.error(
            f"its observation time is {stamp!r}, wanted YYYYmmddHHMM", "declare time_pattern (--time-pattern)"
        )
    return named


def _check_blocks(source: Source, file: Any, contents: bytes) -> None:
    """Refuse an image with blocks that are not there or not whole.

    GDAL reads an absent block as 0, which is dry, and takes what it can of a damaged one without comparing checksums.
    """
    rows, columns = file.block_shapes[0]
    deflated = file.profile.get("compress") == "deflate"
    for row in range(-(-file.height // rows)):
        for column in range(-(-file.width // columns)):
            offset, size = (
                file.get_tag_item(f"BLOCK_{item}_{column}_{row}", dm="TIFF", bidx=1) for item in ("OFFSET", "SIZE")
            )
            if not offset or not size or int(offset) + int(size) > len(contents):
                raise source.error(f"its block {row}, {column} is not there", "the file is incomplete: fetch it again")
            if deflated and not _is_whole(contents[int(offset) : int(offset) + int(size)], rows * columns):
                raise source.error(f"its block {row}, {column} is damaged", "fetch the file again")


def _is_whole(block: bytes, length: int) -> bool:
    """Whether a deflated block unpacks, with the right checksum, to at most `length` bytes."""
    stream = zlib.decompressobj()
    try:
        stream.decompress(block, length + 1)
    except zlib.error:
        return False
    return stream.eof


def _grid(source: Source, file: Any, options: ReadOptions) -> Grid:
    source.check_size((file.height, file.width), options)
    if file.count != 1 or file.dtypes[0] != "uint8":
        raise source.error(f"{file.count} band(s) of {file.dtypes[0]}, wanted one of uint8")
    transform = file.transform
    if file.crs is None or transform.is_identity:
        raise source.error("holds no projection or place")
    if transform.b or transform.d or not (transform.a > 0 > transform.e):
        raise source.error("its image is rotated or not north first")
    try:
        crs = pyproj.CRS.from_user_input(file.crs.to_epsg() or file.crs.to_wkt())
    except pyproj.exceptions.CRSError as error:
        raise source.error(f"its projection is not understood: {error}") from error
    return Grid.from_corner(transform.c, transform.f, transform.a, -transform.e, (file.height, file.width), crs)


READER = Reader(
    "fmi_geotiff", "FMI reflectivity composites (GeoTIFF)", _matches, read, uses=("z_relation", "time_pattern")
)
