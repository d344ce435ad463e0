"""The archive: one CF Zarr store of rain rate on one grid and a regular time axis, opened for reading.

A frame that is not there is an unwritten chunk, read as NaN, with its status beside it. Writing is in
`nowcast.data.archive_writer`; which files go in is the business of ingest.

What is open stays as it was when it was opened, but that late frames and those that are replaced are seen as they come:
through any number of appends, and through one move of the time axis, which a commit makes when it brings a frame from
before the first. The names that the chunks had before are kept until the archive moves again or is next opened for
writing. After that `RadarArchive` notices and refuses; a program that opened the store before the move as plain Zarr,
as xarray does, cannot, and finds its frames missing or, after a second move, those of other times. It is safe if it
opens the store anew for each piece of work, or while nobody brings in earlier frames: `first_time` tells whether the
axis has moved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import zarr
import zarr.errors

from nowcast.data.archive_schema import (
    BAD,
    FORMAT,
    MANIFEST_LINES,
    MISSING,
    PARTIAL,
    PRESENT,
    RAIN_RATE,
    SERIES,
    STATUS,
    SUPERSEDED,
    VALID_SHARE,
)
from nowcast.data.archive_store import METADATA
from nowcast.data.grid import Grid
from nowcast.data.mlcast import MlcastFrames, is_mlcast
from nowcast.errors import DataError

__all__ = [
    "BAD",
    "MISSING",
    "PARTIAL",
    "PRESENT",
    "STATUS",
    "FileStatus",
    "ManifestEntry",
    "RadarArchive",
    "open_archive",
    "read_manifest",
]

# stored: a frame of it is in the archive. duplicate: the same frames came from elsewhere. partial: some of its frames
# could not be used. skipped: none of them.
FileStatus = Literal["stored", "duplicate", "partial", "skipped"]


@dataclass(frozen=True)
class ManifestEntry:
    """What became of one source file.

    Attributes:
        file: Its path as it was given.
        status: See `FileStatus`.
        sha256: Digest of the file's bytes; empty where it could not be read.
        size: In bytes.
        modified_ns: When it was last changed, nanoseconds since 1970.
        format: The reader that took it.
        times: Valid times of the frames that it brought, ISO 8601.
        replaced: Those of them that took the place of another file's frame.
        duplicates: Number of its frames that were in the archive already.
        reason: Why it, or some of its frames, could not be used.
        suspicion: What is odd about a frame of it that was used.
    """

    file: str
    status: FileStatus
    sha256: str = ""
    size: int = 0
    modified_ns: int = 0
    format: str = ""
    times: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    duplicates: int = 0
    reason: str = ""
    suspicion: str = ""

    def to_line(self) -> str:
        """One line of JSON, without what is empty."""
        return json.dumps({key: value for key, value in vars(self).items() if value}, separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> ManifestEntry:
        values = json.loads(line)
        for key in ("times", "replaced"):
            values[key] = tuple(values.get(key, ()))
        return cls(**values)


class Frames(Protocol):
    """Where an archive's frames come from: a store of ours, or another data set seen as one."""

    @property
    def digests(self) -> np.ndarray: ...

    def read(self, start: int, stop: int) -> np.ndarray: ...

    def series(self, name: str) -> np.ndarray: ...

    def valid_share(self) -> np.ndarray: ...

    def manifest(self) -> bytes: ...


# How often an archive is opened whose axis a writer moves meanwhile.
OPENINGS = 10


class _RearrangedError(DataError):
    """The axis of an archive has moved, and the files of the one before are gone."""


class StoredFrames:
    """Those of an archive of ours, as its published metadata tells.

    `published` is the state of the metadata file when `group` was opened, or earlier.
    """

    def __init__(self, path: Path, group: zarr.Group, published: tuple[int, int]) -> None:
        self._path, self._group, self._published = path, group, published
        self._first_time = group.attrs.get("first_time")
        self.digests = self.series("frame_digest")
        self._valid_pixels = self.series("valid_pixels")

    def read(self, start: int, stop: int) -> np.ndarray:
        rain_rate = np.asarray(_array(self._group, RAIN_RATE)[start:stop], dtype=np.float32)
        for index in range(stop - start):
            if self._valid_pixels[start + index] > 0 and np.isnan(rain_rate[index]).all():
                raise DataError(
                    f"{self._path}: frame {start + index} is gone: the archive was rearranged after it was opened, "
                    "or a file of it was removed",
                    "open it again; if that does not help, give the nowcast ingest command that made it again: "
                    "it stores what is gone",
                )
        self._require_same_axis()
        return rain_rate

    def _require_same_axis(self) -> None:
        """Refuse what was read if its files may hold other times by now: the axis has moved, and not just once."""
        state = _state(self._path)
        if state == self._published:
            return
        published = json.loads((self._path / METADATA).read_text())["attributes"]
        if self._first_time not in (published["first_time"], published.get(SUPERSEDED)):
            raise _RearrangedError(
                f"{self._path}: the archive was rearranged after it was opened: it starts at "
                f"{published['first_time']} now, then at {self._first_time}",
                "open it again",
            )
        self._published = state

    def series(self, name: str) -> np.ndarray:
        values = _series(self._group, name)
        self._require_same_axis()
        return values

    def valid_share(self) -> np.ndarray:
        return np.asarray(_array(self._group, VALID_SHARE)[:])

    def manifest(self) -> bytes:
        return read_manifest_bytes(self._path)


@dataclass(frozen=True, eq=False)
class RadarArchive:
    """An archive opened for reading: whole frames or none, also while another process appends.

    Attributes:
        path: Where it lies.
        grid: Its pixels.
        step: Cadence, timedelta64[s].
        times: Regular time axis, datetime64[s]; the end of the interval for accumulations.
        status: (T,) int8, an index into `STATUS`.
        attrs: Global attributes.
    """

    path: Path
    grid: Grid
    step: np.timedelta64
    times: np.ndarray
    status: np.ndarray
    attrs: Mapping[str, Any]
    _frames: Frames

    @property
    def present(self) -> np.ndarray:
        """(T,) bool: frames that can be read."""
        return (self.status == PRESENT) | (self.status == PARTIAL)

    @property
    def interval_minutes(self) -> float | None:
        """Length of the mean that a field stands for; None for instantaneous rates."""
        value = self.attrs.get("interval_minutes")
        return None if value is None else float(value)

    @property
    def is_synthetic(self) -> bool:
        return str(self.attrs.get("synthetic", "false")).lower() == "true"

    @cached_property
    def fingerprint(self) -> str:
        """A digest of grid, times and every frame as it is compressed; another archive has another one.

        Of an MLCast data set it covers the attributes, and the values of at most 100 frames spread over its length: one
        that differs from another in the values of other frames alone has the same.
        """
        digest = hashlib.sha256(json.dumps(self.grid.to_dict(), sort_keys=True).encode())
        for part in (self.times.astype(np.int64), self.status, self._frames.digests):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def rain_rate(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, H, W) float32 [mm/h], NaN where missing.

        Raises:
            DataError: A chunk that cannot be decoded.
        """
        if not 0 <= start <= stop <= self.times.size:
            raise IndexError(f"frames {start} to {stop} of an archive of {self.times.size}")
        try:
            return self._frames.read(start, stop)
        except (RuntimeError, ValueError, OSError) as error:
            raise DataError(
                f"{self.path}: the frames from {self.times[start]} cannot be decoded: {error}",
                f"make the archive anew: nowcast ingest SRC... -o {self.path} --overwrite",
            ) from error

    def frame(self, time: np.datetime64) -> np.ndarray:
        """(H, W) float32 [mm/h] at one valid time."""
        index = self.index_of(time)
        return np.asarray(self.rain_rate(index, index + 1)[0])

    def index_of(self, time: np.datetime64) -> int:
        """Where a valid time stands on the axis.

        Raises:
            DataError: The archive has no such time.
        """
        offset = time.astype("datetime64[s]") - self.times[0]
        index = int(offset // self.step)
        if offset % self.step != np.timedelta64(0, "s") or not 0 <= index < self.times.size:
            raise DataError(
                f"{self.path} has no frame time {time}; it reaches from {self.times[0]} to {self.times[-1]} "
                f"in steps of {self.step_minutes:g} min"
            )
        return index

    @property
    def step_minutes(self) -> float:
        return float(self.step / np.timedelta64(60, "s"))

    def series(self, name: str) -> np.ndarray:
        """(T,) numbers of the frames: valid_pixels, wet_share, maximum_rate, n_capped, ... (see `SERIES`)."""
        return self._frames.series(name)

    def valid_share(self) -> np.ndarray:
        """(H, W) float32: share of the present frames in which a pixel is valid."""
        return self._frames.valid_share()

    def manifest(self) -> Iterator[ManifestEntry]:
        """What became of every source file, in the order of ingest."""
        for line in self._frames.manifest().splitlines():
            yield ManifestEntry.from_line(line)

    def describe(self) -> str:
        """One line for people."""
        return (
            f"{int(self.present.sum())} of {self.times.size} frames from {self.times[0]} to {self.times[-1]} UTC "
            f"every {self.step_minutes:g} min, {self.grid.describe()}"
        )


def open_archive(path: str | Path) -> RadarArchive:
    """Open an archive, or a data set of the MLCast source-data specification, for reading.

    Raises:
        DataError: There is no such folder, or it is neither.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"there is no archive {path}", "make one with: nowcast ingest FILES... -o " + str(path))
    for _ in range(OPENINGS):
        try:
            return _open(path)
        except _RearrangedError as error:
            rearranged = error
    raise rearranged


def _open(path: Path) -> RadarArchive:
    try:
        published = _state(path) if (path / METADATA).exists() else (0, 0)
        group = zarr.open_group(path, mode="r")
        attrs = dict(group.attrs)
    except zarr.errors.GroupNotFoundError as error:
        raise _not_an_archive(path, "it holds no Zarr group") from error
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
        raise _not_an_archive(path, f"{type(error).__name__}: {error}") from error
    try:
        if attrs.get("format") == FORMAT:
            return _open_ours(path, group, attrs, published)
        if is_mlcast(attrs):
            return _open_mlcast(path, attrs)
    except (KeyError, ValueError, OSError, RuntimeError, zarr.errors.BaseZarrError) as error:
        raise DataError(f"{path} is a damaged archive: {error}", _make_anew(path)) from error
    raise _not_an_archive(path, f"its format is {attrs.get('format')!r}")


def _open_ours(path: Path, group: zarr.Group, attrs: dict[str, Any], published: tuple[int, int]) -> RadarArchive:
    crs = dict(_array(group, "crs").attrs)
    grid = Grid(np.asarray(_array(group, "x")[:]), np.asarray(_array(group, "y")[:]), str(crs["crs_wkt"]))
    frames = StoredFrames(path, group, published)
    times, status = frames.series("time"), frames.series("frame_status").astype(np.int8)
    if times.size == 0:
        raise DataError(f"{path} is an archive without a single frame")
    step = np.timedelta64(int(str(attrs["step_seconds"])), "s")
    return RadarArchive(path, grid, step, times.astype("datetime64[s]"), status, attrs, frames)


def _open_mlcast(path: Path, attrs: dict[str, Any]) -> RadarArchive:
    frames = MlcastFrames(path)
    if frames.interval_minutes is not None:
        attrs |= {"interval_minutes": frames.interval_minutes}
    return RadarArchive(path, frames.grid, frames.step, frames.times, frames.status, attrs, frames)


def read_manifest(path: str | Path) -> Iterator[ManifestEntry]:
    """The entries of an archive's manifest, in the order of ingest."""
    for line in read_manifest_bytes(path).splitlines():
        yield ManifestEntry.from_line(line)


def read_manifest_bytes(path: str | Path) -> bytes:
    """The manifest as it is stored: one JSON object a line."""
    try:
        group = zarr.open_group(Path(path), mode="r", use_consolidated=True)
        return np.asarray(_array(group, MANIFEST_LINES)[:]).tobytes()
    except (KeyError, ValueError, OSError, RuntimeError, zarr.errors.BaseZarrError) as error:
        raise DataError(f"the manifest of {path} cannot be read: {error}", _make_anew(path)) from error


def read_series(group: zarr.Group) -> dict[str, np.ndarray]:
    """The numbers of all frames, by the names of `SERIES`."""
    return {name: _series(group, name) for name in SERIES}


def _series(group: zarr.Group, name: str) -> np.ndarray:
    """(T,) as it is stored; what an archive of an earlier version lacks is as of frames that were not measured."""
    if name in SERIES and name not in group:
        return np.full(_array(group, "time").shape, SERIES[name].fill, dtype=SERIES[name].dtype)
    return np.array(_array(group, name)[:])


def _make_anew(path: str | Path) -> str:
    return f"make it anew: nowcast ingest SRC... -o {path} --overwrite"


def _state(path: Path) -> tuple[int, int]:
    """What changes whenever the archive's metadata are published anew."""
    found = (path / METADATA).stat()
    return found.st_ino, found.st_mtime_ns


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(f"{name} is not an array")
    return array


def _not_an_archive(path: Path, finding: str) -> DataError:
    return DataError(
        f"{path} is not a rain archive of this program ({finding})",
        f"if it holds radar files, bring them into one: nowcast ingest {path} -o archive.zarr",
    )
