"""HDF5 as readers see it: attributes, and windows of arrays whose claims are checked before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import h5py
import numpy as np

from data_prep.readers.inflate import InflateError, inflate
from data_prep.readers.options import ReadOptions
from data_prep.readers.scaling import convert
from data_prep.readers.source import Source

Window = tuple[slice, ...]

# Deflate makes at most about a thousandth of what it is given, plus a few bytes a chunk.
_MAX_RATIO = 1.02
_CHUNK_OVERHEAD = 1024
# What chunks may have gone through to be unpacked by us: HDF5 has zlib inside, which takes several times as long.
_UNPACKED_HERE = ((h5py.h5z.FILTER_DEFLATE,), (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE))


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
    _check_array(source, array, options)
    return read_part(array, (rows, columns))


def convert_window(
    source: Source,
    array: h5py.Dataset,
    rows: slice,
    columns: slice,
    options: ReadOptions,
    rates: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """`convert(read_window(...), rates)`, without a continent of float64 in between.

    Raises:
        DataError: As `read_window`.
    """
    _check_array(source, array, options)
    window = (rows, columns)
    if array.dtype.kind != "f":
        return convert(read_part(array, window), rates)
    converted = np.empty(_shape(array, window), dtype=np.float32)
    for place, stored in _parts(array, window):
        converted[place] = convert(stored, rates)
    return converted


def check_storage(source: Source, array: h5py.Dataset, *, most: int) -> None:
    """Refuse arrays that are stored in other files, or in chunks of more than `most` bytes."""
    if array.external is not None:
        raise source.error(f"{array.name} points to other files, which are not followed")
    claimed = math.prod(array.chunks or ()) * array.dtype.itemsize
    if claimed > most:
        whole = math.prod(array.shape) * array.dtype.itemsize
        raise source.error(f"{array.name} has chunks of {claimed} bytes for {whole} bytes of data")


def read_part(array: h5py.Dataset, window: Window) -> np.ndarray:
    """A part of an array, as stored: `array[window]`, in a fraction of the time where its chunks are deflated.

    What is returned is not to be written to.

    Args:
        window: A slice for every axis, without a step.

    Raises:
        InflateError, OSError: A chunk is damaged.
    """
    return _joined(array, window, _parts(array, window))


def read_deflated(array: h5py.Dataset, window: Window) -> np.ndarray:
    """As `read_part`, of an array that `is_unpacked_here`: to ask takes the longer, the more chunks there are."""
    return _joined(array, window, _chunked_parts(array, window))


def _joined(array: h5py.Dataset, window: Window, parts: Iterator[tuple[Window, np.ndarray]]) -> np.ndarray:
    shape = _shape(array, window)
    place, stored = next(parts, ((), np.empty(shape, dtype=array.dtype)))
    if stored.shape == shape:
        return stored
    found = np.empty(shape, dtype=array.dtype)
    found[place] = stored
    for place, stored in parts:
        found[place] = stored
    return found


def _shape(array: h5py.Dataset, window: Window) -> tuple[int, ...]:
    return tuple(len(range(*part.indices(length))) for part, length in zip(window, array.shape, strict=True))


def _parts(array: h5py.Dataset, window: Window) -> Iterator[tuple[Window, np.ndarray]]:
    """The window piece by piece: where each lies in it, and its values."""
    if is_unpacked_here(array):
        yield from _chunked_parts(array, window)
    else:
        yield tuple(slice(None) for _ in window), np.asarray(array[window])


def _chunked_parts(array: h5py.Dataset, window: Window) -> Iterator[tuple[Window, np.ndarray]]:
    """Chunk by chunk, unpacked here."""
    bounds = [part.indices(length)[:2] for part, length in zip(window, array.shape, strict=True)]
    corners = [
        range(start - start % size, stop, size) for (start, stop), size in zip(bounds, array.chunks, strict=True)
    ]
    for corner in product(*corners):
        chunk = _chunk(array, corner, is_shuffled=array.shuffle)
        place, within = [], []
        for (start, stop), first, size in zip(bounds, corner, array.chunks, strict=True):
            low, high = max(start, first), min(stop, first + size)
            place.append(slice(low - start, high - start))
            within.append(slice(low - first, high - first))
        yield tuple(place), chunk[tuple(within)]


def is_unpacked_here(array: h5py.Dataset) -> bool:
    """Whether the chunks of an array are deflated and nothing more, are all there, and hold numbers as numpy has them.

    HDF5 knows others, of fewer bits or shifted, which it converts as it reads.
    """
    layout = array.id.get_create_plist()
    filters = tuple(layout.get_filter(number)[0] for number in range(layout.get_nfilters()))
    if filters not in _UNPACKED_HERE or not array.id.get_type().equal(h5py.h5t.py_create(array.dtype)):
        return False
    return bool(array.id.get_num_chunks() >= _wanted_chunks(array))


def _wanted_chunks(array: h5py.Dataset) -> int:
    return math.prod(-(-length // chunk) for length, chunk in zip(array.shape, array.chunks, strict=True))


def _chunk(array: h5py.Dataset, corner: tuple[int, ...], *, is_shuffled: bool) -> np.ndarray:
    """A whole chunk, at the edges of the array too, inflated; bytes of one significance stand together if shuffled."""
    skipped, packed = array.id.read_direct_chunk(corner)
    size = math.prod(array.chunks) * array.dtype.itemsize
    try:
        contents = None if skipped else inflate(packed, size)
    except InflateError:
        # A writer may leave the chunks at the edges as they are.
        if len(packed) != size:
            raise
        contents = None
    if contents is None:
        window = tuple(slice(first, first + length) for first, length in zip(corner, array.chunks, strict=True))
        return np.asarray(array[window])
    values = np.frombuffer(contents, dtype=np.uint8)
    if is_shuffled:
        values = np.ascontiguousarray(values.reshape(array.dtype.itemsize, -1).T)
    return values.reshape(-1).view(array.dtype).reshape(array.chunks)


def _check_array(source: Source, array: h5py.Dataset, options: ReadOptions) -> None:
    if array.dtype.kind not in "iuf":
        raise source.error(f"{array.name} holds {array.dtype}, wanted numbers")
    source.check_size(array.shape, options)
    check_chunks(source, array)


def check_chunks(source: Source, array: h5py.Dataset) -> None:
    """Refuse arrays whose chunks are absent (they would read as zeros: dry) or larger than what they claim to hold."""
    identity = array.id
    if identity.get_storage_size() == 0:
        raise source.error(f"{array.name} was never written", "the file is incomplete: fetch it again")
    whole = math.prod(array.shape) * array.dtype.itemsize
    check_storage(source, array, most=4 * whole + (1 << 20))
    if array.chunks is None:
        return
    claimed = math.prod(array.chunks) * array.dtype.itemsize
    wanted = _wanted_chunks(array)
    if identity.get_num_chunks() < wanted:
        raise source.error(
            f"{array.name} holds {identity.get_num_chunks()} of its {wanted} chunks", "the file is incomplete"
        )
    if identity.get_storage_size() > _MAX_RATIO * wanted * claimed + _CHUNK_OVERHEAD * wanted:
        raise source.error(f"{array.name} is stored in more bytes than it holds")
