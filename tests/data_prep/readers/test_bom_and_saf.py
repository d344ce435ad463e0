"""BoM Rainfields' interval, and the SAF's geostationary grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest

from data_prep.readers.options import BoundingBox, ReadOptions
from data_prep.readers.registry import detect_format, read_frames
from nowcast.errors import DataError


def read_one(path: Path, **options: Any) -> Any:
    (frame,) = read_frames(path, options=ReadOptions(**options))
    return frame


def write_bom(path: Path, values: np.ndarray, *, minutes: int = 6, fill: int = -32768) -> Path:
    with netCDF4.Dataset(path, "w") as file:
        file.source = "rainfields 3.0.28"
        for name, size, low in (("y", 3, 0.0), ("x", 4, -1.0)):
            file.createDimension(name, size)
            axis = file.createVariable(name, "f4", (name,))
            axis.setncatts({"units": "km", "standard_name": f"projection_{name}_coordinate"})
            axis[:] = (low + 0.5 * np.arange(size))[:: -1 if name == "y" else 1]
        for name, seconds in (("start_time", 1529143200), ("valid_time", 1529143200 + 60 * minutes)):
            time = file.createVariable(name, "i8")
            time.units = "seconds since 1970-01-01 00:00:00 UTC"
            time[...] = seconds
        file["valid_time"].standard_name = "time"
        file.createVariable("proj", "i1").setncatts(
            {
                "grid_mapping_name": "albers_conical_equal_area",
                "semi_major_axis": 6378137.0,
                "inverse_flattening": 298.257222101,
                "standard_parallel": [-18.0, -36.0],
                "longitude_of_central_meridian": 144.752,
                "latitude_of_projection_origin": -37.852,
                "false_easting": 0.0,
                "false_northing": 0.0,
            }
        )
        rain = file.createVariable("precipitation", "i2", ("y", "x"), fill_value=np.int16(fill))
        rain.set_auto_maskandscale(False)
        rain.setncatts(
            {
                "grid_mapping": "proj",
                "standard_name": "precipitation_amount",
                "units": "kg m-2",
                "scale_factor": 0.05,
                "add_offset": 0.0,
            }
        )
        rain[:] = values
    return path


@pytest.mark.parametrize("minutes", [6, 10])
@pytest.mark.parametrize("fill", [-32768, -1])
def test_the_interval_is_the_files_own(tmp_path: Path, minutes: int, fill: int) -> None:
    values = np.array([[0, 1, 2, fill], [20, 0, 0, 0], [0, 0, 0, 0]], dtype=np.int16)
    path = write_bom(tmp_path / "a.nc", values, minutes=minutes, fill=fill)
    assert detect_format(path) == "bom_netcdf"
    frame = read_one(path)
    step = 0.05 * 60 / minutes
    np.testing.assert_array_equal(frame.rain_rate[0], np.float32([0, round(step, 10), round(2 * step, 10), np.nan]))
    assert frame.interval_minutes == minutes
    assert frame.valid_time == np.datetime64("2018-06-16T10:00") + np.timedelta64(minutes, "m")


def test_pixels_are_half_a_kilometre(tmp_path: Path) -> None:
    """Not 499 m: the axis holds centres, and the outer corners lie half a pixel further out."""
    frame = read_one(write_bom(tmp_path / "a.nc", np.zeros((3, 4), dtype=np.int16)))
    assert frame.grid.spacing == (500.0, 500.0)
    assert frame.grid.x[0] == -1000.0


def test_an_interval_that_runs_backwards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the end must be after the start"):
        read_one(write_bom(tmp_path / "a.nc", np.zeros((3, 4), dtype=np.int16), minutes=-6))


def write_saf(path: Path, **changes: Any) -> Path:
    attributes = {
        "gdal_projection": "+proj=geos +a=6378137.0 +b=6356752.3 +lon_0=0.0 +h=35785863.0",
        "gdal_xgeo_up_left": -1500.0,
        "gdal_ygeo_up_left": 4_504_500.0,
        "gdal_xgeo_low_right": 10_500.0,
        "gdal_ygeo_low_right": 4_495_500.0,
        "nominal_product_time": "2018-06-01T07:00:00Z",
        "institution": "Agencia Estatal de Meteorología (AEMET)",
        "license": "EUMETSAT user policy",
    }
    with h5py.File(path, "w") as file:
        for key, value in {**attributes, **changes}.items():
            if key in attributes:
                file.attrs[key] = value
        file["crr_intensity"] = np.array([[0, 1, 500, 65535]] * 3, dtype=np.uint16)
        for key, value in {
            "scale_factor": np.float32(0.1),
            "add_offset": np.float32(0),
            "units": changes.get("units", "mm/h"),
            "_FillValue": np.uint16(65535),
            "valid_range": np.uint16([0, 500]),
        }.items():
            file["crr_intensity"].attrs[key] = value
        file["nx"] = np.float32([0, 3000, 6000, 9000]) + np.float32(changes.get("shift", 0))
        file["ny"] = np.float32([4_503_000, 4_500_000, 4_497_000])
    return path


def test_the_satellites_rate(tmp_path: Path) -> None:
    path = write_saf(tmp_path / "a.nc")
    assert detect_format(path) == "saf_crr"
    frame = read_one(path)
    np.testing.assert_array_equal(frame.rain_rate[0], np.float32([0, 0.1, 50, np.nan]))
    assert frame.valid_time == np.datetime64("2018-06-01T07:00")
    assert frame.grid.pixel_size_km == (3.0, 3.0)
    assert frame.attributes["institution"] == "Agencia Estatal de Meteorología (AEMET)"
    assert frame.attributes["licence"] == "EUMETSAT user policy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": "mm"}, "units 'mm', wanted 'mm/h'"),
        ({"nominal_product_time": "yesterday"}, "nominal_product_time is 'yesterday'"),
        ({"shift": 3000}, "do not fit its corners"),
        ({"gdal_projection": "+proj=nothing"}, "is not understood"),
    ],
)
def test_a_satellite_file_that_contradicts_itself_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_one(write_saf(tmp_path / "a.nc", **change))


def test_a_box_on_the_geostationary_grid(radar_data: Path) -> None:
    """The first row sees space beyond the Earth; a box over Iberia is cut out all the same."""
    path = sorted((radar_data / "saf/20180601/CRR").iterdir())[0]
    frame = read_one(path, crop=BoundingBox(36, -10, 44, 4))
    latitude, longitude = frame.grid.lat_lon()
    assert latitude.min() < 36 and latitude.max() > 44 and longitude.min() < -10 and longitude.max() > 4
    assert np.isfinite(latitude).all()
    # Sub-satellite line: the pixel nearest to 0 E stands within a pixel of x = 0.
    _, column = np.unravel_index(np.hypot(latitude - 40.4, longitude).argmin(), latitude.shape)
    assert abs(frame.grid.x[column]) <= 3000
