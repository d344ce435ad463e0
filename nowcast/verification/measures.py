"""The sums that an evaluation keeps beside the counts, and their netCDF form: one group a kind and model.

A sum knows its own fields (`nowcast.verification.sums`), so that writing, reading and merging need no code a kind.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nowcast.errors import DataError
from nowcast.verification.continuous import ContinuousSums, continuous_sums
from nowcast.verification.counts import AT_OR_ABOVE, CONTINGENCY, Comparison, EventCounts
from nowcast.verification.ensembles import (
    CrpsSums,
    RankSums,
    SpreadSums,
    crps_sums,
    ensemble_probability_sums,
    rank_sums,
    spread_sums,
)
from nowcast.verification.fss import FssSums, fss_sums
from nowcast.verification.pooled import SCALES, Pooling, pooled_events
from nowcast.verification.probabilistic import ProbabilitySums
from nowcast.verification.spectra import SpectrumSums, spectrum_sums
from nowcast.verification.sums import Sums

log = logging.getLogger(__name__)

# Sides of the blocks [pixels] and what is taken of each, in the order of `PooledCounts`.
POOLINGS: tuple[tuple[Pooling, int], ...] = tuple((pooling, scale) for pooling in ("max", "mean") for scale in SCALES)

# By kind, then by model: sums with the leading axes (case, lead_time).
ModelSums = Mapping[str, Mapping[str, Sums]]


@dataclass(frozen=True)
class FieldRules:
    """What is computed from the fields.

    Attributes:
        thresholds: [mm/h].
        windows: Odd sides of the FSS windows [pixels]; none, no FSS.
        comparison: What makes a value an event, in all that has a threshold.
    """

    thresholds: tuple[float, ...]
    windows: tuple[int, ...]
    comparison: Comparison = AT_OR_ABOVE

    def reached(self, dtype: np.dtype[Any]) -> np.ndarray:
        """What a value of a float type must reach to be an event, float64: above x is at or above x's next value."""
        levels = np.asarray(self.thresholds, dtype=np.float64)
        if self.comparison == AT_OR_ABOVE:
            return levels
        return np.nextafter(levels.astype(dtype), np.asarray(np.inf, dtype=dtype)).astype(np.float64)

    def labelled(self, sums: Sums) -> Sums:
        """Sums that were made of `reached` values, with the thresholds that they stand for."""
        return replace(sums, thresholds=np.asarray(self.thresholds, dtype=np.float64))  # type: ignore[call-arg]


@dataclass(frozen=True, eq=False)
class PooledCounts(Sums):
    """Contingency counts of block maxima and means, (..., pooling, threshold); any score takes them.

    Attributes:
        thresholds: [mm/h].
        poolings: What the pooling axis stands for: "max:4,max:16,mean:4,mean:16".
    """

    hits: np.ndarray
    false_alarms: np.ndarray
    misses: np.ndarray
    correct_negatives: np.ndarray
    thresholds: np.ndarray
    poolings: str

    LABELS: ClassVar[tuple[str, ...]] = ("thresholds", "poolings")
    TRAILING: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(CONTINGENCY, ("pooling", "threshold"))


def pooled_counts(forecast: np.ndarray, observed: np.ndarray, thresholds: Sequence[float] | np.ndarray) -> PooledCounts:
    """Counts of (..., y, x) fields [mm/h] for every pooling; a block larger than the field counts nothing."""
    nothing = EventCounts(*(np.zeros((*observed.shape[:-2], len(thresholds)), dtype=np.int64) for _ in CONTINGENCY))
    tables = [
        pooled_events(forecast, observed, thresholds, scale, pooling=pooling)
        if scale <= min(observed.shape[-2:])
        else nothing
        for pooling, scale in POOLINGS
    ]
    return PooledCounts(
        **{name: np.stack([getattr(table, name) for table in tables], axis=-2) for name in CONTINGENCY},
        thresholds=np.asarray(thresholds, dtype=np.float64),
        poolings=",".join(f"{pooling}:{scale}" for pooling, scale in POOLINGS),
    )


def _fss(forecast: np.ndarray, observed: np.ndarray, rules: FieldRules) -> Sums:
    return rules.labelled(fss_sums(forecast, observed, rules.reached(forecast.dtype), rules.windows))


Maker = Callable[[np.ndarray, np.ndarray, FieldRules], Sums | None]

# What every model gets, from (forecast, observed) of shape (lead_time, y, x) with NaN outside the common mask.
DETERMINISTIC: Mapping[str, tuple[type[Sums], Maker]] = {
    "continuous": (ContinuousSums, lambda f, o, rules: continuous_sums(f, o)),
    "fss": (FssSums, lambda f, o, rules: _fss(f, o, rules) if rules.windows else None),
    "pooled": (PooledCounts, lambda f, o, rules: rules.labelled(pooled_counts(f, o, rules.reached(f.dtype)))),
    "spectrum": (SpectrumSums, lambda f, o, rules: spectrum_sums(f, o)),
}
# Kinds that parts on other grids cannot share; merged without them, the rest still merges.
OF_ONE_GRID = {"spectrum"}
# What ensembles get besides, from members (member, lead_time, y, x).
ENSEMBLE: Mapping[str, tuple[type[Sums], Maker]] = {
    "crps": (CrpsSums, lambda m, o, rules: crps_sums(m, o)),
    "probability": (
        ProbabilitySums,
        lambda m, o, rules: rules.labelled(ensemble_probability_sums(m, o, rules.reached(m.dtype))),
    ),
    "rank": (RankSums, lambda m, o, rules: rank_sums(m, o)),
    "spread": (SpreadSums, lambda m, o, rules: spread_sums(m, o)),
}
KINDS: dict[str, type[Sums]] = {kind: entry[0] for kind, entry in {**DETERMINISTIC, **ENSEMBLE}.items()}


def field_sums(members: np.ndarray, mean: np.ndarray, observed: np.ndarray, rules: FieldRules) -> dict[str, Sums]:
    """All sums of one model and case, with the leading axis (lead_time).

    Args:
        members: (member, lead_time, y, x) [mm/h].
        mean: (lead_time, y, x), their mean.
        observed: (lead_time, y, x); NaN wherever the common mask is.
    """
    found = {kind: make(mean, observed, rules) for kind, (_, make) in DETERMINISTIC.items()}
    if members.shape[0] > 1:
        found |= {kind: make(members, observed, rules) for kind, (_, make) in ENSEMBLE.items()}
    return {kind: sums for kind, sums in found.items() if sums is not None}


def stack_cases(parts: Sequence[Sums]) -> Sums:
    """Sums (lead_time) of one case each into sums (case, lead_time)."""
    grown = [
        type(part)(**{**vars(part), **{name: getattr(part, name)[None] for name in part.additive_fields()}})
        for part in parts
    ]
    return type(parts[0]).concatenate(grown, axis=0)


def write_sums(sums: ModelSums, path: Path) -> None:
    """One netCDF file; the same sums give the same bytes."""
    import netCDF4

    with netCDF4.Dataset(path, "w", format="NETCDF4") as file:
        file.setncatts({"title": "Sums of forecast errors that add up", "format": "nowcast-sums-1"})
        for kind in sorted(sums):
            for number, (model, values) in enumerate(sums[kind].items()):
                group = file.createGroup(f"{kind}_{number}")
                group.kind, group.model = kind, model
                _write_group(group, values)


def _write_group(group: Any, values: Sums) -> None:
    for name, trailing in values.additive_fields().items():
        array = getattr(values, name)
        axes = ("case", "lead_time", *trailing)
        for axis, size in zip(axes, array.shape, strict=True):
            if axis not in group.dimensions:
                group.createDimension(axis, size)
        variable = group.createVariable(name, array.dtype, axes, zlib=True, complevel=4, fill_value=False)
        variable[:] = array
    for name in values.LABELS:
        label = getattr(values, name)
        if isinstance(label, np.ndarray):
            axis = f"{name}_label"
            group.createDimension(axis, label.size)
            group.createVariable(f"label_{name}", label.dtype, (axis,), fill_value=False)[:] = label
        else:
            group.setncattr(f"label_{name}", label)


def read_sums(path: Path) -> dict[str, dict[str, Sums]]:
    """What `write_sums` wrote.

    Raises:
        DataError: It cannot be read.
    """
    import netCDF4

    found: dict[str, dict[str, Sums]] = {}
    try:
        with netCDF4.Dataset(path) as file:
            file.set_auto_mask(False)
            for group in file.groups.values():
                kind = KINDS[group.kind]
                values = {name: np.asarray(group[name][:]) for name in kind.additive_fields()}
                for name in kind.LABELS:
                    key = f"label_{name}"
                    label = np.asarray(group[key][:]) if key in group.variables else group.getncattr(key)
                    values[name] = label.item() if isinstance(label, np.generic) else label
                found.setdefault(str(group.kind), {})[str(group.model)] = kind(**values)
    except (OSError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read as the sums of an evaluation: {error}", "evaluate again") from error
    return found


def merge_sums(
    parts: Sequence[ModelSums], places: Sequence[np.ndarray], number_of_cases: int, names: Sequence[str]
) -> dict[str, dict[str, Sums]]:
    """Sums of all parts side by side; `places` says where each part's cases stand among all cases.

    Raises:
        DataError: Sums of one kind and model with other labels (FSS windows, ensemble sizes); both sides are named.
    """
    merged: dict[str, dict[str, Sums]] = {}
    for kind in KINDS:
        for model in dict.fromkeys(model for part in parts for model in part.get(kind, {})):
            holders = [index for index, part in enumerate(parts) if model in part.get(kind, {})]
            try:
                placed = _placed(
                    [parts[i][kind][model] for i in holders],
                    [places[i] for i in holders],
                    number_of_cases,
                    f"{kind} sums of {model}",
                    [names[i] for i in holders],
                )
            except DataError as difference:
                if kind not in OF_ONE_GRID:
                    raise
                log.info("left out of the merged evaluation: %s", difference)
                continue
            merged.setdefault(kind, {})[model] = placed
    return merged


def _placed(parts: Sequence[Sums], places: Sequence[np.ndarray], size: int, what: str, names: Sequence[str]) -> Sums:
    first = parts[0]
    for part, name in zip(parts[1:], names[1:], strict=True):
        for label in first.LABELS:
            ours, theirs = getattr(first, label), getattr(part, label)
            if not np.array_equal(ours, theirs):
                raise DataError(f"the {what} have {label} {ours} in {names[0]} and {theirs} in {name}")
    if np.unique(np.concatenate(places)).size != size:
        raise DataError(f"the {what} are in {', '.join(names)} only, which do not hold all cases")
    arrays = {}
    for field in first.additive_fields():
        array = np.zeros((size, *getattr(first, field).shape[1:]), dtype=getattr(first, field).dtype)
        for part, place in zip(parts, places, strict=True):
            array[place] = getattr(part, field)
        arrays[field] = array
    return type(first)(**{**vars(first), **arrays})
