"""Writing the archive: create, append, commit.

Frames are gathered (`put`) and become visible together (`commit`): a reader sees the archive before or after, never
between. One process writes at a time; a kill at any moment leaves what was committed, and nothing else in sight.
"""

from __future__ import annotations

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

from nowcast.data.archive import ManifestEntry, open_archive, read_manifest_bytes, read_series
from nowcast.data.archive_lock import lock_archive
from nowcast.data.archive_schema import (
    BAD,
    FORMAT,
    MANIFEST_CHUNK,
    MANIFEST_LINES,
    MISSING,
    PARTIAL,
    PRESENT,
    QUALITY,
    RAIN_RATE,
    SERIES,
    SUPERSEDED,
    TIME_BOUNDS,
    VALID_SHARE,
    create_store,
)
from nowcast.data.archive_store import OTHER, ArchiveStore, cannot_write, decode_chunk
from nowcast.data.archive_tables import FrameTable, ManifestTable, ValidCounts
from nowcast.data.encoded_frame import EncodedFrame, encode_frame
from nowcast.data.frame_measures import CHANGES
from nowcast.data.grid import Grid
from nowcast.data.mlcast import written_once
from nowcast.data.outputs import put_in_place, require_free
from nowcast.errors import DataError

logger = logging.getLogger(__name__)

# Frames that `write_archive` commits at a time.
BATCH = 64


@dataclass
class _Pending:
    """What the next commit brings; `size` is the bytes of its frames."""

    frames: dict[np.datetime64, EncodedFrame] = field(default_factory=dict)
    size: int = 0
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
        path, grid: Those of the archive.
    """

    def __init__(self, path: Path, lock: Any) -> None:
        self.path = path
        self._lock = lock
        self._store = ArchiveStore(path)
        group = zarr.open_group(path, mode="r", use_consolidated=True)
        attributes = self._store.attributes
        self.grid = Grid(
            np.asarray(_array(group, "x")[:]),
            np.asarray(_array(group, "y")[:]),
            str(_array(group, "crs").attrs["crs_wkt"]),
        )
        self._table = FrameTable(
            self._store,
            read_series(group),
            first_time=np.datetime64(str(attributes["first_time"]), "s"),
            step=np.timedelta64(int(attributes["step_seconds"]), "s"),
        )
        self._counts = ValidCounts(self._store, np.asarray(_array(group, VALID_SHARE)[:]))
        lines = _array(group, MANIFEST_LINES)
        tail = lines.shape[0] % MANIFEST_CHUNK
        self._manifest = ManifestTable(
            self._store, lines.shape[0], np.asarray(lines[lines.shape[0] - tail :]).tobytes()
        )
        self._pending = _Pending()
        self._broken = False
        if attributes.get("writing"):
            self._recover()
        elif SUPERSEDED in attributes:
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
    def step(self) -> np.timedelta64:
        return self._table.step

    @property
    def first_time(self) -> np.datetime64:
        """Of the time axis; moves back when earlier frames come."""
        return self._table.first_time

    @property
    def length(self) -> int:
        """Slots of the committed time axis."""
        return self._table.length

    @property
    def status(self) -> np.ndarray:
        """(T,) of the committed frames, an index into `STATUS`."""
        return self._table.series["frame_status"]

    @property
    def series(self) -> Mapping[str, np.ndarray]:
        """(T,) numbers of the committed frames, by the names of `SERIES`."""
        return self._table.series

    @property
    def attrs(self) -> dict[str, Any]:
        return dict(self._store.attributes)

    @property
    def pending_bytes(self) -> int:
        """Bytes of the frames that wait for a commit."""
        return self._pending.size

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
        index, beside = divmod(time.astype("datetime64[s]") - self._table.first_time, self._table.step)
        if beside:
            raise DataError(
                f"the time {time} does not fall on the archive's axis, which starts at {self.first_time} "
                f"in steps of {self.step / np.timedelta64(60, 's'):g} min",
                "ingest it into an archive of its own, or give --step",
            )
        return int(index)

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
            stored, digest = b"", int(self._table.series["frame_digest"][index])
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
        pending = self._pending
        replaced = pending.frames.get(frame.time)
        pending.size += frame.size - (0 if replaced is None else replaced.size)
        pending.frames[frame.time] = frame

    def mark_bad(self, time: np.datetime64) -> None:
        """Say that a frame of this time came and could not be used; heeded where its slot is empty."""
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
        self._table.mark_partial()
        self._table.write()
        if recount:
            self._recount()
        elif times:
            self._counts.add(Counter(pending.frames[time].valid for time in times))
            self._counts.write(self._table.present.size)
        self._manifest.add(pending.manifest)
        changed = {f"n_{name}": int(self.series[f"n_{name}"].sum()) for name in CHANGES}
        self._store.attributes.update(changed)
        self._store.publish()
        if rearranged:
            self._store.write_members()

    def _is_present(self, index: int) -> bool:
        return 0 <= index < self.length and self.status[index] in (PRESENT, PARTIAL)

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
                self._counts.take_out(field_)
            self._table.set("frame_digest", index, 0)
        if replaced:
            self._table.write()
        return lost

    def _store_frame(self, index: int, frame: EncodedFrame) -> None:
        self._store.write_chunk(RAIN_RATE, index, frame.rain_rate)
        if QUALITY in self._store and frame.quality is not None:
            self._store.write_chunk(QUALITY, index, frame.quality)
        self._table.set("frame_status", index, PRESENT)
        self._set_numbers(index, frame)

    def _set_numbers(self, index: int, frame: EncodedFrame) -> None:
        """Those of a frame; what it does not tell is as of a frame that was not measured."""
        self._table.set("frame_digest", index, frame.digest)
        for name, spec in SERIES.items():
            if name not in ("time", "frame_status", "frame_digest"):
                self._table.set(name, index, frame.series.get(name, spec.fill))

    def _store_bad(self, time: np.datetime64) -> None:
        try:
            index = self.index_of(time)
        except DataError:
            return
        if 0 <= index < self.length and self.status[index] == MISSING:
            self._table.set("frame_status", index, BAD)

    def _grow(self, length: int) -> None:
        """Lengthen every array along time; new slots are missing."""
        self._table.grow(length)
        self._set_lengths()

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
        self._store.attributes[SUPERSEDED] = str(self.first_time)
        self._table.prepend(slots)
        self._store.attributes["first_time"] = str(self.first_time)
        for name in (RAIN_RATE, QUALITY):
            if name in self._store:
                layout = OTHER[self._store.layout(name)]
                for index, _ in list(self._store.chunks(name, self._store.layout(name))):
                    self._store.link_chunk(name, index, index + slots, layout)
                self._store.set_layout(name, layout)
        for name in (*SERIES, TIME_BOUNDS):
            if name in self._store:
                self._store.set_layout(name, OTHER[self._store.layout(name)])
        self._set_lengths()

    def _remove_superseded(self) -> None:
        """Remove chunks under names that the published metadata does not use.

        Whoever reads them still must find out from the metadata first that they are no longer there.
        """
        if self._store.attributes.pop(SUPERSEDED, None) is not None:
            self._store.publish()
        self._table.forget_written()
        for name in (RAIN_RATE, QUALITY, TIME_BOUNDS, *SERIES):
            if name in self._store:
                for _, path in list(self._store.chunks(name, OTHER[self._store.layout(name)])):
                    path.unlink(missing_ok=True)

    def _read(self, index: int) -> bytes | None:
        """The bytes of a committed frame's field; None where its file is gone or damaged, which is said."""
        path = self._store.chunk_path(RAIN_RATE, index)
        try:
            content = decode_chunk(path.read_bytes())
            if len(content) == 4 * self.grid.y.size * self.grid.x.size:
                return content
        except (FileNotFoundError, RuntimeError):
            pass
        logger.warning("%s is gone or damaged; nowcast inspect --check finds all such files", path)
        return None

    def _read_field(self, index: int) -> np.ndarray | None:
        content = self._read(index)
        return None if content is None else np.frombuffer(content, dtype="<f4").reshape(self.grid.shape)

    def _recover(self) -> None:
        """Bring an archive in order whose writer was killed: nothing that was committed is lost."""
        logger.info("%s was not closed by its last writer; it is put in order", self.path)
        self._store.remove_partial_files()
        self._remove_superseded()
        for name in (RAIN_RATE, QUALITY):
            if name in self._store:
                for index, path in list(self._store.chunks(name, self._store.layout(name))):
                    if not self._is_present(index):
                        path.unlink(missing_ok=True)
        present = self._table.present
        for index in present[self.series["frame_digest"][present] == 0]:
            self._measure_again(int(index))
        if self._counts.frames != present.size:
            self._recount()
        self._store.mark_all_changed()
        self._pending.attributes = True

    def _measure_again(self, index: int) -> None:
        """The digest and numbers of a frame that was being replaced: whichever of the two is there."""
        field_ = self._read_field(index)
        if field_ is None:
            return
        self._set_numbers(index, encode_frame(self.first_time + index * self.step, field_))
        self._counts.mark_unknown()

    def _recount(self) -> None:
        present = self._table.present
        fields = (self._read_field(int(index)) for index in present)
        self._counts.count_anew(field_ for field_ in fields if field_ is not None)
        self._counts.write(present.size)


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
