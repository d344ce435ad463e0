"""8-bit grey PNGs of reflectivity in the manner of HKO-7: pixel = (dBZ + 10) / 70 * 255.

Neither time nor place is in such a file, so both are declared: `time_pattern` for the file's name, `grid`.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator

import numpy as np
import PIL.Image
import PIL.ImageFile

from data_prep.readers.frame import RadarFrame
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import Reader
from data_prep.readers.selection import select
from data_prep.readers.source import Source
from nowcast.data.grid import Grid
from nowcast.data.units import ZRelation

HKO_Z_RELATION = ZRelation(58.53, 1.56)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LARGEST_FILE = 64 << 20


def hko7_grid() -> Grid:
    """The grid of HKO-7: 480x480 pixels over 512 km, centred on the Hong Kong Observatory.

    Shi et al. (2017) say "centered in Hong Kong" and give neither the point nor the projection: the headquarters,
    22.302 N 114.174 E, and an equidistant projection are our reading, good to some kilometres.
    """
    return local_grid(22.302, 114.174, (480, 480), pixel_km=512 / 480)


def local_grid(latitude: float, longitude: float, shape: tuple[int, int], *, pixel_km: float) -> Grid:
    """A grid centred on a point, in the equidistant projection around it: what a single radar sees."""
    pixel = 1000.0 * pixel_km
    crs = f"+proj=aeqd +lat_0={latitude} +lon_0={longitude} +ellps=WGS84 +units=m +type=crs"
    return Grid.from_corner(-shape[1] * pixel / 2, shape[0] * pixel / 2, pixel, pixel, shape, crs)


def read(source: Source, options: ReadOptions) -> Iterator[RadarFrame]:
    time = options.time_from_name(source.path)
    if time is None:
        raise source.error(
            "a PNG holds no time", "declare time_pattern, such as RAD%y%m%d%H%M%S, as in its name (--time-pattern)"
        )
    grid = _grid(source, options)
    values = grey_pixels(source, options)
    if values.shape != grid.shape:
        raise source.error(f"an image of {values.shape} pixels for a grid of {grid.shape}")
    relation = options.z_relation or HKO_Z_RELATION
    rates = relation.rain_rate(np.arange(256) / 255 * 70 - 10)
    rates[0] = 0.0
    for value in options.missing_values:
        if value not in range(256):
            raise source.error(f"missing_values holds {value:g}, wanted pixel values of 0 to 255")
        rates[int(value)] = np.nan
    part = select(grid, options, source)
    yield RadarFrame(
        part.coarse(rates.astype(np.float32)[part.cut(values)]),
        time,
        part.grid,
        attributes={"source_format": READER.name, "quantity": "reflectivity", "zr_a": relation.a, "zr_b": relation.b},
    )


def _matches(source: Source) -> bool:
    """An 8-bit image of one channel; what it shows is for the caller to declare."""
    return source.head.startswith(_SIGNATURE) and source.head[24:26] == b"\x08\x00"


def grey_pixels(source: Source, options: ReadOptions) -> np.ndarray:
    """(H, W) uint8, with every checksum of the file compared.

    Raises:
        DataError: Not an 8-bit grey PNG, too large, cut short, or damaged anywhere.
    """
    contents = source.read(_LARGEST_FILE)
    data = _checked_chunks(source, contents, options)
    width, height = (int.from_bytes(contents[at : at + 4], "big") for at in (16, 20))
    # Each row is led by the number of its filter; interlaced images have more rows, so more of those.
    room = (width + 1) * height + 8 * (height + 8)
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(data, room)
    except zlib.error as error:
        raise source.error(f"its image is damaged: {error}", "fetch the file again") from error
    if not stream.eof or len(raw) < (width + 1) * height:
        raise source.error("its image is cut short, or larger than it says", "fetch the file again")
    if PIL.ImageFile.LOAD_TRUNCATED_IMAGES:
        raise source.error("Pillow is set to accept truncated images", "set LOAD_TRUNCATED_IMAGES to False")
    with PIL.Image.open(io.BytesIO(contents), formats=("PNG",)) as image:
        return np.asarray(image, dtype=np.uint8)


def _checked_chunks(source: Source, contents: bytes, options: ReadOptions) -> bytes:
    """The compressed image, after the header and all checksums are found right."""
    if not contents.startswith(_SIGNATURE) or contents[12:16] != b"IHDR":
        raise source.error("is no PNG")
    width, height = (int.from_bytes(contents[at : at + 4], "big") for at in (16, 20))
    source.check_size((height, width), options)
    if contents[24:26] != b"\x08\x00":
        raise source.error(f"an image of {contents[24]} bits and colour type {contents[25]}, wanted 8 bits of grey")
    parts: list[bytes] = []
    position = len(_SIGNATURE)
    while position + 12 <= len(contents):
        length = int.from_bytes(contents[position : position + 4], "big")
        kind, end = contents[position + 4 : position + 8], position + 8 + length
        if end + 4 > len(contents):
            break
        if zlib.crc32(contents[position + 4 : end]) != int.from_bytes(contents[end : end + 4], "big"):
            raise source.error(f"the checksum of its chunk {kind!r} is wrong", "fetch the file again")
        if kind == b"IDAT":
            parts.append(contents[position + 8 : end])
        position = end + 4
        if kind == b"IEND":
            return b"".join(parts)
    raise source.error("cut short: its closing chunk is missing", "fetch the file again")


def _grid(source: Source, options: ReadOptions) -> Grid:
    if isinstance(options.grid, Grid):
        return options.grid
    if options.grid == "hko7":
        return hko7_grid()
    raise source.error(
        f"a PNG does not say where its pixels are, and grid is {options.grid!r}",
        "declare grid: a Grid, or 'hko7' (--grid hko7)",
    )


READER = Reader(
    "hko_png",
    "8-bit grey PNG of reflectivity, as HKO-7",
    _matches,
    read,
    uses=("z_relation", "time_pattern", "missing_values", "grid"),
)
