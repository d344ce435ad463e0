"""CF files: units, packing, fills, axes of every direction and unit, times and bounds; what is unsaid is asked for."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import cftime
import netCDF4
import numpy as np
import pytest
import xarray as xr

from data_prep.readers.cf_dataset import CfVariable
from data_prep.readers.cf_netcdf import decode_times
from data_prep.readers.options import BoundingBox, ReadOptions
from data_prep.readers.registry import detect_format, read_frames
from data_prep.readers.source import Source
from nowcast.data.units import ZRelation
from nowcast.errors import DataError
from tests.data_prep.readers.reader_files import write_netcdf

RAIN = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def read_all(path: Path, **options: Any) -> list[Any]:
    return list(read_frames(path, options=ReadOptions(**options)))


def test_frames_come_with_their_times(tmp_path: Path) -> None:
    path = write_netcdf(tmp_path / "a.nc", RAIN)
    assert detect_format(path) == "cf_netcdf"
    first, second = read_all(path)
    np.testing.assert_array_equal(first.rain_rate, RAIN[0])
    np.testing.assert_array_equal(second.rain_rate, RAIN[1])
    assert (first.valid_time, second.valid_time) == (np.datetime64("2020-06-01"), np.datetime64("2020-06-01T00:05"))
    assert first.interval_minutes is None


@pytest.mark.parametrize(
    ("units", "factor"),
    [
        ("mm/h", 1), ("mm h-1", 1), ("mm h**-1", 1), ("mm hr^-1", 1), ("mm.h-1", 1), ("mm/hour", 1), ("kg m-2 h-1", 1),
        ("kg m-2 s-1", 3600), ("kg/m2/s", 3600), ("kg m**-2 s**-1", 3600), ("mm s-1", 3600), ("m s-1", 3.6e6),
        ("mm/day", 1 / 24),
    ],
)  # fmt: skip
def test_rates_of_every_unit(tmp_path: Path, units: str, factor: float) -> None:
    frame = read_all(write_netcdf(tmp_path / "a.nc", RAIN, units=units))[0]
    np.testing.assert_allclose(frame.rain_rate, RAIN[0] * factor, rtol=1e-6)


@pytest.mark.parametrize("units", ["m", "K", "", "mm2", "%", "dB", "kg m-3"])
def test_other_units_are_no_rain(tmp_path: Path, units: str) -> None:
    path = write_netcdf(tmp_path / "a.nc", RAIN, units=units, standard_name="rainfall_rate")
    with pytest.raises(DataError, match=r"a\.nc: "):
        read_all(path, variable="rain")


def test_a_standard_name_and_units_that_disagree_are_refused(tmp_path: Path) -> None:
    path = write_netcdf(tmp_path / "a.nc", RAIN, units="mm", standard_name="rainfall_rate")
    with pytest.raises(DataError, match="is a rate by its standard name and a depth by its units 'mm'"):
        read_all(path, variable="rain")


def test_a_depth_needs_its_interval(tmp_path: Path) -> None:
    path = write_netcdf(tmp_path / "a.nc", RAIN, units="mm")
    with pytest.raises(
        DataError, match="has units 'mm', a depth.*expected 'mm/h'; pass accumulation_minutes to convert"
    ):
        read_all(path)
    frame = read_all(path, accumulation_minutes=5)[0]
    np.testing.assert_array_equal(frame.rain_rate, RAIN[0] * 12)
    assert frame.interval_minutes == 5


def test_bounds_give_interval_and_end(tmp_path: Path) -> None:
    """The coordinate may stand in the middle of the interval: the valid time is the end."""
    path = write_netcdf(tmp_path / "a.nc", RAIN, units="kg m-2", times=(5, 15), bounds=[[0, 10], [10, 20]])
    frame = read_all(path)[0]
    np.testing.assert_array_equal(frame.rain_rate, RAIN[0] * 6)
    assert (frame.interval_minutes, frame.valid_time) == (10.0, np.datetime64("2020-06-01T00:10"))


def test_a_mean_rate_keeps_its_interval(tmp_path: Path) -> None:
    path = write_netcdf(
        tmp_path / "a.nc", RAIN, times=(10, 20), bounds=[[0, 10], [10, 20]], attributes={"cell_methods": "time: mean"}
    )
    assert read_all(path)[0].interval_minutes == 10.0


def test_packed_steps_land_on_thresholds(tmp_path: Path) -> None:
    """0.05 mm in 6 min is 0.5 mm/h, in float32 exactly; the product of floats would miss it."""
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = write_netcdf(tmp_path / "a.nc", stored, units="kg m-2", attributes={"scale_factor": 0.05, "add_offset": 0.0})
    frame = read_all(path, accumulation_minutes=6)[0]
    np.testing.assert_array_equal(frame.rain_rate.ravel(), np.arange(12) * np.float32(0.5))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_scale_in_float32_means_its_decimal(tmp_path: Path, kind: type) -> None:
    stored = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    path = write_netcdf(tmp_path / "a.nc", stored, attributes={"scale_factor": kind(0.1)})
    wanted = [np.float32(f"{tenths / 10:.1f}") for tenths in range(12)]
    np.testing.assert_array_equal(read_all(path)[0].rain_rate.ravel(), wanted)


def test_a_scale_is_what_it_is_whatever_was_read_before(tmp_path: Path) -> None:
    """0.1 in float32 equals a float64 that is not a tenth: each file has its own table."""
    stored = np.arange(2**16, dtype=np.uint16).reshape(1, 256, 256)
    axis, fields = 1000.0 * np.arange(256), {}
    for name, scale in (("double", np.float64(np.float32(0.1))), ("single", np.float32(0.1))):
        path = write_netcdf(
            tmp_path / f"{name}.nc",
            stored,
            attributes={"scale_factor": scale},
            times=(0,),
            y=axis[::-1],
            x=axis,
            fill=65535,
        )
        fields[name] = read_all(path)[0].rain_rate.ravel()
    assert fields["single"][9] == np.float32(0.9)
    assert fields["double"][9] == np.float32(9 * float(np.float32(0.1)))
    assert not np.array_equal(fields["single"][:-1], fields["double"][:-1])


def test_every_kind_of_missing_is_missing(tmp_path: Path) -> None:
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    stored[0, 0] = [-32768, -1, 500, 7]
    path = write_netcdf(
        tmp_path / "a.nc",
        stored,
        fill=np.int16(-32768),
        attributes={"missing_value": np.int16(-1), "valid_range": np.int16([0, 400])},
    )
    np.testing.assert_array_equal(read_all(path)[0].rain_rate[0], np.float32([np.nan, np.nan, np.nan, 7]))


def test_what_was_never_written_is_missing(tmp_path: Path) -> None:
    path = write_netcdf(tmp_path / "a.nc", RAIN)
    with netCDF4.Dataset(path, "a") as file:
        late = file.createVariable("late", "f4", ("time", "y", "x"))
        late.setncatts({"units": "mm/h", "grid_mapping": "crs"})
        late[0] = RAIN[0]
    first, second = read_all(path, variable="late")
    assert not np.isnan(first.rain_rate).any() and np.isnan(second.rain_rate).all()


def test_negative_rain_is_asked_about(tmp_path: Path) -> None:
    values = RAIN.copy()
    values[0, 0, 0], values[0, 0, 1] = -9, -1e-7
    path = write_netcdf(tmp_path / "a.nc", values)
    with pytest.raises(DataError, match="1 pixels of 'rain' are negative.*such as -9 mm/h.*missing_values"):
        read_all(path)
    rate = read_all(path, missing_values=(-9,))[0].rain_rate
    assert np.isnan(rate[0, 0]) and rate[0, 1] == 0


def test_reflectivity_is_converted_by_the_declared_relation(tmp_path: Path) -> None:
    values = np.full((2, 3, 4), 30, dtype=np.float32)
    path = write_netcdf(
        tmp_path / "a.nc",
        values,
        units="dBZ",
        standard_name="equivalent_reflectivity_factor",
        top={"zr_a": 316.0, "zr_b": 1.5},
    )
    assert read_all(path)[0].rain_rate[0, 0] == pytest.approx((1000 / 316) ** (1 / 1.5), rel=1e-6)
    again = read_all(path, z_relation=ZRelation(200, 1.6))[0]
    assert again.rain_rate[0, 0] == pytest.approx((1000 / 200) ** (1 / 1.6), rel=1e-6)
    assert again.attributes["zr_a"] == 200


@pytest.mark.parametrize(("flip_y", "flip_x"), [(True, False), (False, True), (True, True)])
def test_axes_of_either_direction_come_north_first(tmp_path: Path, flip_y: bool, flip_x: bool) -> None:
    upright = read_all(write_netcdf(tmp_path / "a.nc", RAIN))[0]
    y, x = (3000.0, 2000.0, 1000.0), (1000.0, 2000.0, 3000.0, 4000.0)
    turned = write_netcdf(
        tmp_path / "b.nc",
        RAIN[:, :: -1 if flip_y else 1, :: -1 if flip_x else 1],
        y=y[:: -1 if flip_y else 1],
        x=x[:: -1 if flip_x else 1],
    )
    frame = read_all(turned)[0]
    np.testing.assert_array_equal(frame.rain_rate, upright.rain_rate)
    np.testing.assert_array_equal(frame.grid.y, upright.grid.y)
    cropped = read_all(turned, crop=BoundingBox(50.005, 9.9, 50.02, 10.035))[0]
    rows = [list(upright.grid.y).index(value) for value in cropped.grid.y]
    columns = [list(upright.grid.x).index(value) for value in cropped.grid.x]
    np.testing.assert_array_equal(cropped.rain_rate, upright.rain_rate[np.ix_(rows, columns)])


def test_kilometres_become_metres(tmp_path: Path) -> None:
    metres = read_all(write_netcdf(tmp_path / "a.nc", RAIN))[0]
    kilometres = read_all(write_netcdf(tmp_path / "b.nc", RAIN, y=(3, 2, 1), x=(1, 2, 3, 4), axis_units="km"))[0]
    assert kilometres.grid.matches(metres.grid)
    assert kilometres.grid.pixel_size_km == (1.0, 1.0)


def test_longitudes_from_0_to_360_are_turned(tmp_path: Path) -> None:
    path = write_netcdf(tmp_path / "a.nc", RAIN, y=(41, 40, 39), x=(230, 231, 232, 233), axis_units="degrees_north")
    with netCDF4.Dataset(path, "a") as file:
        file["x"].units = "degrees_east"
    frame = read_all(path)[0]
    np.testing.assert_array_equal(frame.grid.x, [-130, -129, -128, -127])
    assert frame.grid.is_geographic


def test_a_global_axis_is_cropped_across_greenwich(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 36, dtype=np.float32).reshape(2, 3, 36)
    path = write_netcdf(tmp_path / "a.nc", values, y=(10, 0, -10), x=np.arange(5, 365, 10), axis_units="degrees_east")
    frame = read_all(path, crop=BoundingBox(-15, -80, 15, -41))[0]
    np.testing.assert_array_equal(frame.grid.x, [285, 295, 305, 315])
    np.testing.assert_array_equal(frame.rain_rate, values[0][:, 28:32])


def test_a_known_point_falls_on_its_pixel(tmp_path: Path) -> None:
    frame = read_all(write_netcdf(tmp_path / "a.nc", RAIN))[0]
    latitude, longitude = frame.grid.lat_lon()
    # 2 km north of 50 N on the ellipsoid is 2000 / 111229 degrees; 1 km east is 1000 / (111.32 km cos 50).
    assert latitude[1, 0] == pytest.approx(50 + 2000 / 111_229, abs=1e-5)
    assert longitude[1, 0] == pytest.approx(10 + 1 / 71.7, abs=1e-4)


def test_a_scalar_time_and_other_orders_of_dimensions(tmp_path: Path) -> None:
    path = write_netcdf(tmp_path / "a.nc", RAIN)
    with xr.open_dataset(path) as dataset:
        dataset.transpose("x", "time", "y", ...).to_netcdf(tmp_path / "b.nc")
        dataset.isel(time=1).to_netcdf(tmp_path / "c.nc")
    np.testing.assert_array_equal(read_all(tmp_path / "b.nc")[1].rain_rate, RAIN[1])
    (only,) = read_all(tmp_path / "c.nc")
    np.testing.assert_array_equal(only.rain_rate, RAIN[1])
    assert only.valid_time == np.datetime64("2020-06-01T00:05")


def test_zarr_netcdf3_and_gzip_read_alike(tmp_path: Path) -> None:
    path = write_netcdf(tmp_path / "a.nc", RAIN)
    with xr.open_dataset(path) as dataset:
        dataset.to_zarr(tmp_path / "a.zarr", consolidated=False)
    classic = write_netcdf(tmp_path / "b.nc", RAIN, format="NETCDF3_64BIT_OFFSET")
    zipped = tmp_path / "c.nc"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    for other in (tmp_path / "a.zarr", classic, zipped):
        assert detect_format(other) == "cf_netcdf"
        frames = read_all(other)
        np.testing.assert_array_equal(frames[1].rain_rate, RAIN[1])
        assert frames[1].valid_time == np.datetime64("2020-06-01T00:05")
        assert frames[1].grid.matches(read_all(path)[0].grid)


def test_an_mlcast_source_dataset_opens(tmp_path: Path) -> None:
    """CF Zarr with the mlcast attributes; missing times are left out of its time axis."""
    path = write_netcdf(
        tmp_path / "a.nc", RAIN, units="kg m-2 h-1", standard_name="rainfall_flux", name="rainfall_flux", times=(0, 10),
        top={"mlcast_dataset_version": "1.0.0", "license": "CC-BY-4.0"},
    )  # fmt: skip
    with xr.open_dataset(path) as dataset:
        dataset["missing_times"] = ("missing", np.array(["2020-06-01T00:05"], dtype="datetime64[ns]"))
        dataset.to_zarr(tmp_path / "a.zarr", consolidated=False)
    frames = read_all(tmp_path / "a.zarr")
    assert [str(frame.valid_time)[11:16] for frame in frames] == ["00:00", "00:10"]
    assert frames[0].attributes["licence"] == "CC-BY-4.0"


def test_several_variables_of_rain_are_asked_about(tmp_path: Path) -> None:
    path = write_netcdf(tmp_path / "a.nc", RAIN)
    with netCDF4.Dataset(path, "a") as file:
        file.createVariable("other", "f4", ("time", "y", "x")).units = "mm/h"
    with pytest.raises(DataError, match="several variables of rain: .*choose one: variable"):
        read_all(path)
    assert len(read_all(path, variable="rain")) == 2
    with pytest.raises(DataError, match="holds no variable 'snow'.*it holds .*rain"):
        read_all(path, variable="snow")


def test_a_file_without_rain_says_what_it_holds(tmp_path: Path) -> None:
    path = write_netcdf(tmp_path / "a.nc", RAIN, units="K", name="temperature")
    with pytest.raises(DataError, match=r"no variable of rain.*temperature \[K\]"):
        read_all(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axis_units": "furlong"}, "axis 'y' has units 'furlong', wanted m or km"),
        ({"mapping": {"grid_mapping_name": "none_such"}}, "grid mapping 'crs' is not understood"),
        ({"y": (3000.0, 2000.0, 500.0)}, "not regularly spaced"),
        ({"attributes": {"grid_mapping": "absent"}}, "names the grid mapping 'absent', which is not there"),
        ({"time_units": "months of fun"}, "time 'time' has units 'months of fun'"),
        ({"times": (0.0, np.nan)}, "holds missing values"),
    ],
)
def test_what_cannot_be_placed_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write_netcdf(tmp_path / "a.nc", RAIN, **{key: value for key, value in change.items() if key != "attributes"})
    if "attributes" in change:
        with netCDF4.Dataset(path, "a") as file:
            file["rain"].setncatts(change["attributes"])
    with pytest.raises(DataError, match=r"a\.nc: .*" + message):
        read_all(path)


def test_further_dimensions_are_refused(tmp_path: Path) -> None:
    path = write_netcdf(tmp_path / "a.nc", RAIN)
    with xr.open_dataset(path) as dataset:
        rain = dataset["rain"]
        dataset["rain"] = rain.expand_dims(level=3).assign_attrs(rain.attrs)
        dataset.to_netcdf(tmp_path / "b.nc")
    with pytest.raises(DataError, match="further dimensions {'level': 3}"):
        read_all(tmp_path / "b.nc")


def test_an_absurd_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    write_netcdf(path, RAIN)
    with pytest.raises(DataError, match="claims a grid of 3x4 pixels, more than the 10 allowed"):
        read_all(path, max_pixels=10)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    for format in ("NETCDF4", "NETCDF3_CLASSIC"):
        path = write_netcdf(tmp_path / f"{format}.nc", np.random.default_rng(0).random((2, 3, 4)), format=format)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(DataError):
            read_all(path)


@pytest.mark.parametrize(
    ("units", "value"),
    [
        ("seconds since 1970-01-01 00:00:00 UTC", 1529104320),
        ("seconds since 1970-01-01T00:00:00Z", 1529104320),
        ("seconds since 1970-01-01", np.int32(-5)),
        ("seconds since 2018-06-16 01:02:03", np.uint16(65535)),
        # Not plain: another unit, another zone, a date that is none, a time before the calendars agree.
        ("hours since 1970-01-01 00:00:00", 424751),
        ("seconds since 1970-01-01 00:00:00 +01:00", 1529104320),
        ("seconds since 1970-1-1 0:0:0", 1529104320),
        ("seconds since 1950-01-01", -12_000_000_000),
        ("seconds since 1970-01-01", 0.4),
    ],
)
def test_times_are_those_of_cftime(units: str, value: float) -> None:
    coordinate = CfVariable("time", (), (), np.asarray(value).dtype, lambda: {"units": units}, lambda _: value)
    (found,) = decode_times(Source("a.nc"), coordinate)
    date = cftime.num2date(value, units, "standard", only_use_cftime_datetimes=False)
    assert found == np.datetime64(date.isoformat()).astype("datetime64[s]")


def test_a_date_that_is_none_is_said() -> None:
    coordinate = CfVariable(
        "time", (), (), np.dtype("i4"), lambda: {"units": "seconds since 1970-02-30 00:00:00"}, lambda _: np.int32(7)
    )
    with pytest.raises(DataError, match="time 'time' cannot be decoded"):
        decode_times(Source("a.nc"), coordinate)
