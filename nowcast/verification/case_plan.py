"""Which cases of some forecasts can be scored against an archive, and what is left out, by reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from nowcast.data.archive import RadarArchive
from nowcast.data.forecast_file import ForecastFile
from nowcast.errors import DataError
from nowcast.verification.case_scores import Baseline, CaseJob
from nowcast.verification.counts import Case, Comparison
from nowcast.verification.measures import FieldRules


def plan_cases(
    models: Mapping[str, Sequence[ForecastFile]],
    baselines: Sequence[Baseline],
    source: RadarArchive,
    label: str,
    rules: FieldRules,
    comparison: Comparison,
    first: np.datetime64 | None,
    last: np.datetime64 | None,
) -> tuple[list[CaseJob], dict[str, list[str]]]:
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
            jobs.append(CaseJob(case, source.path, files, tuple(baselines), lead_times, rules, comparison))
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
        raise DataError(
            f"the forecasts have no lead time in common: {shown}",
            "evaluate them apart, or forecast equal lead times",
        )
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


def require_fit(name: str, file: ForecastFile, source: RadarArchive) -> None:
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


def _span(lead_times: np.ndarray) -> str:
    minutes = lead_times / np.timedelta64(60, "s")
    return f"{minutes[0]:g} to {minutes[-1]:g} min" if minutes.size > 1 else f"{minutes[0]:g} min"
