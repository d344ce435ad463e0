"""Forecast: rain-rate fields with issue times and lead times, and the CF files that hold them.

One issue time goes into one netCDF file, several into one Zarr store. Any CF file can be loaded, whoever made it: see
`nowcast.data.forecast_file`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from nowcast.data.forecast_file import CHANCES, open_forecast_file
from nowcast.data.grid import Grid
from nowcast.data.outputs import put_in_place, require_free
from nowcast.errors import DataError

# CF 1.11 asks whether times count leap seconds; POSIX time does not.
LEAP_SECONDS = {"units_metadata": "leap_seconds: none"}
TIME_ENCODING = {
    "units": "seconds since 1970-01-01 00:00:00",
    "calendar": "standard",
    "dtype": "int64",
    "_FillValue": None,
}


@dataclass(frozen=True, eq=False)
class Forecast:
    """Rain rate at every lead time of one or more issue times.

    Attributes:
        rain_rate: (member, issue_time, lead_time, y, x) float32 [mm/h]; NaN where the model has nothing to say.
        issue_times: datetime64[s], ascending.
        lead_times: timedelta64[s], ascending, positive.
        grid: Where the pixels are.
        model: Name of what made it; scores stand under this name.
        interval_minutes: Length of the mean that each field stands for; None for instantaneous rates.
        attributes: Provenance: input times, hashes, versions, synthetic, ...
        chances: (issue_time, lead_time, threshold, y, x) float32 in [0, 1], of reaching each threshold; None where
            the model says nothing of it.
        thresholds: Thresholds of the chances [mm/h], ascending.

    Raises:
        DataError: Axes that do not agree with the arrays, or that do not ascend.
    """

    rain_rate: np.ndarray
    issue_times: np.ndarray
    lead_times: np.ndarray
    grid: Grid
    model: str
    interval_minutes: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    chances: np.ndarray | None = None
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rain_rate", np.asarray(self.rain_rate, dtype=np.float32))
        object.__setattr__(self, "issue_times", np.atleast_1d(np.asarray(self.issue_times, dtype="datetime64[s]")))
        object.__setattr__(self, "lead_times", np.atleast_1d(np.asarray(self.lead_times, dtype="timedelta64[s]")))
        wanted = (self.issue_times.size, self.lead_times.size, *self.grid.shape)
        if self.rain_rate.ndim != 5 or self.rain_rate.shape[1:] != wanted:
            raise DataError(f"a forecast of shape {self.rain_rate.shape} does not fit (member, {wanted})")
        for name, axis in (("issue times", self.issue_times), ("lead times", self.lead_times)):
            if axis.size == 0 or np.any(np.diff(axis) <= np.timedelta64(0, "s")):
                raise DataError(f"the {name} of a forecast must ascend and not be empty")
        if self.chances is not None:
            chances = np.asarray(self.chances, dtype=np.float32)
            object.__setattr__(self, "chances", chances)
            wanted = (*self.rain_rate.shape[1:3], len(self.thresholds), *self.grid.shape)
            if chances.shape != wanted:
                raise DataError(
                    f"chances of shape {chances.shape} do not fit (issue, lead, threshold, y, x) = {wanted}"
                )
            if list(self.thresholds) != sorted(set(self.thresholds)):
                raise DataError(f"the thresholds of a forecast must ascend, got {self.thresholds}")

    @property
    def valid_times(self) -> np.ndarray:
        """(issue_time, lead_time) datetime64[s]."""
        return self.issue_times[:, None] + self.lead_times[None, :]

    @property
    def lead_minutes(self) -> np.ndarray:
        """Lead times in minutes, float64."""
        return self.lead_times / np.timedelta64(60, "s")

    def _lead_axis(self) -> np.ndarray:
        """Lead times as a file holds them [minutes]: int32 where all are whole minutes, else float64."""
        minutes = self.lead_minutes
        whole = np.array_equal(minutes, np.round(minutes))
        return minutes.astype(np.int32) if whole else minutes

    def single_issues(self) -> Iterator[Forecast]:
        """One forecast for each issue time."""
        for index in range(self.issue_times.size):
            part = slice(index, index + 1)
            yield Forecast(
                self.rain_rate[:, part],
                self.issue_times[part],
                self.lead_times,
                self.grid,
                self.model,
                self.interval_minutes,
                self.attributes,
                None if self.chances is None else self.chances[part],
                self.thresholds,
            )

    def to_dataset(self) -> xr.Dataset:
        """The CF dataset of a single issue time, ready to be written."""
        if self.issue_times.size != 1:
            raise ValueError(f"one file holds one issue time, got {self.issue_times.size}; save to a .zarr store")
        times = self.valid_times[0].astype("datetime64[ns]")
        dataset = xr.Dataset(coords=space_coordinates(self.grid))
        dataset = dataset.assign_coords(
            time=("time", times, {"standard_name": "time", "long_name": "valid time", "axis": "T", **LEAP_SECONDS}),
            forecast_reference_time=(
                (),
                self.issue_times[0].astype("datetime64[ns]"),
                {"standard_name": "forecast_reference_time", "long_name": "issue time", **LEAP_SECONDS},
            ),
            lead_time=("time", self._lead_axis(), _LEAD_ATTRIBUTES),
            realization=("realization", np.arange(self.rain_rate.shape[0], dtype=np.int32), _MEMBER_ATTRIBUTES),
        )
        dataset["rainfall_rate"] = (("realization", "time", "y", "x"), self.rain_rate[:, 0], self._rate_attributes())
        if self.chances is not None:
            dataset = dataset.assign_coords(threshold=("threshold", np.array(self.thresholds), _THRESHOLD_ATTRIBUTES))
            fields = self.chances[0].swapaxes(0, 1)
            dataset[CHANCES] = (("threshold", "time", "y", "x"), fields, self._chance_attributes())
        dataset["crs"] = ((), np.int32(0), self.grid.cf_grid_mapping())
        if self.interval_minutes is not None:
            starts = times - np.timedelta64(round(self.interval_minutes * 60), "s")
            dataset["time_bnds"] = (("time", "bnds"), np.stack([starts, times], axis=1))
            dataset["time"].attrs["bounds"] = "time_bnds"
        dataset.attrs = self._global_attributes()
        return dataset

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a CF netCDF file (one issue time) or a Zarr store (path ends in .zarr), atomically.

        Raises:
            ConfigError: The path exists and `overwrite` is not set, or holds something else.
        """
        path = Path(path)
        require_free(path, "forecasts" if path.suffix == ".zarr" else "file", overwrite=overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            if path.suffix == ".zarr":
                self.to_zarr_dataset().to_zarr(draft, mode="w", zarr_format=3, consolidated=False)
            else:
                dataset = self.to_dataset()
                dataset.to_netcdf(draft, engine="netcdf4", encoding=_netcdf_encoding(dataset))
            put_in_place(draft, path)
        return path

    def to_zarr_dataset(self) -> xr.Dataset:
        """The dataset of all issue times, ready to be written as a Zarr store."""
        dataset = xr.Dataset(coords=space_coordinates(self.grid)).assign_coords(
            forecast_reference_time=(
                "forecast_reference_time",
                self.issue_times.astype("datetime64[ns]"),
                {"standard_name": "forecast_reference_time", "long_name": "issue time", **LEAP_SECONDS},
            ),
            lead_time=("lead_time", self._lead_axis(), _LEAD_ATTRIBUTES),
            realization=("realization", np.arange(self.rain_rate.shape[0], dtype=np.int32), _MEMBER_ATTRIBUTES),
        )
        dataset["rainfall_rate"] = (
            ("forecast_reference_time", "realization", "lead_time", "y", "x"),
            self.rain_rate.swapaxes(0, 1),
            self._rate_attributes(),
        )
        if self.chances is not None:
            dataset = dataset.assign_coords(threshold=("threshold", np.array(self.thresholds), _THRESHOLD_ATTRIBUTES))
            axes = ("forecast_reference_time", "threshold", "lead_time", "y", "x")
            dataset[CHANCES] = (axes, self.chances.swapaxes(1, 2), self._chance_attributes())
            dataset[CHANCES].encoding["chunks"] = (1, 1, 1, *self.grid.shape)
        dataset["crs"] = ((), np.int32(0), self.grid.cf_grid_mapping())
        dataset.attrs = self._global_attributes()
        dataset["rainfall_rate"].encoding["chunks"] = (1, 1, 1, *self.grid.shape)
        dataset["forecast_reference_time"].encoding = {k: v for k, v in TIME_ENCODING.items() if k != "_FillValue"}
        return dataset

    def _rate_attributes(self) -> dict[str, Any]:
        return {
            "standard_name": "rainfall_rate",
            "long_name": "rain rate",
            "units": "mm h-1",
            "grid_mapping": "crs",
            "cell_methods": "time: point" if self.interval_minutes is None else "time: mean",
        }

    def _chance_attributes(self) -> dict[str, Any]:
        return {
            "long_name": "probability of rain rate at or above the threshold",
            "units": "1",
            "grid_mapping": "crs",
            "valid_range": np.array([0.0, 1.0], dtype=np.float32),
        }

    def _global_attributes(self) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "Conventions": "CF-1.11",
            "title": f"Rain rate forecast by {self.model}",
            "institution": "not stated",
            "source": f"nowcast model {self.model}",
            "references": "https://arxiv.org/abs/1506.04214",
            "comment": "NaN where the model has nothing to say; 0 is dry.",
            "history": f"issued for {self.issue_times[0]}Z",
            "model": self.model,
        }
        if self.interval_minutes is not None:
            attributes["interval_minutes"] = float(self.interval_minutes)
        return attributes | {key: _attribute(value) for key, value in self.attributes.items()}


_LEAD_ATTRIBUTES = {"standard_name": "forecast_period", "long_name": "lead time", "units": "minutes"}
_THRESHOLD_ATTRIBUTES = {"long_name": "rain rate threshold", "units": "mm h-1"}
_MEMBER_ATTRIBUTES = {"standard_name": "realization", "long_name": "ensemble member", "units": "1"}


def load_forecast(path: str | Path) -> Forecast:
    """Read a CF forecast whole: a netCDF file or a Zarr store, ours or another program's. North first.

    Raises:
        DataError: Not a forecast, see `open_forecast_file`, or rates that are negative or infinite, see
            `ForecastFile.read`: what was found is named, with the file.
    """
    file = open_forecast_file(path)
    attributes = {key: value for key, value in file.attributes.items() if key not in ("model", "interval_minutes")}
    return Forecast(
        file.read_all(),
        file.issue_times,
        file.lead_times,
        file.grid,
        file.model or file.path.stem,
        file.interval_minutes,
        attributes,
        file.read_chances() if file.thresholds else None,
        file.thresholds,
    )


def space_coordinates(grid: Grid) -> dict[str, Any]:
    """CF coordinate variables of a grid as (dims, values, attributes): axes, and lat and lon on projected grids."""
    latitude, longitude = grid.lat_lon()
    if grid.is_geographic:
        x_attributes = {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"}
        y_attributes = {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"}
        return {"y": ("y", grid.y, y_attributes), "x": ("x", grid.x, x_attributes)}
    return {
        "y": ("y", grid.y, {"standard_name": "projection_y_coordinate", "long_name": "y", "units": "m", "axis": "Y"}),
        "x": ("x", grid.x, {"standard_name": "projection_x_coordinate", "long_name": "x", "units": "m", "axis": "X"}),
        "lat": (
            ("y", "x"),
            latitude.astype(np.float32),
            {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"},
        ),
        "lon": (
            ("y", "x"),
            longitude.astype(np.float32),
            {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"},
        ),
    }


def _netcdf_encoding(dataset: xr.Dataset) -> dict[str, dict[str, Any]]:
    encoding: dict[str, dict[str, Any]] = {str(name): {"_FillValue": None} for name in dataset.variables}
    for name in ("time", "forecast_reference_time", "time_bnds"):
        if name in dataset.variables:
            encoding[name] = dict(TIME_ENCODING)
    for name in ("rainfall_rate", CHANCES):
        if name in dataset.variables:
            encoding[name] = {
                "_FillValue": np.float32(np.nan),
                "zlib": True,
                "complevel": 4,
                "shuffle": True,
                "chunksizes": (1, 1, *dataset[name].shape[-2:]),
            }
    return encoding


def _attribute(value: Any) -> str | float | int:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, int | float) else str(value)
