"""The archive: one CF Zarr store of rain rate on one grid and a regular time axis, opened for reading.

A frame that is not there is an unwritten chunk, read as NaN, with its status beside it. Writing is in
`nowcast.data.archive_writer`; which files go in is the business of ingest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
import zarr.errors

from nowcast.data.grid import Grid
from nowcast.errors import DataError

FORMAT = "nowcast-archive-1"
RAIN_RATE = "rainfall_rate"
MANIFEST = "manifest"
MANIFEST_LINES = "manifest/lines"
# The values of frame_status; "present" and "partial" frames can be read.
STATUS = ("missing", "present", "partial", "bad")
MISSING, PRESENT, PARTIAL, BAD = range(4)

Status = Literal["missing", "present", "partial", "bad"]


@dataclass(frozen=True)
class ManifestEntry:
    """What became of one frame of one source file.

    Attributes:
        file: Its path as it was given.
        sha256: Digest of the file's bytes; empty where it could not be read.
        time: Valid time, ISO 8601; empty where it is unknown.
        status: stored, duplicate, replaced, or skipped.
        reason: Why it was skipped, or what was changed.
    """

    file: str
    sha256: str
    time: str
    status: str
    reason: str = ""


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
    _rain_rate: zarr.Array
    _digests: np.ndarray

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
        """A digest of grid, times and every frame's contents; another archive has another one."""
        digest = hashlib.sha256(json.dumps(self.grid.to_dict(), sort_keys=True).encode())
        for part in (self.times.astype(np.int64), self.status, self._digests):
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
            return np.asarray(self._rain_rate[start:stop], dtype=np.float32)
        except (RuntimeError, ValueError, OSError) as error:
            raise DataError(
                f"{self.path}: the frames from {self.times[start]} cannot be decoded: {error}", "ingest them again"
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

    def manifest(self) -> Iterator[ManifestEntry]:
        """What became of every source file, in the order of ingest."""
        yield from read_manifest(self.path)

    def describe(self) -> str:
        """One line for people."""
        return (
            f"{int(self.present.sum())} of {self.times.size} frames from {self.times[0]} to {self.times[-1]} UTC "
            f"every {self.step_minutes:g} min, {self.grid.describe()}"
        )


def open_archive(path: str | Path) -> RadarArchive:
    """Open an archive for reading.

    Raises:
        DataError: There is no such folder, or it is not an archive.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"there is no archive {path}", "make one with: nowcast ingest FILES... -o " + str(path))
    try:
        group = zarr.open_group(path, mode="r", use_consolidated=False)
        attrs = dict(group.attrs)
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
        raise _not_an_archive(path, f"{type(error).__name__}: {error}") from error
    if attrs.get("format") != FORMAT:
        raise _not_an_archive(path, f"its format is {attrs.get('format')!r}")
    try:
        times, status, digests = (np.asarray(_array(group, name)[:]) for name in _AXES)
        rain_rate = _array(group, RAIN_RATE)
        crs = dict(_array(group, "crs").attrs)
        grid = Grid(np.asarray(_array(group, "x")[:]), np.asarray(_array(group, "y")[:]), str(crs["crs_wkt"]))
        step = np.timedelta64(int(str(attrs["step_seconds"])), "s")
    except (KeyError, ValueError, OSError, RuntimeError, zarr.errors.BaseZarrError) as error:
        raise DataError(f"{path} is a damaged archive: {error}", "ingest the source files again") from error
    # An append grows one array after the other: what all of them hold is what is there.
    length = min(times.size, status.size, digests.size, rain_rate.shape[0])
    if length == 0:
        raise DataError(f"{path} is an archive without a single frame")
    return RadarArchive(
        path, grid, step, times[:length].astype("datetime64[s]"), status[:length], attrs, rain_rate, digests[:length]
    )


def read_manifest(path: str | Path) -> Iterator[ManifestEntry]:
    """The entries of an archive's manifest; a line cut short by a kill is left out."""
    try:
        lines = zarr.open_array(Path(path) / MANIFEST_LINES, mode="r")
    except (OSError, zarr.errors.BaseZarrError):
        return
    for line in bytes(np.asarray(lines[:])).replace(b"\0", b"").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        yield ManifestEntry(**values)


_AXES = ("time", "frame_status", "frame_digest")


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(f"{name} is not an array")
    return array


def _not_an_archive(path: Path, finding: str) -> DataError:
    return DataError(
        f"{path} is not a rain archive of this program ({finding})",
        f"bring it into one with: nowcast ingest {path} -o archive.zarr",
    )
