"""One source file to encoded frames: the part of an ingest that runs in workers, here or elsewhere.

It never raises for what a file holds: a file that cannot be used comes back with the reason.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from data_prep.cadence import time_in_name
from data_prep.quality import QualityOptions, apply_quality
from data_prep.readers.frame import RadarFrame
from data_prep.readers.options import ManyFramesError, ReadOptions
from data_prep.readers.registry import detect_format, read_frames
from data_prep.readers.source import Source
from nowcast.data.encoded_frame import EncodedFrame, encode_frame
from nowcast.data.grid import Grid
from nowcast.errors import ConfigError, MissingPackageError, NowcastError

# A file of more frames is not taken into memory as a whole: it is read by ranges, or streamed.
MAX_FRAMES = 64
NO_MEMORY = "there is not memory enough to decode it"


@dataclass(frozen=True)
class DecodeOptions:
    """How files are read and what is done to their frames.

    Attributes:
        format: One of the readers' names, or "auto".
        read: What the files do not say.
        quality: Steps between reader and archive.
        keep_quality: Whether the quality index is stored.
    """

    format: str = "auto"
    read: ReadOptions = field(default_factory=ReadOptions)
    quality: QualityOptions = field(default_factory=QualityOptions)
    keep_quality: bool = False

    @cached_property
    def reading(self) -> ReadOptions:
        """What the readers are told: an index that no step looks at and that is not kept need not be decoded."""
        wants_quality = self.keep_quality or self.quality.minimum_quality is not None
        return replace(self.read, read_quality=wants_quality)

    @cached_property
    def reading_short(self) -> ReadOptions:
        """As `reading`, of files that hold few frames."""
        return replace(self.reading, max_frames=MAX_FRAMES)


@dataclass(frozen=True)
class DecodedFrame:
    """A frame ready to be stored, with what has to fit the archive."""

    encoded: EncodedFrame
    grid: Grid
    interval_minutes: float | None
    attributes: Mapping[str, str | float]

    @property
    def quantity(self) -> str:
        return str(self.attributes.get("quantity", ""))

    @property
    def relation(self) -> tuple[float, float] | None:
        """(a, b) of the Z = a R^b that made reflectivity rain here; None for rates and depths."""
        if self.interval_minutes is not None or self.quantity == "RATE" or "zr_a" not in self.attributes:
            return None
        return float(self.attributes["zr_a"]), float(self.attributes["zr_b"])


@dataclass(frozen=True)
class FileStamp:
    """What tells one state of a file from another."""

    sha256: str = ""
    size: int = 0
    modified_ns: int = 0


@dataclass(frozen=True)
class DecodedFile:
    """What a file held.

    Attributes:
        frames: Its frames; none where `reason` says why.
        reason: Why it could not be used; empty where it could.
        is_long: It holds more than `MAX_FRAMES` frames and was not read to its end.
        positions: Of a long file, how many positions `decode_range` can choose from; None where it can be streamed
            alone.
        named_time: The time that its name seems to tell.
        missing_package: The error of the extra that it needs.
    """

    path: str
    stamp: FileStamp
    format: str = ""
    frames: tuple[DecodedFrame, ...] = ()
    reason: str = ""
    is_long: bool = False
    positions: int | None = None
    named_time: np.datetime64 | None = None
    missing_package: MissingPackageError | None = None


def decode_file(path: str, options: DecodeOptions) -> DecodedFile:
    """Read, clean and encode every frame of a file; nothing of a file that turns out to be damaged.

    Raises:
        ConfigError: An option that fits no file.
    """
    stamp, format_name = FileStamp(), ""
    try:
        with Source(path) as source:
            stamp = _stamp(source)
            format_name = detect_format(source) if options.format == "auto" else options.format
            frames = tuple(islice(_decoded(source, format_name, options.reading_short, options), MAX_FRAMES + 1))
        if len(frames) > MAX_FRAMES:
            return DecodedFile(path, stamp, format_name, is_long=True)
        if not frames:
            return DecodedFile(path, stamp, format_name, reason="it holds no frame")
        if _state(path) != (stamp.size, stamp.modified_ns):
            return DecodedFile(path, FileStamp(), format_name, reason="it changed while it was read; run again later")
    except ConfigError:
        raise
    except ManyFramesError as many:
        return DecodedFile(path, stamp, format_name, is_long=True, positions=many.count)
    except MissingPackageError as error:
        reason = f"{error.message}: {error.hint}"
        return DecodedFile(path, stamp, format_name, reason=reason, missing_package=error)
    except NowcastError as error:
        return DecodedFile(path, stamp, format_name, reason=with_hint(error, path))
    except OSError as error:
        if not Path(path).exists():
            return DecodedFile(path, stamp, format_name, reason="it vanished before it was read")
        return DecodedFile(path, stamp, format_name, reason=f"it cannot be read: {error.strerror or error}")
    except MemoryError:
        return DecodedFile(path, stamp, format_name, reason=NO_MEMORY)
    return DecodedFile(path, stamp, format_name, frames, named_time=time_in_name(path))


def decode_range(path: str, options: DecodeOptions, positions: tuple[int, int]) -> DecodedFile:
    """The frames at some positions of a long file; where one cannot be read, those before it, with the reason."""
    reading = replace(options.reading, frame_range=positions)
    frames: list[DecodedFrame] = []
    reason = ""
    try:
        for frame in _decoded(path, options.format, reading, options):
            frames.append(frame)
    except NowcastError as error:
        reason = with_hint(error, path)
    except MemoryError:
        reason = NO_MEMORY
    return DecodedFile(path, FileStamp(), options.format, tuple(frames), reason)


def stream_frames(path: str, options: DecodeOptions) -> Iterator[DecodedFrame]:
    """The frames of a file, one at a time.

    Raises:
        NowcastError: The file cannot be used, from here on.
    """
    return _decoded(path, options.format, options.reading, options)


def _decoded(path: str | Source, format: str, reading: ReadOptions, options: DecodeOptions) -> Iterator[DecodedFrame]:
    for frame in read_frames(path, format=format, options=reading):
        yield _encode(frame, options)


def file_stamp(path: str | Path) -> FileStamp:
    """Size, time of change and SHA-256 of a file; of a Zarr folder, those of the list of its files."""
    with Source(path) as source:
        return _stamp(source)


def _stamp(source: Source) -> FileStamp:
    size, modified_ns = _state(source.path)
    if source.is_folder:
        digest = hashlib.sha256(repr(_listing(source.path)).encode())
    elif source.contents is not None:
        digest = hashlib.sha256(source.contents)
    else:
        with source.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    return FileStamp(digest.hexdigest(), size, modified_ns)


def _encode(frame: RadarFrame, options: DecodeOptions) -> DecodedFrame:
    rain_rate, changes = apply_quality(frame.rain_rate, frame.quality, options.quality)
    encoded = encode_frame(
        frame.valid_time, rain_rate, quality=frame.quality if options.keep_quality else None, changes=changes
    )
    if frame.marks:
        encoded = replace(encoded, series={**encoded.series, **frame.marks})
    return DecodedFrame(encoded, frame.grid, frame.interval_minutes, dict(frame.attributes))


def _state(path: str | Path) -> tuple[int, int]:
    if os.path.isdir(path):
        listing = _listing(Path(path))
        return sum(entry[1] for entry in listing), max((entry[2] for entry in listing), default=0)
    state = os.stat(path)
    return state.st_size, state.st_mtime_ns


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def with_hint(error: NowcastError, path: str) -> str:
    """What is wrong and what to do, without the file's name, which stands beside it in the manifest."""
    message = error.message.removeprefix(f"{path}: ").removeprefix(f"{Path(path).name}: ")
    return f"{message}; {error.hint}" if error.hint else message


def describe_grid(grid: Grid) -> str:
    """A grid as an error names it: size, pixels, corner."""
    dy, dx = grid.spacing
    left, top = grid.x[0] - dx / 2, grid.y[0] + dy / 2
    corner = f"{left:.4f} E, {top:.4f} N" if grid.is_geographic else f"x = {left:.0f} m, y = {top:.0f} m"
    return f"{grid.describe()}, north-west corner at {corner}"
