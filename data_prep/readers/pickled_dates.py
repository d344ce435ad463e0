"""Dates out of a pickled array without trusting the pickle: an unpickler that can build dates and nothing else.

A pickle is a program; loading one with `allow_pickle=True` runs whatever its writer put there. Here every name that it
asks for is looked up in a short list (the array, its dtype, datetime and date), so that no other code can be reached.
"""

from __future__ import annotations

import datetime
import io
import pickle
from typing import Any

import numpy as np

_LARGEST_ARRAY = 10_000_000


class _ArrayStub:
    """Stands for the array while it is rebuilt: takes its state, keeps only a list of dates."""

    def __init__(self, *_: Any) -> None:
        self.items: list[Any] = []
        self.shape: tuple[int, ...] = ()

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, _, items = state
        if not isinstance(dtype, _DtypeStub) or not isinstance(items, list) or not isinstance(shape, tuple):
            raise pickle.UnpicklingError("an array that is not one of objects")
        self.shape, self.items = shape, items


class _DtypeStub:
    """Stands for the dtype: only that of objects, O8."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in ("O8", "O", "O4"):
            raise pickle.UnpicklingError(f"an array of {code!r}, wanted objects")

    def __setstate__(self, state: Any) -> None:
        pass


def _stub_array(*_: Any) -> _ArrayStub:
    return _ArrayStub()


def _latin1(value: Any, encoding: Any = "latin1") -> bytes:
    """What a pickle of protocol 2 needs to write bytes: text in latin-1 and nothing else."""
    if not isinstance(value, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it encodes something else than latin-1 text")
    return value.encode("latin-1")


# All names that a pickle may ask for, and what it gets: dates themselves, stand-ins for the array around them.
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _stub_array,
    ("numpy._core.multiarray", "_reconstruct"): _stub_array,
    ("numpy", "ndarray"): _ArrayStub,
    ("numpy", "dtype"): _DtypeStub,
    ("datetime", "datetime"): datetime.datetime,
    ("datetime", "date"): datetime.date,
    ("_codecs", "encode"): _latin1,
}


class _DatesOnly(pickle.Unpickler):
    """An unpickler that admits what an object array of datetime.datetime needs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no date")
        return _ADMITTED[(module, name)]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside")


def dates_of_npy(contents: bytes) -> np.ndarray:
    """(N,) datetime64[s] of an .npy member that holds a pickled object array of datetimes.

    Raises:
        ValueError: It is not an .npy of objects, or its pickle asks for anything but dates.
    """
    stream = io.BytesIO(contents)
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(stream)
    if dtype != np.dtype(object):
        raise ValueError(f"an array of {dtype}, wanted pickled objects")
    if len(shape) != 1 or shape[0] > _LARGEST_ARRAY:
        raise ValueError(f"an array of shape {shape}, wanted a list of dates")
    try:
        array = _DatesOnly(stream, encoding="latin1").load()
    except Exception as error:
        raise ValueError(f"its pickled dates are not read: {error}") from error
    if not isinstance(array, _ArrayStub) or len(array.items) != shape[0]:
        raise ValueError(f"its pickle is not an array of {shape[0]} dates")
    return np.array([_second(item) for item in array.items], dtype="datetime64[s]")


def _second(item: Any) -> np.datetime64:
    if isinstance(item, datetime.datetime):
        if item.tzinfo is not None:
            item = item.astimezone(datetime.UTC).replace(tzinfo=None)
        return np.datetime64(item, "s")
    if isinstance(item, datetime.date):
        return np.datetime64(item, "s")
    raise ValueError(f"an entry of the pickled dates is a {type(item).__name__}")
