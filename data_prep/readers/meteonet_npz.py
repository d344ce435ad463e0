"""MeteoNet: npz of 5-minute accumulations, with its dates as pickled objects and its grid in a file beside it.

A pickle can run any code, so such a file is refused unless `pickled_dates` admits the one reader that can build dates
and nothing else; `convert_meteonet` rewrites a file once, with plain dates.
"""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from data_prep.readers.frame import RadarFrame
from data_prep.readers.options import ReadOptions
from data_prep.readers.pickled_dates import dates_of_npy
from data_prep.readers.registry import Reader
from data_prep.readers.scaling import convert, per_hour, rescale
from data_prep.readers.selection import select
from data_prep.readers.source import Source
from nowcast.data.grid import Grid
from nowcast.errors import ConfigError, DataError

_COORDINATES = {"lats.npy", "lons.npy"}
_ZIP = b"PK\x03\x04"
NO_DATA = -1
_STEP_MM, _MINUTES = Fraction(1, 100), 5.0
_LICENCE = "Etalab Open Licence 2.0"
_MAX_MEMBER_BYTES = 8 << 30
_MAX_DATES_BYTES = 64 << 20


def read(source: Source, options: ReadOptions) -> Iterator[RadarFrame]:
    if _members(source) == _COORDINATES:
        raise source.error("coordinates and no rain", "leave it beside the data, which are read with it")
    grid = _grid(source, options)
    source.check_size(grid.shape, options)
    part = select(grid, options, source)
    with zipfile.ZipFile(source.path) as archive:
        dates = _dates(source, archive, options)
        wanted = options.wanted_frames(dates.size)
        if wanted.start == 0:
            _check_whole(archive)
        minutes = source.interval_minutes(_MINUTES, options, lacking="")
        scale = _STEP_MM * per_hour(minutes)

        def rates(stored: np.ndarray) -> np.ndarray:
            rate = rescale(stored, scale)
            rate[stored == NO_DATA] = np.nan
            return rate

        for index in wanted:
            date, window = dates[index], part.cut(_field(source, archive, index, dates.size, grid.shape))
            if window.min() < NO_DATA:
                raise source.error(f"the frame of {date} holds {window.min()}, wanted depths or {NO_DATA}")
            yield RadarFrame(
                part.coarse(convert(window, rates)),
                date,
                part.grid,
                interval_minutes=minutes,
                attributes={
                    "source_format": READER.name,
                    "institution": "Meteo-France",
                    "quantity": "accumulation",
                    "licence": _LICENCE,
                },
            )


def convert_meteonet(source: str | Path, target: str | Path) -> int:
    """Rewrite a MeteoNet file with its dates as plain datetime64, so that it opens without any pickle.

    Only the dates are taken out of their pickles, by an unpickler that admits datetime and nothing else; `data` is
    copied byte for byte.

    Returns:
        How many frames it holds.

    Raises:
        DataError: The file is not of this kind, or its pickles ask for anything but dates.
        ConfigError: The target is there already.
    """
    file = Source(source)
    target = Path(target)
    if target.exists():
        raise ConfigError(f"{target} is there already", "give another name")
    try:
        with zipfile.ZipFile(file.path) as archive:
            return _convert(file, archive, target)
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise file.error(f"damaged, or not a file of MeteoNet ({error})", "fetch the file again") from error


def _convert(file: Source, archive: zipfile.ZipFile, target: Path) -> int:
    plain = {}
    for name in ("dates", "miss_dates"):
        if f"{name}.npy" in archive.namelist():
            plain[name] = _date_member(file, archive, name, admit_pickle=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.absolute().parent) as folder:
        draft = Path(folder) / target.name
        with zipfile.ZipFile(draft, "x", zipfile.ZIP_DEFLATED) as made:
            with archive.open("data.npy") as data, made.open("data.npy", "w", force_zip64=True) as copy:
                while block := data.read(1 << 20):
                    copy.write(block)
            for name, dates in plain.items():
                with made.open(f"{name}.npy", "w") as copy:
                    np.lib.format.write_array(copy, dates, allow_pickle=False)
        draft.rename(target)
    return int(plain["dates"].size)


def _matches(source: Source) -> bool:
    if not source.head.startswith(_ZIP):
        return False
    return {"data.npy", "dates.npy"} <= (members := _members(source)) or members == _COORDINATES


def _members(source: Source) -> set[str]:
    with zipfile.ZipFile(source.path) as archive:
        return set(archive.namelist())


def _dates(source: Source, archive: zipfile.ZipFile, options: ReadOptions) -> np.ndarray:
    dates = _date_member(source, archive, "dates", admit_pickle=options.pickled_dates)
    if np.any(np.isnat(dates)):
        raise source.error("its dates hold gaps (NaT)")
    return dates


def _date_member(source: Source, archive: zipfile.ZipFile, name: str, *, admit_pickle: bool) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        contents = member.read(_MAX_DATES_BYTES + 1)
    if len(contents) > _MAX_DATES_BYTES:
        raise source.error(f"its member {name!r} is larger than {_MAX_DATES_BYTES} bytes")
    header = re.search(rb"'descr': *'([^']+)'", contents[:512])
    if header is not None and header.group(1).startswith((b"<M8", b">M8")):
        return np.asarray(np.lib.format.read_array(io.BytesIO(contents), allow_pickle=False)).astype("datetime64[s]")
    if not admit_pickle:
        raise source.error(
            f"its {name!r} are pickled objects, and a pickle can run any code",
            "set pickled_dates (--pickled-dates) to read them through an unpickler that admits dates only, "
            "or convert the file once with data_prep.readers.meteonet_npz.convert_meteonet",
        )
    try:
        return dates_of_npy(contents)
    except ValueError as error:
        raise source.error(str(error), "the file is damaged, or not what it says") from error


def _check_whole(archive: zipfile.ZipFile) -> None:
    """Read the data once to their end, where zip compares the checksum: no frame is given before it is known right."""
    with archive.open("data.npy") as member:
        for _ in iter(lambda: member.read(1 << 20), b""):
            pass


def _field(source: Source, archive: zipfile.ZipFile, index: int, count: int, shape: tuple[int, int]) -> np.ndarray:
    """The (H, W) int16 field at one position, so that months need the memory of a frame."""
    if archive.getinfo("data.npy").file_size > _MAX_MEMBER_BYTES:
        raise source.error("its data are larger than any year of MeteoNet")
    size = 2 * shape[0] * shape[1]
    member, start, found, dtype = _open_data(str(source.path), source.path.stat().st_mtime_ns)
    if found != (count, *shape) or dtype.kind != "i" or dtype.itemsize != 2:
        raise source.error(f"its data are {found} of {dtype}, wanted {(count, *shape)} of int16, as dates and grid say")
    if archive.getinfo("data.npy").file_size > start + count * size:
        raise source.error(f"its data go on after frame {count}")
    try:
        member.seek(start + index * size)
        block = member.read(size)
    except Exception:
        _open_data.cache_clear()
        raise
    if index == count - 1:
        _open_data.cache_clear()
    if len(block) != size:
        raise source.error(f"its data break off in frame {index} of {count}", "fetch the file again")
    return np.frombuffer(block, dtype=dtype).reshape(shape)


# Kept open: a stream that is unpacked from its start for every share of its frames would be unpacked very often.
@lru_cache(maxsize=1)
def _open_data(path: str, modified_ns: int) -> tuple[IO[bytes], int, tuple[int, ...], np.dtype[Any]]:
    """The data's stream, where its fields begin, its shape and its type."""
    member = zipfile.ZipFile(path).open("data.npy")  # noqa: SIM115 - stays open
    version = np.lib.format.read_magic(member)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(member)
    if fortran:
        raise DataError(f"its data of shape {shape} are in Fortran's order")
    return member, member.tell(), shape, dtype


def _grid(source: Source, options: ReadOptions) -> Grid:
    """From the arrays of latitude and longitude (centres) in the file of coordinates."""
    path = _coordinates(source, options)
    try:
        with np.load(path, allow_pickle=False) as file:
            latitude, longitude = np.asarray(file["lats"]), np.asarray(file["lons"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise source.error(f"its file of coordinates {path} is not readable: {error}") from error
    if latitude.ndim != 2 or latitude.shape != longitude.shape:
        raise source.error(f"{path} holds lats and lons of {latitude.shape} and {longitude.shape}")
    y, x = latitude[:, 0].astype(np.float64), longitude[0].astype(np.float64)
    if not (np.allclose(latitude, y[:, np.newaxis], atol=1e-6) and np.allclose(longitude, x, atol=1e-6)):
        raise source.error(f"{path} is not a regular grid of latitude and longitude")
    return Grid(x, y, "EPSG:4326")


def _coordinates(source: Source, options: ReadOptions) -> Path:
    if options.coordinates is not None:
        return Path(options.coordinates)
    zone = re.search(r"_(NW|SE)[_.]", source.path.name)
    if zone is not None:
        beside = source.path.with_name(f"radar_coords_{zone.group(1)}.npz")
        if beside.is_file():
            return beside
    raise source.error(
        "its grid is in a file of coordinates that is not beside it",
        "name radar_coords_NW.npz or ..._SE.npz in coordinates (--coordinates FILE)",
    )


READER = Reader(
    "meteonet_npz",
    "MeteoNet accumulations (npz)",
    _matches,
    read,
    uses=("accumulation_minutes", "coordinates", "pickled_dates"),
)
