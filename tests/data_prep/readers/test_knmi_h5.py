"""KNMI HDF5: the formula in text, times in capitals, km that PROJ would take for metres."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import detect_format, read_frames
from nowcast.errors import DataError
from tests.data_prep.readers.reader_files import write_knmi

VALUES = np.array([[0, 1, 5, 65535], [25, 50, 100, 65535]], dtype=np.uint16)


def read_one(path: Path, **options: Any) -> Any:
    (frame,) = read_frames(path, options=ReadOptions(**options))
    return frame


def test_hundredths_of_a_millimetre_land_on_thresholds(tmp_path: Path) -> None:
    path = write_knmi(tmp_path / "a.h5", VALUES)
    assert detect_format(path) == "knmi_h5"
    frame = read_one(path)
    np.testing.assert_array_equal(frame.rain_rate, np.float32([[0, 0.12, 0.6, np.nan], [3, 6, 12, np.nan]]))
    assert (frame.valid_time, frame.interval_minutes) == (np.datetime64("2010-08-26T00:00"), 5.0)


def test_kilometres_are_kept_from_being_metres(tmp_path: Path) -> None:
    frame = read_one(write_knmi(tmp_path / "a.h5", VALUES))
    assert frame.grid.pixel_size_km == (1.0, 1.0)
    latitude, longitude = frame.grid.lat_lon()
    # The north-west corner of KNMI's grid is 55.974 N, 0 E.
    assert latitude[0, 0] == pytest.approx(55.974 - 0.0045, abs=0.001)
    assert longitude[0, 0] == pytest.approx(0.008, abs=0.001)


@pytest.mark.parametrize("formula", ["GEO=0.01*PV+0.0", "GEO = 0.01 * PV", "GEO=1e-2*PV+0.000000"])
def test_the_formula_is_read_however_it_is_written(tmp_path: Path, formula: str) -> None:
    frame = read_one(write_knmi(tmp_path / "a.h5", VALUES, calibration_formulas=formula))
    assert frame.rain_rate[1, 2] == np.float32(12)


def test_reflectivity(tmp_path: Path) -> None:
    path = write_knmi(
        tmp_path / "a.h5",
        np.array([[0, 124], [255, 1]], dtype=np.uint8),
        image_geo_parameter="REFLECTIVITY_[DBZ]",
        calibration_formulas="GEO=0.5*PV+-32.0",
        calibration_missing_data=np.int32([255]),
    )
    wanted = (10**3.0 / 200) ** (1 / 1.6)
    with pytest.raises(DataError, match="calibration is"):
        read_one(path)
    path = write_knmi(
        tmp_path / "b.h5",
        np.array([[0, 124], [255, 1]], dtype=np.uint8),
        image_geo_parameter="REFLECTIVITY_[DBZ]",
        calibration_formulas="GEO=0.5*PV-32.0",
        calibration_missing_data=np.int32([255]),
    )
    rate = read_one(path).rain_rate
    assert rate[0, 1] == pytest.approx(wanted, rel=1e-6)
    assert rate[0, 0] == 0 and np.isnan(rate[1, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"calibration_formulas": "GEO=log(PV)"}, "calibration is 'GEO=log"),
        ({"calibration_formulas": "GEO=0.01*PV-1.0"}, "gives negative rain"),
        ({"product_datetime_end": "26-XXX-2010;00:00:00.000"}, "is not a time such as"),
        ({"product_datetime_end": "25-AUG-2010;23:55:00.000"}, "wanted its interval"),
        ({"image_geo_parameter": "ECHOTOP"}, "image1 holds 'ECHOTOP'"),
        ({"geo_pixel_def": "CC"}, "not defined by their upper left corner"),
        ({"geo_pixel_size_y": np.float32([1.0])}, "wanted a positive and a negative size"),
        ({"geo_number_rows": np.int32([9])}, "declares .9, 4. rows and columns"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"a\.h5: .*" + message):
        read_one(write_knmi(tmp_path / "a.h5", VALUES, **change))


def test_declared_corners_must_fit(radar_data: Path) -> None:
    """The real files' corners agree with offsets and pixel size; De Bilt's radar lies on its pixel."""
    frame = read_one(sorted((radar_data / "radar/KNMI/2010/08").iterdir())[0])
    latitude, longitude = frame.grid.lat_lon()
    distance = np.hypot((latitude - 52.103) * 111.2, (longitude - 5.179) * 111.2 * np.cos(np.deg2rad(52.103)))
    assert distance.min() < 0.8
