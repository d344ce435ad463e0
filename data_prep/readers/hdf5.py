"""Windows of HDF5 arrays, with their claims checked before anything is allocated."""

from __future__ import annotations

import h5py
import numpy as np

from data_prep.readers.options import ReadOptions
from data_prep.readers.source import Source

# Deflate makes at most about a thousandth of what it is given, plus a few bytes a chunk.
_MAX_RATIO = 1.02
_CHUNK_OVERHEAD = 1024


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
