"""evaluate: forecasts, an archive and baselines into counts and sums, one case at a time.

All models, baselines and the observation of a case share one mask. Memory holds the fields of one case (times the
number of workers); what is kept of a case is a few kilobytes.
"""

from __future__ import annotations

import logging
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nowcast.data.archive import RadarArchive, open_archive
from nowcast.errors import ConfigError, DataError
from nowcast.verification.counts import (
    AT_OR_ABOVE,
    CONTINGENCY,
    Case,
    Comparison,
    ContingencyCounts,
    check_thresholds,
    count_events,
    mask_digest,
)
from nowcast.verification.evaluation import Evaluation, Example, best_and_worst
from nowcast.verification.forecast_files import ForecastFile, group_by_model
from nowcast.verification.measures import FieldRules, field_sums, stack_cases
from nowcast.verification.sums import Sums

log = logging.getLogger(__name__)

UNITS = "mm h-1"
WINDOWS = (1, 5, 11, 21, 41)
EXAMPLE_LEADS = 4
EXAMPLE_PIXELS = 256
# Attributes of an archive that a reader of scores wants to know.
SOURCE_ATTRIBUTES = ("institution", "license", "source_format", "product", "zr_a", "zr_b")
# Attributes of a forecast file that say what made it.
MODEL_ATTRIBUTES = ("model_id", "config_hash", "weights_sha256", "bundle_sha256", "nowcast_version", "synthetic")


class Baseline(Protocol):
    """A forecast made here from the archive's own frames; see `nowcast.prediction`."""

    @property
    def name(self) -> str: ...

    @property
    def input_frames(self) -> int: ...

    def forecast_frames(self, frames: np.ndarray, num_leads: int) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class _Job:
    """What one case needs; sent to another process as it is."""

    case: Case
    archive: Path
    files: tuple[tuple[str, ForecastFile], ...]
    baselines: tuple[Baseline, ...]
    lead_times: np.ndarray
    rules: FieldRules
    comparison: Comparison


@dataclass(frozen=True, eq=False)
class _CaseScores:
    """What is kept of one case; models in the order of the job."""

    case: Case
    table: np.ndarray  # (model, lead_time, threshold, 4)
    pixels: np.ndarray  # (lead_time,)
    digest: np.ndarray  # (lead_time,)
    valid: Mapping[str, int]  # pixels of all leads that each field has by itself
    members: Mapping[str, int]
    sums: Mapping[str, Mapping[str, Sums]]  # by model, then kind


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
    progress: Callable[[Iterator[Any], int], Iterable[Any]] | None = None,
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
        progress: Wraps the iterator of cases: (iterator, number of cases) -> iterable.

    Raises:
        DataError: Other grids, intervals or units, no overlap in time, no pixel valid in all; both sides are named.
        ConfigError: Thresholds or windows that cannot be used.
    """
    source = archive if isinstance(archive, RadarArchive) else open_archive(archive)
    rules = _rules(thresholds, windows, comparison, source)
    named = [entry if isinstance(entry, tuple) else (None, entry) for entry in forecasts]
    models = group_by_model([path for _, path in named], [name for name, _ in named])
    wanted = tuple(baseline for baseline in baselines if baseline.name not in models)
    if not models:
        raise ConfigError("there is no forecast to evaluate", "give forecast files, stores or folders of them")
    for name, files in models.items():
        _require_fit(name, files[0], source)
    label = label or source.path.stem
    jobs, left_out = _plan(models, wanted, source, label, rules, comparison, first, last)
    parts = _run(jobs, executor, progress)
    names = (*models, *(baseline.name for baseline in wanted))
    _require_valid(parts, names, source)
    counts = _counts(parts, names, jobs[0])
    kinds = {kind for part in parts for sums in part.sums.values() for kind in sums}
    sums = {
        kind: {
            name: stack_cases([part.sums[name][kind] for part in parts])
            for name in names
            if all(kind in part.sums[name] for part in parts)
        }
        for kind in sorted(kinds)
    }
    by_case = {job.case: job for job in jobs}
    return Evaluation(
        counts,
        sums,
        _provenance(models, wanted, source, label, rules, comparison, parts, left_out),
        tuple(_example(by_case[case], source) for case in best_and_worst(counts)),
    )


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


def _require_fit(name: str, file: ForecastFile, source: RadarArchive) -> None:
    if not file.grid.matches(source.grid):
        raise DataError(
            f"{name} ({file.path}) lies on another grid than {source.path}: {file.grid.describe_place()}, "
            f"archive {source.grid.describe_place()}",
            "evaluate against an archive of the forecast's grid",
        )
    lengths = (file.interval_minutes, source.interval_minutes)
    if None not in lengths and lengths[0] != lengths[1]:
        raise DataError(
            f"{name} ({file.path}) holds means over {lengths[0]:g} min, {source.path} means over {lengths[1]:g} min",
            "a mean over another interval has other extremes: bring both to one interval",
        )


def _plan(
    models: Mapping[str, Sequence[ForecastFile]],
    baselines: Sequence[Baseline],
    source: RadarArchive,
    label: str,
    rules: FieldRules,
    comparison: Comparison,
    first: np.datetime64 | None,
    last: np.datetime64 | None,
) -> tuple[list[_Job], dict[str, list[str]]]:
    """One job a case that can be scored, and what is left out, by reason."""
    left_out: dict[str, list[str]] = {}
    lead_times = _common_leads(models, source, left_out)
    by_time = {name: {time: file for file in files for time in file.issue_times} for name, files in models.items()}
    times = _common_times(by_time, source, label, left_out, first, last)
    present = set(source.times[source.present].tolist())
    jobs = []
    for time in times:
        reason = _obstacle(time, lead_times, baselines, source, present)
        if reason is None:
            files = tuple((name, held[time]) for name, held in by_time.items())
            case = Case(label, time)
            jobs.append(_Job(case, source.path, files, tuple(baselines), lead_times, rules, comparison))
            blind = [lead.item() for lead in lead_times if (time + lead).item() not in present]
            if blind:
                names = [f"{case} + {lead.total_seconds() / 60:g} min" for lead in blind]
                left_out.setdefault("fields without an observed frame", []).extend(names)
        else:
            left_out.setdefault(reason, []).append(str(Case(label, time)))
    if not jobs:
        reasons = "; ".join(f"{reason}: {len(items)}" for reason, items in left_out.items())
        raise DataError(
            f"no forecast can be scored: issued from {times[0]} to {times[-1]} for {_span(lead_times)} ahead, "
            f"{source.path} reaches from {source.times[0]} to {source.times[-1]} every {source.step_minutes:g} min "
            f"({reasons})",
            "evaluate against an archive of the forecasts' times",
        )
    return jobs, left_out


def _common_leads(
    models: Mapping[str, Sequence[ForecastFile]], source: RadarArchive, left_out: dict[str, list[str]]
) -> np.ndarray:
    """Lead times that all models have, that are ahead of the issue time, and whole steps of the archive."""
    axes = {name: set(files[0].lead_times.tolist()) for name, files in models.items()}
    every = set().union(*axes.values())
    shared = set.intersection(*axes.values())
    if not shared:
        shown = ", ".join(f"{name} has {_span(files[0].lead_times)}" for name, files in models.items())
        raise DataError(f"the forecasts have no lead time in common: {shown}")
    step, ahead = source.step.astype("timedelta64[s]").item(), {lead for lead in shared if lead > timedelta(0)}
    if not ahead:
        raise DataError(
            f"no lead time of the forecasts is ahead of its issue time: {_span(np.array(sorted(shared), '<m8[s]'))}",
            "a lead time is the time from the issue time to the end of the interval that a field stands for",
        )
    on_axis = sorted(lead for lead in ahead if not lead % step)
    if not on_axis:
        name, files = next(iter(models.items()))
        raise DataError(
            f"the lead times of {name} ({_span(files[0].lead_times)}) are no steps of {source.path}, "
            f"which has a frame every {source.step_minutes:g} min",
            "evaluate against an archive of the forecast's step",
        )
    for reason, lost in (
        ("lead times that not all models have", every - shared),
        ("lead times that are not ahead", shared - ahead),
        ("lead times that are no steps of the archive", ahead - set(on_axis)),
    ):
        if lost:
            left_out[reason] = [f"{lead.total_seconds() / 60:g} min" for lead in sorted(lost)]
    return np.array(on_axis, dtype="timedelta64[s]")


def _common_times(
    by_time: Mapping[str, Mapping[np.datetime64, ForecastFile]],
    source: RadarArchive,
    label: str,
    left_out: dict[str, list[str]],
    first: np.datetime64 | None,
    last: np.datetime64 | None,
) -> np.ndarray:
    """Issue times that all models have, ascending."""
    start, stop = (None if bound is None else bound.astype("datetime64[s]") for bound in (first, last))
    sets = {
        name: {time for time in held if (start is None or time >= start) and (stop is None or time <= stop)}
        for name, held in by_time.items()
    }
    shared = set.intersection(*sets.values())
    if not shared:
        shown = ", ".join(f"{name} from {min(held)} to {max(held)}" for name, held in by_time.items())
        window = "" if first is None and last is None else f" from {first or 'the first'} to {last or 'the last'}"
        raise DataError(f"no issue time{window} is in all forecasts: {shown}", "give forecasts of the same times")
    lost = set().union(*sets.values()) - shared
    if lost:
        left_out["issue times that not all models have"] = [str(Case(label, time)) for time in sorted(lost)]
    return np.array(sorted(shared), dtype="datetime64[s]")


def _obstacle(
    time: np.datetime64,
    lead_times: np.ndarray,
    baselines: Sequence[Baseline],
    source: RadarArchive,
    present: set[Any],
) -> str | None:
    """Why a case cannot be scored, or None."""
    if not any(valid.item() in present for valid in time + lead_times):
        return "issue times without any observed frame after them"
    for baseline in baselines:
        inputs = time - np.arange(baseline.input_frames) * source.step
        if not all(valid.item() in present for valid in inputs):
            return f"issue times without the {baseline.input_frames} frames that {baseline.name} starts from"
    return None


def _run(
    jobs: Sequence[_Job], executor: Executor | None, progress: Callable[[Iterator[Any], int], Iterable[Any]] | None
) -> list[_CaseScores]:
    results = map(_score_case, jobs) if executor is None else _in_order(executor, jobs)
    return list(results if progress is None else progress(results, len(jobs)))


def _in_order(executor: Executor, jobs: Sequence[_Job], ahead: int = 64) -> Iterator[_CaseScores]:
    """Results in the order of the jobs, a bounded number of them under way."""
    waiting: deque[Any] = deque()
    for job in jobs:
        waiting.append(executor.submit(_score_case, job))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _score_case(job: _Job) -> _CaseScores:
    source = open_archive(job.archive)
    observed, members = _fields(job, source)
    valid_alone = {"the archive": int(np.count_nonzero(~np.isnan(observed)))}
    valid = ~np.isnan(observed)
    for name, field in members.items():
        has_all = ~np.isnan(field).any(axis=0)
        valid_alone[name] = int(np.count_nonzero(has_all))
        valid &= has_all
    observed[~valid] = np.nan
    tables, sums = [], {}
    for name, field in members.items():
        mean = field[0] if field.shape[0] == 1 else field.mean(axis=0, dtype=np.float64).astype(np.float32)
        mean[~valid] = np.nan
        events = count_events(mean, observed, job.rules.thresholds, comparison=job.comparison)
        tables.append(events.table())
        sums[name] = field_sums(field, mean, observed, job.rules)
    pixels = np.full(job.lead_times.size, valid[0].size, dtype=np.int64)
    return _CaseScores(
        job.case,
        np.stack(tables),
        pixels,
        np.array([mask_digest(mask) for mask in valid], dtype=np.uint64),
        valid_alone,
        {name: field.shape[0] for name, field in members.items()},
        sums,
    )


def _fields(job: _Job, source: RadarArchive) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Observed (lead_time, y, x) and every model's (member, lead_time, y, x) float32 [mm/h], NaN where missing."""
    time = job.case.issue_time
    observed = np.full((job.lead_times.size, *source.grid.shape), np.nan, dtype=np.float32)
    for index, valid_time in enumerate(time + job.lead_times):
        slot = int((valid_time - source.times[0]) // source.step)
        if 0 <= slot < source.times.size and source.times[slot] == valid_time and source.present[slot]:
            observed[index] = source.rain_rate(slot, slot + 1)[0]
    members = {name: file.read(time, job.lead_times) for name, file in job.files}
    steps = (job.lead_times // source.step).astype(int)
    assert steps.min() >= 1, "a lead time of 0 would be read from the end of what a baseline gives"
    for baseline in job.baselines:
        stop = source.index_of(time) + 1
        frames = source.rain_rate(stop - baseline.input_frames, stop)
        ahead = baseline.forecast_frames(frames, int(steps.max()))
        members[baseline.name] = np.array(ahead[steps - 1], dtype=np.float32)[None]
    return observed, members


def _require_valid(parts: Sequence[_CaseScores], names: Sequence[str], source: RadarArchive) -> None:
    if any(part.table.any() for part in parts):
        return
    pixels = sum(int(part.pixels.sum()) for part in parts)
    shares = {name: sum(part.valid[name] for part in parts) / pixels for name in ("the archive", *names)}
    shown = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    raise DataError(
        f"no pixel of {source.path} is valid in the observation and in all forecasts; valid by themselves: {shown}"
    )


def _counts(parts: Sequence[_CaseScores], names: Sequence[str], job: _Job) -> ContingencyCounts:
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


def _provenance(
    models: Mapping[str, Sequence[ForecastFile]],
    baselines: Sequence[Baseline],
    source: RadarArchive,
    label: str,
    rules: FieldRules,
    comparison: Comparison,
    parts: Sequence[_CaseScores],
    left_out: Mapping[str, list[str]],
) -> dict[str, Any]:
    members, scored = parts[0].members, {part.case for part in parts}
    described: dict[str, Any] = {}
    for name, files in models.items():
        known = {key: str(files[0].attributes[key]) for key in MODEL_ATTRIBUTES if key in files[0].attributes}
        used = [file for file in files if any(Case(label, time) in scored for time in file.issue_times)]
        described[name] = {
            "kind": "forecast",
            "members": members[name],
            "attributes": known,
            "files": {f"{file.path.parent.name}/{file.path.name}": file.sha256() for file in used},
        }
    for baseline in baselines:
        described[baseline.name] = {
            "kind": "baseline",
            "members": members[baseline.name],
            "attributes": {"input_frames": str(baseline.input_frames)},
            "files": {},
        }
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
        "left_out": {reason: sorted(items) for reason, items in left_out.items()},
        "versions": {"python": [platform.python_version()]}
        | {name: [_version(package)] for name, package in packages.items()},
    }


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


def _example(job: _Job, source: RadarArchive) -> Example:
    observed, members = _fields(job, source)
    size = job.lead_times.size
    leads = np.unique(np.linspace(0, size - 1, min(size, EXAMPLE_LEADS)).round().astype(int))
    factor = -(-max(source.grid.shape) // EXAMPLE_PIXELS)
    dy, dx = source.grid.pixel_size_km
    return Example(
        job.case,
        job.lead_times[leads],
        _coarse(observed[leads], factor),
        {name: _coarse(field.mean(axis=0)[leads], factor) for name, field in members.items()},
        (dy * factor, dx * factor),
    )


def _coarse(field: np.ndarray, factor: int) -> np.ndarray:
    """Means of the valid pixels of blocks; a ragged edge is filled up with missing pixels."""
    rows, columns = field.shape[-2:]
    padded = np.pad(field, ((0, 0), (0, -rows % factor), (0, -columns % factor)), constant_values=np.nan)
    blocks = padded.reshape(field.shape[0], padded.shape[1] // factor, factor, padded.shape[2] // factor, factor)
    number = np.count_nonzero(~np.isnan(blocks), axis=(2, 4))
    total = np.nansum(blocks, axis=(2, 4), dtype=np.float64)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan).astype(np.float32)


def _span(lead_times: np.ndarray) -> str:
    minutes = lead_times / np.timedelta64(60, "s")
    return f"{minutes[0]:g} to {minutes[-1]:g} min" if minutes.size > 1 else f"{minutes[0]:g} min"
