"""What an archive keeps beside its frames: their numbers in time, how often each pixel is valid, the manifest.

Each is held in memory as it will be, and written as whole chunks; the writer says when, and publishes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nowcast.data.archive import ManifestEntry
from nowcast.data.archive_schema import (
    MANIFEST_CHUNK,
    MANIFEST_LINES,
    PARTIAL,
    PRESENT,
    SERIES,
    TIME_BOUNDS,
    TIME_CHUNK,
    VALID_SHARE,
)
from nowcast.data.archive_store import OTHER, ArchiveStore, decode_chunk, encode_chunk

# A frame with fewer valid pixels than this share of the median frame's is partial.
WHOLE_SHARE = 0.98


class FrameTable:
    """The series along time, one row a slot.

    Attributes:
        series: (T,) arrays by the names of `SERIES`.
        first_time, step: Of the time axis.
    """

    def __init__(
        self, store: ArchiveStore, series: dict[str, np.ndarray], *, first_time: np.datetime64, step: np.timedelta64
    ) -> None:
        self.series, self.first_time, self.step = series, first_time, step
        self._store = store
        self._dirty: set[int] = set()
        self._written: dict[Path, bytes] = {}

    @property
    def length(self) -> int:
        return int(self.series["time"].size)

    @property
    def present(self) -> np.ndarray:
        """Indices of the slots whose frames can be read."""
        status = self.series["frame_status"]
        return np.flatnonzero((status == PRESENT) | (status == PARTIAL))

    def set(self, name: str, index: int, value: float) -> None:
        self.series[name][index] = value
        self._dirty.add(index // TIME_CHUNK)

    def grow(self, length: int) -> None:
        """Add slots at the end; they are missing."""
        old = self.length
        if length <= old:
            return
        self._add(length - old, first=False)
        self._dirty.update(range(old // TIME_CHUNK, (length - 1) // TIME_CHUNK + 1))

    def prepend(self, slots: int) -> None:
        """Add slots at the start; every chunk changes, and none of them is known to be on disk."""
        self.first_time = self.first_time - slots * self.step
        self._add(slots, first=True)
        self._dirty.update(range((self.length - 1) // TIME_CHUNK + 1))

    def mark_partial(self) -> None:
        """Present or partial, by the number of valid pixels against the median frame: no matter in what order."""
        present = self.present
        if present.size == 0:
            return
        valid = self.series["valid_pixels"][present]
        status = np.where(valid < WHOLE_SHARE * np.median(valid), PARTIAL, PRESENT)
        for at in np.flatnonzero(status != self.series["frame_status"][present]):
            self.set("frame_status", int(present[at]), int(status[at]))

    def write(self) -> None:
        """Write the chunks that changed."""
        names = [name for name in SERIES if name not in ("time", "frame_status")]
        # The status last: a frame that it calls present has its digest and its numbers.
        for chunk in sorted(self._dirty):
            rows = slice(chunk * TIME_CHUNK, (chunk + 1) * TIME_CHUNK)
            if TIME_BOUNDS in self._store:
                self._write_changed(TIME_BOUNDS, chunk, self._bounds(rows))
            for name in ["time", *names, "frame_status"]:
                # An archive of an earlier version lacks those that came later.
                if name in self._store:
                    self._write_changed(name, chunk, self.series[name][rows])
        self._dirty.clear()

    def forget_written(self) -> None:
        """Take nothing for being on disk: files were removed."""
        self._written.clear()

    def _add(self, slots: int, *, first: bool) -> None:
        for name, spec in SERIES.items():
            more = np.full(slots, spec.fill, dtype=spec.dtype)
            self.series[name] = np.concatenate([more, self.series[name]] if first else [self.series[name], more])
        times = self.first_time + np.arange(self.length) * self.step
        self.series["time"] = times.astype("datetime64[s]").astype(np.int64)

    def _write_changed(self, name: str, chunk: int, values: np.ndarray) -> None:
        """Write a chunk of a series unless it stands there already: replacing a file costs a millisecond or two."""
        path, encoded = self._store.chunk_path(name, chunk), encode_chunk(_padded(values))
        if self._written.get(path) != encoded:
            self._store.write_chunk(name, chunk, encoded)
            self._written[path] = encoded

    def _bounds(self, rows: slice) -> np.ndarray:
        ends = self.series["time"][rows]
        interval = round(float(self._store.attributes["interval_minutes"]) * 60)
        return np.stack([ends - interval, ends], axis=1)


class ValidCounts:
    """In how many of the present frames each pixel is valid."""

    def __init__(self, store: ArchiveStore, share: np.ndarray) -> None:
        self._store = store
        frames = self.frames
        # Exact: float32 keeps shares of up to millions of frames apart.
        self._counts = np.rint(np.nan_to_num(share.astype(np.float64)) * frames).astype(np.int32)

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self._counts.shape
        return rows, columns

    @property
    def frames(self) -> int:
        """Of how many frames the stored share is; -1 where that is not known."""
        return int(self._store.array_attributes(VALID_SHARE)["frames"])

    def mark_unknown(self) -> None:
        self._store.array_attributes(VALID_SHARE)["frames"] = -1

    def add(self, masks: Counter[bytes]) -> None:
        """Count frames by their masks, as `EncodedFrame.valid` has them."""
        for mask, frames in masks.items():
            bits = np.unpackbits(np.frombuffer(decode_chunk(mask), dtype=np.uint8), count=self._counts.size)
            self._counts += np.multiply(bits, np.int32(frames), dtype=np.int32).reshape(self._counts.shape)

    def take_out(self, rain_rate: np.ndarray) -> None:
        self._counts -= ~np.isnan(rain_rate)

    def count_anew(self, fields: Iterable[np.ndarray]) -> None:
        self._counts[:] = 0
        for rain_rate in fields:
            self._counts += ~np.isnan(rain_rate)

    def write(self, present: int) -> None:
        """Write the share of `present` frames, under the name that is not in use."""
        layout = OTHER[self._store.layout(VALID_SHARE)]
        share = (self._counts / max(present, 1)).astype(np.float32)
        self._store.write_chunk(VALID_SHARE, 0, encode_chunk(share), layout)
        self._store.set_layout(VALID_SHARE, layout)
        self._store.array_attributes(VALID_SHARE)["frames"] = present


class ManifestTable:
    """The end of the manifest, to which lines are added."""

    def __init__(self, store: ArchiveStore, length: int, tail: bytes) -> None:
        """`tail` is what stands in the last, not yet full chunk of a manifest of `length` bytes."""
        self._store, self._length, self._tail = store, length, tail

    def add(self, entries: list[ManifestEntry]) -> None:
        if not entries:
            return
        content = self._tail + "".join(entry.to_line() for entry in entries).encode()
        first = self._length // MANIFEST_CHUNK
        for offset in range(0, len(content), MANIFEST_CHUNK):
            part = np.frombuffer(content[offset : offset + MANIFEST_CHUNK], dtype=np.uint8)
            self._store.write_chunk(
                MANIFEST_LINES, first + offset // MANIFEST_CHUNK, encode_chunk(_padded(part, MANIFEST_CHUNK))
            )
        self._length = first * MANIFEST_CHUNK + len(content)
        self._tail = content[len(content) - self._length % MANIFEST_CHUNK :]
        self._store.set_length(MANIFEST_LINES, self._length)


def _padded(values: np.ndarray, length: int = TIME_CHUNK) -> np.ndarray:
    """Values filled up with zeros to a whole chunk: no reader looks beyond the published length."""
    if len(values) == length:
        return values
    return np.concatenate([values, np.zeros((length - len(values), *values.shape[1:]), dtype=values.dtype)])
