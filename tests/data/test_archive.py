"""The archive: what was written is read back, whole frames or none, whatever order and whatever kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from nowcast.data.archive import MISSING, PARTIAL, PRESENT, ManifestEntry, open_archive
from nowcast.data.archive_writer import ArchiveWriter, frame_digest, write_archive
from nowcast.data.grid import Grid
from nowcast.errors import DataError

START = np.datetime64("2024-05-01T12:00:00", "s")
STEP = np.timedelta64(300, "s")
GRID = Grid.from_corner(0.0, 0.0, 1000.0, 1000.0, (6, 8), "EPSG:3035")


def fields(number: int) -> np.ndarray:
    rain = np.random.default_rng(0).gamma(0.5, 2.0, (number, 6, 8)).astype(np.float32)
    rain[:, 0, 0] = np.nan
    return rain


def create(path: Path) -> ArchiveWriter:
    return ArchiveWriter.create(path, GRID, first_time=START, step=STEP, interval_minutes=5.0)


def test_frames_come_back_as_they_went_in(tmp_path: Path) -> None:
    rain = fields(4)
    path = write_archive(tmp_path / "a.zarr", rain, first_time=START, step=STEP, grid=GRID)
    archive = open_archive(path)
    np.testing.assert_array_equal(archive.rain_rate(0, 4), rain)
    np.testing.assert_array_equal(archive.times, START + np.arange(4) * STEP)
    assert archive.present.all() and archive.step == STEP and archive.grid.matches(GRID)


def test_a_gap_reads_as_missing_and_a_late_frame_fills_its_slot(tmp_path: Path) -> None:
    rain = fields(4)
    with create(tmp_path / "a.zarr") as writer:
        for index in (0, 3):
            writer.write(START + index * STEP, rain[index])
    archive = open_archive(tmp_path / "a.zarr")
    assert archive.present.tolist() == [True, False, False, True]
    assert np.isnan(archive.rain_rate(1, 3)).all()
    with ArchiveWriter.append(tmp_path / "a.zarr") as writer:
        writer.write(START + 1 * STEP, rain[1])
    assert open_archive(tmp_path / "a.zarr").present.tolist() == [True, True, False, True]
    np.testing.assert_array_equal(open_archive(tmp_path / "a.zarr").frame(START + STEP), rain[1])


def test_frames_before_the_first_time_move_the_axis(tmp_path: Path) -> None:
    rain = fields(5)
    with create(tmp_path / "a.zarr") as writer:
        for index in (3, 4, 0, 1):
            writer.write(START + (index - 3) * STEP, rain[index])
    archive = open_archive(tmp_path / "a.zarr")
    assert archive.times[0] == START - 3 * STEP
    assert archive.present.tolist() == [True, True, False, True, True]
    np.testing.assert_array_equal(archive.rain_rate(0, 5)[archive.present], rain[[0, 1, 3, 4]])


def test_the_order_of_writing_leaves_the_same_fingerprint(tmp_path: Path) -> None:
    rain = fields(3)
    prints = []
    for name, order in (("a", (0, 1, 2)), ("b", (2, 0, 1))):
        with create(tmp_path / name) as writer:
            for index in order:
                writer.write(START + index * STEP, rain[index])
        prints.append(open_archive(tmp_path / name).fingerprint)
    assert prints[0] == prints[1]
    with ArchiveWriter.append(tmp_path / "a") as writer:
        writer.write(START, rain[1])
    assert open_archive(tmp_path / "a").fingerprint != prints[0]


def test_any_xarray_opens_it_with_times_and_bounds(tmp_path: Path) -> None:
    rain = fields(2)
    with create(tmp_path / "a.zarr") as writer:
        for index in range(2):
            writer.write(START + index * STEP, rain[index])
    with xr.open_zarr(tmp_path / "a.zarr", consolidated=False) as dataset:
        np.testing.assert_array_equal(dataset["rainfall_rate"].values, rain)
        assert dataset["rainfall_rate"].attrs["standard_name"] == "rainfall_flux"
        assert dataset["time"].values[1] == START + STEP
        width = dataset["time_bnds"].values[:, 1] - dataset["time_bnds"].values[:, 0]
        assert (width == np.timedelta64(5, "m")).all()
        assert dataset["valid_share"].values[0, 0] == 0 and dataset["valid_share"].values[1, 1] == 1


def test_a_frame_that_lost_pixels_is_partial(tmp_path: Path) -> None:
    rain = fields(2)
    rain[1, 3:] = np.nan
    path = write_archive(tmp_path / "a.zarr", rain, first_time=START, step=STEP, grid=GRID)
    archive = open_archive(path)
    assert archive.status.tolist() == [PRESENT, PARTIAL] and archive.present.all()


def test_valid_counts_survive_a_kill(tmp_path: Path) -> None:
    rain = fields(3)
    writer = create(tmp_path / "a.zarr")
    writer.write(START, rain[0])
    writer._lock.close()  # as the system does when the process dies: nothing was flushed
    with ArchiveWriter.append(tmp_path / "a.zarr") as later:
        later.write(START + STEP, rain[1])
    with xr.open_zarr(tmp_path / "a.zarr", consolidated=False) as dataset:
        assert dataset["valid_count"].values[2, 2] == 2


def test_a_reader_sees_no_frame_whose_status_is_not_written(tmp_path: Path) -> None:
    rain = fields(2)
    with create(tmp_path / "a.zarr") as writer:
        writer.write(START, rain[0])
        writer._grow(2)
        writer._rain_rate[1] = rain[1]
        archive = open_archive(tmp_path / "a.zarr")
        assert archive.status.tolist() == [PRESENT, MISSING]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with create(tmp_path / "a.zarr"), pytest.raises(DataError, match="written by another process"):
        ArchiveWriter.append(tmp_path / "a.zarr")


def test_a_time_between_two_slots_is_refused(tmp_path: Path) -> None:
    with create(tmp_path / "a.zarr") as writer, pytest.raises(DataError, match="does not fall on the archive's axis"):
        writer.write(START + np.timedelta64(60, "s"), fields(1)[0])


def test_the_manifest_keeps_what_was_noted(tmp_path: Path) -> None:
    entries = [ManifestEntry(f"{n}.gif", "ab", "2024-05-01T12:00:00", "stored") for n in range(3)]
    with create(tmp_path / "a.zarr") as writer:
        writer.write(START, fields(1)[0])
        writer.note(entries[0])
        writer.flush()
        writer.note(entries[1])
        writer.note(entries[2])
    assert list(open_archive(tmp_path / "a.zarr").manifest()) == entries


def test_what_is_not_an_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no archive"):
        open_archive(tmp_path / "none.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="not a rain archive"):
        open_archive(tmp_path / "folder")
    xr.Dataset({"a": ("x", [1.0])}).to_zarr(tmp_path / "other.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(DataError, match="not a rain archive"):
        open_archive(tmp_path / "other.zarr")


def test_digest_tells_fields_apart_and_not_their_nans() -> None:
    rain = fields(1)[0]
    other = rain.copy()
    other[0, 0] = -np.float32(np.nan)
    assert frame_digest(rain) == frame_digest(other)
    other[1, 1] += 0.1
    assert frame_digest(rain) != frame_digest(other)
