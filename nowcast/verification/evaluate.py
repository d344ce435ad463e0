"""evaluate: forecasts, an archive and baselines into counts and sums, one case at a time.

Memory holds the fields of one case (times the number of workers); what is kept of a case is a few kilobytes.
"""

from __future__ import annotations

import logging
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from nowcast.data.archive import RadarArchive, open_archive
from nowcast.data.forecast_file import ForecastFile
from nowcast.data.outputs import require_free
from nowcast.errors import ConfigError, DataError
from nowcast.verification.case_plan import plan_cases, require_fit
from nowcast.verification.case_scores import Baseline, CaseJob, CaseScores, example_of, score_case
from nowcast.verification.case_store import CaseStore
from nowcast.verification.counts import (
    AT_OR_ABOVE,
    CONTINGENCY,
    Case,
    Comparison,
    ContingencyCounts,
    check_thresholds,
)
from nowcast.verification.evaluation import Evaluation, best_and_worst
from nowcast.verification.forecast_files import group_by_model
from nowcast.verification.measures import FieldRules, stack_cases
from nowcast.verification.sums import Sums

log = logging.getLogger(__name__)

Progress = Callable[[Iterator[Any], int], Iterable[Any]]

UNITS = "mm h-1"
WINDOWS = (1, 5, 11, 21, 41)
# Attributes of an archive that a reader of scores wants to know.
SOURCE_ATTRIBUTES = ("institution", "license", "source_format", "product", "zr_a", "zr_b")
# Attributes of a forecast file that say what made it.
MODEL_ATTRIBUTES = ("model_id", "config_hash", "weights_sha256", "bundle_sha256", "nowcast_version", "synthetic")


def evaluate(
    forecasts: Sequence[str | Path | tuple[str, str | Path]],
    archive: RadarArchive | str | Path,
    *,
    thresholds: Sequence[float] | np.ndarray,
    baselines: Sequence[Baseline] = (),
    windows: Sequence[int] = WINDOWS,
    comparison: Comparison = AT_OR_ABOVE,
    label: str | None = None,
    first: np.datetime64 | None = None,
    last: np.datetime64 | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Evaluation:
    """Score forecasts against an archive, all models and baselines on the same pixels of the same cases.

    Args:
        forecasts: Files, stores or folders of them, each alone or as (model, path). Without a name the file's
            own `model` counts; files of one model with other issue times belong together.
        archive: The observations.
        thresholds: Ascending [mm/h].
        baselines: Forecast anew for the same issue times; one whose name a forecast already has is not.
        windows: Odd sides [pixels] of the FSS windows; those larger than the grid are left out, none means no FSS.
        comparison: What makes a value an event.
        label: Name of the archive in the cases; its file name without suffix unless given.
        first, last: Score only issue times from here to there, both included.
        executor: Scores cases side by side: a process pool, or `get_executor()` of a Dask client. Workers open the
            files themselves, under the same paths.
        progress: Wraps the iterator of the cases that are still to be scored: (iterator, their number) -> iterable.
        output: Save the evaluation in this folder. Until it is whole, finished cases are kept beside it.
        resume: Go on from the finished cases of a run for `output` that was stopped; the result is the same.
        overwrite: Replace an evaluation that is there, and without `resume` what is left of a stopped run.

    Raises:
        DataError: Other grids, intervals or units, no overlap in time, no pixel valid in all; both sides are named.
        ConfigError: Thresholds or windows that cannot be used; `output` is taken, or a run for it was stopped and is
            neither resumed nor overwritten, or was another run.
    """
    if output is not None:
        require_free(output, "evaluation", overwrite=overwrite)
    source = archive if isinstance(archive, RadarArchive) else open_archive(archive)
    rules = _rules(thresholds, windows, comparison, source)
    named = [entry if isinstance(entry, tuple) else (None, entry) for entry in forecasts]
    models = group_by_model([path for _, path in named], [name for name, _ in named])
    wanted = tuple(baseline for baseline in baselines if baseline.name not in models)
    if not models:
        raise ConfigError("there is no forecast to evaluate", "give forecast files, stores or folders of them")
    for name, files in models.items():
        require_fit(name, files[0], source)
    label = label or source.path.stem
    jobs, left_out = plan_cases(models, wanted, source, label, rules, comparison, first, last)
    names = (*models, *(baseline.name for baseline in wanted))
    used = {file.path: file for job in jobs for _, file in job.files}
    digests = {path: file.sha256() for path, file in used.items()}
    description = _describe(models, wanted, source, label, rules, comparison, digests) | {"left_out": left_out}

    def finish(parts: Sequence[CaseScores]) -> Evaluation:
        _require_valid(parts, names, source)
        counts = _counts(parts, names, jobs[0])
        _tell_of_thresholds(counts)
        by_case = {job.case: job for job in jobs}
        examples = tuple(example_of(by_case[case], source) for case in best_and_worst(counts))
        return Evaluation(counts, _sums(parts, names), _with_members(description, parts[0]), examples)

    if output is None:
        return finish(_run(jobs, executor, progress))
    about = {key: value for key, value in description.items() if key not in ("left_out", "zero_by_zero", "ensembles")}
    about["models"] = {name: {**entry, "files": None} for name, entry in description["models"].items()}
    about["lead times"] = jobs[0].lead_times.astype(int).tolist()
    with CaseStore(output, about, resume=resume, overwrite=overwrite) as store:
        made_of = {job.case: {name: digests[file.path] for name, file in job.files} for job in jobs}
        found = finish(_run(jobs, executor, progress, store, made_of))
        found.save(output, overwrite=overwrite)
        store.remove()
    return found


def _rules(
    thresholds: Sequence[float] | np.ndarray, windows: Sequence[int], comparison: Comparison, source: RadarArchive
) -> FieldRules:
    levels = check_thresholds(thresholds)
    if any(window < 1 or window % 2 == 0 for window in windows):
        raise ConfigError(f"FSS windows must be odd numbers of pixels, got {', '.join(map(str, windows))}")
    smaller = min(source.grid.shape)
    fitting = sorted({int(window) for window in windows if window <= smaller})
    too_large = sorted({int(window) for window in windows if window > smaller})
    if too_large:
        shown = ", ".join(map(str, too_large))
        log.warning("FSS windows of %s pixels are larger than the grid (%d) and left out", shown, smaller)
    return FieldRules(tuple(levels.tolist()), tuple(fitting), comparison)


def _run(
    jobs: Sequence[CaseJob],
    executor: Executor | None,
    progress: Progress | None,
    store: CaseStore | None = None,
    files: Mapping[Case, Mapping[str, str]] | None = None,
) -> list[CaseScores]:
    """The scores of all cases in the order of the jobs; those in the store, of the same `files`, are not made again."""
    made_of = files or {job.case: {} for job in jobs}
    found = {} if store is None else {job.case: store.read(job.case, made_of[job.case]) for job in jobs}
    kept = {case: scores for case, scores in found.items() if scores is not None}
    if kept:
        log.info("%d of %d cases were scored before the run was stopped", len(kept), len(jobs))
    outstanding = [job for job in jobs if job.case not in kept]
    results = map(score_case, outstanding) if executor is None else _in_order(executor, outstanding)
    for scores in results if progress is None else progress(results, len(outstanding)):
        if store is not None:
            store.write(scores, made_of[scores.case])
        kept[scores.case] = scores
    return [kept[job.case] for job in jobs]


def _in_order(executor: Executor, jobs: Sequence[CaseJob], ahead: int = 64) -> Iterator[CaseScores]:
    """Results in the order of the jobs, a bounded number of them under way; none is begun once one has failed."""
    waiting: deque[Any] = deque()
    try:
        for job in jobs:
            waiting.append(executor.submit(score_case, job))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _require_valid(parts: Sequence[CaseScores], names: Sequence[str], source: RadarArchive) -> None:
    if any(part.table.any() for part in parts):
        return
    pixels = sum(int(part.pixels.sum()) for part in parts)
    shares = {name: sum(part.valid[name] for part in parts) / pixels for name in ("the archive", *names)}
    shown = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    raise DataError(
        f"no pixel of {source.path} is valid in the observation and in all forecasts; valid by themselves: {shown}",
        "leave out the forecast that has no values, or evaluate where and when the radar measured",
    )


def _counts(parts: Sequence[CaseScores], names: Sequence[str], job: CaseJob) -> ContingencyCounts:
    table = np.stack([part.table for part in parts], axis=1)
    return ContingencyCounts(
        tuple(names),
        tuple(part.case for part in parts),
        job.lead_times,
        np.array(job.rules.thresholds),
        **dict(zip(CONTINGENCY, np.moveaxis(table, -1, 0), strict=True)),
        units=UNITS,
        pixels=np.stack([part.pixels for part in parts]),
        mask_digest=np.stack([part.digest for part in parts]),
        comparison=job.comparison,
    )


def _sums(parts: Sequence[CaseScores], names: Sequence[str]) -> dict[str, dict[str, Sums]]:
    """By kind and model; a kind that some case of a model lacks is left out of that model."""
    kinds = {kind for part in parts for sums in part.sums.values() for kind in sums}
    return {
        kind: {
            name: stack_cases([part.sums[name][kind] for part in parts])
            for name in names
            if all(kind in part.sums[name] for part in parts)
        }
        for kind in sorted(kinds)
    }


def _tell_of_thresholds(counts: ContingencyCounts) -> None:
    """Say which thresholds lie outside the data; they are scored like the others."""
    never = (
        counts.total == counts.correct_negatives,
        "is nowhere, neither observed nor forecast: its scores are undefined",
    )
    always = counts.total == counts.hits, "is everywhere, observed and forecast: its scores tell nothing"
    for outside, finding in (never, always):
        for level in counts.thresholds[outside.all(axis=(0, 1, 2))]:
            log.warning("Threshold outside the data: rain %s %g mm/h %s", counts.comparison, level, finding)


def _describe(
    models: Mapping[str, Sequence[ForecastFile]],
    baselines: Sequence[Baseline],
    source: RadarArchive,
    label: str,
    rules: FieldRules,
    comparison: Comparison,
    digests: Mapping[Path, str],
) -> dict[str, Any]:
    """What the scores come from, before they are made; `digests` of the files that are read."""
    described: dict[str, Any] = {}
    for name, files in models.items():
        known = {key: str(files[0].attributes[key]) for key in MODEL_ATTRIBUTES if key in files[0].attributes}
        used = [file for file in files if file.path in digests]
        described[name] = {
            "kind": "forecast",
            "attributes": known,
            "files": {f"{file.path.parent.name}/{file.path.name}": digests[file.path] for file in used},
        }
    for baseline in baselines:
        attributes = {"input_frames": str(baseline.input_frames)}
        described[baseline.name] = {"kind": "baseline", "attributes": attributes, "files": {}}
    packages = {"nowcast": "nowcast-pipeline", "numpy": "numpy", "numba": "numba"}
    return {
        "comparison": comparison,
        "thresholds": list(rules.thresholds),
        "units": UNITS,
        "zero_by_zero": "undefined",
        "ensembles": "counts and errors are those of the members' mean",
        "windows": list(rules.windows),
        "pixel_km": round(float(np.mean(source.grid.pixel_size_km)), 3),
        "sources": {label: _source(source)},
        "models": described,
        "versions": {"python": [platform.python_version()]}
        | {name: [_version(package)] for name, package in packages.items()},
    }


def _with_members(description: Mapping[str, Any], part: CaseScores) -> dict[str, Any]:
    """The description, complete with the ensemble sizes that reading found."""
    models = {name: {**entry, "members": part.members[name]} for name, entry in description["models"].items()}
    left_out = {reason: sorted(items) for reason, items in description["left_out"].items()}
    return {**description, "models": models, "left_out": left_out}


def _source(source: RadarArchive) -> dict[str, Any]:
    return {
        "name": source.path.name,
        "fingerprint": source.fingerprint,
        "grid": source.grid.describe(),
        "shape": list(source.grid.shape),
        "step_minutes": source.step_minutes,
        "interval_minutes": source.interval_minutes,
        "first_time": f"{source.times[0]}Z",
        "last_time": f"{source.times[-1]}Z",
        "synthetic": source.is_synthetic,
        "attributes": {key: _plain(source.attrs[key]) for key in SOURCE_ATTRIBUTES if key in source.attrs},
    }


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, str | int | float | bool) else str(value)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
