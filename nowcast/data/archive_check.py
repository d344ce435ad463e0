"""An archive read back to find what has rotted: each frame against its recorded digest, the manifest against its own.

Nothing is changed here. What is gone or damaged comes in again with the ingest that made the archive, once the damaged
files are removed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nowcast.data.archive import ManifestEntry, RadarArchive, open_archive, read_manifest_bytes
from nowcast.data.archive_schema import FORMAT, QUALITY, RAIN_RATE, STATUS
from nowcast.data.archive_store import ArchiveStore, chunk_digest, decode_chunk
from nowcast.errors import DataError


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written.

    Attributes:
        reason: What is wrong.
        time: The frame's, ISO 8601; empty for what concerns the whole archive.
        file: The damaged file, if there is one to remove.
    """

    reason: str
    time: str = ""
    file: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.time, self.reason, self.file) if part)


class ArchiveCheck:
    """The check of one archive, as an iterable over its present frames: a `Finding`, or None for a frame that is whole.

    Args:
        since: Frames before this time are left out: an earlier check has read them.
        workers: Threads that read.
    """

    def __init__(self, archive: RadarArchive, *, since: np.datetime64 | None = None, workers: int = 1) -> None:
        self._archive, self._workers = archive, workers
        wanted = archive.present & (True if since is None else archive.times >= since)
        self.times: np.ndarray = archive.times[wanted]

    def __len__(self) -> int:
        return int(self.times.size)

    def __iter__(self) -> Iterator[Finding | None]:
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                judge = _Judge(self._archive)
                yield from pool.map(judge, self.times)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def confirmed(self, findings: list[Finding]) -> list[Finding]:
        """Those of the findings that are there still: frames may have been replaced while they were read."""
        if not findings:
            return []
        judge = _Judge(open_archive(self._archive.path))
        return [found for finding in findings if (found := judge(np.datetime64(finding.time, "s"))) is not None]


class _Judge:
    """What is wrong with the frame of a time; None where it is as it was written."""

    def __init__(self, archive: RadarArchive) -> None:
        self._archive = archive
        self._is_ours = archive.attrs.get("format") == FORMAT
        if self._is_ours:
            self._store = ArchiveStore(archive.path)
            self._digests, self._valid = archive.series("frame_digest"), archive.series("valid_pixels")

    def __call__(self, time: np.datetime64) -> Finding | None:
        index = self._archive.index_of(time)
        if not self._is_ours:
            return self._read(index)
        path = self._store.chunk_path(RAIN_RATE, index)
        reason = self._reason(index, path)
        if not reason and QUALITY in self._store:
            path = self._store.chunk_path(QUALITY, index)
            reason = _quality_reason(path, 4 * self._archive.grid.y.size * self._archive.grid.x.size)
        return Finding(reason, str(time), str(path) if path.is_file() else "") if reason else None

    def _reason(self, index: int, path: Path) -> str:
        try:
            encoded = path.read_bytes()
            values = np.frombuffer(decode_chunk(encoded), dtype="<f4")
        except FileNotFoundError:
            return f"its file {path} is gone"
        except (OSError, RuntimeError, ValueError) as error:
            return f"it cannot be decoded ({error})"
        if values.size != self._archive.grid.y.size * self._archive.grid.x.size:
            return f"it has {values.size} pixels, the grid {'x'.join(map(str, self._archive.grid.shape))}"
        # A digest of 0 is that of a frame that was being replaced when its writer was stopped.
        if self._digests[index] not in (0, chunk_digest(encoded)):
            return "it is not what was written: its digest differs from the recorded one"
        valid = int(np.count_nonzero(~np.isnan(values)))
        if self._digests[index] != 0 and valid != self._valid[index]:
            return f"{valid} of its pixels are valid, {int(self._valid[index])} are recorded"
        return ""

    def _read(self, index: int) -> Finding | None:
        """Of another data set, which records no digests: whether it can be read."""
        try:
            self._archive.rain_rate(index, index + 1)
        except DataError as error:
            return Finding(error.message, str(self._archive.times[index]))
        return None


def _quality_reason(path: Path, size: int) -> str:
    if not path.is_file():
        return ""
    try:
        found = len(decode_chunk(path.read_bytes()))
    except (OSError, RuntimeError, ValueError) as error:
        return f"its quality index cannot be decoded ({error})"
    return "" if found == size else f"its quality index has {found} bytes, expected {size}"


def check_manifest(archive: RadarArchive) -> list[Finding]:
    """What is wrong with the record of source files: its digest, its lines, the frames that it names."""
    if archive.attrs.get("format") != FORMAT:
        return []
    try:
        content = read_manifest_bytes(archive.path)
        entries = [ManifestEntry.from_line(line) for line in content.splitlines()]
    except (DataError, json.JSONDecodeError, TypeError) as error:
        return [Finding(f"the manifest cannot be read ({error})")]
    findings = []
    recorded = archive.attrs.get("manifest_sha256")
    # While a writer is at work, or after one was stopped, the digest is that of the manifest before.
    settled = not archive.attrs.get("writing") and recorded is not None
    if settled and recorded != hashlib.sha256(content).hexdigest():
        findings.append(Finding("the manifest is not what was written: its digest differs from the recorded one"))
    named = {time for entry in entries for time in entry.times}
    present = {str(time) for time in archive.times[archive.present]}
    findings += [
        Finding(f"the manifest has it from a file, its status is {_status(archive, time)}", time)
        for time in sorted(named - present)
    ]
    if named:
        findings += [Finding("no source file is recorded for it", time) for time in sorted(present - named)]
    return findings


def _status(archive: RadarArchive, time: str) -> str:
    try:
        return STATUS[int(archive.status[archive.index_of(np.datetime64(time, "s"))])]
    except DataError:
        return "that of no slot"
