"""Data sets of the MLCast source-data specification: opened like an archive, and written from one.

The specification (mlcast-dataset-validator, radar_precipitation 0.3) leaves missing frames out of `time` and lists
them in `missing_times`; here they are slots of a regular axis like everywhere else.

Of the validator's checks (0.4.0, 35 results) a data set that `export_mlcast` writes on a projected grid of 1 km passes
30: names, attributes and units of coordinates and rain, 256 x 256 pixels, one chunk a frame, data type and order of
axes, grid mapping and latitude and longitude to 0.0001 degrees, missing times, licence, Zarr version, and the mlcast
attributes once they are given with `--attribute`. Of the rest
- a sample fails "minimum 3-year coverage", a grid coarser than 1 km or smaller than 256 x 256 fails those, a grid in
  degrees fails the attributes of x and y, which the specification wants projected;
- it warns that zstd calls itself "zstdcodec" in Zarr v3, that it could not ask for the address in
  `mlcast_created_with` (without a network, or where the address is not public), and of GDAL and cartopy where they are
  not installed: what it would ask of them is not tried.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import xarray as xr
import zarr

from nowcast.data.archive_schema import (
    MISSING,
    PRESENT,
    RAIN_RATE,
    SERIES,
    SUPERSEDED,
    TIME_BOUNDS,
    TIME_CHUNK,
    TIME_UNITS,
    create_array,
)
from nowcast.data.archive_store import ArchiveStore
from nowcast.data.forecast import LEAP_SECONDS, space_coordinates
from nowcast.data.frame_measures import CHANGES, measure_frame
from nowcast.data.grid import Grid
from nowcast.errors import DataError

IDENTIFIER = "mlcast_dataset_identifier"
VALIDATOR_VERSION = "0.4.0"
# Frames that stand for all where every frame would have to be read: for series, digests and shares.
SAMPLE = 100
# Units of a rate, and what they are in mm/h.
RATES = {"kg m-2 h-1": 1.0, "mm h-1": 1.0, "mm/h": 1.0, "mm hr-1": 1.0, "kg m-2 s-1": 3600.0, "mm s-1": 3600.0}
DEPTHS = {"kg m-2", "mm"}
RATE_NAMES = {"rainfall_flux", "precipitation_flux", "rainfall_rate", "lwe_precipitation_rate"}
DEPTH_NAMES = {"rainfall_amount", "precipitation_amount", "lwe_thickness_of_precipitation_amount"}


def is_mlcast(attributes: Mapping[str, Any]) -> bool:
    """Whether global attributes are those of an MLCast data set."""
    return any(key.startswith("mlcast_") for key in attributes)


def written_once(path: str | Path) -> DataError:
    """What is said to who would add files to a data set."""
    return DataError(
        f"{path} is an MLCast data set, which is written once and not added to",
        f"make another of it and the files: nowcast ingest {path} SRC... -o NEW --profile mlcast",
    )


class MlcastFrames:
    """The frames of an MLCast data set on a regular axis.

    Attributes:
        grid, step, times, status: As of an archive.
        interval_minutes: Of amounts; None for rates.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._dataset = xr.open_zarr(path, chunks=None)
        self._variable = self._find_rain()
        self._factor = 1.0
        self.interval_minutes: float | None = None
        y, x = (self._axis(name) for name in self._variable.dims[-2:])
        self._flip = bool(y[0] < y[-1])
        self.grid = Grid(x, y[::-1] if self._flip else y, self._crs())
        stored = self._dataset["time"].values.astype("datetime64[s]")
        self.times, self.step, self._rows = _regular_axis(stored, self._regular_start(), path)
        self.status = np.where(self._rows >= 0, PRESENT, MISSING).astype(np.int8)
        self._factor = self._unit_factor()

    def read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, H, W) float32 [mm/h], NaN where missing.

        Raises:
            DataError: A negative rain rate.
        """
        rain_rate = np.full((stop - start, *self.grid.shape), np.nan, dtype=np.float32)
        for index, row in enumerate(self._rows[start:stop]):
            if row >= 0:
                field = self._variable[int(row)].values * np.float32(self._factor)
                rain_rate[index] = field[::-1] if self._flip else field
        with np.errstate(invalid="ignore"):
            if np.any(rain_rate < 0):
                raise DataError(
                    f"{self._path}: the frames from {self.times[start]} hold negative rain rates",
                    "ingest the data set into an archive of its own, with --missing-value",
                )
        return rain_rate

    def series(self, name: str) -> np.ndarray:
        """(T,) numbers of the frames; NaN, or 0 for counts, where a frame is not in the sample that is read."""
        return self._sampled_series[name]

    def valid_share(self) -> np.ndarray:
        """(H, W) float32: share of the sampled frames in which a pixel is valid."""
        return self._sampled_share

    def manifest(self) -> bytes:
        """Nothing: the data set is its own source."""
        return b""

    @cached_property
    def digests(self) -> np.ndarray:
        """(T,) uint64: of what the data set says of itself with each frame of the sample, 0 for the others."""
        said = json.dumps({key: str(value) for key, value in self._dataset.attrs.items()}, sort_keys=True)
        digests = np.zeros(self.times.size, dtype=np.uint64)
        for index in self._sample:
            content = said.encode() + self.read(index, index + 1).tobytes()
            digests[index] = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
        return digests

    @cached_property
    def _sample(self) -> np.ndarray:
        present = np.flatnonzero(self._rows >= 0)
        return present[np.unique(np.linspace(0, present.size - 1, min(SAMPLE, present.size)).astype(int))]

    @cached_property
    def _sampled_series(self) -> dict[str, np.ndarray]:
        values = {name: np.full(self.times.size, spec.fill, dtype=spec.dtype) for name, spec in SERIES.items()}
        values["time"], values["frame_status"] = self.times.astype(np.int64), self.status
        for index in self._sample:
            field = self.read(index, index + 1)[0]
            valid = ~np.isnan(field)
            for name, value in measure_frame(field, valid).items():
                values[name][index] = value
        return values

    @cached_property
    def _sampled_share(self) -> np.ndarray:
        count = sum((~np.isnan(self.read(index, index + 1)[0])).astype(np.int32) for index in self._sample)
        return np.asarray(count / self._sample.size, dtype=np.float32)

    def _find_rain(self) -> xr.DataArray:
        for name, variable in self._dataset.data_vars.items():
            said = variable.attrs.get("standard_name", name)
            if said in RATE_NAMES | DEPTH_NAMES and variable.ndim == 3:
                return variable
        reflectivity = "equivalent_reflectivity_factor" in {
            variable.attrs.get("standard_name") for variable in self._dataset.data_vars.values()
        }
        finding = "reflectivity alone" if reflectivity else "no rain rate and no amount over (time, y, x)"
        raise DataError(
            f"{self._path} is an MLCast data set with {finding}",
            f"convert it while ingesting: nowcast ingest {self._path} -o archive.zarr --z-relation A,B",
        )

    def _axis(self, name: Any) -> np.ndarray:
        axis = self._dataset[name]
        scale = 1000.0 if str(axis.attrs.get("units", "m")).lower() in ("km", "kilometer", "kilometre") else 1.0
        return np.asarray(axis.values, dtype=np.float64) * scale

    def _crs(self) -> str:
        name = self._variable.attrs.get("grid_mapping", "crs")
        attributes = self._dataset[name].attrs if name in self._dataset.variables else {}
        wkt = attributes.get("crs_wkt") or attributes.get("spatial_ref")
        if not wkt:
            raise DataError(f"{self._path}: the grid mapping {name!r} has no crs_wkt")
        return str(wkt)

    def _regular_start(self) -> np.datetime64 | None:
        start = self._dataset.attrs.get("consistent_timestep_start")
        return None if start is None else np.datetime64(str(start).removesuffix("Z"), "s")

    def _unit_factor(self) -> float:
        units = str(self._variable.attrs.get("units", ""))
        if self._variable.attrs.get("standard_name", self._variable.name) in DEPTH_NAMES:
            if units not in DEPTHS:
                raise DataError(f"{self._path}: the rain amount has units {units!r}, expected 'kg m-2'")
            minutes = self._declared_minutes()
            self.interval_minutes = minutes
            return 60.0 / minutes
        if units not in RATES:
            raise DataError(f"{self._path}: the rain rate has units {units!r}, expected one of {', '.join(RATES)}")
        if "mean" in str(self._variable.attrs.get("cell_methods", "")):
            self.interval_minutes = self._minutes_of_bounds()
        return RATES[units]

    def _declared_minutes(self) -> float:
        """Interval of amounts, by the bounds of the times or by `cell_methods`; never guessed from the step."""
        minutes = self._minutes_of_bounds()
        if minutes is not None:
            return minutes
        said = re.search(
            r"time:\s*sum\s*\(\s*interval:\s*([\d.]+)\s*(s|min|h|d)", str(self._variable.attrs.get("cell_methods", ""))
        )
        if said is not None and float(said[1]) > 0:
            return float(said[1]) * {"s": 1 / 60, "min": 1.0, "h": 60.0, "d": 1440.0}[said[2]]
        raise DataError(
            f"{self._path} holds rain amounts and does not say over what interval: no bounds of its times, and no "
            "cell_methods such as 'time: sum (interval: 5 minutes)'",
            f"declare it while ingesting: nowcast ingest {self._path} -o archive.zarr --accumulation-minutes N",
        )

    def _minutes_of_bounds(self) -> float | None:
        """The one length of all intervals by the bounds of the times; None where they do not tell."""
        name = str(self._dataset["time"].attrs.get("bounds", "") or self._dataset["time"].encoding.get("bounds", ""))
        if name in self._dataset.variables:
            lengths = np.unique(np.diff(self._dataset[name].values, axis=1))
            if lengths.size == 1 and lengths[0] > np.timedelta64(0, "s"):
                return float(lengths[0] / np.timedelta64(60, "s"))
        return None


def _regular_axis(
    stored: np.ndarray, start: np.datetime64 | None, path: Path
) -> tuple[np.ndarray, np.timedelta64, np.ndarray]:
    """Times at the data set's step, the step, and the stored row of each slot, -1 where there is none."""
    rows = np.arange(stored.size)
    if start is not None:
        rows = rows[stored >= start]
    if rows.size < 2:
        raise DataError(f"{path} has {rows.size} frames, too few to have a step")
    distances = np.diff(stored[rows])
    step = distances.min()
    if step <= np.timedelta64(0, "s") or np.any(distances % step != np.timedelta64(0, "s")):
        raise DataError(f"{path}: its times are not on a regular axis", "ingest it with nowcast ingest --step")
    times = np.arange(stored[rows[0]], stored[rows[-1]] + step, step)
    index = np.full(times.size, -1, dtype=np.int64)
    index[(stored[rows] - times[0]) // step] = rows
    return times, step, index


def export_mlcast(source: str | Path, target: str | Path, *, attributes: Mapping[str, Any]) -> Path:
    """Write an archive of ours as an MLCast source data set; frames are linked or copied, not encoded again.

    Args:
        attributes: What the specification wants and the archive does not know: license (SPDX),
            mlcast_created_by ("Name <email>"), mlcast_created_with (URL@version), mlcast_dataset_identifier, ...

    Raises:
        DataError: The target exists, or no frame is present.
    """
    from nowcast.data.archive import open_archive

    archive, target = open_archive(source), Path(target)
    if target.exists():
        raise DataError(f"{target} exists", "choose another name, or pass --overwrite")
    present = np.flatnonzero(archive.present)
    if present.size == 0:
        raise DataError(f"{source} has no frame to write")
    store = ArchiveStore(Path(source))
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.absolute().parent) as folder:
        draft = Path(folder) / target.name
        _create_dataset(draft, archive, present, attributes)
        for row, index in enumerate(present):
            chunk = store.chunk_path(RAIN_RATE, int(index))
            link = draft / "rainfall_flux" / f"c.{row}.0.0"
            try:
                os.link(chunk, link)
            except OSError:
                shutil.copyfile(chunk, link)
        draft.rename(target)
    return target


def _create_dataset(path: Path, archive: Any, present: np.ndarray, attributes: Mapping[str, Any]) -> None:
    """The data set without its frames."""
    grid: Grid = archive.grid
    rows, columns = grid.shape
    kept = {key: value for key, value in archive.attrs.items() if key not in _OURS}
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    said = {"mlcast_created_on": now, "mlcast_dataset_validator_version": VALIDATOR_VERSION}
    if np.any(np.diff(present) > 1):
        # The validator takes gaps for a variable step unless it is told from when on the step is regular.
        said["consistent_timestep_start"] = str(archive.times[present[0]])
    group = zarr.create_group(path, zarr_format=3, attributes={**kept, **said, **attributes})
    interval = archive.interval_minutes
    methods = "time: point" if interval is None else "time: mean"
    latitude_longitude = "" if grid.is_geographic else "lat lon "
    rain = {
        "standard_name": "rainfall_flux",
        "long_name": "rain rate",
        "units": "kg m-2 h-1",
        "cell_methods": methods,
        "grid_mapping": "crs",
        "coordinates": f"{latitude_longitude}missing_times" + (f" {TIME_BOUNDS}" if interval is not None else ""),
    }
    create_array(
        group,
        "rainfall_flux",
        (present.size, rows, columns),
        "float32",
        ("time", "y", "x"),
        rain,
        fill=float("nan"),
        chunks=(1, rows, columns),
    )
    time = {"standard_name": "time", "long_name": "valid time", "axis": "T", "units": TIME_UNITS}
    time |= {"calendar": "standard", **LEAP_SECONDS}
    if interval is not None:
        ends = archive.times[present].astype(np.int64)
        bounds = np.stack([ends - round(interval * 60), ends], axis=1)
        create_array(group, TIME_BOUNDS, bounds.shape, "int64", ("time", "bnds"), chunks=(TIME_CHUNK, 2))[:] = bounds
        time["bounds"] = TIME_BOUNDS
    missing = np.setdiff1d(archive.times, archive.times[present]).astype(np.int64)
    # Only slots between the first and the last frame are gaps.
    missing = missing[(missing > archive.times[present[0]].astype(np.int64)) & (missing < _last(archive, present))]
    for name, axis, values, text in (
        ("time", "time", archive.times[present].astype(np.int64), time),
        ("missing_times", "missing_times", missing, {**time, "long_name": "times without a frame", "axis": ""}),
    ):
        text = {key: value for key, value in text.items() if value}
        if name == "missing_times":
            for key in ("standard_name", "bounds"):
                text.pop(key, None)
        create_array(group, name, values.shape, "int64", (axis,), text, chunks=(TIME_CHUNK,))[:] = values
    for name, (dims, values, text) in _coordinates_wgs84(grid).items():
        axes = (dims,) if isinstance(dims, str) else dims
        create_array(group, name, values.shape, str(values.dtype), axes, text)[:] = values
    create_array(group, "crs", (), "int32", (), grid.cf_grid_mapping())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        zarr.consolidate_metadata(group.store)


def _last(archive: Any, present: np.ndarray) -> int:
    return int(archive.times[present[-1]].astype(np.int64))


def _coordinates_wgs84(grid: Grid) -> dict[str, Any]:
    """As `space_coordinates`, with latitude and longitude on WGS 84, which the specification compares with."""
    coordinates = space_coordinates(grid)
    if not grid.is_geographic:
        x, y = np.meshgrid(grid.x, grid.y)
        longitude, latitude = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(x, y)
        for name, values in (("lat", latitude), ("lon", longitude)):
            dims, _, text = coordinates[name]
            coordinates[name] = (dims, np.asarray(values, dtype=np.float64), text)
    return coordinates


_OURS = {
    "format",
    "first_time",
    "writing",
    SUPERSEDED,
    "manifest_sha256",
    "grid_file",
    "keeps_quality",
    "read_options",
    "command_options",
    *(f"n_{name}" for name in CHANGES),
}
