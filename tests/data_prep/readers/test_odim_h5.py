"""ODIM_H5: every optional attribute left out, every quantity, times, corners and quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_prep.readers.options import BoundingBox, PixelWindow, ReadOptions
from data_prep.readers.registry import detect_format, read_frames
from nowcast.data.units import ZRelation
from nowcast.errors import DataError
from tests.data_prep.readers.reader_files import odim_where, write_odim

RATE = np.array([[0.0, 1.5, np.nan, 2.0, 0.1], [3.0, 0.0, 0.5, 9.0, 0.0]] * 2)
SENTINELS = {"nodata": -9999000.0, "undetect": -8888000.0, "gain": 1.0, "offset": 0.0}


def read_one(path: Path, **options: Any) -> Any:
    (frame,) = read_frames(path, options=ReadOptions(**options))
    return frame


def test_nothing_declared_means_values_as_they_stand(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a.h5", RATE.astype(np.float32), conventions="ODIM_H5/V2_2")
    assert detect_format(path) == "odim_h5"
    np.testing.assert_array_equal(read_one(path).rain_rate, RATE.astype(np.float32))


def test_no_data_is_missing_and_undetected_is_dry(tmp_path: Path) -> None:
    values = np.where(np.isnan(RATE), -9999000.0, np.where(RATE == 0, -8888000.0, RATE))
    np.testing.assert_array_equal(
        read_one(write_odim(tmp_path / "a.h5", values, what=SENTINELS)).rain_rate, RATE.astype(np.float32)
    )


@pytest.mark.parametrize("lacking", ["nodata", "undetect", "gain", "offset"])
def test_each_attribute_is_optional(tmp_path: Path, lacking: str) -> None:
    values = np.array([[0, 255, 7, 8], [1, 2, 3, 4]], dtype=np.uint8)
    what: dict[str, Any] = {"nodata": 255.0, "undetect": 0.0, "gain": 0.1, "offset": 0.0}
    del what[lacking]
    rate = read_one(write_odim(tmp_path / "a.h5", values, what=what)).rain_rate

    gain = 1.0 if lacking == "gain" else 0.1
    assert rate[0, 0] == 0
    assert np.isnan(rate[0, 1]) == (lacking != "nodata")
    np.testing.assert_array_equal(rate[1], (np.array([1, 2, 3, 4]) * gain).astype(np.float32))


def test_undetect_wins_over_an_offset(tmp_path: Path) -> None:
    """Undetected dBZ is dry, whatever gain and offset make of its code."""
    values = np.array([[0, 255], [64, 100]], dtype=np.uint8)
    what = {"nodata": 255.0, "undetect": 0.0, "gain": 0.5, "offset": -32.0}
    frame = read_one(write_odim(tmp_path / "a.h5", values, quantity="DBZH", what=what))
    np.testing.assert_allclose(
        frame.rain_rate, [[0, np.nan], ZRelation(200, 1.6).rain_rate(np.array([0.0, 18.0]))], rtol=1e-6
    )
    assert (frame.attributes["zr_a"], frame.attributes["zr_b"]) == (200.0, 1.6)


def test_a_declared_relation_is_used_and_an_option_goes_before_it(tmp_path: Path) -> None:
    values = np.full((2, 2), 30.0)
    path = write_odim(tmp_path / "a.h5", values, quantity="DBZH", how={"zr_a": 316.0, "zr_b": 1.5})
    assert read_one(path).rain_rate[0, 0] == pytest.approx((1000 / 316) ** (1 / 1.5))
    assert read_one(path).attributes["zr_a"] == 316.0
    assert read_one(path, z_relation=ZRelation(223, 1.53)).rain_rate[0, 0] == pytest.approx((1000 / 223) ** (1 / 1.53))


def test_an_accumulation_is_divided_by_its_own_interval(tmp_path: Path) -> None:
    """60 minutes by start and end, issued every 15: the rate is not four times as high."""
    dataset = {"startdate": "20241126", "starttime": "000000", "enddate": "20241126", "endtime": "010000"}
    frame = read_one(write_odim(tmp_path / "a.h5", np.full((2, 3), 2.5), quantity="ACRR", dataset=dataset))
    assert frame.rain_rate[0, 0] == 2.5
    assert frame.interval_minutes == 60
    assert frame.valid_time == np.datetime64("2024-11-26T01:00")


def test_an_accumulation_without_an_interval_asks_for_it(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a.h5", np.full((2, 3), 2.5), quantity="ACRR")
    with pytest.raises(DataError, match="wanted its interval.*pass accumulation_minutes"):
        read_one(path)
    assert read_one(path, accumulation_minutes=15).rain_rate[0, 0] == 10.0


def test_a_rate_stands_at_the_nominal_time(tmp_path: Path) -> None:
    """Start and end of OPERA's datasets lie beside it."""
    dataset = {"startdate": "20180824", "starttime": "175000", "enddate": "20180824", "endtime": "180500"}
    frame = read_one(write_odim(tmp_path / "a.h5", np.ones((2, 2)), dataset=dataset))
    assert frame.valid_time == np.datetime64("2018-08-24T18:00")
    assert frame.interval_minutes is None


def test_no_time_asks_for_a_pattern(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "T_20241126011500.h5", np.ones((2, 2)), top={"time": None})
    with pytest.raises(DataError, match="no nominal time.*time_pattern"):
        read_one(path)
    assert read_one(path, time_pattern="_%Y%m%d%H%M%S").valid_time == np.datetime64("2024-11-26T01:15")


@pytest.mark.parametrize("centres", [False, True])
def test_corners_may_be_edges_or_centres(tmp_path: Path, centres: bool) -> None:
    frame = read_one(write_odim(tmp_path / "a.h5", np.ones((4, 5)), where=odim_where(4, 5, centres=centres)))
    np.testing.assert_allclose(frame.grid.x, 1_001_000 + 2000 * np.arange(5), atol=1e-3)
    np.testing.assert_allclose(frame.grid.y, -1_001_000 - 2000 * np.arange(4), atol=1e-3)


def test_corners_rounded_by_metres_are_accepted_and_match(tmp_path: Path) -> None:
    where = odim_where(4, 5)
    moved = {**where, "UL_lon": where["UL_lon"] + 4e-5, "LR_lat": where["LR_lat"] + 3e-5}
    frame = read_one(write_odim(tmp_path / "a.h5", np.ones((4, 5)), where=moved))
    assert frame.grid.matches(read_one(write_odim(tmp_path / "b.h5", np.ones((4, 5)))).grid)


def test_corners_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a.h5", np.ones((4, 5)), where={"xscale": 1000.0})
    with pytest.raises(DataError, match="corners do not fit 4x5 pixels of 1000 by 2000"):
        read_one(path)


def test_the_quality_index_comes_along(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a.h5", np.ones((2, 2)))
    with h5py.File(path, "a") as file:
        quality = file["dataset1/data1"].create_group("quality1")
        quality["data"] = np.array([[0, 255], [51, 102]], dtype=np.uint8)
        quality.create_group("what").attrs["gain"] = 1 / 255
    np.testing.assert_allclose(read_one(path).quality, [[0, 1], [0.2, 0.4]], atol=1e-6)


def test_quality_as_a_dataset_of_its_own_drops_its_sentinels(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a.h5", np.ones((2, 2)))
    with h5py.File(path, "a") as file:
        group = file.create_group("dataset2/data1")
        group["data"] = np.array([[0.5, -9999000.0], [1.0, -8888000.0]])
        file.create_group("dataset2/what").attrs["quantity"] = np.bytes_("QIND")
    np.testing.assert_array_equal(read_one(path).quality, np.float32([[0.5, np.nan], [1.0, np.nan]]))


def test_several_quantities_are_read_by_name(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a.h5", np.full((2, 2), 30.0), quantity="DBZH")
    with h5py.File(path, "a") as file:
        file["dataset1/data2/data"] = np.full((2, 2), 7.0)
        file.create_group("dataset1/data2/what").attrs["quantity"] = np.bytes_("RATE")
    assert read_one(path).rain_rate[0, 0] == 7.0
    assert read_one(path, variable="DBZH").rain_rate[0, 0] == pytest.approx((1000 / 200) ** (1 / 1.6))
    with pytest.raises(DataError, match="holds the quantities 'DBZH', 'RATE'; wanted VRAD"):
        read_one(path, variable="VRAD")


def test_crop_and_coarsen_while_reading(tmp_path: Path) -> None:
    values = np.arange(16.0).reshape(4, 4)
    path = write_odim(tmp_path / "a.h5", values)
    window = read_one(path, crop=PixelWindow((0, 4), (2, 4)))
    np.testing.assert_array_equal(window.rain_rate, values[:, 2:])
    assert window.grid.x[0] == read_one(path).grid.x[2]
    coarse = read_one(path, coarsen=2)
    np.testing.assert_array_equal(coarse.rain_rate, [[2.5, 4.5], [10.5, 12.5]])
    assert coarse.grid.spacing == (pytest.approx(4000), pytest.approx(4000))


def test_a_block_less_than_half_measured_is_missing(tmp_path: Path) -> None:
    values = np.ones((4, 4))
    values[:2, :2] = [[3, np.nan], [np.nan, np.nan]]
    values[:2, 2:] = [[3, np.nan], [5, np.nan]]
    np.testing.assert_array_equal(
        read_one(write_odim(tmp_path / "a.h5", values), coarsen=2).rain_rate, np.float32([[np.nan, 4], [1, 1]])
    )


def test_a_box_in_degrees_keeps_the_pixels_it_encloses(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a.h5", np.arange(900.0).reshape(30, 30))
    whole = read_one(path)
    latitude, longitude = whole.grid.lat_lon()
    box = BoundingBox(latitude[20, 10], longitude[20, 10], latitude[10, 20], longitude[10, 20])
    part = read_one(path, crop=box)
    inside = (latitude > box.south) & (latitude < box.north) & (longitude > box.west) & (longitude < box.east)
    assert set(whole.rain_rate[inside]) <= set(part.rain_rate.ravel())
    assert part.rain_rate.size < 400
    with pytest.raises(DataError, match="N and .* E lies outside its grid, which reaches from .* N and .* E"):
        read_one(path, crop=BoundingBox(-40, 100, -30, 110))


@pytest.mark.parametrize("value", [-1.0, np.inf])
def test_negative_or_infinite_rain_is_not_passed_on(tmp_path: Path, value: float) -> None:
    path = write_odim(tmp_path / "a.h5", np.where(np.isnan(RATE), value, RATE))
    with pytest.raises(DataError, match="negative or infinite.*missing_values"):
        read_one(path)
    assert np.isnan(read_one(path, missing_values=(value,)).rain_rate[0, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top": {"object": "PVOL"}}, "object of kind 'PVOL', wanted a cartesian COMP"),
        ({"quantity": "VRAD"}, "holds the quantities 'VRAD'; wanted one of RATE"),
        ({"where": {"projdef": None}}, "lacks where/projdef"),
        ({"where": {"projdef": "+proj=none"}}, "projection '\\+proj=none' is not understood"),
        ({"where": {"xsize": 7}}, r"where declares \(4, 7\) pixels, but the data have \(4, 5\)"),
        ({"where": {"xscale": np.nan}}, "pixels of nan by 2000"),
        ({"top": {"time": "250000"}}, "are not a time"),
        ({"what": {"gain": np.nan}}, "its gain is nan"),
        ({"how": {"zr_a": -1.0, "zr_b": 1.6}}, "Z-R relation -1.0"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"a\.h5: .*" + message):
        read_one(write_odim(tmp_path / "a.h5", RATE, **change))


def test_what_says_that_it_is_odim_is_refused_as_such(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a.h5", np.ones((3, 4)))
    with h5py.File(path, "r+") as file:
        file.attrs["Conventions"] = "ODIM_H5/V2_4"
        del file["what"]
    assert detect_format(path) == "odim_h5"
    with pytest.raises(DataError, match="an ODIM object of kind ''"):
        list(read_frames(path))


def test_an_array_never_written_is_not_dry(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a.h5", np.ones((4, 5)))
    with h5py.File(path, "a") as file:
        del file["dataset1/data1/data"]
        file["dataset1/data1"].create_dataset("data", shape=(4, 5), dtype="f8", chunks=(2, 5))
    with pytest.raises(DataError, match="was never written"):
        read_one(path)
    with h5py.File(path, "a") as file:
        file["dataset1/data1/data"][:2] = 1.0
    with pytest.raises(DataError, match="holds 1 of its 2 chunks"):
        read_one(path)


def test_an_absurd_size_is_refused(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a.h5", np.ones((4, 5)))
    with h5py.File(path, "a") as file:
        del file["dataset1/data1/data"]
        file["dataset1/data1"].create_dataset("data", shape=(10**6, 10**6), dtype="f8", chunks=(100, 100))
    with pytest.raises(DataError, match="claims a grid of 1000000x1000000 pixels"):
        read_one(path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = write_odim(tmp_path / "a.h5", np.random.default_rng(0).random((50, 50)))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"a\.h5"):
        read_one(path)
    with pytest.raises(DataError, match=r"a\.h5: damaged, or not a whole HDF5 file"):
        list(read_frames(path, format="odim_h5"))
