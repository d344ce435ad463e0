"""The archive: what was written is read back, whole frames or none, whatever order and whatever kill."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numcodecs.zstd import Zstd

from nowcast.data import archive_lock, archive_store
from nowcast.data.archive import MISSING, PARTIAL, PRESENT, ManifestEntry, open_archive
from nowcast.data.archive_lock import lock_archive
from nowcast.data.archive_writer import ArchiveWriter, write_archive
from nowcast.data.encoded_frame import encode_frame
from nowcast.data.grid import Grid
from nowcast.errors import ConfigError, DataError

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
    with xr.open_zarr(tmp_path / "a.zarr") as dataset:
        np.testing.assert_array_equal(dataset["rainfall_rate"].values, rain)
        assert dataset["rainfall_rate"].attrs["standard_name"] == "rainfall_flux"
        assert dataset["time"].values[1] == START + STEP
        width = dataset["time_bnds"].values[:, 1] - dataset["time_bnds"].values[:, 0]
        assert (width == np.timedelta64(5, "m")).all()
        assert dataset["valid_share"].values[0, 0] == 0 and dataset["valid_share"].values[1, 1] == 1


def test_xarray_writes_what_it_reads_to_netcdf(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zarr", fields(2), first_time=START, step=STEP, grid=GRID)
    with xr.open_zarr(path) as dataset:
        dataset.drop_encoding().to_netcdf(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc") as back:
        np.testing.assert_array_equal(back["rainfall_rate"].values, fields(2))
        assert back["frame_status"].dtype == np.asarray(back["frame_status"].attrs["flag_values"]).dtype


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
    writer._lock.close()  # as the system does when the process dies: nothing was closed
    with ArchiveWriter.append(tmp_path / "a.zarr") as later:
        later.write(START + STEP, rain[1])
    archive = open_archive(tmp_path / "a.zarr")
    assert archive.valid_share()[2, 2] == 1 and archive.valid_share()[0, 0] == 0
    assert "writing" not in archive.attrs


def test_a_reader_sees_no_frame_before_its_commit(tmp_path: Path) -> None:
    rain = fields(2)
    with create(tmp_path / "a.zarr") as writer:
        writer.write(START, rain[0])
        writer.put(encode_frame(START + 2 * STEP, rain[1]))
        assert open_archive(tmp_path / "a.zarr").status.tolist() == [PRESENT]
        writer.commit()
        assert open_archive(tmp_path / "a.zarr").status.tolist() == [PRESENT, MISSING, PRESENT]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with create(tmp_path / "a.zarr"), pytest.raises(DataError, match="written by another process"):
        ArchiveWriter.append(tmp_path / "a.zarr")


def test_a_time_between_two_slots_is_refused(tmp_path: Path) -> None:
    with create(tmp_path / "a.zarr") as writer, pytest.raises(DataError, match="does not fall on the archive's axis"):
        writer.write(START + np.timedelta64(60, "s"), fields(1)[0])


def test_the_manifest_keeps_what_was_noted(tmp_path: Path) -> None:
    entries = [ManifestEntry(f"{n}.gif", "stored", "ab", times=("2024-05-01T12:00:00",)) for n in range(3)]
    with create(tmp_path / "a.zarr") as writer:
        writer.write(START, fields(1)[0])
        writer.note(entries[0])
        writer.commit()
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


def test_the_same_field_is_known_again_however_its_zeros_and_nans_are_written(tmp_path: Path) -> None:
    rain = fields(1)[0]
    rain[2, 2] = 0.0
    other = rain.copy()
    other[0, 0], other[2, 2] = -np.float32(np.nan), -0.0
    with create(tmp_path / "a.zarr") as writer:
        assert writer.holds(encode_frame(START, rain)) is None
        writer.put(encode_frame(START, rain))
        assert writer.holds(encode_frame(START, other)) is True
        writer.commit()
        assert writer.holds(encode_frame(START, other)) is True
        assert encode_frame(START, rain).digest == encode_frame(START, other).digest
        other[1, 1] += 0.1
        assert writer.holds(encode_frame(START, other)) is False


def test_a_field_packed_by_another_compressor_is_the_same_field(tmp_path: Path) -> None:
    rain = fields(1)[0]
    packed = encode_frame(START, rain)
    repacked = bytes(Zstd(level=1).encode(rain.tobytes()))
    with create(tmp_path / "a.zarr") as writer:
        writer.put(replace(packed, rain_rate=repacked, digest=7))
        writer.commit()
        assert writer.holds(packed) is True


def kill(writer: ArchiveWriter) -> None:
    """Give the lock back as the system does when a process dies; nothing else is done."""
    writer._lock.close()


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_write_leaves_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    """Earlier, later and replaced frames in one commit, killed before its file operations in turn."""
    rain = fields(6)
    for stop in range(0, 1000, stride):
        path = tmp_path / f"{stop}.zarr"
        write_archive(path, rain[2:4], first_time=START + 2 * STEP, step=STEP, grid=GRID)
        writer = ArchiveWriter.append(path)
        for index, field in ((0, rain[0]), (5, rain[5]), (3, rain[4])):
            writer.put(encode_frame(START + index * STEP, field))
        done = commit_with_operations(writer, stop, monkeypatch)
        kill(writer)
        archive = open_archive(path)
        if done:
            assert archive.present.tolist() == [True, False, True, True, False, True]
            break
        np.testing.assert_array_equal(archive.frame(START + 2 * STEP), rain[2])
        assert any(np.array_equal(archive.frame(START + 3 * STEP), rain[n], equal_nan=True) for n in (3, 4))
        with xr.open_zarr(path) as dataset:
            np.testing.assert_array_equal(dataset["rainfall_rate"].sel(time=START + 2 * STEP).values, rain[2])
        with ArchiveWriter.append(path) as writer:
            for index, field in ((0, rain[0]), (5, rain[5]), (3, rain[4])):
                writer.put(encode_frame(START + index * STEP, field))
        again = open_archive(path)
        np.testing.assert_array_equal(again.rain_rate(0, 6)[again.present], rain[[0, 2, 4, 5]])
        assert again.valid_share()[1, 1] == 1 and again.valid_share()[0, 0] == 0
        assert "writing" not in again.attrs
    assert done and stop > 30


def commit_with_operations(writer: ArchiveWriter, number: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Commit, but die before file operation `number`; whether the commit came to its end."""
    left = number

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **keywords: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return function(*arguments, **keywords)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(archive_store, "replace_file", counted(archive_store.replace_file))
        patch.setattr(archive_store.os, "link", counted(archive_store.os.link))
        try:
            writer.commit()
        except KeyboardInterrupt:
            return False
    return True


def test_a_reader_from_before_a_rearrangement_still_reads_its_frames(tmp_path: Path) -> None:
    rain = fields(3)
    write_archive(tmp_path / "a.zarr", rain[1:], first_time=START + STEP, step=STEP, grid=GRID)
    early, plain = open_archive(tmp_path / "a.zarr"), xr.open_zarr(tmp_path / "a.zarr", chunks=None)
    with ArchiveWriter.append(tmp_path / "a.zarr") as writer:
        writer.write(START, rain[0])
    np.testing.assert_array_equal(early.rain_rate(0, 2), rain[1:])
    # As long as nothing else is opened for writing, any reader does.
    np.testing.assert_array_equal(plain.rainfall_rate.values, rain[1:])
    ArchiveWriter.append(tmp_path / "a.zarr").close()
    with pytest.raises(DataError, match="rearranged after it was opened"):
        early.rain_rate(0, 2)


def test_a_reader_from_before_two_rearrangements_never_gets_a_frame_of_another_time(tmp_path: Path) -> None:
    """The second one uses the names of the first axis again: slot 0 of the early reader is another time's file now."""
    rain = fields(4)
    write_archive(tmp_path / "a.zarr", rain[2:], first_time=START + 2 * STEP, step=STEP, grid=GRID)
    early = open_archive(tmp_path / "a.zarr")
    with ArchiveWriter.append(tmp_path / "a.zarr") as writer:
        for index in (1, 0):
            writer.write(START + index * STEP, rain[index])
        with pytest.raises(DataError, match=f"it starts at {START} now, then at {START + 2 * STEP}"):
            early.rain_rate(0, 2)
    np.testing.assert_array_equal(open_archive(tmp_path / "a.zarr").rain_rate(0, 4), rain)


def test_a_damaged_chunk_is_an_error_and_not_rain(tmp_path: Path) -> None:
    rain = fields(2)
    path = write_archive(tmp_path / "a.zarr", rain, first_time=START, step=STEP, grid=GRID)
    chunk = path / "rainfall_rate" / "c.1.0.0"
    content = bytearray(chunk.read_bytes())
    content[-10] ^= 4
    chunk.write_bytes(content)
    np.testing.assert_array_equal(open_archive(path).frame(START), rain[0])
    with pytest.raises(DataError, match="cannot be decoded"):
        open_archive(path).frame(START + STEP)


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rain = fields(2)
    path = write_archive(tmp_path / "a.zarr", rain[:1], first_time=START, step=STEP, grid=GRID)

    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DataError, match="No space left on device") as caught:
        patch.setattr(Path, "write_bytes", full)
        with ArchiveWriter.append(path) as writer:
            writer.write(START + STEP, rain[1])
    assert "make room" in str(caught.value.hint)
    assert open_archive(path).present.tolist() == [True]


def test_a_target_that_is_read_only_is_one_sentence(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        create(blocker / "a.zarr")


def test_the_status_does_not_depend_on_the_order_of_frames(tmp_path: Path) -> None:
    rain = fields(5)
    rain[0, 3:] = np.nan
    status = []
    for order in (range(5), reversed(range(5))):
        path = tmp_path / f"{len(status)}.zarr"
        with create(path) as writer:
            for index in order:
                writer.write(START + index * STEP, rain[index])
        status.append(open_archive(path).status.tolist())
    assert status[0] == status[1] == [PARTIAL, *[PRESENT] * 4]


def test_series_tell_what_each_frame_holds(tmp_path: Path) -> None:
    rain = np.zeros((2, 6, 8), dtype=np.float32)
    rain[0, 0, 0], rain[0, 0, 1], rain[0, 5] = 0.1, 7.5, np.nan
    rain[1] = np.nan
    archive = open_archive(write_archive(tmp_path / "a.zarr", rain, first_time=START, step=STEP, grid=GRID))
    assert archive.series("valid_pixels").tolist() == [40, 0]
    assert archive.series("wet_share")[0] == np.float32(2 / 40) and np.isnan(archive.series("wet_share")[1])
    assert archive.series("maximum_rate")[0] == 7.5
    np.testing.assert_array_equal(archive.rain_rate(0, 2), rain)


def test_numbers_of_a_frame_that_was_replaced_do_not_stay(tmp_path: Path) -> None:
    with create(tmp_path / "a.zarr") as writer:
        marked = encode_frame(START, fields(1)[0])
        writer.put(replace(marked, series={**marked.series, "cut_pixels": 30.0}))
        writer.commit()
        assert writer.series["cut_pixels"][0] == 30.0
        writer.write(START, fields(2)[1])
        assert np.isnan(writer.series["cut_pixels"][0])


def test_an_archive_without_a_later_series_is_read_and_added_to(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    create(path).close()
    with ArchiveWriter.append(path) as writer:
        writer.write(START, fields(1)[0])
    metadata = json.loads((path / "zarr.json").read_text())
    del metadata["consolidated_metadata"]["metadata"]["cut_pixels"]
    (path / "zarr.json").write_text(json.dumps(metadata))
    shutil.rmtree(path / "cut_pixels")
    with ArchiveWriter.append(path) as writer:
        writer.write(START + STEP, fields(2)[1])
        writer.write(START - STEP, fields(3)[2])
    archive = open_archive(path)
    assert np.isnan(archive.series("cut_pixels")).tolist() == [True] * 3
    np.testing.assert_array_equal(archive.rain_rate(0, 3), fields(3)[[2, 0, 1]])


def test_an_overwrite_waits_for_no_writer(tmp_path: Path) -> None:
    arguments = {"first_time": START, "step": STEP}
    with create(tmp_path / "a.zarr") as writer:
        writer.write(START, fields(1)[0])
        with pytest.raises(DataError, match="written by another process"):
            ArchiveWriter.create(tmp_path / "a.zarr", GRID, **arguments, overwrite=True)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="exists"):
        ArchiveWriter.create(tmp_path / "a.zarr", GRID, **arguments)  # type: ignore[arg-type]
    ArchiveWriter.create(tmp_path / "a.zarr", GRID, **arguments, overwrite=True).close()  # type: ignore[arg-type]
    with pytest.raises(DataError, match="without a single frame"):
        open_archive(tmp_path / "a.zarr")


def test_a_damaged_frame_gives_way_to_any_other_and_the_counts_stay_right(tmp_path: Path) -> None:
    """Two damaged frames: one is replaced while an earlier frame moves the axis, the other stays and is not counted."""
    rain = fields(5)
    rain[3, 2, 2] = np.nan
    path = write_archive(tmp_path / "a.zarr", rain[1:4], first_time=START + STEP, step=STEP, grid=GRID)
    for index in (0, 1):
        chunk = path / "rainfall_rate" / f"c.{index}.0.0"
        chunk.write_bytes(chunk.read_bytes()[:-7])
    with ArchiveWriter.append(path) as writer:
        assert writer.holds(encode_frame(START + STEP, rain[4])) is None
        writer.put(encode_frame(START, rain[0]))
        writer.put(encode_frame(START + STEP, rain[4]))
    archive = open_archive(path)
    np.testing.assert_array_equal(archive.rain_rate(0, 2), rain[[0, 4]])
    # Of four present frames three can be read, and one of these lacks the pixel.
    assert archive.valid_share()[1, 1] == 3 / 4 and archive.valid_share()[2, 2] == 2 / 4
    with pytest.raises(DataError, match="cannot be decoded"):
        archive.frame(START + 2 * STEP)


def test_a_lock_whose_file_is_removed_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writers: the first removes the file, as it ends, between the second's opening and its locking."""
    path, flock = tmp_path / "a.zarr", archive_lock.fcntl.flock
    first = lock_archive(path)

    def late(handle: Any, operation: int) -> None:
        if not first.closed:
            Path(first.name).unlink()
            first.close()
        flock(handle, operation)

    monkeypatch.setattr(archive_lock.fcntl, "flock", late)
    second = lock_archive(path)
    monkeypatch.undo()
    with pytest.raises(DataError, match="being written by another process"):
        lock_archive(path)
    second.close()
    lock_archive(path).close()
