"""Writing the archive: create, append, commit frame by frame.

A frame is one chunk, written whole; its status follows, so that a reader sees it all at once or not at all. One
process writes at a time; a kill at any moment leaves an archive that opens.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from nowcast.data.archive import (
    BAD,
    FORMAT,
    MANIFEST,
    MANIFEST_LINES,
    MISSING,
    PARTIAL,
    PRESENT,
    RAIN_RATE,
    STATUS,
    ManifestEntry,
    open_archive,
)
from nowcast.data.forecast import LEAP_SECONDS, space_coordinates
from nowcast.data.grid import Grid
from nowcast.errors import DataError

# zstd without a bit shuffle: radar fields hold few distinct levels, and shuffling makes them 2.5 times larger.
COMPRESSION = ZstdCodec(level=3)
TIME_CHUNK = 8192
MANIFEST_CHUNK = 1 << 18
TIME_UNITS = "seconds since 1970-01-01 00:00:00"
# A pixel that is valid in some other frame but not in this one makes the frame partial above this share.
PARTIAL_SHARE = 0.02


class ArchiveWriter:
    """An archive opened for writing, as a context manager; the only way frames get in.

    Opened once, it holds a lock until it is closed. Frames may come in any order, also before the first time that
    the archive has; each is written once (`write`) and replaced only on request.
    """

    def __init__(self, path: Path, group: zarr.Group, lock: Any) -> None:
        self.path = path
        self._group = group
        self._lock = lock
        self._rain_rate = _member(group, RAIN_RATE)
        self._times = _member(group, "time")
        self._status_array = _member(group, "frame_status")
        self._digest_array = _member(group, "frame_digest")
        length = min(
            self._rain_rate.shape[0], self._times.shape[0], self._status_array.shape[0], self._digest_array.shape[0]
        )
        self.status = np.asarray(self._status_array[:length], dtype=np.int8)
        self.digests = np.asarray(self._digest_array[:length], dtype=np.uint64)
        attrs = dict(group.attrs)
        self.step = np.timedelta64(int(str(attrs["step_seconds"])), "s")
        first = attrs["first_time"]
        self.first_time = np.datetime64(str(first), "s")
        self.grid = Grid(
            np.asarray(_member(group, "x")[:]),
            np.asarray(_member(group, "y")[:]),
            str(_member(group, "crs").attrs["crs_wkt"]),
        )
        self._valid_count = _member(group, "valid_count")
        self._counted = int(str(self._valid_count.attrs.get("frames", 0)))
        self._counts = np.asarray(self._valid_count[:], dtype=np.int64)
        self._manifest: list[ManifestEntry] = []

    @classmethod
    def create(
        cls,
        path: str | Path,
        grid: Grid,
        *,
        first_time: np.datetime64,
        step: np.timedelta64,
        interval_minutes: float | None = None,
        quality: bool = False,
        attributes: Mapping[str, Any] | None = None,
    ) -> ArchiveWriter:
        """A new, empty archive whose time axis starts at `first_time`.

        Args:
            interval_minutes: Length of the mean that a field stands for; None for instantaneous rates.
            quality: Whether frames come with a quality index.
            attributes: Global attributes: source_format, institution, license, zr_a, zr_b, synthetic, ...

        Raises:
            DataError: The path exists, or is being written.
        """
        path = Path(path)
        if step <= np.timedelta64(0, "s"):
            raise DataError(f"the step of an archive must be positive, got {step}")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        try:
            if path.exists():
                raise DataError(f"{path} exists", "choose another name, or pass --append or --overwrite")
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
                draft = Path(folder) / path.name
                _create_store(draft, grid, first_time, step, interval_minutes, quality, dict(attributes or {}))
                draft.rename(path)
            return cls(path, zarr.open_group(path, mode="r+", use_consolidated=False), lock)
        except BaseException:
            lock.close()
            raise

    @classmethod
    def append(cls, path: str | Path) -> ArchiveWriter:
        """An existing archive, to add frames to.

        Raises:
            DataError: There is none, it is damaged, or another process writes to it.
        """
        path = Path(path)
        lock = _lock(path)
        try:
            _require_archive(path)
            return cls(path, zarr.open_group(path, mode="r+", use_consolidated=False), lock)
        except BaseException:
            lock.close()
            raise

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def length(self) -> int:
        return self.status.size

    @property
    def attrs(self) -> dict[str, Any]:
        return dict(self._group.attrs)

    def update_attributes(self, values: Mapping[str, Any]) -> None:
        """Set global attributes."""
        self._group.attrs.update(values)

    def index_of(self, time: np.datetime64) -> int:
        """The slot of a valid time; negative for one before the archive's first.

        Raises:
            DataError: The time falls between two slots.
        """
        offset = time.astype("datetime64[s]") - self.first_time
        if offset % self.step != np.timedelta64(0, "s"):
            raise DataError(
                f"the time {time} does not fall on the archive's axis, which starts at {self.first_time} "
                f"in steps of {self.step / np.timedelta64(60, 's'):g} min",
                "ingest it into an archive of its own, or give --step",
            )
        return int(offset // self.step)

    def digest_at(self, time: np.datetime64) -> int | None:
        """Digest of the frame stored at a time, None where there is none."""
        index = self.index_of(time)
        if not 0 <= index < self.length or self.status[index] in (MISSING, BAD):
            return None
        return int(self.digests[index])

    def write(self, time: np.datetime64, rain_rate: np.ndarray, *, quality: np.ndarray | None = None) -> None:
        """Store the frame of a valid time, in place of what is there.

        Args:
            rain_rate: (H, W) float32 [mm/h], NaN where missing.
            quality: (H, W) float32 in [0, 1], for an archive made with quality.
        """
        rain_rate = np.ascontiguousarray(rain_rate, dtype=np.float32)
        if rain_rate.shape != self.grid.shape:
            raise DataError(f"a field of shape {rain_rate.shape} does not fit the archive's {self.grid.shape}")
        index = self.index_of(time)
        if index < 0:
            self._prepend(-index)
            index = 0
        if index >= self.length:
            self._grow(index + 1)
        replaces = self.status[index] in (PRESENT, PARTIAL)
        if replaces:
            # The frame must not be seen half replaced: it is missing until the new one is whole.
            self._set_status(index, MISSING, 0)
            self._counts -= ~np.isnan(np.asarray(self._rain_rate[index]))
            self._counted -= 1
        self._rain_rate[index] = rain_rate
        if quality is not None and "quality" in self._group:
            _member(self._group, "quality")[index] = np.asarray(quality, dtype=np.float32)
        valid = ~np.isnan(rain_rate)
        expected = int(np.count_nonzero(self._counts))
        lost = expected - int(np.count_nonzero(valid & (self._counts > 0)))
        status = PARTIAL if lost > PARTIAL_SHARE * max(expected, 1) else PRESENT
        self._counts += valid
        self._counted += 1
        self._set_status(index, status, frame_digest(rain_rate))

    def mark_bad(self, time: np.datetime64) -> None:
        """Say that a frame of this time came and could not be used; a stored frame stays."""
        index = self.index_of(time)
        if 0 <= index < self.length and self.status[index] == MISSING:
            self._set_status(index, BAD, 0)

    def note(self, entry: ManifestEntry) -> None:
        """Add an entry to the manifest; written with the next `flush`."""
        self._manifest.append(entry)

    def flush(self) -> None:
        """Bring manifest and per-pixel counts to disk."""
        if self._manifest:
            text = "".join(json.dumps(asdict(entry), separators=(",", ":")) + "\n" for entry in self._manifest)
            lines = _member(self._group, MANIFEST_LINES)
            new = np.frombuffer(text.encode(), dtype=np.uint8)
            start = lines.shape[0]
            lines.resize((start + new.size,))
            lines[start:] = new
            self._manifest = []

    def close(self) -> None:
        """Write what is pending and give the lock back."""
        if self._lock.closed:
            return
        try:
            self.flush()
            self._write_valid_share()
        finally:
            self._lock.close()

    def _write_valid_share(self) -> None:
        if self._counted != int(np.count_nonzero((self.status == PRESENT) | (self.status == PARTIAL))):
            self._recount()
        self._valid_count[:] = self._counts.astype(np.int32)
        self._valid_count.attrs["frames"] = self._counted
        share = self._counts / max(self._counted, 1)
        _member(self._group, "valid_share")[:] = share.astype(np.float32)

    def _recount(self) -> None:
        """Count valid pixels anew: a killed ingest left frames that were not counted."""
        self._counts = np.zeros(self.grid.shape, dtype=np.int64)
        self._counted = 0
        for index in np.flatnonzero((self.status == PRESENT) | (self.status == PARTIAL)):
            self._counts += ~np.isnan(np.asarray(self._rain_rate[int(index)]))
            self._counted += 1

    def _set_status(self, index: int, status: int, digest: int) -> None:
        self.status[index], self.digests[index] = status, digest
        self._digest_array[index] = np.uint64(digest)
        self._status_array[index] = status

    def _grow(self, length: int) -> None:
        """Lengthen every array along time; new slots are missing."""
        rows, columns = self.grid.shape
        self._rain_rate.resize((length, rows, columns))
        for name in ("quality",):
            if name in self._group:
                _member(self._group, name).resize((length, rows, columns))
        self._digest_array.resize((length,))
        self._status_array.resize((length,))
        old = self.length
        self._times.resize((length,))
        times = self.first_time + np.arange(length) * self.step
        self._times[old:] = times[old:].astype(np.int64)
        if "time_bnds" in self._group:
            self._write_bounds(old, times)
        self.status = np.concatenate([self.status, np.zeros(length - old, dtype=np.int8)])
        self.digests = np.concatenate([self.digests, np.zeros(length - old, dtype=np.uint64)])

    def _write_bounds(self, old: int, times: np.ndarray) -> None:
        bounds = _member(self._group, "time_bnds")
        bounds.resize((times.size, 2))
        interval = round(float(str(self._group.attrs["interval_minutes"])) * 60)
        ends = times[old:].astype(np.int64)
        bounds[old:] = np.stack([ends - interval, ends], axis=1)

    def _prepend(self, slots: int) -> None:
        """Make room for earlier frames: the time axis of a Zarr store starts at its first chunk, so chunks move.

        Chunks are renamed from the last to the first; statuses say "missing" meanwhile, and the frames of an
        archive killed here are found again by their files.
        """
        old_status, old_digests, old_length = self.status.copy(), self.digests.copy(), self.length
        self._status_array[:] = MISSING
        self.status = np.zeros_like(self.status)
        self.digests = np.zeros_like(self.digests)
        self.first_time = self.first_time - slots * self.step
        self._grow(old_length + slots)
        times = self.first_time + np.arange(self.length) * self.step
        self._group.attrs["first_time"] = str(self.first_time)
        self._times[:] = times.astype(np.int64)
        if "time_bnds" in self._group:
            self._write_bounds(0, times)
        for name in (RAIN_RATE, "quality"):
            if name in self._group:
                for index in range(old_length - 1, -1, -1):
                    source = self.path / name / "c" / str(index)
                    if source.exists():
                        source.rename(source.with_name(str(index + slots)))
        self.status[slots:] = old_status
        self.digests[slots:] = old_digests
        self._digest_array[:] = self.digests
        self._status_array[:] = self.status


def write_archive(
    path: str | Path,
    rain_rate: np.ndarray,
    *,
    first_time: np.datetime64,
    step: np.timedelta64,
    grid: Grid,
    present: np.ndarray | None = None,
    interval_minutes: float | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Path:
    """Write an archive of frames (T, H, W) [mm/h] at once; frames that are not `present` stay missing."""
    times = first_time + np.arange(len(rain_rate)) * step
    with ArchiveWriter.create(
        path, grid, first_time=first_time, step=step, interval_minutes=interval_minutes, attributes=attributes
    ) as writer:
        for index, time in enumerate(times):
            if present is None or present[index]:
                writer.write(time, rain_rate[index])
    return Path(path)


def frame_digest(rain_rate: np.ndarray) -> int:
    """Eight bytes that tell one field from another; every NaN counts as the same NaN."""
    field = np.ascontiguousarray(rain_rate, dtype=np.float32) + np.float32(0)
    field[np.isnan(field)] = np.nan
    return int.from_bytes(hashlib.blake2b(field.tobytes(), digest_size=8).digest(), "little")


def _lock(path: Path) -> Any:
    """The writer's lock, given back by the system when its process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = open(path.parent / f".{path.name}.lock", "w")  # noqa: SIM115 - lives as long as the writer
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise DataError(f"{path} is being written by another process", "wait until it has finished") from error
    return handle


def _require_archive(path: Path) -> None:
    try:
        open_archive(path)
    except DataError as error:
        if "without a single frame" not in error.message:
            raise


def _create_store(
    path: Path,
    grid: Grid,
    first_time: np.datetime64,
    step: np.timedelta64,
    interval_minutes: float | None,
    quality: bool,
    attributes: dict[str, Any],
) -> None:
    interval = {} if interval_minutes is None else {"interval_minutes": float(interval_minutes)}
    group = zarr.create_group(
        path,
        zarr_format=3,
        attributes={
            "Conventions": "CF-1.11",
            "title": "Rain rate from radar",
            "institution": "not stated",
            "source": "weather radar",
            "history": "",
            "references": "",
            "comment": "NaN is not measured, 0 is dry.",
            **attributes,
            **interval,
            "format": FORMAT,
            "first_time": str(first_time.astype("datetime64[s]")),
            "step_seconds": int(step / np.timedelta64(1, "s")),
        },
    )
    methods = "time: point" if interval_minutes is None else "time: mean"
    rain_attributes = {
        "standard_name": "rainfall_flux",
        "long_name": "rain rate",
        "units": "kg m-2 h-1",
        "cell_methods": methods,
        "grid_mapping": "crs",
        "coordinates": "lat lon frame_status" if not grid.is_geographic else "frame_status",
    }
    _create_fields(group, grid, rain_attributes, quality)
    time_attributes = {"standard_name": "time", "long_name": "valid time", "axis": "T", "units": TIME_UNITS}
    time_attributes |= {"calendar": "standard", **LEAP_SECONDS}
    if interval_minutes is not None:
        time_attributes["bounds"] = "time_bnds"
        _create(group, "time_bnds", (0, 2), "int64", ("time", "bnds"), chunks=(TIME_CHUNK, 2))
    _create(group, "time", (0,), "int64", ("time",), time_attributes, chunks=(TIME_CHUNK,))
    status = {"long_name": "what is known of the frame", "flag_meanings": " ".join(STATUS)}
    status |= {"flag_values": list(range(len(STATUS)))}  # type: ignore[dict-item]
    _create(group, "frame_status", (0,), "int8", ("time",), status, chunks=(TIME_CHUNK,))
    digest = {"long_name": "digest of the frame's contents"}
    _create(group, "frame_digest", (0,), "uint64", ("time",), digest, chunks=(TIME_CHUNK,))
    zarr.create_group(path / MANIFEST, zarr_format=3, attributes={"content": "one JSON object a line, UTF-8"})
    _create(group, MANIFEST_LINES, (0,), "uint8", ("byte",), chunks=(MANIFEST_CHUNK,))


def _create_fields(group: zarr.Group, grid: Grid, rain_attributes: dict[str, Any], quality: bool) -> None:
    rows, columns = grid.shape
    axes = ("time", "y", "x")
    nan = float("nan")
    _create(group, RAIN_RATE, (0, rows, columns), "float32", axes, rain_attributes, fill=nan, chunks=(1, rows, columns))
    if quality:
        text = {"long_name": "quality index", "units": "1", "grid_mapping": "crs", "valid_range": [0.0, 1.0]}
        _create(group, "quality", (0, rows, columns), "float32", axes, text, fill=nan, chunks=(1, rows, columns))
    for name, (dims, values, attributes) in space_coordinates(grid).items():
        axis = (dims,) if isinstance(dims, str) else dims
        _create(group, name, values.shape, str(values.dtype), axis, attributes)[:] = values
    _create(group, "crs", (), "int32", (), grid.cf_grid_mapping())
    share = {"long_name": "share of frames in which the pixel is valid", "units": "1", "grid_mapping": "crs"}
    _create(group, "valid_share", (rows, columns), "float32", ("y", "x"), share, fill=nan)
    count = {"long_name": "number of frames in which the pixel is valid", "units": "1", "frames": 0}
    _create(group, "valid_count", (rows, columns), "int32", ("y", "x"), count)


def _create(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    axes: tuple[str, ...],
    attributes: Mapping[str, Any] | None = None,
    *,
    fill: float = 0,
    chunks: tuple[int, ...] | None = None,
) -> zarr.Array:
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunks if chunks is not None else (shape or "auto"),
        dimension_names=axes,
        attributes=dict(attributes or {}),
        fill_value=fill,
        compressors=COMPRESSION if shape else None,
    )


def _member(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise DataError(f"{name} is not an array of the archive", "ingest the source files again")
    return array


def read_times(entries: Iterable[ManifestEntry]) -> dict[str, list[str]]:
    """Valid times that each file digest brought, for skipping files that are in already."""
    known: dict[str, list[str]] = {}
    for entry in entries:
        if entry.status in ("stored", "duplicate", "replaced") and entry.sha256:
            known.setdefault(entry.sha256, []).append(entry.time)
    return known
