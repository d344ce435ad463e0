"""Sums that add up: the one way in which every score but the contingency counts is carried from chunk to chunk.

A score is never averaged; its sums are added, and divided once at the end. Checks of paired fields live here too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np


@dataclass(frozen=True, eq=False)
class Sums:
    """Base of the sums: arrays with the same leading axes, and labels that two parts must share to be added.

    Leading axes are the caller's, for example (case, lead_time); trailing axes are the kind's own, for example
    (threshold, window): a subclass names them in `TRAILING`, and what is no array that adds up in `LABELS`. Counts are
    int64 and exact. Float sums are made frame by frame, so cutting the leading axes into other chunks gives the same
    bits, and `pool` adds them with the exactly rounded `math.fsum`, so that no order of cases changes a bit. Only `+`
    rounds: parts of one frame added in another order agree to about 1e-15 of the sum.
    """

    TRAILING: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    LABELS: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def additive_fields(cls) -> dict[str, tuple[str, ...]]:
        """Names of the arrays that add up, with the names of their trailing axes."""
        return {f.name: cls.TRAILING.get(f.name, ()) for f in fields(cls) if f.name not in cls.LABELS}

    @property
    def shape(self) -> tuple[int, ...]:
        """The leading axes."""
        name, trailing = next(iter(self.additive_fields().items()))
        array = getattr(self, name)
        return array.shape[: array.ndim - len(trailing)]

    def __add__(self, other: Self) -> Self:
        """The sums of both parts together, element by element; neither argument is changed."""
        self._check_labels(other)
        if self.shape != other.shape:
            raise ValueError(f"sums of leading shape {self.shape} and {other.shape} do not add")
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in self.additive_fields()})

    def __getitem__(self, index: Any) -> Self:
        """A selection along the leading axes."""
        lead = np.arange(math.prod(self.shape)).reshape(self.shape)[index]
        taken = {}
        for name in self.additive_fields():
            array = getattr(self, name)
            flat = array.reshape(-1, *array.shape[len(self.shape) :])
            taken[name] = flat[lead]
        return replace(self, **taken)

    def pool(self, axis: int | tuple[int, ...] | None = None) -> Self:
        """Sums over some leading axes (all by default), exactly rounded and so independent of the order of cases."""
        rank = len(self.shape)
        axes = range(rank) if axis is None else np.atleast_1d(axis)
        normal = tuple(sorted(range(rank)[int(a)] for a in axes))
        return replace(self, **{name: exact_sum(getattr(self, name), normal) for name in self.additive_fields()})

    @classmethod
    def concatenate(cls, parts: Sequence[Self], axis: int = 0) -> Self:
        """Parts with other cases or lead times, one after the other along a leading axis."""
        first = parts[0]
        for part in parts[1:]:
            first._check_labels(part)
        normal = range(len(first.shape))[axis]
        joined = {
            name: np.concatenate([getattr(part, name) for part in parts], axis=normal) for name in cls.additive_fields()
        }
        return replace(first, **joined)

    def _check_labels(self, other: Sums) -> None:
        if type(self) is not type(other):
            raise TypeError(f"{type(self).__name__} and {type(other).__name__} do not add")
        for name in self.LABELS:
            ours, theirs = getattr(self, name), getattr(other, name)
            if not np.array_equal(ours, theirs):
                raise ValueError(f"sums with {name} {ours} and {theirs} do not belong together")


def exact_sum(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Sum over axes: integers exactly, floats rounded once at the end (`math.fsum`), whatever the order.

    NaN and infinity pass through: NaN anywhere, or infinities of both signs, give NaN.
    """
    if np.issubdtype(values.dtype, np.integer) or not axes:
        return values.sum(axis=axes) if axes else values
    kept = [a for a in range(values.ndim) if a not in axes]
    columns = np.transpose(values, (*kept, *axes)).reshape(math.prod(values.shape[a] for a in kept), -1)
    finite = np.isfinite(columns).all(axis=1)
    totals = np.empty(columns.shape[0])
    with np.errstate(invalid="ignore"):
        for row, ok in enumerate(finite):
            totals[row] = math.fsum(columns[row].tolist()) if ok else columns[row].sum()
    return totals.reshape([values.shape[a] for a in kept])


def unmasked(values: np.ndarray) -> np.ndarray:
    """The values as an array.

    Raises:
        TypeError: A masked array, whose mask would be lost.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError("a masked array would lose its mask; fill it with NaN first")
    return np.asarray(values)


def paired_fields(forecast: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Forecast and observed as contiguous arrays of one float type and one shape (..., y, x).

    float32 pairs stay float32 and anything else becomes float64, which holds float16, uint8 and float32 exactly.

    Raises:
        ValueError: Other shapes, fewer than two axes, or values that are not real numbers.
        TypeError: Masked arrays, whose mask would be lost.
    """
    f, o = unmasked(forecast), unmasked(observed)
    if f.shape != o.shape:
        raise ValueError(f"the forecast has shape {f.shape} and the observation {o.shape}; they must be equal")
    if f.ndim < 2:
        raise ValueError(f"fields need at least the axes (y, x), got shape {f.shape}")
    for name, values in (("forecast", f), ("observation", o)):
        if values.dtype.kind not in "fiub":
            raise ValueError(f"the {name} holds {values.dtype}, expected real numbers")
    dtype = np.float32 if f.dtype == o.dtype == np.float32 else np.float64
    return np.ascontiguousarray(f, dtype=dtype), np.ascontiguousarray(o, dtype=dtype)


def ascending_thresholds(thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Thresholds [mm/h] as float64, strictly ascending and finite.

    Raises:
        ValueError: None at all, not ascending, NaN or infinite.
    """
    values = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all() or np.any(np.diff(values) <= 0):
        raise ValueError(f"thresholds must be finite and strictly ascending, got {thresholds!r}")
    return values


def thresholds_like(thresholds: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Thresholds rounded to the float type of the data, as float64, so that 0.7 in float32 reaches 0.7.

    Integers are compared with the unrounded thresholds.
    """
    dtype = np.asarray(values).dtype
    return thresholds.astype(dtype).astype(np.float64) if dtype.kind == "f" else thresholds


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient in float64; 0/0 and x/0 are undefined and give NaN."""
    top, bottom = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom != 0)
