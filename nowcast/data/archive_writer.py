"""Writing the archive: create, append, commit.

Frames are gathered (`put`) and become visible together (`commit`): a reader sees the archive before or after, never
between. One process writes at a time; a kill at any moment leaves what was committed, and nothing else in sight.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zarr

from nowcast.data.archive import ManifestEntry, open_archive, read_manifest_bytes
from nowcast.data.archive_schema import (
    BAD,
    CHANGES,
    FORMAT,
    MANIFEST_CHUNK,
    MANIFEST_LINES,
    MISSING,
    PARTIAL,
    PRESENT,
    QUALITY,
    RAIN_RATE,
    SERIES,
    TIME_BOUNDS,
    TIME_CHUNK,
    VALID_SHARE,
    create_store,
    measure_frame,
)
from nowcast.data.archive_store import OTHER, ArchiveStore, cannot_write, chunk_digest, decode_chunk, encode_chunk
from nowcast.data.grid import Grid
from nowcast.data.mlcast import written_once
from nowcast.data.outputs import put_in_place, require_free
from nowcast.errors import DataError

logger = logging.getLogger(__name__)

# A frame with fewer valid pixels than this share of the median frame's is partial.
WHOLE_SHARE = 0.98
# As numpy writes it; what lies above are negative numbers, -0 and other NaNs.
CANONICAL_NAN = np.uint32(0x7FC00000)
# Frames that `write_archive` commits at a time.
BATCH = 64


@dataclass(frozen=True)
class EncodedFrame:
    """One frame ready to be stored: compressed, with what the archive keeps beside it.

    Attributes:
        time: Valid time, datetime64[s].
        rain_rate: The chunk.
        digest: Eight bytes of the chunk's SHA-256, never 0.
        valid: Which pixels are valid, as packed bits, compressed.
        series: Its values in the per-frame series.
        quality: The chunk of the quality index, if there is one.
    """

    time: np.datetime64
    rain_rate: bytes
    digest: int
    valid: bytes
    series: Mapping[str, float]
    quality: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.rain_rate) + len(self.quality or b"")


def encode_frame(
    time: np.datetime64,
    rain_rate: np.ndarray,
    *,
    quality: np.ndarray | None = None,
    changes: Mapping[str, int] | None = None,
) -> EncodedFrame:
    """Compress one field and measure it; apart from the writer, so that other processes can do it.

    Args:
        rain_rate: (H, W) [mm/h], NaN where missing.
        quality: (H, W) in [0, 1], for an archive made with quality.
        changes: Pixels that quality steps changed, by the names of `CHANGES`.
    """
    rain_rate = _canonical(rain_rate)
    valid = ~np.isnan(rain_rate)
    chunk = encode_chunk(rain_rate)
    series = measure_frame(rain_rate, valid)
    series |= {f"n_{name}": int((changes or {}).get(name, 0)) for name in CHANGES}
    return EncodedFrame(
        time=time.astype("datetime64[s]"),
        rain_rate=chunk,
        digest=chunk_digest(chunk),
        valid=encode_chunk(np.packbits(valid)),
        series=series,
        quality=None if quality is None else encode_chunk(np.asarray(quality, dtype=np.float32)),
    )


def _canonical(rain_rate: np.ndarray) -> np.ndarray:
    """A contiguous float32 field in which zero and NaN have one form each, so that equal fields have equal bytes."""
    field_ = np.ascontiguousarray(rain_rate, dtype=np.float32)
    bits = field_.view(np.uint32)
    if bits.max(initial=0) <= CANONICAL_NAN:
        return field_
    return np.minimum(bits & np.uint32(0x7FFFFFFF), CANONICAL_NAN).view(np.float32)


@dataclass
class _Pending:
    """What the next commit brings."""

    frames: dict[np.datetime64, EncodedFrame] = field(default_factory=dict)
    bad: set[np.datetime64] = field(default_factory=set)
    manifest: list[ManifestEntry] = field(default_factory=list)
    attributes: bool = False

    def __bool__(self) -> bool:
        return bool(self.frames or self.bad or self.manifest or self.attributes)


class ArchiveWriter:
    """An archive opened for writing, as a context manager; the only way frames get in.

    Opened once, it holds a lock until it is closed. Frames may come in any order, also before the first time that
    the archive has; a frame of a time that is there takes its place.

    Attributes:
        path, grid, step: Those of the archive.
        first_time: Of the time axis; moves back when earlier frames come.
    """

    def __init__(self, path: Path, lock: Any) -> None:
        self.path = path
        self._lock = lock
        self._store = ArchiveStore(path)
        group = zarr.open_group(path, mode="r", use_consolidated=True)
        attributes = self._store.attributes
        self.step = np.timedelta64(int(attributes["step_seconds"]), "s")
        self.first_time = np.datetime64(str(attributes["first_time"]), "s")
        self.grid = Grid(
            np.asarray(_array(group, "x")[:]),
            np.asarray(_array(group, "y")[:]),
            str(_array(group, "crs").attrs["crs_wkt"]),
        )
        self._series = {name: np.array(_array(group, name)[:]) for name in SERIES}
        frames = int(self._store.array_attributes(VALID_SHARE)["frames"])
        share = np.nan_to_num(np.asarray(_array(group, VALID_SHARE)[:], dtype=np.float64))
        # Exact: float32 keeps shares of up to millions of frames apart.
        self._counts = np.rint(share * frames).astype(np.int32)
        lines = _array(group, MANIFEST_LINES)
        self._manifest_length = lines.shape[0]
        tail = self._manifest_length % MANIFEST_CHUNK
        self._manifest_tail = np.asarray(lines[self._manifest_length - tail :]).tobytes()
        self._pending = _Pending()
        self._dirty: set[int] = set()
        self._written: dict[Path, bytes] = {}
        self._broken = False
        if attributes.get("writing"):
            self._recover()
        elif attributes.pop("superseded_chunks", None):
            self._remove_superseded()

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
        overwrite: bool = False,
        lock: Any = None,
    ) -> ArchiveWriter:
        """A new, empty archive whose time axis starts at `first_time`.

        Args:
            interval_minutes: Length of the mean that a field stands for; None for instantaneous rates.
            quality: Whether frames come with a quality index.
            attributes: Global attributes: source_format, institution, license, zr_a, zr_b, synthetic, ...
            overwrite: Replace an archive that lies at the path, unless somebody writes to it.
            lock: That of `lock_archive`, if the caller holds it already; closed with the writer.

        Raises:
            ConfigError: The path is taken, see `nowcast.data.outputs.require_free`.
            DataError: It is being written, or cannot be written.
        """
        path = Path(path)
        if step <= np.timedelta64(0, "s"):
            raise DataError(f"the step of an archive must be positive, got {step}")
        lock = lock or lock_archive(path)
        try:
            require_free(path, "archive", overwrite=overwrite)
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
                draft = Path(folder) / path.name
                create_store(
                    draft,
                    grid,
                    first_time=first_time,
                    step=step,
                    interval_minutes=interval_minutes,
                    quality=quality,
                    attributes=attributes or {},
                )
                put_in_place(draft, path)
            return cls(path, lock)
        except OSError as error:
            lock.close()
            raise cannot_write(path, error) from error
        except BaseException:
            lock.close()
            raise

    @classmethod
    def append(cls, path: str | Path, *, lock: Any = None) -> ArchiveWriter:
        """An existing archive, to add frames to.

        Raises:
            DataError: There is none, it is damaged, or another process writes to it.
        """
        path = Path(path)
        lock = lock or lock_archive(path)
        try:
            _require_archive(path)
            return cls(path, lock)
        except OSError as error:
            lock.close()
            raise cannot_write(path, error) from error
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
        """Slots of the committed time axis."""
        return int(self._series["time"].size)

    @property
    def status(self) -> np.ndarray:
        """(T,) of the committed frames, an index into `STATUS`."""
        return self._series["frame_status"]

    @property
    def series(self) -> Mapping[str, np.ndarray]:
        """(T,) numbers of the committed frames, by the names of `SERIES`."""
        return self._series

    @property
    def attrs(self) -> dict[str, Any]:
        return dict(self._store.attributes)

    @property
    def pending_bytes(self) -> int:
        """Bytes of the frames that wait for a commit."""
        return sum(frame.size for frame in self._pending.frames.values())

    def update_attributes(self, values: Mapping[str, Any]) -> None:
        """Set global attributes; visible with the next commit."""
        if any(self._store.attributes.get(key) != value for key, value in values.items()):
            self._store.attributes.update(values)
            self._pending.attributes = True

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

    def holds(self, frame: EncodedFrame) -> bool | None:
        """Whether the same field is there for a frame's time, committed or not; None where none can be read.

        Raises:
            DataError: The time falls between two slots.
        """
        waiting = self._pending.frames.get(frame.time)
        index = self.index_of(frame.time)
        if waiting is not None:
            stored, digest = waiting.rain_rate, waiting.digest
        elif self.has_chunk(frame.time):
            stored, digest = b"", int(self._series["frame_digest"][index])
        else:
            return None
        if digest == frame.digest:
            return True
        # Another version of the compressor may have packed the same field in another way.
        there = decode_chunk(stored) if stored else self._read(index)
        return None if there is None else there == decode_chunk(frame.rain_rate)

    def has_chunk(self, time: np.datetime64) -> bool:
        """Whether the committed frame of a time is there, in the record and on disk."""
        index = self.index_of(time)
        return self._is_present(index) and self._store.chunk_path(RAIN_RATE, index).is_file()

    def write(self, time: np.datetime64, rain_rate: np.ndarray, *, quality: np.ndarray | None = None) -> None:
        """Encode the frame of a valid time and commit it.

        Args:
            rain_rate: (H, W) float32 [mm/h], NaN where missing.
            quality: (H, W) float32 in [0, 1], for an archive made with quality.
        """
        if np.shape(rain_rate) != self.grid.shape:
            raise DataError(f"a field of shape {np.shape(rain_rate)} does not fit the archive's {self.grid.shape}")
        self.put(encode_frame(time, rain_rate, quality=quality))
        self.commit()

    def put(self, frame: EncodedFrame) -> None:
        """Take a frame into the next commit, in place of what is there.

        Raises:
            DataError: Its time falls between two slots.
        """
        self.index_of(frame.time)
        self._pending.frames[frame.time] = frame

    def mark_bad(self, time: np.datetime64) -> None:
        """Say that a frame of this time came and could not be used; a stored frame stays."""
        self._pending.bad.add(time.astype("datetime64[s]"))

    def note(self, entry: ManifestEntry) -> None:
        """Add an entry to the manifest; visible with the next commit."""
        self._pending.manifest.append(entry)

    def commit(self) -> None:
        """Make everything that waits visible, in one step.

        Raises:
            DataError: The disk is full, the target read-only; what was committed before stays.
        """
        if not self._pending:
            return
        # What goes wrong half-way leaves memory and disk apart: the next writer sorts it out from the disk.
        self._broken = True
        try:
            self._commit()
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._broken = False

    def close(self) -> None:
        """Commit what waits and give the lock back."""
        if self._lock.closed:
            return
        try:
            if not self._broken:
                self.commit()
                if self._store.attributes.pop("writing", None) is not None:
                    self._store.attributes["manifest_sha256"] = hashlib.sha256(
                        read_manifest_bytes(self.path)
                    ).hexdigest()
                    self._store.write_members()
                    self._store.publish()
        except OSError as error:
            raise cannot_write(self.path, error) from error
        finally:
            self._lock.close()

    def _commit(self) -> None:
        pending, self._pending = self._pending, _Pending()
        if not self._store.attributes.get("writing"):
            self._store.attributes["writing"] = 1
            self._store.publish()
        times = sorted(pending.frames)
        recount = self._forget_replaced(times)
        rearranged = bool(times) and times[0] < self.first_time
        if rearranged:
            self._prepend(-self.index_of(times[0]))
        if times:
            self._grow(self.index_of(times[-1]) + 1)
        for time in times:
            self._store_frame(self.index_of(time), pending.frames[time])
        for time in pending.bad:
            self._store_bad(time)
        self._mark_partial()
        self._write_series()
        if times:
            if recount:
                self._recount(np.flatnonzero((self.status == PRESENT) | (self.status == PARTIAL)))
            else:
                self._count(Counter(pending.frames[time].valid for time in times))
                self._write_valid_share()
        self._write_manifest(pending.manifest)
        self._store.attributes.update({f"n_{name}": int(self._series[f"n_{name}"].sum()) for name in CHANGES})
        self._store.publish()
        if rearranged:
            self._store.write_members()

    def _is_present(self, index: int) -> bool:
        return 0 <= index < self.length and self.status[index] in (PRESENT, PARTIAL)

    def _set(self, name: str, index: int, value: float) -> None:
        self._series[name][index] = value
        self._dirty.add(index // TIME_CHUNK)

    def _forget_replaced(self, times: list[np.datetime64]) -> bool:
        """Take frames that will be replaced out of the counts, and say on disk that their digest is unknown.

        Returns:
            Whether one of them is gone from the disk or damaged, so that the counts have to be made anew.
        """
        replaced = [index for time in times if self._is_present(index := self.index_of(time))]
        lost = False
        for index in replaced:
            field_ = self._read_field(index)
            if field_ is None:
                lost = True
            else:
                self._counts -= ~np.isnan(field_)
            self._set("frame_digest", index, 0)
        if replaced:
            self._write_series()
        return lost

    def _store_frame(self, index: int, frame: EncodedFrame) -> None:
        self._store.write_chunk(RAIN_RATE, index, frame.rain_rate)
        if QUALITY in self._store and frame.quality is not None:
            self._store.write_chunk(QUALITY, index, frame.quality)
        self._set("frame_status", index, PRESENT)
        self._set("frame_digest", index, frame.digest)
        for name, value in frame.series.items():
            self._set(name, index, value)

    def _store_bad(self, time: np.datetime64) -> None:
        index = self.index_of(time)
        if 0 <= index < self.length and self.status[index] == MISSING:
            self._set("frame_status", index, BAD)

    def _mark_partial(self) -> None:
        """Present or partial, by the number of valid pixels against the median frame: no matter in what order."""
        present = np.flatnonzero((self.status == PRESENT) | (self.status == PARTIAL))
        if present.size == 0:
            return
        valid = self._series["valid_pixels"][present]
        status = np.where(valid < WHOLE_SHARE * np.median(valid), PARTIAL, PRESENT)
        for index in present[status != self.status[present]]:
            self._set("frame_status", index, PARTIAL if self.status[index] == PRESENT else PRESENT)

    def _write_series(self) -> None:
        names = [name for name in SERIES if name not in ("time", "frame_status")]
        # The status last: a frame that it calls present has its digest and its numbers.
        for chunk in sorted(self._dirty):
            rows = slice(chunk * TIME_CHUNK, (chunk + 1) * TIME_CHUNK)
            if TIME_BOUNDS in self._store:
                self._write_changed(TIME_BOUNDS, chunk, self._bounds(rows))
            for name in ["time", *names, "frame_status"]:
                self._write_changed(name, chunk, self._series[name][rows])
        self._dirty.clear()

    def _write_changed(self, name: str, chunk: int, values: np.ndarray) -> None:
        """Write a chunk of a series unless it stands there already: replacing a file costs a millisecond or two."""
        path, encoded = self._store.chunk_path(name, chunk), encode_chunk(_padded(values))
        if self._written.get(path) != encoded:
            self._store.write_chunk(name, chunk, encoded)
            self._written[path] = encoded

    def _bounds(self, rows: slice) -> np.ndarray:
        ends = self._series["time"][rows]
        interval = round(float(self._store.attributes["interval_minutes"]) * 60)
        return np.stack([ends - interval, ends], axis=1)

    def _grow(self, length: int) -> None:
        """Lengthen every array along time; new slots are missing."""
        old = self.length
        if length <= old:
            return
        for name, series in SERIES.items():
            more = np.full(length - old, series.fill, dtype=series.dtype)
            self._series[name] = np.concatenate([self._series[name], more])
        self._renew_times()
        self._dirty.update(range(old // TIME_CHUNK, (length - 1) // TIME_CHUNK + 1))
        self._set_lengths()

    def _renew_times(self) -> None:
        times = self.first_time + np.arange(self.length) * self.step
        self._series["time"] = times.astype("datetime64[s]").astype(np.int64)

    def _set_lengths(self) -> None:
        for name in (*SERIES, TIME_BOUNDS, RAIN_RATE, QUALITY):
            if name in self._store:
                self._store.set_length(name, self.length)

    def _prepend(self, slots: int) -> None:
        """Make room for earlier frames.

        The time axis of a Zarr array starts at its first chunk, so every chunk needs another name. It gets one
        beside the old one, in the other layout, and the commit switches all arrays over at once; the old names go
        when the archive is next opened for writing, since readers may still use them.
        """
        self._remove_superseded()
        self._store.attributes["superseded_chunks"] = 1
        self.first_time = self.first_time - slots * self.step
        self._store.attributes["first_time"] = str(self.first_time)
        for name in (RAIN_RATE, QUALITY):
            if name in self._store:
                layout = OTHER[self._store.layout(name)]
                for index, _ in list(self._store.chunks(name, self._store.layout(name))):
                    self._store.link_chunk(name, index, index + slots, layout)
                self._store.set_layout(name, layout)
        for name, series in SERIES.items():
            more = np.full(slots, series.fill, dtype=series.dtype)
            self._series[name] = np.concatenate([more, self._series[name]])
            self._store.set_layout(name, OTHER[self._store.layout(name)])
        if TIME_BOUNDS in self._store:
            self._store.set_layout(TIME_BOUNDS, OTHER[self._store.layout(TIME_BOUNDS)])
        self._renew_times()
        self._set_lengths()
        self._dirty.update(range((self.length - 1) // TIME_CHUNK + 1))

    def _remove_superseded(self) -> None:
        """Remove chunks under names that the published metadata does not use."""
        self._written.clear()
        for name in (RAIN_RATE, QUALITY, TIME_BOUNDS, *SERIES):
            if name in self._store:
                for _, path in list(self._store.chunks(name, OTHER[self._store.layout(name)])):
                    path.unlink(missing_ok=True)

    def _read(self, index: int) -> bytes | None:
        """The bytes of a committed frame's field; None where its file is gone or damaged, which is said."""
        path = self._store.chunk_path(RAIN_RATE, index)
        try:
            content = decode_chunk(path.read_bytes())
            if len(content) == 4 * self._counts.size:
                return content
        except (FileNotFoundError, RuntimeError):
            pass
        logger.warning("%s is gone or damaged; nowcast inspect --check finds all such files", path)
        return None

    def _read_field(self, index: int) -> np.ndarray | None:
        content = self._read(index)
        return None if content is None else np.frombuffer(content, dtype="<f4").reshape(self._counts.shape)

    def _count(self, masks: Counter[bytes]) -> None:
        for mask, frames in masks.items():
            bits = np.unpackbits(np.frombuffer(decode_chunk(mask), dtype=np.uint8), count=self._counts.size)
            self._counts += np.multiply(bits, np.int32(frames), dtype=np.int32).reshape(self._counts.shape)

    def _write_valid_share(self) -> None:
        present = int(np.count_nonzero((self.status == PRESENT) | (self.status == PARTIAL)))
        layout = OTHER[self._store.layout(VALID_SHARE)]
        share = (self._counts / max(present, 1)).astype(np.float32)
        self._store.write_chunk(VALID_SHARE, 0, encode_chunk(share), layout)
        self._store.set_layout(VALID_SHARE, layout)
        self._store.array_attributes(VALID_SHARE)["frames"] = present

    def _write_manifest(self, entries: list[ManifestEntry]) -> None:
        if not entries:
            return
        content = self._manifest_tail + "".join(entry.to_line() for entry in entries).encode()
        first = self._manifest_length // MANIFEST_CHUNK
        start = first * MANIFEST_CHUNK
        for offset in range(0, len(content), MANIFEST_CHUNK):
            part = np.frombuffer(content[offset : offset + MANIFEST_CHUNK], dtype=np.uint8)
            self._store.write_chunk(
                MANIFEST_LINES, first + offset // MANIFEST_CHUNK, encode_chunk(_padded(part, MANIFEST_CHUNK))
            )
        self._manifest_length = start + len(content)
        self._manifest_tail = content[len(content) - self._manifest_length % MANIFEST_CHUNK :]
        self._store.set_length(MANIFEST_LINES, self._manifest_length)

    def _recover(self) -> None:
        """Bring an archive in order whose writer was killed: nothing that was committed is lost."""
        logger.info("%s was not closed by its last writer; it is put in order", self.path)
        self._store.remove_partial_files()
        self._remove_superseded()
        self._store.attributes.pop("superseded_chunks", None)
        for name in (RAIN_RATE, QUALITY):
            if name in self._store:
                for index, path in list(self._store.chunks(name, self._store.layout(name))):
                    if not self._is_present(index):
                        path.unlink(missing_ok=True)
        present = np.flatnonzero((self.status == PRESENT) | (self.status == PARTIAL))
        for index in present[self._series["frame_digest"][present] == 0]:
            self._measure_again(int(index))
        if int(self._store.array_attributes(VALID_SHARE)["frames"]) != present.size:
            self._recount(present)
        self._store.mark_all_changed()
        self._pending.attributes = True

    def _measure_again(self, index: int) -> None:
        """The digest and numbers of a frame that was being replaced: whichever of the two is there."""
        field_ = self._read_field(index)
        if field_ is None:
            return
        frame = encode_frame(self.first_time + index * self.step, field_)
        self._set("frame_digest", index, frame.digest)
        for name, value in frame.series.items():
            self._set(name, index, value)
        self._store.array_attributes(VALID_SHARE)["frames"] = -1

    def _recount(self, present: np.ndarray) -> None:
        self._counts[:] = 0
        for index in present:
            field_ = self._read_field(int(index))
            if field_ is not None:
                self._counts += ~np.isnan(field_)
        self._write_valid_share()


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
                writer.put(encode_frame(time, rain_rate[index]))
            if index % BATCH == BATCH - 1:
                writer.commit()
    return Path(path)


def lock_archive(path: Path) -> Any:
    """The writer's lock, given back by the system when its process ends.

    Raises:
        DataError: Somebody else holds it, or the folder cannot be written.
    """
    path = path.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path.parent / f".{path.name}.lock", "w")  # noqa: SIM115 - lives as long as the writer
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise DataError(f"{path} is being written by another process", "wait until it has finished") from error
    return handle


def _require_archive(path: Path) -> None:
    try:
        archive = open_archive(path)
    except DataError as error:
        if "without a single frame" not in error.message:
            raise
        return
    if archive.attrs.get("format") != FORMAT:
        raise written_once(path)


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise DataError(f"{name} is not an array of the archive", "ingest the source files again")
    return array


def _padded(values: np.ndarray, length: int = TIME_CHUNK) -> np.ndarray:
    """Values filled up with zeros to a whole chunk: no reader looks beyond the published length."""
    if len(values) == length:
        return values
    return np.concatenate([values, np.zeros((length - len(values), *values.shape[1:]), dtype=values.dtype)])
