"""The archive as others find it on disk: CF names and units, grid mapping, chunks, missing slots that take no space."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import xarray as xr

from nowcast.data.archive import MISSING, PRESENT, STATUS, open_archive
from nowcast.data.archive_writer import ArchiveWriter, write_archive
from nowcast.data.encoded_frame import encode_frame
from nowcast.data.grid import Grid
from nowcast.errors import DataError

START = np.datetime64("2024-05-01T12:00:00", "s")
STEP = np.timedelta64(300, "s")
PROJECTED = Grid.from_corner(4_000_000.0, 3_000_000.0, 1000.0, 1000.0, (6, 8), "EPSG:3035")
DEGREES = Grid.from_corner(-130.0, 55.0, 0.01, 0.01, (6, 8), "EPSG:4326")


def make(path: Path, grid: Grid = PROJECTED, interval_minutes: float | None = None) -> Path:
    """Three slots, the middle one missing."""
    return write_archive(
        path, np.ones((3, *grid.shape), dtype=np.float32), first_time=START, step=STEP, grid=grid,
        interval_minutes=interval_minutes, present=np.array([True, False, True]),
    )  # fmt: skip


def metadata(path: Path, name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((path / name / "zarr.json").read_text())
    return read


@pytest.mark.parametrize(("interval", "methods"), [(None, "time: point"), (5.0, "time: mean")])
def test_rain_is_a_flux_in_the_units_of_cf_and_says_of_what_time(
    tmp_path: Path, interval: float | None, methods: str
) -> None:
    with xr.open_zarr(make(tmp_path / "a.zarr", interval_minutes=interval)) as dataset:
        rain = dataset["rainfall_rate"]
        assert rain.dims == ("time", "y", "x") and rain.dtype == np.float32
        assert rain.attrs["standard_name"] == "rainfall_flux" and rain.attrs["units"] == "kg m-2 h-1"
        assert rain.attrs["cell_methods"] == methods and rain.attrs["grid_mapping"] == "crs"
        assert ("time_bnds" in dataset) == (interval is not None)
        for name in ("frame_status", "valid_share"):
            assert name in rain.coords
        assert dataset["frame_status"].attrs["flag_meanings"].split() == list(STATUS)
        assert dataset["frame_status"].values.tolist() == [PRESENT, MISSING, PRESENT]


def test_times_are_whole_seconds_of_utc_at_a_regular_step(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zarr")
    time = metadata(path, "time")
    assert time["data_type"] == "int64" and time["attributes"]["units"] == "seconds since 1970-01-01 00:00:00"
    with xr.open_zarr(path, decode_times=False) as dataset:
        assert dataset["time"].values.tolist() == [int((START + n * STEP).astype(int)) for n in range(3)]
        assert dataset.attrs["step_seconds"] == 300


def test_the_grid_mapping_serves_cf_gdal_and_anyone_with_pyproj(tmp_path: Path) -> None:
    with xr.open_zarr(make(tmp_path / "a.zarr")) as dataset:
        crs = dataset["crs"].attrs
        assert crs["grid_mapping_name"] == "lambert_azimuthal_equal_area" and crs["spatial_ref"] == crs["crs_wkt"]
        left, dx, _, top, _, dy = (float(part) for part in crs["GeoTransform"].split())
        assert (left, dx, top, dy) == (4_000_000.0, 1000.0, 3_000_000.0, -1000.0)
        assert dataset["x"].values[0] == left + 500 and (np.diff(dataset["y"].values) == -1000).all()
        assert dataset["y"].attrs["standard_name"] == "projection_y_coordinate" and dataset["y"].attrs["units"] == "m"
        to_degrees = pyproj.Transformer.from_crs(crs["crs_wkt"], "EPSG:4326", always_xy=True)
        longitude, latitude = to_degrees.transform(float(dataset["x"][7]), float(dataset["y"][5]))
        assert dataset["lat"].dtype == dataset["lon"].dtype == np.float32
        assert float(dataset["lat"][5, 7]) == pytest.approx(latitude, abs=1e-5)
        assert float(dataset["lon"][5, 7]) == pytest.approx(longitude, abs=1e-5)


def test_a_grid_in_degrees_keeps_its_axes(tmp_path: Path) -> None:
    with xr.open_zarr(make(tmp_path / "a.zarr", DEGREES)) as dataset:
        assert dataset["x"].attrs["standard_name"] == "longitude" and dataset["x"].attrs["units"] == "degrees_east"
        assert dataset["y"].attrs["standard_name"] == "latitude" and dataset["y"].values[0] == pytest.approx(54.995)
        assert "lat" not in dataset.variables
    dy, dx = open_archive(tmp_path / "a.zarr").grid.pixel_size_km
    assert dy == pytest.approx(1.112, abs=0.001) and dx == pytest.approx(1.112 * np.cos(np.deg2rad(54.97)), abs=0.001)


def test_a_frame_is_one_chunk_under_zstd_without_a_shuffle_and_a_gap_takes_no_space(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zarr")
    rain = metadata(path, "rainfall_rate")
    assert rain["zarr_format"] == 3 and rain["chunk_grid"]["configuration"]["chunk_shape"] == [1, 6, 8]
    assert [(codec["name"], codec["configuration"].get("level")) for codec in rain["codecs"]] == [
        ("bytes", None),
        ("zstd", 3),
    ]
    assert sorted(file.name for file in (path / "rainfall_rate").glob("c.*")) == ["c.0.0.0", "c.2.0.0"]


@pytest.mark.parametrize("order", ["as time goes", "back in time too"])
def test_whoever_reads_while_frames_come_sees_whole_ones_of_their_time_or_none(tmp_path: Path, order: str) -> None:
    """Frames that are all of one number, their slot's, in batches, and a reader that opens the archive now and then."""
    path = tmp_path / "a.zarr"
    frames, seen, readings = 60, [], 0
    begun = threading.Semaphore(0)
    with ArchiveWriter.create(path, PROJECTED, first_time=START, step=STEP) as writer:
        writer.write(START, number_of(0))
        done = threading.Event()

        def write() -> None:
            for number in range(1, frames):
                slot = -number if order == "back in time too" and number % 2 else number
                writer.put(encode_frame(START + slot * STEP, number_of(slot)))
                if number % 3 == 0:
                    begun.acquire(timeout=10)  # a reading for each commit, however busy the machine
                    writer.commit()
            writer.commit()
            done.set()

        thread = threading.Thread(target=write)
        thread.start()
        while not done.is_set():
            readings += 1
            begun.release()
            seen += read_as_ours(path) if order == "back in time too" else read_as_anyone(path)
        thread.join()
    assert seen == sorted(seen) and readings >= frames // 3 - 1 and open_archive(path).present.sum() == frames


def number_of(slot: int) -> np.ndarray:
    return np.full(PROJECTED.shape, slot % 1000, dtype=np.float32)


def read_as_anyone(path: Path) -> list[int]:
    """How many frames xarray sees; each is whole, of its time, and there if its status says so."""
    with xr.open_zarr(path, chunks=None) as dataset:
        rain, status, times = (dataset[name].values for name in ("rainfall_rate", "frame_status", "time"))
    for field, code, time in zip(rain, status, times, strict=True):
        wanted = number_of(int((time - START) // STEP)) if code == PRESENT else np.full(PROJECTED.shape, np.nan)
        np.testing.assert_array_equal(field, wanted)
    return [int((status == PRESENT).sum())]


def read_as_ours(path: Path) -> list[int]:
    """The same where the axis moves: what was opened too long ago says so, and gives no frame of another time."""
    archive = open_archive(path)
    for index in np.flatnonzero(archive.present):
        try:
            field = archive.rain_rate(int(index), int(index) + 1)[0]
        except DataError as error:
            assert "was rearranged after it was opened" in error.message
            return []
        np.testing.assert_array_equal(field, number_of(int((archive.times[index] - START) // STEP)))
    return [int(archive.present.sum())]
