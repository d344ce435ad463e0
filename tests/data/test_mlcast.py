"""MLCast data sets: an archive goes out and comes back, and the validator accepts it but for what a sample lacks."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from nowcast.data.archive import open_archive
from nowcast.data.archive_writer import ArchiveWriter, write_archive
from nowcast.data.grid import Grid
from nowcast.data.mlcast import VALIDATOR_VERSION, export_mlcast
from nowcast.errors import DataError

START = np.datetime64("2024-05-01T12:00:00", "s")
STEP = np.timedelta64(300, "s")
GRID = Grid.from_corner(4_000_000.0, 3_000_000.0, 1000.0, 1000.0, (6, 8), "EPSG:3035")
ATTRIBUTES = {
    "license": "CC-BY-4.0",
    "mlcast_created_by": "A Name <name@example.org>",
    "mlcast_created_with": "https://github.com/mlcast-community/mlcast-dataset-example-radar@v0.1.0",
    "mlcast_dataset_version": "0.1.0",
    "mlcast_dataset_identifier": "CH-example-precipitation",
}


def fields(number: int, shape: tuple[int, int] = (6, 8)) -> np.ndarray:
    rain = np.random.default_rng(0).gamma(0.5, 2.0, (number, *shape)).astype(np.float32)
    rain[:, 0, 0] = np.nan
    return rain


def make(path: Path, rain: np.ndarray, grid: Grid = GRID, interval_minutes: float | None = None) -> Path:
    present = np.ones(len(rain), dtype=bool)
    present[2] = False
    return write_archive(
        path, rain, first_time=START, step=STEP, grid=grid, present=present, interval_minutes=interval_minutes
    )


def test_an_archive_goes_out_and_comes_back(tmp_path: Path) -> None:
    rain = fields(5)
    source = make(tmp_path / "a.zarr", rain)
    export_mlcast(source, tmp_path / "m.zarr", attributes=ATTRIBUTES)
    back = open_archive(tmp_path / "m.zarr")
    assert back.present.tolist() == [True, True, False, True, True] and back.step == STEP
    np.testing.assert_array_equal(back.rain_rate(0, 5)[back.present], rain[[0, 1, 3, 4]])
    assert np.isnan(back.rain_rate(2, 3)).all()
    assert back.grid.matches(GRID) and back.interval_minutes is None
    assert back.valid_share()[0, 0] == 0 and back.series("maximum_rate")[0] == np.nanmax(rain[0])
    assert list(back.manifest()) == []


def test_missing_frames_are_left_out_of_time_and_listed(tmp_path: Path) -> None:
    export_mlcast(make(tmp_path / "a.zarr", fields(5)), tmp_path / "m.zarr", attributes=ATTRIBUTES)
    with xr.open_zarr(tmp_path / "m.zarr") as dataset:
        assert set(dataset.data_vars) == {"rainfall_flux", "crs"}
        assert dataset["missing_times"].values.tolist() == [(START + 2 * STEP).astype("datetime64[ns]").astype(int)]
        assert dataset.sizes["time"] == 4


@pytest.mark.parametrize(
    ("standard_name", "units", "cell_methods", "factor", "interval"),
    [
        ("precipitation_flux", "kg m-2 s-1", "", 3600.0, None),
        ("rainfall_flux", "mm/h", "", 1.0, None),
        ("precipitation_amount", "kg m-2", "time: sum (interval: 5 minutes)", 12.0, 5.0),
        ("precipitation_amount", "kg m-2", "time: sum (interval: 1 hour)", 1.0, 60.0),
    ],
)
def test_units_and_orientation_of_others_are_understood(
    tmp_path: Path, standard_name: str, units: str, cell_methods: str, factor: float, interval: float | None
) -> None:
    rain = fields(3)
    dataset = xr.Dataset(
        {"pr": (("time", "y", "x"), rain[:, ::-1] / np.float32(factor), {"standard_name": standard_name})},
        coords={
            "time": (START + np.arange(3) * STEP).astype("datetime64[ns]"),
            "y": ("y", GRID.y[::-1] / 1000, {"units": "km"}),
            "x": ("x", GRID.x / 1000, {"units": "km"}),
        },
        attrs=ATTRIBUTES,
    )
    dataset["pr"].attrs |= {"units": units, "grid_mapping": "crs", "cell_methods": cell_methods}
    dataset["crs"] = ((), np.int32(0), GRID.cf_grid_mapping())
    dataset.to_zarr(tmp_path / "m.zarr", zarr_format=2)
    archive = open_archive(tmp_path / "m.zarr")
    np.testing.assert_allclose(archive.rain_rate(0, 3), rain, rtol=1e-6)
    assert archive.interval_minutes == interval and archive.grid.matches(GRID)


@pytest.mark.parametrize("has_bounds", [True, False])
def test_amounts_are_over_their_declared_interval_or_refused(tmp_path: Path, has_bounds: bool) -> None:
    """Hourly sums every five minutes: the step says nothing of the interval."""
    times = (START + np.arange(3) * STEP).astype("datetime64[ns]")
    text = {"standard_name": "precipitation_amount", "units": "kg m-2", "grid_mapping": "crs"}
    dataset = xr.Dataset(
        {"pr": (("time", "y", "x"), fields(3), text), "crs": ((), np.int32(0), GRID.cf_grid_mapping())},
        coords={"time": ("time", times), "y": GRID.y, "x": GRID.x},
        attrs=ATTRIBUTES,
    )
    if has_bounds:
        dataset["time"].attrs["bounds"] = "time_bnds"
        dataset["time_bnds"] = (("time", "nv"), np.stack([times - np.timedelta64(3600, "s"), times], axis=1))
    dataset.to_zarr(tmp_path / "m.zarr", zarr_format=2)
    if has_bounds:
        archive = open_archive(tmp_path / "m.zarr")
        assert archive.interval_minutes == 60
        np.testing.assert_allclose(archive.rain_rate(0, 3), fields(3), rtol=1e-6)
        return
    with pytest.raises(DataError, match="does not say over what interval") as caught:
        open_archive(tmp_path / "m.zarr")
    assert "--accumulation-minutes" in str(caught.value.hint)


def test_reflectivity_alone_must_be_converted_by_an_ingest(tmp_path: Path) -> None:
    dataset = xr.Dataset(
        {"dbz": (("time", "y", "x"), fields(3), {"standard_name": "equivalent_reflectivity_factor", "units": "dBZ"})},
        attrs=ATTRIBUTES,
    )
    dataset.to_zarr(tmp_path / "m.zarr", zarr_format=2)
    with pytest.raises(DataError, match="reflectivity alone") as caught:
        open_archive(tmp_path / "m.zarr")
    assert "--z-relation" in str(caught.value.hint)


def test_means_keep_their_interval_in_the_bounds_of_their_times(tmp_path: Path) -> None:
    source = make(tmp_path / "a.zarr", fields(4), interval_minutes=5.0)
    export_mlcast(source, tmp_path / "m.zarr", attributes=ATTRIBUTES)
    with xr.open_zarr(tmp_path / "m.zarr") as dataset:
        assert set(dataset.data_vars) == {"rainfall_flux", "crs"}
        width = dataset["time_bnds"].values[:, 1] - dataset["time_bnds"].values[:, 0]
        assert (width == np.timedelta64(5, "m")).all() and dataset["time_bnds"].values[-1, 1] == START + 3 * STEP
    del zarr.open_group(tmp_path / "m.zarr").attrs["interval_minutes"]
    assert open_archive(tmp_path / "m.zarr").interval_minutes == 5.0


def test_a_data_set_is_not_added_to_and_says_how_files_join_it(tmp_path: Path) -> None:
    export_mlcast(make(tmp_path / "a.zarr", fields(4)), tmp_path / "m.zarr", attributes=ATTRIBUTES)
    with pytest.raises(DataError, match=r"m\.zarr is an MLCast data set, which is written once") as caught:
        ArchiveWriter.append(tmp_path / "m.zarr")
    assert "nowcast ingest" in str(caught.value.hint)
    assert open_archive(tmp_path / "m.zarr").present.sum() == 3


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("interval_minutes", "crs", "pixel", "failed"),
    [
        (None, "EPSG:3035", 1000.0, set()),
        (5.0, "EPSG:3035", 1000.0, set()),
        (5.0, "EPSG:3035", 2000.0, {"Spatial resolution ≤1km"}),
        (5.0, "EPSG:4326", 0.008, {"CF attributes of coordinate 'x'", "CF attributes of coordinate 'y'"}),
    ],
)
def test_the_validator_accepts_it_but_for_three_years_and_an_address_on_the_net(
    tmp_path: Path, interval_minutes: float | None, crs: str, pixel: float, failed: set[str]
) -> None:
    pytest.importorskip("mlcast_dataset_validator")
    from mlcast_dataset_validator.checks.global_attributes import mlcast_metadata
    from mlcast_dataset_validator.specs.source_data.radar_precipitation import validate_dataset

    west, north = (5.0, 50.0) if crs == "EPSG:4326" else (4_000_000.0, 3_000_000.0)
    grid = Grid.from_corner(west, north, pixel, pixel, (256, 260), crs)
    source = make(tmp_path / "a.zarr", fields(5, (256, 260)), grid, interval_minutes)
    export_mlcast(source, tmp_path / "m.zarr", attributes=ATTRIBUTES)
    with pytest.MonkeyPatch.context() as patch, xr.open_zarr(tmp_path / "m.zarr") as dataset:
        patch.setattr(mlcast_metadata.requests, "get", _no_net)
        report, _ = validate_dataset(dataset)
    fails = {result.requirement: result.detail for result in report.results if result.status == "FAIL"}
    assert set(fails) == {"Minimum 3-year coverage", *failed}, fails
    if not failed:
        passed = [result for result in report.results if result.status == "PASS"]
        assert (VALIDATOR_VERSION, len(passed), len(report.results)) == (version("mlcast-dataset-validator"), 30, 35)


def _no_net(*arguments: object, **keywords: object) -> None:
    import requests

    raise requests.ConnectionError("no network in a test")
