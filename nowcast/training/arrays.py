"""Arrays on disk that are filled in place: their room is taken before anything is written."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from nowcast.errors import DataError

FULL = (errno.ENOSPC, errno.EDQUOT)
_PIECE = 1 << 24


def make_array(path: Path, dtype: Any, shape: tuple[int, ...], *, place: Path) -> np.memmap[Any, Any]:
    """A new `.npy` file of zeros, memory-mapped for writing.

    A file full of holes would be there at once, but a write into a hole that gets no room kills the process.

    Args:
        place: Where the array will lie at last, for messages.

    Raises:
        DataError: The disk has no room for it.
        OSError: It cannot be written for another reason.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with path.open("r+b") as file:
            _take_room(file.fileno(), array.offset, array.offset + array.nbytes)
    except OSError as error:
        if error.errno not in FULL:
            raise
        size = np.dtype(dtype).itemsize * math.prod(shape)
        raise DataError(
            f"{place} has no room for {path.name}, an array of {size / 1e6:,.0f} MB: {error.strerror}",
            "make room there, or choose another place with --cache",
        ) from error
    return array


def _take_room(file: int, begin: int, end: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, end)
        return
    for start in range(begin, end, _PIECE):
        os.pwrite(file, bytes(min(_PIECE, end - start)), start)
