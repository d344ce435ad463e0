"""HDF5 as readers see it: attributes, and windows of arrays whose claims are checked before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from data_prep.readers.options import ReadOptions
from data_prep.readers.source import Source

# Deflate makes at most about a thousandth of what it is given, plus a few bytes a chunk.
_MAX_RATIO = 1.02
_CHUNK_OVERHEAD = 1024


class Place:
    """A group of a file, with the attributes that it has or inherits, each looked up once.

    h5py takes longer to reach an attribute than to read it, and formats that inherit ask for many that are not there.

    Attributes:
        file: The file.
        path: "" for the root, "/dataset1/data1" for a group in a group.
    """

    def __init__(self, file: h5py.File, path: str = "", known: dict[str, Mapping[str, Any]] | None = None) -> None:
        self.file, self.path = file, path
        self._known = {} if known is None else known

    def attribute(self, kind: str, name: str, default: Any = None) -> Any:
        """An attribute of the group `kind` in this group."""
        where = f"{self.path}/{kind}"
        if where not in self._known:
            found = self.file.get(where)
            self._known[where] = {} if found is None else found.attrs
        return self._known[where].get(name, default)

    def inherited(self, kind: str, name: str, default: Any = None) -> Any:
        """An attribute of the group `kind` in this group, or else in the nearest group above that has it."""
        place: Place | None = self
        while place is not None:
            value = place.attribute(kind, name)
            if value is not None:
                return value
            place = place.parent
        return default

    @property
    def parent(self) -> Place | None:
        return Place(self.file, self.path.rpartition("/")[0], self._known) if self.path else None

    def numbered(self, prefix: str) -> list[Place]:
        """The groups prefix1, prefix2, ... in order of their numbers."""
        group = self.file[self.path or "/"]
        names = [name for name in group if name.startswith(prefix) and name[len(prefix) :].isdigit()]
        ordered = sorted(names, key=lambda name: int(name[len(prefix) :]))
        groups = [name for name in ordered if group.get(name, getclass=True) is h5py.Group]
        return [Place(self.file, f"{self.path}/{name}", self._known) for name in groups]

    def array(self, name: str) -> h5py.Dataset | None:
        """The array of a name in this group; None where there is none."""
        found = self.file.get(f"{self.path}/{name}")
        return found if isinstance(found, h5py.Dataset) else None


def read_window(source: Source, array: h5py.Dataset, rows: slice, columns: slice, options: ReadOptions) -> np.ndarray:
    """A window of an array of two dimensions, as stored.

    Raises:
        DataError: The array is not of numbers, is too large, has chunks larger than itself, or was never written.
    """
    if array.dtype.kind not in "iuf":
        raise source.error(f"{array.name} holds {array.dtype}, wanted numbers")
    source.check_size(array.shape, options)
    check_chunks(source, array)
    return np.asarray(array[rows, columns])


def check_chunks(source: Source, array: h5py.Dataset) -> None:
    """Refuse arrays whose chunks are absent (they would read as zeros: dry) or larger than what they claim to hold."""
    identity = array.id
    if identity.get_storage_size() == 0:
        raise source.error(f"{array.name} was never written", "the file is incomplete: fetch it again")
    if array.external is not None:
        raise source.error(f"{array.name} points to other files, which are not followed")
    if array.chunks is None:
        return
    claimed = int(np.prod(array.chunks, dtype=np.float64)) * array.dtype.itemsize
    whole = int(np.prod(array.shape, dtype=np.float64)) * array.dtype.itemsize
    if claimed > 4 * whole + (1 << 20):
        raise source.error(f"{array.name} has chunks of {claimed} bytes for {whole} bytes of data")
    wanted = int(np.prod([-(-length // chunk) for length, chunk in zip(array.shape, array.chunks, strict=True)]))
    if identity.get_num_chunks() < wanted:
        raise source.error(
            f"{array.name} holds {identity.get_num_chunks()} of its {wanted} chunks", "the file is incomplete"
        )
    if identity.get_storage_size() > _MAX_RATIO * wanted * claimed + _CHUNK_OVERHEAD * wanted:
        raise source.error(f"{array.name} is stored in more bytes than it holds")
