"""Forecast files of any CF layout, opened lazily: which issue times they hold, and one issue time at a time.

netCDF or Zarr, one issue time or many, ours or another program's. What a file must say itself: rain rate with its
units, when it was issued, and for which times it holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import xarray as xr

from nowcast.data.grid import Grid
from nowcast.errors import DataError

RATE_NAMES = ("rainfall_rate", "rainfall_flux", "precipitation_flux", "lwe_precipitation_rate")
# What one unit is in mm/h; a kilogram of water on a square metre stands one millimetre high.
RATE_UNITS = {
    "mm h-1": 1.0,
    "mm/h": 1.0,
    "mm hr-1": 1.0,
    "mm/hr": 1.0,
    "mm h**-1": 1.0,
    "kg m-2 h-1": 1.0,
    "mm s-1": 3600.0,
    "kg m-2 s-1": 3600.0,
    "m s-1": 3.6e6,
    "m h-1": 1000.0,
}
PERIOD_UNITS = {
    "s": 1,
    "second": 1,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hr": 3600,
    "hour": 3600,
    "d": 86400,
    "day": 86400,
}
SUFFIXES = (".nc", ".nc4", ".cdf")


@dataclass(frozen=True, eq=False)
class ForecastFile:
    """What a forecast file says of itself; the fields stay on disk until `read`.

    Attributes:
        path: A netCDF file or a Zarr store.
        model: Its attribute `model`, or None.
        issue_times: datetime64[s], ascending.
        lead_times: timedelta64[s], ascending.
        grid: North first, whatever the file's order.
        members: Ensemble size, 1 when deterministic.
        interval_minutes: Of the mean that a field stands for, None where unknown or instantaneous.
        attributes: Global attributes.
    """

    path: Path
    model: str | None
    issue_times: np.ndarray
    lead_times: np.ndarray
    grid: Grid
    members: int
    interval_minutes: float | None
    attributes: dict[str, Any]

    def read(self, issue_time: np.datetime64, lead_times: np.ndarray) -> np.ndarray:
        """(member, lead_time, y, x) float32 [mm/h] of one issue time, NaN where missing; north first."""
        with _open(self.path) as dataset:
            rate = _rate(dataset, self.path)
            axes = _Axes.of(dataset, rate, self.path)
            at = {}
            if axes.issue is not None:
                at[axes.issue] = int(np.flatnonzero(self.issue_times == issue_time)[0])
            leads = np.searchsorted(self.lead_times, lead_times)
            if axes.lead is not None:
                at[axes.lead] = leads  # type: ignore[assignment]
            values = rate.isel(at)
            wanted = [axis for axis in (axes.member, axes.lead, axes.y, axes.x) if axis is not None]
            field = np.asarray(values.transpose(*wanted).values, dtype=np.float32)
            for position, axis in enumerate((axes.member, axes.lead)):
                if axis is None:
                    field = np.expand_dims(field, position)
            flips = [slice(None, None, -1) if _runs_backwards(dataset, axes, name) else slice(None) for name in "yx"]
            factor = RATE_UNITS[str(rate.attrs["units"])]
        return np.ascontiguousarray(field[(..., *flips)]) * np.float32(factor)

    def sha256(self) -> str:
        """Digest of the bytes of the file, or of all files of a store with their names."""
        digest = hashlib.sha256()
        if self.path.is_file():
            with self.path.open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
            return digest.hexdigest()
        for part in sorted(entry for entry in self.path.rglob("*") if entry.is_file()):
            digest.update(str(part.relative_to(self.path)).encode() + b"\0")
            digest.update(part.read_bytes())
        return digest.hexdigest()


def find_forecast_files(path: str | Path) -> list[Path]:
    """The forecast files a path stands for: itself, or all netCDF files and Zarr stores in a folder.

    Raises:
        DataError: There is nothing, or a folder without forecasts.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"there is no forecast {path}", "make one with: nowcast predict MODEL ARCHIVE -o " + str(path))
    if path.is_file() or path.suffix == ".zarr" or (path / "zarr.json").exists() or (path / ".zgroup").exists():
        return [path]
    found = sorted(entry for entry in path.iterdir() if entry.suffix in (*SUFFIXES, ".zarr") and entry.name[0] != ".")
    if not found:
        raise DataError(f"the folder {path} holds no forecast file (.nc or .zarr)")
    return found


def open_forecast_file(path: str | Path) -> ForecastFile:
    """Read what a forecast file says of itself.

    Raises:
        DataError: It cannot be read, or rain rate, units, issue time, lead time or grid are missing; the file is named.
    """
    path = Path(path)
    with _open(path) as dataset:
        rate = _rate(dataset, path)
        axes = _Axes.of(dataset, rate, path)
        attributes = {str(key): _plain(value) for key, value in dataset.attrs.items()}
        issue = _coordinate(dataset, "forecast_reference_time")
        if issue is None or not np.issubdtype(issue.dtype, np.datetime64):
            raise DataError(f"{path} does not say when it was issued (standard_name 'forecast_reference_time')")
        issue_times = np.atleast_1d(issue.values).astype("datetime64[s]")
        lead_times = _lead_times(dataset, issue_times, axes, path)
        for name, values in (("issue times", issue_times), ("lead times", lead_times)):
            if values.size == 0 or np.any(np.diff(values) <= np.timedelta64(0, "s")):
                raise DataError(f"{path}: the {name} do not ascend")
        model = attributes.get("model")
        return ForecastFile(
            path,
            None if model is None else str(model),
            issue_times,
            lead_times,
            _grid(dataset, rate, axes, path),
            1 if axes.member is None else int(rate.sizes[axes.member]),
            _interval(dataset, rate, axes, attributes),
            attributes,
        )


@dataclass(frozen=True)
class _Axes:
    """Names of the dimensions of the rain rate; None for what the file has no axis for."""

    member: str | None
    issue: str | None
    lead: str | None
    y: str
    x: str

    @classmethod
    def of(cls, dataset: xr.Dataset, rate: xr.DataArray, path: Path) -> _Axes:
        names = [str(name) for name in rate.dims]
        found: dict[str, str] = {}
        for name in names:
            coordinate = dataset[name] if name in dataset.variables else None
            kind = _axis_kind(name, {} if coordinate is None else coordinate.attrs)
            if kind is None or kind in found:
                raise DataError(f"{path}: the axis '{name}' of {rate.name} {tuple(names)} is not understood")
            found[kind] = name
        if not {"y", "x"} <= found.keys():
            raise DataError(f"{path}: {rate.name} has the axes {tuple(names)}, expected y and x among them")
        if "time" in found and "lead" in found:
            found.setdefault("issue", found.pop("time"))
        lead = found.get("lead", found.get("time"))
        return cls(found.get("member"), found.get("issue"), lead, found["y"], found["x"])


def _axis_kind(name: str, attributes: dict[Any, Any]) -> str | None:
    standard = attributes.get("standard_name")
    by_standard_name = {
        "realization": "member",
        "forecast_reference_time": "issue",
        "forecast_period": "lead",
        "time": "time",
        "projection_y_coordinate": "y",
        "projection_x_coordinate": "x",
        "latitude": "y",
        "longitude": "x",
    }
    by_axis = {"Y": "y", "X": "x", "T": "time"}
    by_name = {
        "y": "y", "x": "x", "lat": "y", "lon": "x", "latitude": "y", "longitude": "x", "time": "time",
        "lead_time": "lead", "step": "lead", "leadtime": "lead", "member": "member", "realization": "member",
        "ensemble": "member", "number": "member", "issue_time": "issue", "forecast_reference_time": "issue",
        "init_time": "issue",
    }  # fmt: skip
    return by_standard_name.get(str(standard)) or by_axis.get(str(attributes.get("axis"))) or by_name.get(name.lower())


def _open(path: Path) -> xr.Dataset:
    if not path.exists():
        raise DataError(f"there is no forecast file {path}")
    try:
        if path.is_dir():
            return xr.open_zarr(path, consolidated=False, decode_timedelta=False, chunks=None)
        return xr.open_dataset(path, decode_timedelta=False)
    except (OSError, ValueError, KeyError, FileNotFoundError) as error:
        raise DataError(f"{path} cannot be read as netCDF or Zarr: {error}", "give a CF forecast file") from error


def _rate(dataset: xr.Dataset, path: Path) -> xr.DataArray:
    for wanted in RATE_NAMES:
        for name in dataset.data_vars:
            if wanted in (name, dataset[name].attrs.get("standard_name")):
                rate = dataset[name]
                if str(rate.attrs.get("units")) not in RATE_UNITS:
                    raise DataError(
                        f"{path}: rain rate has units {rate.attrs.get('units')!r}, expected 'mm h-1'",
                        "known are " + ", ".join(RATE_UNITS),
                    )
                return rate
    raise DataError(
        f"{path} holds no rain rate: no variable has one of the standard names {', '.join(RATE_NAMES)}",
        "give a CF forecast file",
    )


def _coordinate(dataset: xr.Dataset, standard_name: str) -> xr.DataArray | None:
    for name in dataset.variables:
        if standard_name in (name, dataset[name].attrs.get("standard_name")):
            return dataset[name]
    return None


def _lead_times(dataset: xr.Dataset, issue_times: np.ndarray, axes: _Axes, path: Path) -> np.ndarray:
    period = _coordinate(dataset, "forecast_period")
    if period is not None and period.ndim <= 1:
        unit = str(period.attrs.get("units", "no units")).removesuffix("s")
        if np.issubdtype(period.dtype, np.timedelta64):
            return np.atleast_1d(period.values).astype("timedelta64[s]")
        if unit not in PERIOD_UNITS:
            raise DataError(f"{path}: lead times have units {period.attrs.get('units')!r}, expected 'minutes'")
        seconds = np.round(np.atleast_1d(period.values).astype(np.float64) * PERIOD_UNITS[unit])
        return np.asarray(seconds.astype("timedelta64[s]"))
    time = _coordinate(dataset, "time")
    if time is None or issue_times.size != 1 or not np.issubdtype(time.dtype, np.datetime64):
        raise DataError(f"{path} does not say its lead times (standard_name 'forecast_period', or 'time')")
    return np.asarray(np.atleast_1d(time.values).astype("datetime64[s]") - issue_times[0])


def _runs_backwards(dataset: xr.Dataset, axes: _Axes, name: str) -> bool:
    values = dataset[axes.y if name == "y" else axes.x].values
    ascends = bool(values[-1] > values[0])
    return ascends if name == "y" else not ascends


def _grid(dataset: xr.Dataset, rate: xr.DataArray, axes: _Axes, path: Path) -> Grid:
    for axis in (axes.y, axes.x):
        if axis not in dataset.variables:
            raise DataError(f"{path}: the axis '{axis}' has no coordinates")
    y, x = (np.asarray(dataset[axis].values, dtype=np.float64) for axis in (axes.y, axes.x))
    y = y[::-1] if _runs_backwards(dataset, axes, "y") else y
    x = x[::-1] if _runs_backwards(dataset, axes, "x") else x
    units = str(dataset[axes.x].attrs.get("units", ""))
    if units == "km":
        x, y = x * 1000.0, y * 1000.0
    mapping = rate.attrs.get("grid_mapping") or rate.encoding.get("grid_mapping")
    if mapping is not None and mapping in dataset.variables:
        attributes = dataset[mapping].attrs
        crs = attributes.get("crs_wkt") or attributes.get("spatial_ref")
        try:
            return Grid(x, y, str(crs) if crs else pyproj.CRS.from_cf(dict(attributes)).to_wkt())
        except (pyproj.exceptions.CRSError, KeyError) as error:
            raise DataError(f"{path}: the grid mapping '{mapping}' is not understood: {error}") from error
    if units.startswith("degree"):
        return Grid(x, y, "EPSG:4326")
    raise DataError(f"{path} does not say its map projection: {rate.name} has no grid_mapping variable")


def _interval(dataset: xr.Dataset, rate: xr.DataArray, axes: _Axes, attributes: dict[str, Any]) -> float | None:
    if "interval_minutes" in attributes:
        return float(attributes["interval_minutes"])
    time = _coordinate(dataset, "time")
    bounds = None if time is None else time.attrs.get("bounds") or time.encoding.get("bounds")
    if bounds is None or bounds not in dataset.variables:
        return None
    values = np.asarray(dataset[bounds].values).reshape(-1, 2)
    return float((values[0, 1] - values[0, 0]) / np.timedelta64(60, "s"))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def group_by_model(
    paths: Sequence[str | Path], names: Sequence[str | None] | None = None
) -> dict[str, list[ForecastFile]]:
    """All files of all paths by model: the given name, else the file's own, else the path's.

    Raises:
        DataError: Two files of one model for the same issue time, or of different lead times or grids.
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
            f"forecasts of {model} lie on different grids: {first.grid.describe()} in {first.path}, "
            f"{file.grid.describe()} in {file.path}"
        )


def _leads(file: ForecastFile) -> str:
    minutes = file.lead_times / np.timedelta64(60, "s")
    return f"{minutes[0]:g} to {minutes[-1]:g} min ({minutes.size})"
