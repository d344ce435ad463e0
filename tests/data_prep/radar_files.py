"""Small CF netCDF files as an ingest finds them, for the tests of ingest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from nowcast.data.grid import Grid

START = np.datetime64("2024-05-01T12:00:00", "s")
STEP = np.timedelta64(300, "s")
GRID = Grid.from_corner(3_000_000.0, 3_000_000.0, 1000.0, 1000.0, (10, 12), "EPSG:3035")


def field(number: int, shape: tuple[int, int] = (10, 12)) -> np.ndarray:
    """A rain field of its own for every number, with a corner that is not measured."""
    rain = np.random.default_rng(number).gamma(0.5, 3.0, shape).astype(np.float32)
    rain[0, 0] = np.nan
    return rain


def at(number: int) -> np.datetime64:
    """The time of slot `number`."""
    return START + number * STEP


def write_frames(
    path: Path,
    times: list[np.datetime64],
    fields: list[np.ndarray],
    *,
    grid: Grid = GRID,
    standard_name: str = "rainfall_rate",
    units: str = "mm h-1",
) -> Path:
    """One netCDF file of frames."""
    dataset = xr.Dataset(
        {"rain": (("time", "y", "x"), np.stack(fields), {"standard_name": standard_name, "units": units})},
        coords={
            "time": np.array(times).astype("datetime64[ns]"),
            "y": ("y", grid.y, {"standard_name": "projection_y_coordinate", "units": "m"}),
            "x": ("x", grid.x, {"standard_name": "projection_x_coordinate", "units": "m"}),
        },
    )
    dataset["rain"].attrs["grid_mapping"] = "crs"
    dataset["crs"] = ((), np.int32(0), grid.cf_grid_mapping())
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.to_netcdf(path, engine="netcdf4")
    return path


def write_series(folder: Path, numbers: list[int]) -> list[Path]:
    """One file a slot, named by its number."""
    return [write_frames(folder / f"frame_{number}.nc", [at(number)], [field(number)]) for number in numbers]
