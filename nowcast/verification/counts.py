"""Contingency counts: hits, false alarms, misses and correct negatives as integers that add up.

Everything categorical is derived from them in `nowcast.verification.scores`. They are counted from fields in
`nowcast.verification.counting`; their file is that of `nowcast.verification.counts_file`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import total_ordering
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nowcast.errors import ConfigError, DataError

Comparison = Literal[">=", ">"]
AT_OR_ABOVE: Comparison = ">="
ABOVE: Comparison = ">"
CONTINGENCY = ("hits", "false_alarms", "misses", "correct_negatives")


@dataclass(frozen=True, eq=False)
class EventCounts:
    """The four counts of a contingency table for any axes, int64.

    Attributes:
        hits: Forecast and observed.
        false_alarms: Forecast, not observed.
        misses: Observed, not forecast.
        correct_negatives: Neither.
    """

    hits: np.ndarray
    false_alarms: np.ndarray
    misses: np.ndarray
    correct_negatives: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Valid pairs."""
        return np.asarray(self.hits + self.false_alarms + self.misses + self.correct_negatives)

    @property
    def observed(self) -> np.ndarray:
        """Observed events."""
        return np.asarray(self.hits + self.misses)

    @property
    def forecast(self) -> np.ndarray:
        """Forecast events."""
        return np.asarray(self.hits + self.false_alarms)

    def table(self) -> np.ndarray:
        """The four counts stacked on a last axis, in the order of `CONTINGENCY`."""
        return _stacked(self)


@total_ordering
@dataclass(frozen=True)
class Case:
    """One forecast occasion: an issue time of one archive. Archives of one evaluation have labels of their own."""

    source: str
    issue_time: np.datetime64

    def __post_init__(self) -> None:
        object.__setattr__(self, "issue_time", np.asarray(self.issue_time, dtype="datetime64[s]")[()])

    def __lt__(self, other: Case) -> bool:
        return (self.source, self.issue_time.astype(int)) < (other.source, other.issue_time.astype(int))

    def __str__(self) -> str:
        return f"{self.source} {np.datetime_as_string(self.issue_time, 'm')}Z"


@dataclass(frozen=True, eq=False)
class ContingencyCounts:
    """Counts of several models on the same pixels of the same cases.

    Attributes:
        models: Names of models and baselines.
        cases: Ascending by source and issue time; each once.
        lead_times: timedelta64[s], ascending.
        thresholds: Ascending, float64 in `units`.
        hits, false_alarms, misses, correct_negatives: (model, case, lead_time, threshold) int64.
        pixels: (case, lead_time) int64, pixels of the field, valid or not.
        mask_digest: (case, lead_time) uint64, a digest of the mask that all models share; see `mask_digest`.
        comparison: ">=" or ">": what made a value an event.
        units: Of the thresholds.

    Raises:
        DataError: Axes that do not fit the arrays, or models that were not counted on the same number of pixels.
    """

    models: tuple[str, ...]
    cases: tuple[Case, ...]
    lead_times: np.ndarray
    thresholds: np.ndarray
    hits: np.ndarray
    false_alarms: np.ndarray
    misses: np.ndarray
    correct_negatives: np.ndarray
    pixels: np.ndarray
    mask_digest: np.ndarray
    comparison: Comparison = AT_OR_ABOVE
    units: str = "mm h-1"

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "models", tuple(self.models))
        put(self, "cases", tuple(self.cases))
        put(self, "lead_times", np.atleast_1d(np.asarray(self.lead_times, dtype="timedelta64[s]")))
        put(self, "thresholds", check_thresholds(self.thresholds))
        for name in CONTINGENCY:
            put(self, name, _whole_numbers(getattr(self, name), name))
        put(self, "pixels", _whole_numbers(self.pixels, "pixels"))
        put(self, "mask_digest", np.asarray(self.mask_digest, dtype=np.uint64))
        self._check()

    def _check(self) -> None:
        shape = (len(self.models), len(self.cases), self.lead_times.size, self.thresholds.size)
        for name in CONTINGENCY:
            if getattr(self, name).shape != shape:
                raise DataError(f"{name} has shape {getattr(self, name).shape}, the axes ask for {shape}")
        for name in ("pixels", "mask_digest"):
            if getattr(self, name).shape != shape[1:3]:
                raise DataError(f"{name} has shape {getattr(self, name).shape}, the axes ask for {shape[1:3]}")
        if len(set(self.models)) != len(self.models):
            raise DataError(f"a model stands twice in the counts: {', '.join(self.models)}")
        if any(not before < after for before, after in zip(self.cases, self.cases[1:], strict=False)):
            raise DataError("the cases of counts must ascend by source and issue time, each once")
        if np.any(np.diff(self.lead_times) <= np.timedelta64(0, "s")):
            raise DataError("the lead times of counts must ascend")
        if self.comparison not in (AT_OR_ABOVE, ABOVE):
            raise DataError(f"the comparison of counts is '>=' or '>', got {self.comparison!r}")
        total = self.total
        if min(shape) and not np.array_equal(total, np.broadcast_to(total[:1, :, :, :1], shape)):
            raise DataError("the models of these counts were not counted on the same pixels")
        if min(shape) and np.any(self.valid > self.pixels):
            raise DataError("more valid pixels than pixels: these counts are damaged")

    @property
    def shape(self) -> tuple[int, ...]:
        """(model, case, lead_time, threshold)."""
        return self.hits.shape

    @property
    def total(self) -> np.ndarray:
        """Valid pairs, (model, case, lead_time, threshold)."""
        return np.asarray(self.hits + self.false_alarms + self.misses + self.correct_negatives)

    @property
    def observed(self) -> np.ndarray:
        """Observed events, (model, case, lead_time, threshold)."""
        return np.asarray(self.hits + self.misses)

    @property
    def forecast(self) -> np.ndarray:
        """Forecast events, (model, case, lead_time, threshold)."""
        return np.asarray(self.hits + self.false_alarms)

    def table(self) -> np.ndarray:
        """The four counts stacked on a last axis, in the order of `CONTINGENCY`."""
        return _stacked(self)

    @property
    def valid(self) -> np.ndarray:
        """(case, lead_time) pixels that were scored; the same for every model and threshold."""
        return np.asarray(self.total[0, :, :, 0])

    @property
    def issue_times(self) -> np.ndarray:
        """(case,) datetime64[s]."""
        return np.array([case.issue_time for case in self.cases], dtype="datetime64[s]")

    @property
    def sources(self) -> tuple[str, ...]:
        """(case,) labels of the archives."""
        return tuple(case.source for case in self.cases)

    @property
    def lead_minutes(self) -> np.ndarray:
        """(lead_time,) float64."""
        return np.asarray(self.lead_times / np.timedelta64(60, "s"))

    def masked_share(self) -> np.ndarray:
        """(lead_time,) share of the pixels of all cases that were not scored; NaN without pixels."""
        pixels = self.pixels.sum(axis=0)
        with np.errstate(invalid="ignore"):
            return np.asarray(1.0 - self.valid.sum(axis=0) / np.where(pixels > 0, pixels, np.nan))

    def select(
        self, *, models: Sequence[str] | None = None, cases: np.ndarray | Sequence[int] | None = None
    ) -> ContingencyCounts:
        """The same counts for some models (by name) and some cases (indices or a boolean array)."""
        if models is not None:
            unknown = sorted(set(models) - set(self.models))
            if unknown:
                raise DataError(f"no counts of {', '.join(unknown)}; there are {', '.join(self.models)}")
        rows = np.array([self.models.index(name) for name in (self.models if models is None else models)], dtype=int)
        columns = np.arange(len(self.cases)) if cases is None else np.arange(len(self.cases))[np.asarray(cases)]
        return ContingencyCounts(
            tuple(self.models[row] for row in rows),
            tuple(self.cases[column] for column in columns),
            self.lead_times,
            self.thresholds,
            **{name: getattr(self, name)[np.ix_(rows, columns)] for name in CONTINGENCY},
            pixels=self.pixels[columns],
            mask_digest=self.mask_digest[columns],
            comparison=self.comparison,
            units=self.units,
        )

    def merge(self, other: ContingencyCounts) -> ContingencyCounts:
        """Both together; neither is changed. See `merge_counts`."""
        return merge_counts([self, other])

    def equals(self, other: ContingencyCounts) -> bool:
        """Whether all axes and all numbers are the same."""
        return (self.models, self.cases, self.comparison, self.units) == (
            other.models,
            other.cases,
            other.comparison,
            other.units,
        ) and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("lead_times", "thresholds", "pixels", "mask_digest", *CONTINGENCY)
        )

    def save(self, path: str | Path) -> Path:
        """Write a CF netCDF file atomically; the same counts give the same bytes."""
        from nowcast.verification.counts_file import write_counts

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            write_counts(self, draft)
            os.replace(draft, path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> ContingencyCounts:
        """Read what `save` wrote.

        Raises:
            DataError: There is no such file, or it holds no counts.
        """
        from nowcast.verification.counts_file import read_counts

        return read_counts(Path(path))


def merge_counts(parts: Sequence[ContingencyCounts], names: Sequence[str] | None = None) -> ContingencyCounts:
    """Counts of all parts side by side, along cases and along models; the parts are left alone.

    The cases come out sorted and the models in order of appearance, so the order of shards changes nothing. A model
    and case in several parts must have the same counts in all of them.

    Args:
        names: What to call the parts in errors: file names.

    Raises:
        DataError: Other thresholds, comparison, units, lead times or masks, or a model without counts for a case;
            both sides are named.
    """
    if not parts:
        raise DataError("there are no counts to merge")
    names = [f"part {number}" for number in range(1, len(parts) + 1)] if names is None else names
    first = parts[0]
    for part, name in zip(parts[1:], names[1:], strict=True):
        _require_same_rules(first, part, names[0], name)
    models = tuple(dict.fromkeys(model for part in parts for model in part.models))
    cases = tuple(sorted({case for part in parts for case in part.cases}))
    place = {case: column for column, case in enumerate(cases)}
    shape = (len(models), len(cases), first.lead_times.size, first.thresholds.size)
    table = np.full((*shape, len(CONTINGENCY)), -1, dtype=np.int64)
    pixels = np.full(shape[1:3], -1, dtype=np.int64)
    digest = np.zeros(shape[1:3], dtype=np.uint64)
    origin: dict[Case, str] = {}
    for part, name in zip(parts, names, strict=True):
        columns = np.array([place[case] for case in part.cases], dtype=int)
        rows = np.array([models.index(model) for model in part.models], dtype=int)
        for index, case in enumerate(part.cases):
            if case in origin:
                _require_same_mask(part, index, pixels[columns[index]], digest[columns[index]], name, origin[case])
            origin.setdefault(case, name)
        here = np.ix_(rows, columns)
        numbers = part.table()
        known = table[here] >= 0
        if np.any(table[here][known] != numbers[known]):
            row, column = np.argwhere(np.any(known & (table[here] != numbers), axis=(2, 3, 4)))[0]
            case = part.cases[column]
            raise DataError(
                f"{origin[case]} and {name} have different counts of {part.models[row]} for the case {case}",
                "give the models different names, or merge only one of the two",
            )
        table[here], pixels[columns], digest[columns] = numbers, part.pixels, part.mask_digest
    _require_complete(table, models, cases, origin)
    return ContingencyCounts(
        models,
        cases,
        first.lead_times,
        first.thresholds,
        **cells_of(table),
        pixels=pixels,
        mask_digest=digest,
        comparison=first.comparison,
        units=first.units,
    )


def _stacked(counts: EventCounts | ContingencyCounts) -> np.ndarray:
    return np.stack([getattr(counts, name) for name in CONTINGENCY], axis=-1)


def cells_of(table: np.ndarray) -> dict[str, np.ndarray]:
    """The four counts by name from an array with the contingency on its last axis."""
    return {name: table[..., index] for index, name in enumerate(CONTINGENCY)}


def _require_same_rules(one: ContingencyCounts, other: ContingencyCounts, name: str, other_name: str) -> None:
    def listed(values: np.ndarray) -> str:
        return ", ".join(f"{value:g}" for value in values)

    if one.comparison != other.comparison:
        raise DataError(
            f"{name} counts events by '{one.comparison}', {other_name} by '{other.comparison}'",
            "evaluate both by one rule: --compat pysteps counts by '>', everything else by '>='",
        )
    if one.units != other.units:
        raise DataError(
            f"the thresholds of {name} are in {one.units}, those of {other_name} in {other.units}",
            "bring both to one unit and evaluate again",
        )
    if not np.array_equal(one.thresholds, other.thresholds):
        raise DataError(
            f"{name} has the thresholds {listed(one.thresholds)}, {other_name} has {listed(other.thresholds)}",
            "evaluate both with the same --threshold",
        )
    if not np.array_equal(one.lead_times, other.lead_times):
        raise DataError(
            f"{name} has the lead times {listed(one.lead_minutes)} min, "
            f"{other_name} has {listed(other.lead_minutes)} min",
            "evaluate forecasts of the same lead times",
        )


def _require_same_mask(
    part: ContingencyCounts, index: int, pixels: np.ndarray, digest: np.ndarray, name: str, other_name: str
) -> None:
    differs = (part.mask_digest[index] != digest) | (part.pixels[index] != pixels)
    if differs.any():
        lead = part.lead_minutes[np.argmax(differs)]
        raise DataError(
            f"{other_name} and {name} score the case {part.cases[index]} at {lead:g} min on different pixels",
            "evaluate their models together, so that they share one mask",
        )


def _require_complete(table: np.ndarray, models: Sequence[str], cases: Sequence[Case], origin: dict[Case, str]) -> None:
    absent = np.argwhere(np.any(table < 0, axis=(2, 3, 4)))
    if absent.size:
        model, case = models[absent[0][0]], cases[absent[0][1]]
        raise DataError(
            f"{model} has no counts for the case {case} of {origin[case]} ({len(absent)} such pairs)",
            "models are compared on the same cases only: evaluate them together",
        )


def _whole_numbers(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{name} has dtype {array.dtype}; counts are whole numbers")
    array = array.astype(np.int64)
    if array.size and array.min() < 0:
        raise DataError(f"{name} holds {array.min()}; counts are not negative")
    array.setflags(write=False)
    return array


def check_thresholds(thresholds: Any) -> np.ndarray:
    """Thresholds as float64: at least one, finite, not negative, ascending. 0 is a threshold.

    Raises:
        ConfigError: What is wrong with them.
    """
    values = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    if values.ndim != 1 or values.size == 0:
        raise ConfigError("no threshold given", "give one or more, such as 0.1,1,5")
    shown = ", ".join(f"{value:g}" for value in values)
    if not np.all(np.isfinite(values)) or values[0] < 0:
        raise ConfigError(f"the thresholds {shown} are not all finite and >= 0")
    if np.any(np.diff(values) <= 0):
        raise ConfigError(f"the thresholds {shown} do not ascend, each once")
    return values
