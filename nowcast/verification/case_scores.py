"""One case of an evaluation: its fields read once, and what is kept of them.

All models, baselines and the observation of a case share one mask. Memory holds the fields of one case; what is kept is
a few kilobytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from nowcast.data.archive import RadarArchive, open_archive
from nowcast.data.forecast_file import ForecastFile
from nowcast.verification.counting import count_events, mask_digest
from nowcast.verification.counts import Case, Comparison
from nowcast.verification.evaluation import Example
from nowcast.verification.measures import FieldRules, field_sums
from nowcast.verification.sums import Sums

EXAMPLE_LEADS = 4
EXAMPLE_PIXELS = 256


class Baseline(Protocol):
    """A forecast made here from the archive's own frames; see `nowcast.prediction`."""

    @property
    def name(self) -> str: ...

    @property
    def input_frames(self) -> int: ...

    def forecast_frames(self, frames: np.ndarray, num_leads: int) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class CaseJob:
    """What one case needs; sent to another process as it is."""

    case: Case
    archive: Path
    files: tuple[tuple[str, ForecastFile], ...]
    baselines: tuple[Baseline, ...]
    lead_times: np.ndarray
    rules: FieldRules
    comparison: Comparison


@dataclass(frozen=True, eq=False)
class CaseScores:
    """What is kept of one case; models in the order of the job."""

    case: Case
    table: np.ndarray  # (model, lead_time, threshold, 4)
    pixels: np.ndarray  # (lead_time,)
    digest: np.ndarray  # (lead_time,)
    valid: Mapping[str, int]  # pixels of all leads that each field has by itself
    members: Mapping[str, int]
    sums: Mapping[str, Mapping[str, Sums]]  # by model, then kind


def score_case(job: CaseJob) -> CaseScores:
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
    return CaseScores(
        job.case,
        np.stack(tables),
        pixels,
        np.array([mask_digest(mask) for mask in valid], dtype=np.uint64),
        valid_alone,
        {name: field.shape[0] for name, field in members.items()},
        sums,
    )


def _fields(job: CaseJob, source: RadarArchive) -> tuple[np.ndarray, dict[str, np.ndarray]]:
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


def example_of(job: CaseJob, source: RadarArchive) -> Example:
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
