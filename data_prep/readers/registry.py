"""The registry: which format a file has, by its contents, and its frames.

A reader is a module-level `READER` of this package, or an entry point of the group `nowcast.readers`
that loads a `Reader`: its name, one line for people, `matches(source)` and `read(source, options)`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from data_prep.readers.frame import RadarFrame
from data_prep.readers.inflate import InflateError
from data_prep.readers.options import ReadOptions
from data_prep.readers.source import HDF5, Source
from nowcast.errors import ConfigError, DataError, NowcastError

ENTRY_POINT_GROUP = "nowcast.readers"

# The order matters where one format is a special case of another: the general ones come last.
BUILT_IN = (
    "mch_gif",
    "fmi_pgm",
    "radolan",
    "fmi_geotiff",
    "mrms_grib2",
    "meteonet_npz",
    "odim_h5",
    "knmi_h5",
    "bom_netcdf",
    "saf_crr",
    "sevir_h5",
    "hko_png",
    "cf_netcdf",
)


@dataclass(frozen=True)
class Reader:
    """One format.

    Attributes:
        name: What `format=` calls it.
        description: One line for people.
        matches: Whether a file is of this format, by its contents. May raise on damaged files; that counts as no.
        read: Its frames, in the order of the file.
        uses: Which of `ReadOptions` it heeds, beside crop, coarsen and max_pixels.
    """

    name: str
    description: str
    matches: Callable[[Source], bool]
    read: Callable[[Source, ReadOptions], Iterator[RadarFrame]]
    uses: tuple[str, ...] = ()


def reader_names() -> tuple[str, ...]:
    """The names that `format=` takes, beside "auto"."""
    return tuple(_readers())


def reader(name: str) -> Reader:
    """The reader of one name.

    Raises:
        ConfigError: There is none.
    """
    if name not in _readers():
        raise ConfigError(f"there is no reader {name!r}", "one of: auto, " + ", ".join(reader_names()))
    return _readers()[name]


def detect_format(path: str | Path | Source) -> str:
    """The name of the format of a file or Zarr folder, by its contents and never by its name.

    Args:
        path: As for `read_frames`.

    Raises:
        DataError: It is not there, is empty, cannot be read, or is of no known format.
    """
    with _existing(path) as source:
        return _detect(source).name


def read_frames(
    path: str | Path | Source, *, format: str = "auto", options: ReadOptions | None = None
) -> Iterator[RadarFrame]:
    """The frames of a file, one after the other.

    Args:
        path: A file, gzipped or not, or a Zarr folder; a `Source` that is open stays so, and is read no second time.
        format: One of `reader_names()`, or "auto" to detect it.
        options: What the file does not say; see `ReadOptions`.

    Raises:
        DataError: The file is not there, empty, truncated, damaged, foreign, or says too little; the message
            names it, what was found and what was wanted.
        ConfigError: There is no such format.
        MissingPackageError: The format needs a package that is not installed.
    """
    options = options or ReadOptions()
    chosen = None if format == "auto" else reader(format)
    with _existing(path) as source:
        yield from _translated(source, chosen, options)


def _translated(source: Source, chosen: Reader | None, options: ReadOptions) -> Iterator[RadarFrame]:
    """The frames, and whatever goes wrong as an error that names the file."""
    try:
        chosen = chosen or _detect(source)
        yield from chosen.read(source, options)
    except NowcastError as error:
        if not isinstance(error, DataError) or str(source) in error.message:
            raise
        raise DataError(f"{source}: {error.message}", error.hint) from error
    except MemoryError as error:
        raise source.error(
            "there is not memory enough to decode it", "crop or coarsen while reading (--crop, --coarsen)"
        ) from error
    except Exception as error:
        # The boundary to bytes from outside: whatever a decoder raises on them says that the file is damaged.
        raise source.error(
            f"damaged, or not a {_kind(source, chosen)} ({type(error).__name__}: {error})", "fetch the file again"
        ) from error


def _kind(source: Source, chosen: Reader | None) -> str:
    """What a file that cannot be decoded was taken for."""
    if chosen is None:
        return "file of a known format"
    if not source.is_folder and source.head.startswith(HDF5):
        try:
            _ = source.hdf5_names
        except Exception:
            return "whole HDF5 file"
    return f"{chosen.name} file"


@contextmanager
def _existing(path: str | Path | Source) -> Iterator[Source]:
    """A source that can be read, closed afterwards unless it is the caller's."""
    if isinstance(path, Source):
        _require_readable(path)
        yield path
        return
    with Source(path) as source:
        _require_readable(source)
        yield source


def _require_readable(source: Source) -> None:
    if not source.path.exists():
        raise source.error("there is no such file")
    try:
        if not source.is_folder and source.path.stat().st_size == 0:
            raise source.error("the file is empty (0 bytes)", "fetch it again")
        _ = source.head
    except InflateError as error:
        raise source.error(f"the gzip stream is damaged: {error}", "fetch the file again") from error
    except OSError as error:
        raise source.error(f"cannot be read: {error}") from error


def _detect(source: Source) -> Reader:
    for candidate in _readers().values():
        try:
            if candidate.matches(source):
                return candidate
        except Exception:
            # A file that breaks the test of a format is not of that format; the next one is asked.
            continue
    found = "a folder" if source.is_folder else f"its first bytes are {source.head[:12]!r}"
    known = "known are: " + ", ".join(reader_names())
    if source.head.startswith(b"GIF8") and not source.path.read_bytes().endswith(b";"):
        found, known = "a GIF that is cut short: its closing byte is missing", f"fetch the file again; {known}"
    raise source.error(f"is of no known format ({found})", known)


@cache
def _readers() -> dict[str, Reader]:
    modules = (importlib.import_module(f"data_prep.readers.{name}") for name in BUILT_IN)
    found = {module.READER.name: module.READER for module in modules}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        extra = point.load()
        if not isinstance(extra, Reader):
            raise ConfigError(f"the entry point {point.name} of {ENTRY_POINT_GROUP} gives no Reader, but {extra!r}")
        if extra.name in found:
            raise ConfigError(f"the entry point {point.name} of {ENTRY_POINT_GROUP} repeats the reader {extra.name!r}")
        found = {extra.name: extra, **found}
    return found
