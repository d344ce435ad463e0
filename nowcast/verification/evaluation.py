"""Evaluation: everything that was counted and summed of some forecasts, on disk as a folder, merged exactly.

The folder holds counts.nc, sums.nc, examples.nc, scores.csv and evaluation.json; only the last two are for people.
Scores are derived when they are asked for.
"""

from __future__ import annotations

import csv
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nowcast.data.outputs import put_in_place, require_free
from nowcast.errors import DataError
from nowcast.verification.counts import Case, ContingencyCounts, merge_counts
from nowcast.verification.measures import ModelSums, merge_sums, read_sums, write_sums
from nowcast.verification.scores import csi, pool

FORMAT = "nowcast-evaluation-1"
# The entry of evaluation.json with the digests of the other files; folders of before have none.
DIGESTS = "sha256"
# Entries of the provenance that are united when evaluations merge; the others must be the same.
MERGED = ("sources", "models", "left_out", "versions")
COUNTS, SUMS, EXAMPLES, SCORES, DESCRIPTION = "counts.nc", "sums.nc", "examples.nc", "scores.csv", "evaluation.json"


@dataclass(frozen=True, eq=False)
class Example:
    """Fields of one case to look at, coarsened when they were large.

    Attributes:
        case: Which one.
        lead_times: (lead,) timedelta64[s], a few.
        observed: (lead, y, x) float32 [mm/h], NaN where missing.
        forecasts: By model, (lead, y, x) float32 [mm/h].
        pixel_km: (dy, dx) of these fields.
    """

    case: Case
    lead_times: np.ndarray
    observed: np.ndarray
    forecasts: Mapping[str, np.ndarray]
    pixel_km: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Counts and sums of several models on the same pixels of the same cases.

    Attributes:
        counts: Contingency counts, (model, case, lead_time, threshold).
        sums: By kind (continuous, fss, and for ensembles crps, probability, rank, spread) and model, each with the
            leading axes (case, lead_time).
        provenance: Where forecasts and observations come from, what was left out, versions; JSON values.
        examples: The best and the worst case by `ranked_cases`, to look at.
    """

    counts: ContingencyCounts
    sums: ModelSums
    provenance: Mapping[str, Any]
    examples: tuple[Example, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        return self.counts.models

    @property
    def is_synthetic(self) -> bool:
        """Whether any archive is labelled synthetic."""
        return any(source["synthetic"] for source in self.provenance["sources"].values())

    def left_out(self) -> dict[str, list[str]]:
        """What could not be scored, by reason; empty when everything was."""
        return {reason: list(items) for reason, items in self.provenance["left_out"].items()}

    @property
    def is_partial(self) -> bool:
        """Whether some forecasts could not be scored."""
        return bool(self.provenance["left_out"])

    def fields_without_pixels(self) -> int:
        """Fields (case and lead time) without a single pixel valid in all models and the observation."""
        return int(np.count_nonzero(self.counts.valid == 0))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the folder atomically; the same evaluation gives the same bytes.

        Raises:
            ConfigError: It exists and `overwrite` is not set, or it is not an evaluation.
        """
        folder = Path(folder)
        require_free(folder, "evaluation", overwrite=overwrite)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as workplace:
            draft = Path(workplace) / folder.name
            draft.mkdir()
            self._write(draft)
            put_in_place(draft, folder)
        return folder

    def _write(self, folder: Path) -> None:
        from nowcast.verification.score_table import COLUMNS, score_rows

        self.counts.save(folder / COUNTS)
        write_sums(self.sums, folder / SUMS)
        _write_examples(self.examples, folder / EXAMPLES)
        with (folder / SCORES).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(score_rows(self))
        digests = {name: _digest(folder / name) for name in (COUNTS, SUMS, EXAMPLES)}
        held = {"format": FORMAT, DIGESTS: digests, **self.provenance}
        text = json.dumps(held, indent=2, sort_keys=True, allow_nan=False)
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Evaluation:
        """Read a folder that `save` wrote.

        Raises:
            DataError: It is not one, or it is damaged; the file is named.
        """
        folder = Path(folder)
        try:
            provenance = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder} is not an evaluation: {error}", "give a folder that `nowcast evaluate -o` made"
            ) from error
        if not isinstance(provenance, dict) or provenance.pop("format", None) != FORMAT:
            raise DataError(f"{folder / DESCRIPTION} is of another format than {FORMAT}", "evaluate again")
        _require_whole(folder, provenance.pop(DIGESTS, {}))
        absent = [key for key in (*MERGED, "pixel_km") if key not in provenance]
        if absent:
            raise DataError(f"{folder / DESCRIPTION} says nothing of {', '.join(absent)}: damaged", "evaluate again")
        return cls(
            ContingencyCounts.load(folder / COUNTS),
            read_sums(folder / SUMS),
            provenance,
            _read_examples(folder / EXAMPLES),
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_whole(folder: Path, digests: Mapping[str, str]) -> None:
    """Refuse damaged files before they are opened: some would be read for other numbers, and some for ever."""
    for name, digest in digests.items():
        if (folder / name).is_file() and _digest(folder / name) != digest:
            raise DataError(
                f"{folder / name} cannot be read: it is damaged, its bytes are not those that were written",
                "evaluate again",
            )


def merge_evaluations(parts: Sequence[Evaluation], names: Sequence[str] | None = None) -> Evaluation:
    """All parts as one: what evaluating everything at once would have given, bit for bit; the parts are left alone.

    Raises:
        DataError: Parts that do not belong together, both sides named; see `merge_counts`.
    """
    names = [f"part {number}" for number in range(1, len(parts) + 1)] if names is None else names
    counts = merge_counts([part.counts for part in parts], names)
    provenance = _merge_provenance([part.provenance for part in parts], names)
    place = {case: index for index, case in enumerate(counts.cases)}
    places = [np.array([place[case] for case in part.counts.cases], dtype=int) for part in parts]
    sums = merge_sums([part.sums for part in parts], places, len(counts.cases), names)
    return Evaluation(counts, sums, provenance, _merge_examples(parts, counts))


def ranked_cases(counts: ContingencyCounts) -> list[Case]:
    """Cases from the worst to the best by the first model's CSI, leads pooled, at the middle threshold.

    Only cases with an event, forecast or observed, have a rank, and only cases scored at every lead time where there
    are such: one that is scored at the first few alone would always be the best. Ties stand in the order of cases.
    """
    together = pool(counts.select(models=counts.models[:1]), ("lead_time",))
    values = csi(together)[0, :, counts.thresholds.size // 2]
    complete = (counts.valid > 0).all(axis=1) & ~np.isnan(values)
    if complete.any():
        values = np.where(complete, values, np.nan)
    order = [index for index in np.argsort(values, kind="stable") if not np.isnan(values[index])]
    return [counts.cases[index] for index in order]


def best_and_worst(counts: ContingencyCounts) -> tuple[Case, ...]:
    """The best and the worst ranked case; one where they are the same; the first case where none has a rank."""
    ranked = ranked_cases(counts)
    if not ranked:
        return counts.cases[:1]
    return (ranked[-1],) if len(ranked) == 1 else (ranked[-1], ranked[0])


def _merge_examples(parts: Sequence[Evaluation], counts: ContingencyCounts) -> tuple[Example, ...]:
    """The best and worst of all are among the best and worst of the parts."""
    known: dict[Case, Example] = {}
    for example in (example for part in parts for example in part.examples):
        before = known.get(example.case)
        forecasts = dict(example.forecasts) if before is None else {**before.forecasts, **example.forecasts}
        ordered = {model: forecasts[model] for model in counts.models if model in forecasts}
        known[example.case] = Example(example.case, example.lead_times, example.observed, ordered, example.pixel_km)
    return tuple(known[case] for case in best_and_worst(counts) if case in known)


def _merge_provenance(parts: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    sources: dict[str, Any] = {}
    models: dict[str, dict[str, Any]] = {}
    left_out: dict[str, set[str]] = {}
    versions: dict[str, set[str]] = {}
    # The part that a source or model was first found in: the other side of a difference.
    origin: dict[tuple[str, str], str] = {}
    for part, name in zip(parts, names, strict=True):
        for label, source in part["sources"].items():
            first = origin.setdefault(("source", label), name)
            if sources.setdefault(label, source) != source:
                raise DataError(
                    f"two archives are labelled {label}: {sources[label]['fingerprint'][:12]} in {first} and "
                    f"{source['fingerprint'][:12]} in {name}",
                    "evaluate one of them with another --label",
                )
        for model, entry in part["models"].items():
            first = origin.setdefault(("model", model), name)
            known = models.setdefault(model, {**entry, "files": {}})
            differs = {key for key in entry if key != "files" and entry[key] != known.get(key)}
            if differs:
                key = min(differs)
                raise DataError(
                    f"two models are named {model}: {key} is {known.get(key)!r} in {first} and {entry[key]!r} "
                    f"in {name}",
                    "name them apart: nowcast evaluate NAME=PATH",
                )
            known["files"] = {**known["files"], **entry["files"]}
        for reason, items in part["left_out"].items():
            left_out.setdefault(reason, set()).update(items)
        for package, found in part["versions"].items():
            versions.setdefault(package, set()).update(found)
    rest = [{key: value for key, value in part.items() if key not in MERGED} for part in parts]
    for other, name in zip(rest[1:], names[1:], strict=True):
        for key in sorted(set(rest[0]) | set(other)):
            if rest[0].get(key) != other.get(key):
                raise DataError(f"{key} is {rest[0].get(key)} in {names[0]} and {other.get(key)} in {name}")
    return {
        **rest[0],
        "sources": sources,
        "models": models,
        "left_out": {reason: sorted(items) for reason, items in left_out.items()},
        "versions": {package: sorted(found) for package, found in versions.items()},
    }


def _write_examples(examples: Sequence[Example], path: Path) -> None:
    import netCDF4

    with netCDF4.Dataset(path, "w", format="NETCDF4") as file:
        file.title = "Example fields of an evaluation"
        for number, example in enumerate(examples):
            group: Any = file.createGroup(f"example_{number}")
            group.source, group.issue_time = example.case.source, str(example.case.issue_time)
            group.pixel_km = np.array(example.pixel_km)
            for axis, size in zip(("lead_time", "y", "x"), example.observed.shape, strict=True):
                group.createDimension(axis, size)
            minutes = group.createVariable("lead_time", "f8", ("lead_time",), fill_value=False)
            minutes.units = "minutes"
            minutes[:] = example.lead_times / np.timedelta64(60, "s")
            fields = {"observed": example.observed}
            fields |= {f"forecast_{index}": field for index, field in enumerate(example.forecasts.values())}
            for name, field in fields.items():
                variable = group.createVariable(
                    name, "f4", ("lead_time", "y", "x"), zlib=True, complevel=4, fill_value=np.float32(np.nan)
                )
                variable.units = "mm h-1"
                variable[:] = field
            for index, model in enumerate(example.forecasts):
                group[f"forecast_{index}"].model = model


def _read_examples(path: Path) -> tuple[Example, ...]:
    import netCDF4

    examples = []
    try:
        with netCDF4.Dataset(path) as file:
            file.set_auto_mask(False)
            for group in file.groups.values():
                forecasts = [group[name] for name in group.variables if name.startswith("forecast_")]
                examples.append(
                    Example(
                        Case(str(group.source), np.datetime64(group.issue_time)),
                        np.round(group["lead_time"][:] * 60).astype("timedelta64[s]"),
                        np.asarray(group["observed"][:]),
                        {str(variable.model): np.asarray(variable[:]) for variable in forecasts},
                        (float(group.pixel_km[0]), float(group.pixel_km[1])),
                    )
                )
    except (OSError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read as examples: {error}", "evaluate again") from error
    return tuple(examples)
