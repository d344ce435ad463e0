"""The archive's files on disk: chunks written whole, and one file that publishes them.

The root `zarr.json` holds the metadata of every array (consolidated), so replacing that one file changes the length
and the layout of all arrays at once: readers see the state before a commit or the state after it. Nothing here knows
what the arrays mean.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numcodecs.zstd import Zstd

from nowcast.errors import DataError

# zstd without a bit shuffle: radar fields hold few distinct levels, and shuffling makes them 2.5 times larger.
# The checksum finds a damaged chunk when it is read.
LEVEL = 3
METADATA = "zarr.json"
PARTIAL_SUFFIX = ".partial"

# Two names for a chunk, both of Zarr v3: "c.3.0.0" and "3.0.0". An array that must change as a whole is written under
# the names that are not in use, and the published metadata then says which to read.
Layout = Literal["default", "v2"]
OTHER: dict[str, Layout] = {"default": "v2", "v2": "default"}


def encode_chunk(values: np.ndarray) -> bytes:
    """A chunk as it stands in a file: little-endian bytes under zstd with a checksum."""
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return bytes(Zstd(level=LEVEL, checksum=True).encode(values.reshape(-1).view(np.uint8)))


def decode_chunk(encoded: bytes) -> bytes:
    """The bytes that `encode_chunk` packed.

    Raises:
        RuntimeError: They are damaged.
    """
    return bytes(Zstd().decode(encoded))


def chunk_digest(encoded: bytes) -> int:
    """Eight bytes of the SHA-256 of a chunk's file, never 0, which stands for an unknown one."""
    return max(1, int.from_bytes(hashlib.sha256(encoded).digest()[:8], "little"))


class ArchiveStore:
    """The files of one archive, opened for writing.

    Changes to attributes, lengths and layouts stay in memory until `publish`; chunks are written at once, where no
    reader looks yet or where a whole chunk takes the place of another.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root: dict[str, Any] = json.loads((path / METADATA).read_text(encoding="utf-8"))
        self._members: dict[str, dict[str, Any]] = self._root["consolidated_metadata"]["metadata"]
        self._changed: set[str] = set()

    @property
    def attributes(self) -> dict[str, Any]:
        """Global attributes, to be read and changed."""
        attributes: dict[str, Any] = self._root["attributes"]
        return attributes

    def array_attributes(self, name: str) -> dict[str, Any]:
        """Attributes of one array, to be read and changed."""
        self._changed.add(name)
        attributes: dict[str, Any] = self._members[name]["attributes"]
        return attributes

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def length(self, name: str) -> int:
        return int(self._members[name]["shape"][0])

    def set_length(self, name: str, length: int) -> None:
        if self.length(name) != length:
            self._members[name]["shape"][0] = length
            self._changed.add(name)

    def layout(self, name: str) -> Layout:
        layout: Layout = self._members[name]["chunk_key_encoding"]["name"]
        return layout

    def set_layout(self, name: str, layout: Layout) -> None:
        self._members[name]["chunk_key_encoding"]["name"] = layout
        self._changed.add(name)

    def chunk_path(self, name: str, index: int, layout: Layout | None = None) -> Path:
        """Where the chunk number `index` along the first axis lies; the other axes have one chunk."""
        axes = len(self._members[name]["shape"])
        key = ".".join([str(index), *["0"] * (axes - 1)])
        return self.path / name / (f"c.{key}" if (layout or self.layout(name)) == "default" else key)

    def write_chunk(self, name: str, index: int, encoded: bytes, layout: Layout | None = None) -> None:
        """Put a whole chunk in place, in one step."""
        replace_file(self.chunk_path(name, index, layout), encoded)

    def link_chunk(self, name: str, index: int, new_index: int, layout: Layout) -> None:
        """Give a chunk a second name, in another layout; copied where the file system has no hard links."""
        source, target = self.chunk_path(name, index), self.chunk_path(name, new_index, layout)
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOSPC):
                raise
            shutil.copyfile(source, target)

    def chunks(self, name: str, layout: Layout) -> Iterator[tuple[int, Path]]:
        """Chunks that are on disk under the names of one layout: (index along the first axis, path)."""
        with os.scandir(self.path / name) as entries:
            for entry in entries:
                is_default = entry.name.startswith("c.")
                first = entry.name.removeprefix("c.").split(".")[0]
                if is_default == (layout == "default") and first.isdigit() and not entry.name.endswith(PARTIAL_SUFFIX):
                    yield int(first), Path(entry.path)

    def remove_partial_files(self) -> None:
        """Remove what a killed writer left half written."""
        for folder in (self.path, *(self.path / name for name in self._members)):
            for leftover in folder.glob(f"*{PARTIAL_SUFFIX}"):
                leftover.unlink(missing_ok=True)

    def publish(self) -> None:
        """Make every change visible in one step."""
        replace_file(self.path / METADATA, json.dumps(self._root).encode())

    def write_members(self) -> None:
        """Bring the arrays' own metadata up to what is published, for readers that do not use the consolidated.

        Until then they see the archive as it was: what lies under its names is not removed before the next opening.
        """
        for name in sorted(self._changed):
            replace_file(self.path / name / METADATA, json.dumps(self._members[name]).encode())
        self._changed.clear()

    def mark_all_changed(self) -> None:
        """Write every array's own metadata next time: a killed writer has left them behind."""
        self._changed.update(name for name, member in self._members.items() if member["node_type"] == "array")


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it: it is there whole or as it was before."""
    partial = Path(f"{path}{PARTIAL_SUFFIX}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def cannot_write(path: Path, error: OSError) -> DataError:
    """One sentence for a disk that is full, a target that is read-only, and the like."""
    hints = {
        errno.ENOSPC: "make room on the disk, then give the same command again: what was committed is kept",
        errno.EDQUOT: "the disk quota is used up; make room, then give the same command again",
        errno.ENOENT: "its folder is not there, or takes no new files; choose another place with -o",
        errno.EROFS: "the file system is read-only; choose another place with -o",
        errno.EACCES: "you may not write there; choose another place with -o",
        errno.EPERM: "you may not write there; choose another place with -o",
    }
    hint = hints.get(error.errno or 0, "give the same command again: what was committed is kept")
    return DataError(f"{path} cannot be written: {error.strerror or error}", hint)
