"""Forecast files of any CF layout, opened lazily: which issue times they hold, and one issue time at a time.

netCDF or Zarr, one issue time or many, ours or another program's. What a file must say itself: rain rate with its
units, when it was issued, and for which times it holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import xarray as xr
from netCDF4 import default_fillvals

from nowcast.data.grid import Grid
from nowcast.data.scaling import rescale
from nowcast.errors import DataError

CHANCES = "probability_of_rainfall_rate_above_threshold"
RATE_NAMES = ("rainfall_rate", "rainfall_flux", "precipitation_flux", "lwe_precipitation_rate")
# What one unit is in mm/h; a kilogram of water on a square metre stands one millimetre high.
RATE_UNITS = {
    "mm h-1": 1,
    "mm/h": 1,
    "mm hr-1": 1,
    "mm/hr": 1,
    "mm hour-1": 1,
    "mm/hour": 1,
    "mm h**-1": 1,
    "mm h^-1": 1,
    "kg m-2 h-1": 1,
    "mm min-1": 60,
    "mm/min": 60,
    "mm s-1": 3600,
    "mm/s": 3600,
    "kg m-2 s-1": 3600,
    "kg m**-2 s**-1": 3600,
    "m s-1": 3_600_000,
    "m h-1": 1000,
}
# Seconds of the units of a lead time; a plural is understood too.
PERIOD_UNITS = {
    "s": 1,
    "sec": 1,
    "second": 1,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hr": 3600,
    "hour": 3600,
    "d": 86400,
    "day": 86400,
}
# Rates this little below zero [mm/h] are rounding, of interpolation or packing; anything below is no rain rate.
ROUNDING_MM_H = 1e-4
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
        thresholds: Of the chances that the file holds besides [mm/h], ascending; none without chances.
    """

    path: Path
    model: str | None
    issue_times: np.ndarray
    lead_times: np.ndarray
    grid: Grid
    members: int
    interval_minutes: float | None
    attributes: dict[str, Any]
    thresholds: tuple[float, ...] = ()

    def read(self, issue_time: np.datetime64, lead_times: np.ndarray) -> np.ndarray:
        """(member, lead_time, y, x) float32 [mm/h] of one issue time, NaN where missing; north first.

        Packed integers become the float32 nearest to the decimal number that they stand for.

        Raises:
            DataError: A rate that is infinite or below zero by more than rounding, which none declares as missing.
        """
        issue = int(np.flatnonzero(self.issue_times == issue_time)[0])
        return self._fields(issue, np.searchsorted(self.lead_times, lead_times))

    def read_all(self) -> np.ndarray:
        """(member, issue_time, lead_time, y, x): what `read` gives of every issue time."""
        leads = np.arange(self.lead_times.size)
        return np.stack([self._fields(issue, leads) for issue in range(self.issue_times.size)], axis=1)

    def _fields(self, issue: int, leads: np.ndarray) -> np.ndarray:
        with _open(self.path) as dataset:
            rate = _rate(dataset, self.path)
            axes = _Axes.of(dataset, rate, self.path)
            at = {axis: index for axis, index in ((axes.issue, issue), (axes.lead, leads)) if axis is not None}
            wanted = [axis for axis in (axes.member, axes.lead, axes.y, axes.x) if axis is not None]
            flips = [slice(None, None, -1) if _runs_backwards(dataset, axes, name) else slice(None) for name in "yx"]
        with _open(self.path, decode=False) as stored, _damage_named(self.path):
            field = _decoded(stored[rate.name].isel(at).transpose(*wanted), str(rate.attrs["units"]), self.path)
        for position, axis in enumerate((axes.member, axes.lead)):
            if axis is None:
                field = np.expand_dims(field, position)
        return np.ascontiguousarray(field[(..., *flips)])

    def read_chances(self) -> np.ndarray:
        """(issue_time, lead_time, threshold, y, x) float32 in [0, 1] of a file that has thresholds."""
        with _open(self.path) as dataset, _damage_named(self.path):
            values = dataset[CHANCES].values
        values = values if values.ndim == 5 else values[None]
        return np.asarray(values.swapaxes(1, 2), dtype=np.float32)

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
        lead_times, interval_minutes = _lead_times(dataset, rate, issue_times, axes, path)
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
            interval_minutes,
            attributes,
            tuple(float(level) for level in dataset["threshold"].values) if CHANCES in dataset else (),
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


def _open(path: Path, *, decode: bool = True) -> xr.Dataset:
    """Lazily; without `decode`, the numbers as they are stored, and what they mean in the attributes."""
    if not path.exists():
        raise DataError(f"there is no forecast file {path}")
    how: dict[str, Any] = {"decode_timedelta": False, "mask_and_scale": decode, "decode_times": decode}
    try:
        if path.is_dir():
            return xr.open_zarr(path, consolidated=False, chunks=None, **how)
        return xr.open_dataset(path, **how)
    except (OSError, ValueError, KeyError, FileNotFoundError) as error:
        raise DataError(f"{path} cannot be read as netCDF or Zarr: {error}", "give a CF forecast file") from error


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """A field that cannot be read from a file that could be opened: its bytes were damaged."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"the rain rates of {path} cannot be read: {error}", "make the forecast again") from error


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


def _decoded(stored: xr.DataArray, units: str, path: Path) -> np.ndarray:
    """Stored numbers as float32 [mm/h], NaN where missing: one rounding from the numbers that they stand for."""
    raw, attributes = np.asarray(stored.values), stored.attrs
    if raw.dtype.kind not in "iuf":
        raise DataError(f"{path}: {stored.name} holds {raw.dtype}, expected numbers")
    gain, offset = (np.asarray(attributes.get(key, value)).reshape(-1)[0] for key, value in _PACKING)
    values = rescale(raw, gain, offset, factor=Fraction(RATE_UNITS[units]))
    values[_missing(raw, attributes)] = np.nan
    with np.errstate(invalid="ignore"):
        wrong = (values < -ROUNDING_MM_H) | np.isinf(values)
        if wrong.any():
            raise DataError(
                f"{path}: {int(np.count_nonzero(wrong))} values of {stored.name} are negative or infinite, such as "
                f"{values[wrong][0]:g} mm/h, and not declared as missing",
                "write NaN, or declare the value as _FillValue, where there is no forecast",
            )
        values[values < 0] = 0.0
    return values.astype(np.float32)


_PACKING = (("scale_factor", 1), ("add_offset", 0))


def _missing(raw: np.ndarray, attributes: dict[Any, Any]) -> np.ndarray:
    """Where a file declares no value: _FillValue, missing_value, netCDF's own fill, outside its valid range, NaN."""
    missing = np.isnan(raw) if raw.dtype.kind == "f" else np.zeros(raw.shape, dtype=bool)
    declared = [value for key in ("_FillValue", "missing_value") for value in np.atleast_1d(attributes.get(key, []))]
    kind = raw.dtype.str[1:]
    if "_FillValue" not in attributes and kind in default_fillvals and raw.dtype.itemsize > 1:
        declared.append(np.asarray(default_fillvals[kind]).astype(raw.dtype))
    for value in declared:
        missing |= raw == value
    low, high = attributes.get("valid_range", (attributes.get("valid_min"), attributes.get("valid_max")))
    with np.errstate(invalid="ignore"):
        if low is not None:
            missing |= raw < low
        if high is not None:
            missing |= raw > high
    return missing


def _coordinate(dataset: xr.Dataset, standard_name: str) -> xr.DataArray | None:
    for name in dataset.variables:
        if standard_name in (name, dataset[name].attrs.get("standard_name")):
            return dataset[name]
    return None


def _lead_times(
    dataset: xr.Dataset, rate: xr.DataArray, issue_times: np.ndarray, axes: _Axes, path: Path
) -> tuple[np.ndarray, float | None]:
    """Lead times to the end of the interval of each field, and the length of the intervals [minutes] where known."""
    size = 1 if axes.lead is None else rate.sizes[axes.lead]
    time, period = _coordinate(dataset, "time"), _coordinate(dataset, "forecast_period")
    after, lengths = np.zeros(1, "timedelta64[s]"), None
    if time is not None and time.ndim <= 1 and time.size == size and time.dtype.kind == "M":
        ends, lengths = interval_ends(dataset, time.name, path)
        after = np.atleast_1d(ends - time.values).astype("timedelta64[s]")
    else:
        ends = None
    if period is not None and period.ndim <= 1:
        values = np.atleast_1d(period.values)
        plain = period.dtype.kind == "m"
        leads = values.astype("timedelta64[s]") if plain else period_of(values, period.attrs.get("units"), path)
        leads = leads + after
    elif ends is not None and issue_times.size == 1:
        leads = np.atleast_1d(ends).astype("datetime64[s]") - issue_times[0]
    else:
        raise DataError(f"{path} does not say its lead times (standard_name 'forecast_period', or 'time')")
    return np.asarray(leads), _interval(lengths, dataset.attrs.get("interval_minutes"), path)


def period_of(values: np.ndarray, units: Any, path: Path) -> np.ndarray:
    """Lead times in the units that a file declares, as timedelta64[s].

    Raises:
        DataError: The units are none of a length of time.
    """
    name = str(units).strip().lower()
    seconds = PERIOD_UNITS.get(name, PERIOD_UNITS.get(name.removesuffix("s")))
    if seconds is None or not name:
        raise DataError(
            f"{path}: lead times have units {units!r}, expected 'minutes'", "known are seconds, minutes, hours and days"
        )
    return np.asarray(np.round(np.asarray(values, dtype=np.float64) * seconds).astype("timedelta64[s]"))


def interval_ends(dataset: xr.Dataset, name: Hashable, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Where the intervals of a time coordinate end, and their lengths [minutes]; the times and None without bounds.

    The coordinate may stand at the start or the middle of the interval; a field is valid at its end.

    Raises:
        DataError: Bounds that do not fit the times.
    """
    time = dataset[name]
    bounds = time.attrs.get("bounds") or time.encoding.get("bounds")
    if bounds is None or bounds not in dataset.variables:
        return time.values, None
    edges = dataset[bounds].values
    if edges.shape != (*time.shape, 2) or edges.dtype.kind != "M" or np.any(edges[..., 1] < edges[..., 0]):
        raise DataError(f"{path}: the bounds '{bounds}' do not fit the times of '{name}'")
    lengths = (edges[..., 1] - edges[..., 0]) / np.timedelta64(60, "s")
    return np.where(lengths > 0, edges[..., 1], time.values), lengths


def _interval(lengths: np.ndarray | None, declared: Any, path: Path) -> float | None:
    """The one length [minutes] of all intervals; None where unknown or instantaneous."""
    known = sorted({float(length) for length in np.atleast_1d([] if lengths is None else lengths)})
    if declared is not None:
        known = sorted({*known, float(declared)})
    if len(known) > 1:
        shown = ", ".join(f"{length:g}" for length in known)
        raise DataError(
            f"{path} holds means over intervals of different lengths: {shown} min",
            "bring all lead times to one interval (rates since the issue time are no rates of an interval)",
        )
    return known[0] or None if known else None


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


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
