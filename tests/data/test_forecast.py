"""A forecast file is CF, comes back as it was written, and refuses what it is not."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from nowcast.data.forecast import Forecast, load_forecast
from nowcast.data.forecast_file import open_forecast_file
from nowcast.data.grid import Grid
from nowcast.errors import ConfigError, DataError

CRS = {
    "laea": "+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000 +ellps=WGS84",
    "stere": "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=25 +a=6371288",
    "aeqd": "+proj=aeqd +lat_0=46 +lon_0=7 +ellps=WGS84",
    "swiss": "EPSG:21781",
}

RUN_CHECKER = """
import sys
from compliance_checker.runner import CheckSuite, ComplianceChecker
CheckSuite.load_all_available_checkers()
clean = [ComplianceChecker.run_checker(path, ["cf:1.11"], 0, "strict") for path in sys.argv[1:]]
sys.exit(not all(passed and not errors for passed, errors in clean))
"""


def make_forecast(
    crs: str = "laea", issues: int = 1, interval_minutes: float | None = 5.0, *, chances: bool = False
) -> Forecast:
    rng = np.random.default_rng(0)
    rain_rate = rng.gamma(0.5, 2.0, (2, issues, 3, 6, 5)).astype(np.float32)
    rain_rate[..., 0, 0] = np.nan
    return Forecast(
        rain_rate,
        np.datetime64("2016-07-11T21:00", "s") + np.arange(issues) * np.timedelta64(10, "m"),
        np.arange(1, 4) * np.timedelta64(5, "m"),
        Grid.from_corner(600_000, 400_000, 1000, 1000, (6, 5), CRS[crs]),
        "persistence",
        interval_minutes,
        {"synthetic": True},
        rng.uniform(0, 1, (issues, 3, 2, 6, 5)) if chances else None,
        (0.5, 5.0) if chances else (),
    )


@pytest.mark.parametrize("chances", [False, True])
@pytest.mark.parametrize(("name", "issues"), [("f.nc", 1), ("f.zarr", 3)])
def test_what_is_saved_comes_back(tmp_path, name, issues, chances):
    forecast = make_forecast(issues=issues, chances=chances)
    loaded = load_forecast(forecast.save(tmp_path / name))
    np.testing.assert_array_equal(loaded.rain_rate, forecast.rain_rate)
    np.testing.assert_array_equal(loaded.valid_times, forecast.valid_times)
    assert loaded.grid.matches(forecast.grid, tolerance_pixels=1e-9)
    assert loaded.thresholds == forecast.thresholds
    np.testing.assert_equal(loaded.chances, forecast.chances)
    assert (loaded.model, loaded.interval_minutes, loaded.attributes["synthetic"]) == ("persistence", 5.0, "true")


def test_files_pass_the_cf_checker_in_strict_mode(tmp_path):
    pytest.importorskip("compliance_checker")
    paths = [
        str(make_forecast(crs, interval_minutes=interval).save(tmp_path / f"{crs}_{interval}.nc"))
        for crs in CRS
        for interval in (None, 5.0)
    ]
    half = np.arange(1, 4) * np.timedelta64(150, "s")
    paths.append(str(dataclasses.replace(make_forecast(), lead_times=half).save(tmp_path / "half.nc")))
    paths.append(str(make_forecast(chances=True).save(tmp_path / "chances.nc")))
    # A process of its own: the checker and what it imports raise warnings that are not ours.
    checked = subprocess.run([sys.executable, "-c", RUN_CHECKER, *paths], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("All tests passed!") == len(paths), checked.stdout


@pytest.mark.parametrize("name", ["f.nc", "f.zarr"])
@pytest.mark.parametrize("seconds", [30, 150, 300])
def test_lead_times_of_half_minutes_keep_their_seconds(tmp_path, name, seconds):
    lead_times = np.arange(1, 4) * np.timedelta64(seconds, "s")
    path = dataclasses.replace(make_forecast(), lead_times=lead_times).save(tmp_path / name)
    np.testing.assert_array_equal(load_forecast(path).lead_times, lead_times)
    np.testing.assert_array_equal(open_forecast_file(path).lead_times, lead_times)


@pytest.mark.parametrize(("units", "factor"), [("hours", 1 / 3600), ("s", 1), ("seconds", 1), ("min", 1 / 60)])
def test_lead_times_are_read_in_their_units(tmp_path, units, factor):
    dataset = make_forecast(issues=2).to_zarr_dataset()
    seconds = np.array([150, 300, 450])
    leads = ("lead_time", seconds * factor, {**dataset["lead_time"].attrs, "units": units})
    dataset.assign_coords(lead_time=leads).to_zarr(tmp_path / "f.zarr", zarr_format=3, consolidated=False)
    for loaded in (load_forecast(tmp_path / "f.zarr"), open_forecast_file(tmp_path / "f.zarr")):
        np.testing.assert_array_equal(loaded.lead_times.astype(int), seconds)


def test_nothing_is_overwritten_unasked_and_nothing_half_written_stays(tmp_path):
    path = make_forecast().save(tmp_path / "f.nc")
    with pytest.raises(ConfigError, match=r"f\.nc exists"):
        make_forecast().save(path)
    make_forecast("stere").save(path, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.nc"]


def test_foreign_files_are_refused_by_name(tmp_path):
    (tmp_path / "text.nc").write_text("not a forecast")
    with pytest.raises(DataError, match=r"text\.nc cannot be read"):
        load_forecast(tmp_path / "text.nc")
    xr.Dataset({"t": ("x", [1.0])}).to_netcdf(tmp_path / "other.nc")
    with pytest.raises(DataError, match=r"other\.nc holds no rain rate: no variable .* rainfall_rate, "):
        load_forecast(tmp_path / "other.nc")
    dataset = make_forecast().to_dataset()
    dataset["rainfall_rate"].attrs["units"] = "mm"
    dataset.drop_vars("time_bnds").to_netcdf(tmp_path / "units.nc")
    with pytest.raises(DataError, match="units 'mm', expected 'mm h-1'"):
        load_forecast(tmp_path / "units.nc")


@pytest.mark.parametrize(("value", "shown"), [(-2.0, "-2 mm/h"), (np.inf, "inf mm/h")])
@pytest.mark.parametrize("name", ["f.nc", "f.zarr"])
def test_rates_that_are_none_are_refused(tmp_path, name, value, shown):
    forecast = make_forecast()
    field = forecast.rain_rate.copy()
    field[0, 0, 1, 2, 3] = value
    path = dataclasses.replace(forecast, rain_rate=field).save(tmp_path / name)
    message = rf"f\.\w+: 1 values of rainfall_rate are negative or infinite, such as {shown}, and not declared"
    with pytest.raises(DataError, match=message) as refusal:
        load_forecast(path)
    assert "write NaN" in refusal.value.hint


def test_a_file_of_another_program_is_loaded_north_first_in_mm_per_hour(tmp_path):
    forecast = make_forecast(interval_minutes=None)
    dataset = forecast.to_dataset().isel(y=slice(None, None, -1)).rename(time="step_time", rainfall_rate="pr")
    attributes = {**dataset["pr"].attrs, "standard_name": "rainfall_flux", "units": "kg m-2 s-1"}
    dataset["pr"] = (dataset["pr"].astype(float) / 3600).assign_attrs(attributes)
    dataset.attrs = {"title": "theirs"}
    dataset.to_netcdf(tmp_path / "theirs.nc")
    loaded = load_forecast(tmp_path / "theirs.nc")
    np.testing.assert_allclose(loaded.rain_rate, forecast.rain_rate, rtol=1e-6)
    assert loaded.grid.matches(forecast.grid) and loaded.model == "theirs" and loaded.interval_minutes is None
    np.testing.assert_array_equal(loaded.valid_times, forecast.valid_times)


@pytest.mark.parametrize(("name", "issues"), [("f.nc", 1), ("f.zarr", 3)])
def test_one_issue_time_is_a_part_of_the_whole(tmp_path, name, issues):
    path = make_forecast(issues=issues).save(tmp_path / name)
    file, whole = open_forecast_file(path), load_forecast(path)
    for index, time in enumerate(file.issue_times):
        leads = file.lead_times[1:]
        np.testing.assert_array_equal(file.read(time, leads), whole.rain_rate[:, index, 1:])


def test_axes_that_do_not_fit_are_refused():
    good = make_forecast()
    with pytest.raises(DataError, match="does not fit"):
        Forecast(good.rain_rate[:, :, :2], good.issue_times, good.lead_times, good.grid, "m")
    with pytest.raises(DataError, match="chances of shape"):
        Forecast(
            good.rain_rate, good.issue_times, good.lead_times, good.grid, "m", chances=good.rain_rate, thresholds=(1,)
        )
    with pytest.raises(DataError, match="must ascend"):
        Forecast(good.rain_rate, good.issue_times, good.lead_times[::-1], good.grid, "m")
