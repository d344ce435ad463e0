"""Which forecast files belong to which model: files of one model with other issue times are one forecast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nowcast.data.forecast_file import ForecastFile, find_forecast_files, open_forecast_file
from nowcast.errors import DataError


def group_by_model(
    paths: Sequence[str | Path], names: Sequence[str | None] | None = None
) -> dict[str, list[ForecastFile]]:
    """All files of all paths by model: the given name, else the file's own, else the path's.

    Raises:
        DataError: Two files of one model for the same issue time, or of different lead times, grids, intervals,
            numbers of members or weights.
    """
    groups: dict[str, list[ForecastFile]] = {}
    for path, name in zip(paths, names or [None] * len(paths), strict=True):
        for entry in find_forecast_files(path):
            file = open_forecast_file(entry)
            groups.setdefault(name or file.model or Path(path).stem, []).append(file)
    for model, files in groups.items():
        seen: dict[np.datetime64, Path] = {}
        for file in files:
            _require_like(files[0], file, model)
            for time in file.issue_times:
                if time in seen:
                    raise DataError(
                        f"two forecasts of {model} issued at {time}: {seen[time]} and {file.path}",
                        "give one of them, or name them apart: NAME=PATH",
                    )
                seen[time] = file.path
    return groups


def _require_like(first: ForecastFile, file: ForecastFile, model: str) -> None:
    if not np.array_equal(first.lead_times, file.lead_times):
        raise DataError(
            f"forecasts of {model} have different lead times: {_leads(first)} in {first.path}, "
            f"{_leads(file)} in {file.path}"
        )
    if not first.grid.matches(file.grid):
        raise DataError(
            f"forecasts of {model} lie on different grids: {first.grid.describe_place()} in {first.path}, "
            f"{file.grid.describe_place()} in {file.path}"
        )

    for what, ours, theirs in (
        ("numbers of members", first.members, file.members),
        ("intervals [min]", first.interval_minutes, file.interval_minutes),
        ("weights (bundle_sha256)", first.attributes.get("bundle_sha256"), file.attributes.get("bundle_sha256")),
    ):
        if ours != theirs:
            raise DataError(
                f"forecasts of {model} have different {what}: {ours} in {first.path}, {theirs} in {file.path}",
                "name them apart: NAME=PATH",
            )


def _leads(file: ForecastFile) -> str:
    minutes = file.lead_times / np.timedelta64(60, "s")
    return f"{minutes[0]:g} to {minutes[-1]:g} min ({minutes.size})"
