"""MRMS GRIB2: built with eccodes; coverage, longitudes, crop and damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.readers.options import BoundingBox, ReadOptions
from data_prep.readers.registry import detect_format, read_frames
from nowcast.errors import DataError

eccodes = pytest.importorskip("eccodes")

VALUES = np.array([[-3.0, 0.0, 0.1, 0.3], [0.7, 1.1, 5.0, 148.8], [0.0, -1.0, 0.5, 10.0]])


def write(path: Path, *, values: np.ndarray = VALUES, **changes: Any) -> Path:
    message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    keys: dict[str, Any] = {
        "centre": 161,
        "discipline": 209,
        "parameterCategory": 6,
        "parameterNumber": 1,
        "shapeOfTheEarth": 2,
        "Ni": values.shape[1],
        "Nj": values.shape[0],
        "latitudeOfFirstGridPointInDegrees": 54.995,
        "longitudeOfFirstGridPointInDegrees": 230.005,
        "latitudeOfLastGridPointInDegrees": 54.995 - 0.01 * (values.shape[0] - 1),
        "longitudeOfLastGridPointInDegrees": 230.005 + 0.01 * (values.shape[1] - 1),
        "iDirectionIncrementInDegrees": 0.01,
        "jDirectionIncrementInDegrees": 0.01,
        "dataDate": 20190610,
        "dataTime": 2,
        "packingType": "grid_simple",
        "decimalPrecision": 1,
    }
    for key, value in {**keys, **changes}.items():
        eccodes.codes_set(message, key, value)
    eccodes.codes_set_values(message, values.ravel())
    path.write_bytes(eccodes.codes_get_message(message))
    eccodes.codes_release(message)
    return path


def read_one(path: Path, **options: Any) -> Any:
    (frame,) = read_frames(path, options=ReadOptions(**options))
    return frame


def test_steps_of_a_tenth_land_on_thresholds_and_no_coverage_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.grib2")
    assert detect_format(path) == "mrms_grib2"
    frame = read_one(path)
    np.testing.assert_array_equal(frame.rain_rate, np.where(VALUES < 0, np.nan, VALUES).astype(np.float32))
    assert frame.valid_time == np.datetime64("2019-06-10T00:02")


def test_the_native_grid_is_kept_and_its_longitudes_turned(tmp_path: Path) -> None:
    frame = read_one(write(tmp_path / "a.grib2"))
    np.testing.assert_allclose(frame.grid.x, -129.995 + 0.01 * np.arange(4), atol=1e-9)
    np.testing.assert_allclose(frame.grid.y, 54.995 - 0.01 * np.arange(3), atol=1e-9)
    assert frame.grid.is_geographic


def test_crop_and_coarsen(tmp_path: Path) -> None:
    values = np.arange(64.0).reshape(8, 8) / 10
    path = write(tmp_path / "a.grib2", values=values)
    part = read_one(path, crop=BoundingBox(54.9401, -129.9799, 54.9699, -129.9501))
    np.testing.assert_array_equal(part.rain_rate, values[3:6, 2:5].astype(np.float32))
    coarse = read_one(path, coarsen=4)
    np.testing.assert_allclose(coarse.rain_rate, values.reshape(2, 4, 2, 4).mean(axis=(1, 3)), rtol=1e-6)
    np.testing.assert_allclose(coarse.grid.x, [-129.98, -129.94], atol=1e-9)


def test_several_messages_are_several_frames(tmp_path: Path) -> None:
    first, second = (write(tmp_path / f"{minute}.grib2", dataTime=minute) for minute in (2, 4))
    both = tmp_path / "both.grib2"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    times = [frame.valid_time for frame in read_frames(both)]
    assert times == [np.datetime64("2019-06-10T00:02"), np.datetime64("2019-06-10T00:04")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"discipline": 0}, r"holds the parameter \(0, 6, 1\), wanted MRMS PrecipRate"),
        ({"parameterNumber": 2}, "wanted MRMS PrecipRate"),
        ({"shapeOfTheEarth": 8}, "shape of the Earth 8"),
        ({"iDirectionIncrementInDegrees": 0.02}, "do not lead from"),
        ({"iScansNegatively": 1}, "scanning mode"),
    ],
)
def test_what_is_no_rain_rate_on_a_known_grid_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"a\.grib2: .*" + message):
        read_one(write(tmp_path / "a.grib2", **change))


def test_an_absurd_size_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="claims a grid of 3x4 pixels"):
        read_one(write(tmp_path / "a.grib2"), max_pixels=10)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.98])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "a.grib2")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match="is cut short"):
        read_one(path)


def test_bytes_between_messages_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.grib2")
    path.write_bytes(path.read_bytes() + b"and more of something")
    frames = read_frames(path)
    next(frames)
    with pytest.raises(DataError, match="begins no GRIB2 message"):
        next(frames)
