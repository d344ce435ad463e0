"""Ingest: every usable frame once, in its slot; every file accounted for; the same call again changes nothing."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import data_prep.ingest as ingest_module
from data_prep import decode, workers
from data_prep.ingest import IngestOptions, IngestReport, ingest
from data_prep.quality import QualityOptions
from data_prep.readers.options import ReadOptions
from data_prep.sources import list_sources
from nowcast.data.archive import open_archive, read_manifest
from nowcast.data.archive_check import check_manifest
from nowcast.data.archive_store import ArchiveStore
from nowcast.data.archive_writer import ArchiveWriter
from nowcast.data.grid import Grid
from nowcast.data.units import ZRelation
from nowcast.errors import ConfigError, DataError, MissingPackageError
from tests.data_prep.radar_files import GRID, STEP, at, field, write_frames, write_series
from tests.data_prep.readers.reader_files import write_knmi, write_odim, write_pgm
from tests.data_prep.readers.test_sevir_h5 import write as write_sevir


def run(source: Path, target: Path, **options: object) -> IngestReport:
    return ingest([source], target, options=IngestOptions(**options))  # type: ignore[arg-type]


def reasons(report: IngestReport) -> dict[str, str]:
    return {Path(file).name: reason for file, reason in report.skipped}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_become_frames_at_their_times(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1, 2, 5])
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    archive = open_archive(tmp_path / "a.zarr")
    assert archive.step == STEP and archive.times[0] == at(0)
    assert archive.present.tolist() == [True, True, True, False, False, True]
    for number in (0, 1, 2, 5):
        np.testing.assert_array_equal(archive.frame(at(number)), field(number))
    assert (report.stored, report.files["stored"], report.is_partial) == (4, 4, False)
    assert report.cadence == "5 min (2 times), 15 min (once)"
    assert archive.grid.matches(GRID)


def test_frames_are_sorted_by_content_and_not_by_name(tmp_path: Path) -> None:
    for name, number in (("a", 3), ("b", 0), ("c", 2), ("d", 1)):
        write_frames(tmp_path / "in" / f"{name}.nc", [at(number)], [field(number)])
    run(tmp_path / "in", tmp_path / "a.zarr")
    archive = open_archive(tmp_path / "a.zarr")
    np.testing.assert_array_equal(archive.rain_rate(0, 4), np.stack([field(n) for n in range(4)]))


def test_the_same_call_again_changes_not_a_byte(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    (tmp_path / "in" / "empty.nc").touch()
    assert run(tmp_path / "in", tmp_path / "a.zarr").is_partial
    before = snapshot(tmp_path / "a.zarr")
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    assert snapshot(tmp_path / "a.zarr") == before
    assert report.files == {"known": 2, "skipped": 1} and report.stored == 0 and report.is_partial


def test_a_file_that_was_only_touched_is_known_by_its_contents(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path / "in", [0])
    run(path, tmp_path / "a.zarr", step=STEP)
    os.utime(path, (1, 1))
    assert run(path, tmp_path / "a.zarr").files == {"known": 1}


def test_new_files_are_appended_and_late_ones_fill_their_slot(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [3, 4, 6])
    run(tmp_path / "in", tmp_path / "a.zarr")
    reader = open_archive(tmp_path / "a.zarr")
    write_series(tmp_path / "in", [0, 5, 8])
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    assert report.stored == 3 and report.files["known"] == 3
    archive = open_archive(tmp_path / "a.zarr")
    assert archive.times[0] == at(0)
    assert np.flatnonzero(archive.present).tolist() == [0, 3, 4, 5, 6, 8]
    np.testing.assert_array_equal(archive.frame(at(5)), field(5))
    np.testing.assert_array_equal(reader.frame(at(3)), field(3))


def test_several_frames_in_one_file(tmp_path: Path) -> None:
    write_frames(tmp_path / "day.nc", [at(n) for n in range(5)], [field(n) for n in range(5)])
    report = run(tmp_path / "day.nc", tmp_path / "a.zarr")
    assert report.stored == 5 and report.files["stored"] == 1
    assert len(next(read_manifest(tmp_path / "a.zarr")).times) == 5


def test_a_file_of_very_many_frames_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_FRAMES", 3)
    write_frames(tmp_path / "month.nc", [at(n) for n in range(9)], [field(n) for n in range(9)])
    report = run(tmp_path / "month.nc", tmp_path / "a.zarr")
    assert report.stored == 9
    np.testing.assert_array_equal(open_archive(tmp_path / "a.zarr").frame(at(8)), field(8))


def test_an_identical_duplicate_is_skipped_and_counted(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    shutil.copy(tmp_path / "in" / "frame_1.nc", tmp_path / "in" / "frame_1_again.nc")
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    assert (report.stored, report.duplicates, report.is_partial) == (2, 1, False)
    assert report.files == {"stored": 2, "duplicate": 1}


def test_a_different_duplicate_is_refused_and_names_both_files(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    write_frames(tmp_path / "in" / "other.nc", [at(1)], [field(7)])
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    assert report.refused == 1 and "frame_1.nc" in reasons(report)["other.nc"]
    assert "other contents" in reasons(report)["other.nc"]
    np.testing.assert_array_equal(open_archive(tmp_path / "a.zarr").frame(at(1)), field(1))


def test_duplicates_last_puts_the_later_file_in_place(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    write_frames(tmp_path / "in" / "other.nc", [at(1)], [field(7)])
    report = run(tmp_path / "in", tmp_path / "a.zarr", duplicates="last")
    assert (report.replaced, report.is_partial) == (1, False)
    np.testing.assert_array_equal(open_archive(tmp_path / "a.zarr").frame(at(1)), field(7))


def test_a_grid_that_changes_is_refused_and_names_both_files(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    moved = Grid.from_corner(3_000_500.0, 3_000_000.0, 1000.0, 1000.0, (10, 12), "EPSG:3035")
    write_frames(tmp_path / "in" / "moved.nc", [at(2)], [field(2)], grid=moved)
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    assert report.stored == 2 and "its grid is" in reasons(report)["moved.nc"]
    assert "frame_0.nc" in reasons(report)["moved.nc"]


def test_a_grid_that_is_off_by_metres_is_the_same(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    near = Grid.from_corner(3_000_040.0, 3_000_000.0, 1000.0, 1000.0, (10, 12), "EPSG:3035")
    write_frames(tmp_path / "in" / "near.nc", [at(2)], [field(2)], grid=near)
    assert run(tmp_path / "in", tmp_path / "a.zarr").stored == 3


def test_an_odd_first_file_does_not_decide_for_the_others(tmp_path: Path) -> None:
    other = Grid.from_corner(0.0, 0.0, 2000.0, 2000.0, (5, 6), "EPSG:3035")
    write_frames(tmp_path / "in" / "a_first.nc", [at(0)], [field(0, (5, 6))], grid=other)
    write_series(tmp_path / "in", [0, 1, 2])
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    assert report.stored == 3 and list(reasons(report)) == ["a_first.nc"]
    assert open_archive(tmp_path / "a.zarr").grid.shape == (10, 12)


def test_damaged_empty_and_foreign_files_are_listed_with_the_reason(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", [0, 1, 2, 3])
    (tmp_path / "in" / "empty.nc").touch()
    (tmp_path / "in" / "notes.txt").write_text("these are the May files")
    paths[1].write_bytes(paths[1].read_bytes()[:3000])
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    assert set(reasons(report)) == {"empty.nc", "notes.txt", "frame_1.nc"}
    assert "empty" in reasons(report)["empty.nc"]
    archive = open_archive(tmp_path / "a.zarr")
    assert archive.present.tolist() == [True, False, True, True]
    entries = {Path(entry.file).name: entry for entry in archive.manifest()}
    assert entries["frame_1.nc"].status == "skipped" and entries["frame_1.nc"].reason
    assert entries["frame_0.nc"].times == (str(at(0)),) and len(entries["frame_0.nc"].sha256) == 64


def test_a_mended_file_comes_in_with_the_next_run(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", [0, 1, 2, 3])
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:3000])
    run(tmp_path / "in", tmp_path / "a.zarr")
    paths[1].write_bytes(whole)
    assert run(tmp_path / "in", tmp_path / "a.zarr").stored == 1
    np.testing.assert_array_equal(open_archive(tmp_path / "a.zarr").frame(at(1)), field(1))


def test_nothing_usable_is_an_error_with_the_reasons_and_leaves_no_archive(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(DataError, match="not one of 1 files can be used"):
        run(tmp_path / "notes.txt", tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def test_a_missing_extra_is_named_when_nothing_else_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_series(tmp_path, [0])

    def without_package(*arguments: object, **keywords: object) -> None:
        raise MissingPackageError("eccodes", "grib", "reading GRIB")

    monkeypatch.setattr(decode, "read_frames", without_package)
    with pytest.raises(MissingPackageError, match="nowcast-pipeline\\[grib\\]") as caught:
        run(path, tmp_path / "a.zarr")
    # A worker process sends it home.
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_step_is_found_or_refused(tmp_path: Path) -> None:
    minutes = [0, 10, 20, 30, 35, 40, 45]
    for minute in minutes:
        time = at(0) + np.timedelta64(minute * 60, "s")
        write_frames(tmp_path / "in" / f"{minute:02d}.nc", [time], [field(minute)])
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    assert open_archive(tmp_path / "a.zarr").step == STEP and report.stored == 7
    assert report.cadence == "10 min (3 times), 5 min (3 times)"


def test_frames_off_the_axis_are_refused_unless_a_tolerance_is_given(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1, 2, 3])
    write_frames(tmp_path / "in" / "late.nc", [at(4) + np.timedelta64(40, "s")], [field(4)])
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    assert "does not fall on the archive's axis" in reasons(report)["late.nc"]
    report = run(tmp_path / "in", tmp_path / "a.zarr", time_tolerance=np.timedelta64(60, "s"))
    assert report.stored == 1
    np.testing.assert_array_equal(open_archive(tmp_path / "a.zarr").frame(at(4)), field(4))


def test_times_without_any_step_ask_for_one(tmp_path: Path) -> None:
    for number, second in enumerate((0, 290, 613, 901, 1234)):
        time = at(0) + np.timedelta64(second, "s")
        write_frames(tmp_path / "in" / f"{number}.nc", [time], [field(number)])
    with pytest.raises(DataError, match="no regular step"):
        run(tmp_path / "in", tmp_path / "a.zarr")
    report = run(tmp_path / "in", tmp_path / "a.zarr", step=STEP, time_tolerance=np.timedelta64(60, "s"))
    assert report.stored == 5


def test_another_step_than_the_archives_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    run(tmp_path / "in", tmp_path / "a.zarr")
    with pytest.raises(ConfigError, match="has a step of 5 min, 10 min is asked for"):
        run(tmp_path / "in", tmp_path / "a.zarr", step=2 * STEP)


def test_a_second_ingest_into_one_archive_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    run(tmp_path / "in", tmp_path / "a.zarr")
    with ArchiveWriter.append(tmp_path / "a.zarr"), pytest.raises(DataError, match="written by another process"):
        run(tmp_path / "in", tmp_path / "a.zarr")


def test_an_interrupt_keeps_what_was_done_and_the_next_run_ends_it(tmp_path: Path) -> None:
    write_series(tmp_path / "in", list(range(8)))

    def interrupt(done: int, total: int, report: IngestReport) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest([tmp_path / "in"], tmp_path / "a.zarr", on_progress=interrupt)
    assert open_archive(tmp_path / "a.zarr").present.sum() == 5
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    assert report.files["known"] == 5 and report.stored == 3
    run(tmp_path / "in", tmp_path / "whole.zarr")
    assert open_archive(tmp_path / "a.zarr").fingerprint == open_archive(tmp_path / "whole.zarr").fingerprint


def test_a_file_that_vanishes_or_grows_meanwhile_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_series(tmp_path / "in", [0, 1, 2, 3])
    reading = decode.read_frames

    def meddle(path: object, **keywords: object) -> object:
        frames = list(reading(path, **keywords))  # type: ignore[arg-type]
        if str(path) == str(paths[1]):
            with paths[1].open("ab") as file:
                file.write(b"more")
        paths[3].unlink(missing_ok=True)
        return iter(frames)

    monkeypatch.setattr(decode, "read_frames", meddle)
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    assert "changed while it was read" in reasons(report)["frame_1.nc"]
    assert "vanished" in reasons(report)["frame_3.nc"]
    assert report.stored == 2


def test_overwrite_makes_the_archive_anew_and_keeps_the_old_one_when_nothing_is_usable(tmp_path: Path) -> None:
    write_series(tmp_path / "old", [0, 1])
    write_series(tmp_path / "new", [5, 6, 7])
    (tmp_path / "notes.txt").write_text("no radar")
    run(tmp_path / "old", tmp_path / "a.zarr")
    with pytest.raises(DataError):
        ingest([tmp_path / "notes.txt"], tmp_path / "a.zarr", overwrite=True)
    assert open_archive(tmp_path / "a.zarr").times[0] == at(0)
    ingest([tmp_path / "new"], tmp_path / "a.zarr", overwrite=True)
    assert open_archive(tmp_path / "a.zarr").times[0] == at(5)


def test_quality_steps_are_recorded_counted_and_must_stay_the_same(tmp_path: Path) -> None:
    rain = field(0)
    rain[3, 3], rain[4, 4], rain[5, 5] = 900.0, 0.05, 301.0
    write_frames(tmp_path / "in" / "0.nc", [at(0)], [rain])
    write_frames(tmp_path / "in" / "1.nc", [at(1)], [np.minimum(field(1), 200)])
    options = QualityOptions(rain_threshold_mm_h=0.1)
    report = run(tmp_path / "in", tmp_path / "a.zarr", quality=options)
    archive = open_archive(tmp_path / "a.zarr")
    assert archive.attrs["rate_cap_mmh"] == 300.0 and archive.attrs["rain_threshold_mmh"] == 0.1
    assert archive.attrs["speckle_neighbours"] == "off"
    assert archive.series("n_capped").tolist() == [2, 0] and archive.attrs["n_capped"] == 2
    assert report.changed["capped"] == 2 and report.changed["below_threshold"] > 0
    write_series(tmp_path / "in", [2])
    with pytest.raises(ConfigError, match="was made with rain_threshold_mmh = 0.1, now it would be off"):
        run(tmp_path / "in", tmp_path / "a.zarr", quality=QualityOptions())
    assert run(tmp_path / "in", tmp_path / "a.zarr").stored == 1
    assert (open_archive(tmp_path / "a.zarr").frame(at(2)) != 0.05).all()
    assert open_archive(tmp_path / "a.zarr").series("n_below_threshold")[2] > 0


def test_sources_are_files_folders_and_patterns_each_file_once(tmp_path: Path) -> None:
    for name in ("frame_10.nc", "frame_9.nc", "sub/x.nc", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "store.zarr").mkdir()
    (tmp_path / "store.zarr" / "zarr.json").write_text("{}")
    found = list_sources([tmp_path, tmp_path / "frame_9.nc", str(tmp_path / "*.nc")])
    assert [path.name for path in found] == ["frame_9.nc", "frame_10.nc", "store.zarr", "x.nc"]
    assert tmp_path / "store.zarr" not in list_sources([tmp_path], without=tmp_path / "store.zarr")
    with pytest.raises(ConfigError, match="there is no file"):
        list_sources([tmp_path / "none"])
    with pytest.raises(ConfigError, match="nothing matches"):
        list_sources([str(tmp_path / "*.h5")])


@pytest.mark.slow
def test_two_processes_give_the_archive_of_one(tmp_path: Path) -> None:
    write_series(tmp_path / "in", list(range(6)))
    (tmp_path / "in" / "bad.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    run(tmp_path / "in", tmp_path / "one.zarr")
    report = ingest([tmp_path / "in"], tmp_path / "two.zarr", workers=2)
    assert report.stored == 6 and list(reasons(report)) == ["bad.nc"]
    one, two = open_archive(tmp_path / "one.zarr"), open_archive(tmp_path / "two.zarr")
    assert one.fingerprint == two.fingerprint
    assert [entry.file for entry in one.manifest()] == [entry.file for entry in two.manifest()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_gives_the_archive_of_one_process(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    write_series(tmp_path / "in", list(range(6)))
    (tmp_path / "in" / "broken.nc").touch()
    run(tmp_path / "in", tmp_path / "one.zarr")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        report = ingest([tmp_path / "in"], tmp_path / "two.zarr", scheduler=cluster.scheduler_address)
    assert report.stored == 6 and list(reasons(report)) == ["broken.nc"]
    assert open_archive(tmp_path / "one.zarr").fingerprint == open_archive(tmp_path / "two.zarr").fingerprint


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    write_series(tmp_path / "in", [0])
    with pytest.raises(ConfigError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        ingest([tmp_path / "in"], tmp_path / "a.zarr", scheduler="tcp://127.0.0.1:9")


@pytest.mark.slow
def test_a_file_that_kills_its_process_is_skipped_alone(tmp_path: Path) -> None:
    """A reader from outside that ends the process, as a crash in a C library would."""
    write_series(tmp_path / "in", list(range(4)))
    script = tmp_path / "ingest.py"
    script.write_text(
        "import os, sys\n"
        "from data_prep import workers\n"
        "original = workers.decode_file\n"
        "def decode_file(path, options):\n"
        "    if path.endswith('frame_2.nc'):\n"
        "        os.abort()\n"
        "    return original(path, options)\n"
        "workers.decode_file = decode_file\n"
        "if __name__ == '__main__':\n"
        "    from data_prep.ingest import ingest\n"
        "    report = ingest([sys.argv[1]], sys.argv[2], workers=2)\n"
        "    print(report.stored, report.skipped)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, str(script), str(tmp_path / "in"), str(tmp_path / "a.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 ") and "frame_2.nc" in done.stdout and "kills the process" in done.stdout


def test_a_wrong_date_inside_does_not_stretch_the_archive_over_years(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1, 2])
    write_frames(tmp_path / "in" / "a_wrong.nc", [at(3) + np.timedelta64(64 * 365, "D")], [field(3)])
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    assert report.stored == 3 and "days from every other frame" in reasons(report)["a_wrong.nc"]
    assert open_archive(tmp_path / "a.zarr").times.size == 3


def test_a_time_that_stands_unlike_the_others_to_the_names_is_reported(tmp_path: Path) -> None:
    for number in range(8):
        name = str(at(number) + STEP).replace("-", "").replace(":", "").replace("T", "")[:12]
        write_frames(tmp_path / "in" / f"RAD_{name}.nc", [at(number if number != 6 else 60)], [field(number)])
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    ((file, reason),) = [item for item in report.suspects if "its name" in item[1]]
    assert "RAD_202405011235" in file and "for other files it is -5 min" in reason
    assert report.stored == 8 and not report.is_partial


def test_a_frame_unlike_its_neighbours_is_stored_and_reported(tmp_path: Path) -> None:
    for number in range(6):
        rain = np.zeros((10, 12), dtype=np.float32)
        rain[2:5, 2:5] = 1.0
        if number == 3:
            rain[::2, ::2] = 40.0
        write_frames(tmp_path / "in" / f"{number}.nc", [at(number)], [rain])
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    assert [Path(file).name for file, _ in report.suspects] == ["3.nc"] and report.stored == 6
    from nowcast.data.inspection import inspect_archive

    said = inspect_archive(open_archive(tmp_path / "a.zarr"), window_length=2)
    assert [frame["time"] for frame in said["implausible"]] == [str(at(3))]


def write_reflectivity(folder: Path, numbers: list[int]) -> None:
    for number in numbers:
        write_frames(
            folder / f"{number}.nc", [at(number)], [field(number) + 20], units="dBZ",
            standard_name="equivalent_reflectivity_factor",
        )  # fmt: skip


def test_another_z_relation_than_the_archives_is_refused_and_its_own_goes_on(tmp_path: Path) -> None:
    write_reflectivity(tmp_path / "in", [0, 1])
    run(tmp_path / "in", tmp_path / "a.zarr", read=ReadOptions(z_relation=ZRelation(50.0, 1.2)))
    write_reflectivity(tmp_path / "in", [2])
    with pytest.raises(ConfigError, match=r"made with z_relation = \[50.0, 1.2\], now it would be \[200.0, 1.6\]"):
        run(tmp_path / "in", tmp_path / "a.zarr", read=ReadOptions(z_relation=ZRelation(200.0, 1.6)))
    assert run(tmp_path / "in", tmp_path / "a.zarr").stored == 1
    archive = open_archive(tmp_path / "a.zarr")
    assert (archive.attrs["zr_a"], archive.attrs["zr_b"]) == (50.0, 1.2)
    np.testing.assert_allclose(archive.frame(at(2)), ZRelation(50.0, 1.2).rain_rate(field(2) + 20), rtol=1e-5)
    run(tmp_path / "in", tmp_path / "b.zarr")
    with pytest.raises(ConfigError, match=r"made with no z_relation, now it would be \[50.0, 1.2\]"):
        run(tmp_path / "in", tmp_path / "b.zarr", read=ReadOptions(z_relation=ZRelation(50.0, 1.2)))


def test_frames_of_another_declared_z_relation_are_refused(tmp_path: Path) -> None:
    for number, a in enumerate((200.0, 200.0, 316.0)):
        values = np.full((3, 4), 40.0)
        write_odim(
            tmp_path / f"{number}.h5", values, quantity="DBZH", how={"zr_a": a, "zr_b": 1.6},
            top={"time": f"18{5 * number:02d}00"},
        )  # fmt: skip
    report = run(tmp_path, tmp_path / "a.zarr")
    assert report.stored == 2
    assert "by Z = 316 R^1.6" in reasons(report)["2.h5"] and "by Z = 200 R^1.6" in reasons(report)["2.h5"]


def test_attributes_and_quality_of_an_existing_archive_are_not_changed_silently(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    run(tmp_path / "in", tmp_path / "a.zarr", attributes={"license": "CC0-1.0"})
    assert run(tmp_path / "in", tmp_path / "a.zarr", attributes={"license": "CC0-1.0"}).files == {"known": 2}
    with pytest.raises(ConfigError, match="says license = CC0-1.0, MIT is asked for"):
        run(tmp_path / "in", tmp_path / "a.zarr", attributes={"license": "MIT"})
    with pytest.raises(ConfigError, match="made without the quality index"):
        run(tmp_path / "in", tmp_path / "a.zarr", keep_quality=True)


def test_a_named_quality_step_leaves_the_archives_others(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    run(tmp_path / "in", tmp_path / "a.zarr", quality={"rain_threshold_mm_h": 0.1})
    assert open_archive(tmp_path / "a.zarr").attrs["rate_cap_mmh"] == 300.0
    with pytest.raises(ConfigError, match="made with rate_cap_mmh = 300.0, now it would be 60"):
        run(tmp_path / "in", tmp_path / "a.zarr", quality={"rate_cap_mm_h": 60.0})


def test_an_option_that_no_reader_heeds_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    with pytest.raises(ConfigError, match="--grid, --event means nothing to the reader cf_netcdf") as caught:
        run(tmp_path / "in", tmp_path / "a.zarr", read=ReadOptions(event="S1", grid="hko7"))
    assert "--missing-value" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="--variable means nothing to the reader fmi_pgm"):
        run(tmp_path / "in", tmp_path / "a.zarr", format="fmi_pgm", read=ReadOptions(variable="rain"))
    assert not (tmp_path / "a.zarr").exists()
    write_knmi(tmp_path / "in" / "a.h5", np.ones((3, 4), dtype=np.uint16))
    assert run(tmp_path / "in", tmp_path / "a.zarr", read=ReadOptions(variable="rain")).stored == 2


def test_a_frame_that_is_gone_from_the_disk_comes_in_again(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1, 2, 3])
    run(tmp_path / "in", tmp_path / "a.zarr")
    whole = open_archive(tmp_path / "a.zarr")
    fingerprint, share = whole.fingerprint, whole.valid_share()
    chunk = ArchiveStore(tmp_path / "a.zarr").chunk_path("rainfall_rate", 2)
    chunk.unlink()
    with pytest.raises(DataError, match="is gone") as gone:
        open_archive(tmp_path / "a.zarr").rain_rate(0, 4)
    assert "it stores what is gone" in str(gone.value.hint)
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    assert (report.stored, report.files) == (1, {"known": 3, "stored": 1})
    mended = open_archive(tmp_path / "a.zarr")
    np.testing.assert_array_equal(mended.frame(at(2)), field(2))
    np.testing.assert_array_equal(mended.valid_share(), share)
    assert mended.fingerprint == fingerprint
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be decoded") as damaged:
        open_archive(tmp_path / "a.zarr").rain_rate(0, 4)
    assert "--overwrite" in str(damaged.value.hint)


def test_remedies_of_readers_reach_the_manifest_and_the_error(tmp_path: Path) -> None:
    for number in range(2):
        write_frames(
            tmp_path / "in" / f"{number}.nc", [at(number)], [field(number)], units="mm", standard_name="rainfall_amount"
        )
    with pytest.raises(DataError, match="a depth.*--accumulation-minutes.*nowcast ingest --help"):
        run(tmp_path / "in", tmp_path / "a.zarr")
    write_series(tmp_path / "in", [2, 3])
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    assert "--accumulation-minutes" in reasons(report)["0.nc"]


def test_one_time_alone_names_the_file_and_the_option(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, [0])
    with pytest.raises(DataError, match="frame_0.nc: one time alone has no step.*--step"):
        run(path, tmp_path / "a.zarr")


def test_a_step_that_does_not_fit_says_to_leave_it_out(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1, 2])
    report = run(tmp_path / "in", tmp_path / "a.zarr", step=np.timedelta64(420, "s"))
    assert report.stored == 1 and "leave --step out" in reasons(report)["frame_1.nc"]


def test_a_time_off_the_axis_is_told_how_far(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1, 2])
    write_frames(tmp_path / "in" / "late.nc", [at(3) + np.timedelta64(7, "s")], [field(3)])
    report = run(tmp_path / "in", tmp_path / "a.zarr", step=STEP)
    assert "or give --time-tolerance 7s to move it" in reasons(report)["late.nc"]
    done = run(tmp_path / "in", tmp_path / "a.zarr", step=STEP, time_tolerance=np.timedelta64(7, "s"))
    assert done.stored == 1 and not done.skipped


def test_a_clutter_mask_that_is_not_there_is_not_blamed_on_a_file(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    with pytest.raises(ConfigError, match="none.npy cannot be read"):
        run(tmp_path / "in", tmp_path / "a.zarr", quality={"clutter_mask": str(tmp_path / "none.npy")})


def test_a_catalogue_that_is_not_there_is_not_a_file_that_vanished(tmp_path: Path) -> None:
    write_sevir(tmp_path)
    read = ReadOptions(vil_rain_rate=(1.0, 1.0), catalog=tmp_path / "none.csv")
    with pytest.raises(DataError, match="none.csv cannot be read: No such file or directory; name.*--catalog"):
        run(next(tmp_path.glob("*.h5")), tmp_path / "a.zarr", read=read)


def test_grids_a_little_apart_are_told_apart_by_their_corners(tmp_path: Path) -> None:
    crs = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040 +units=m +type=crs"
    one, other = (Grid.from_corner(3_000_000.0 + x, 3_000_000.0, 1000.0, 1000.0, (10, 12), crs) for x in (0.0, 300.0))
    for number, grid in enumerate((one, one, other)):
        write_frames(tmp_path / "in" / f"{number}.nc", [at(number)], [field(number)], grid=grid)
    (reason,) = reasons(run(tmp_path / "in", tmp_path / "a.zarr")).values()
    assert "x = 3000300 m" in reason and "x = 3000000 m" in reason and "polar stereographic" in reason


@pytest.mark.slow
def test_the_same_long_file_is_shared_by_two_processes(tmp_path: Path) -> None:
    numbers = [number for number in range(90) if number not in (5, 40)]
    write_frames(tmp_path / "days.nc", [at(n) for n in numbers], [field(n) for n in numbers])
    write_series(tmp_path / "in", [95, 96])
    sources = [tmp_path / "days.nc", tmp_path / "in"]
    ingest(sources, tmp_path / "one.zarr")
    report = ingest(sources, tmp_path / "two.zarr", workers=2)
    assert report.stored == 90 and report.files == {"stored": 3}
    one, two = open_archive(tmp_path / "one.zarr"), open_archive(tmp_path / "two.zarr")
    assert one.fingerprint == two.fingerprint
    assert [entry.to_line() for entry in one.manifest()] == [entry.to_line() for entry in two.manifest()]
    np.testing.assert_array_equal(two.frame(at(89)), field(89))


def test_a_long_file_that_breaks_off_keeps_the_frames_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_FRAMES", 3)
    monkeypatch.setattr(workers, "FRAMES_PER_TASK", 4)
    fields = [field(n) for n in range(9)]
    fields[6][2, 2] = -7.0
    write_frames(tmp_path / "month.nc", [at(n) for n in range(9)], fields)
    report = run(tmp_path / "month.nc", tmp_path / "a.zarr")
    assert report.stored == 6 and report.is_partial
    assert "negative" in reasons(report)["month.nc"] and "frames before that are kept" in reasons(report)["month.nc"]


def test_a_long_file_whose_ingest_was_stopped_has_all_its_frames_to_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MAX_FRAMES", 3)
    monkeypatch.setattr(ingest_module, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(ingest_module, "COMMIT_COSTS", 0.0)
    path = write_frames(tmp_path / "month.nc", [at(n) for n in range(9)], [field(n) for n in range(9)])
    encode, met = decode.encode_frame, []

    def stopped(time: np.datetime64, *arguments: object, **named: object) -> object:
        met.append(time)
        if met.count(at(5)) == 2:  # once for the plan
            raise KeyboardInterrupt
        return encode(time, *arguments, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(workers, "FRAMES_PER_TASK", 2)
        patch.setattr(decode, "encode_frame", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(path, tmp_path / "a.zarr")
    stopped_there = open_archive(tmp_path / "a.zarr")
    assert stopped_there.present.sum() == 4 and not list(stopped_there.manifest())
    report = run(path, tmp_path / "a.zarr")
    assert (report.stored, report.duplicates, report.files) == (9, 0, {"stored": 1})
    *_, entry = open_archive(tmp_path / "a.zarr").manifest()
    assert entry.times == tuple(str(at(n)) for n in range(9)) and not entry.replaced
    assert not check_manifest(open_archive(tmp_path / "a.zarr"))


def test_a_share_of_a_long_file_that_memory_does_not_hold_ends_it_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MAX_FRAMES", 3)
    path = write_frames(tmp_path / "month.nc", [at(n) for n in range(9)], [field(n) for n in range(9)])
    encode = decode.encode_frame

    def full(time: np.datetime64, *arguments: object, **named: object) -> object:
        if time == at(5):
            raise MemoryError
        return encode(time, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(decode, "encode_frame", full)
    report = run(path, tmp_path / "a.zarr")
    assert report.stored == 5 and "not memory enough" in reasons(report)["month.nc"]


def slow_to_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    reading = decode.read_frames

    def read(path: object, **keywords: object) -> object:
        while str(path).endswith(name):
            time.sleep(0.01)
        return reading(path, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(decode, "read_frames", read)


def test_a_reader_that_hangs_is_given_up_in_this_process_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "in", [0, 1, 2])
    slow_to_read(monkeypatch, "frame_1.nc")
    monkeypatch.setattr(workers, "TIME_LIMIT_S", 0.3)
    report = run(tmp_path / "in", tmp_path / "a.zarr")
    assert report.stored == 2 and reasons(report) == {"frame_1.nc": "reading it takes longer than 0.3 s"}


def test_a_long_file_whose_reader_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a reader that knows no ranges, one frame after the other."""
    path = write_frames(tmp_path / "month.nc", [at(n) for n in range(9)], [field(n) for n in range(9)])
    frames = list(decode.read_frames(path))

    def read(path: str, **keywords: object) -> object:
        yield from frames[:7]
        time.sleep(10)

    monkeypatch.setattr(decode, "MAX_FRAMES", 5)
    monkeypatch.setattr(decode, "read_frames", read)
    monkeypatch.setattr(workers, "TIME_LIMIT_S", 0.3)
    report = run(path, tmp_path / "a.zarr")
    assert report.stored == 7 and "takes longer than 0.3 s" in reasons(report)["month.nc"]


def test_an_alarm_that_somebody_else_set_is_left_alone(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 100)
        run(tmp_path / "in", tmp_path / "a.zarr")
        assert 0 < signal.setitimer(signal.ITIMER_REAL, 0)[0] <= 100
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_time_limit_must_be_positive(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    with pytest.raises(ConfigError, match="time limit must be positive, got 0 s"):
        ingest([tmp_path / "in"], tmp_path / "a.zarr", time_limit_s=0)


HANGING = (
    "import ctypes, os, sys\n"
    "from data_prep import decode, workers\n"
    "original = workers.decode_file\n"
    "def decode_file(path, options):\n"
    "    while path.endswith('frame_2.nc'):\n"
    "        # As a C library that hangs: Python's alarm is not heard.\n"
    "        ctypes.PyDLL(None).sleep(60)\n"
    "    return original(path, options)\n"
    "workers.decode_file = decode_file\n"
    "workers.GRACE_S = 1.0\n"
)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_a_library_that_hangs_costs_its_file_alone(tmp_path: Path, number: int) -> None:
    write_series(tmp_path / "in", list(range(4)))
    script = tmp_path / "ingest.py"
    script.write_text(
        HANGING + "if __name__ == '__main__':\n"
        "    from data_prep.ingest import ingest\n"
        f"    report = ingest([sys.argv[1]], sys.argv[2], workers={number}, time_limit_s=1)\n"
        "    print(report.stored, report.skipped)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, str(script), str(tmp_path / "in"), str(tmp_path / "a.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 ") and "frame_2.nc" in done.stdout and "takes longer than 1 s" in done.stdout


@pytest.mark.slow
def test_a_library_that_hangs_does_not_hold_up_an_end(tmp_path: Path) -> None:
    write_series(tmp_path / "in", list(range(4)))
    script = tmp_path / "ingest.py"
    script.write_text(
        HANGING + "if __name__ == '__main__':\n"
        "    from data_prep.decode import DecodeOptions\n"
        "    paths = [f'{sys.argv[1]}/frame_{k}.nc' for k in range(4)]\n"
        "    with workers.file_decoder(DecodeOptions(), workers=2) as decoder:\n"
        "        for file in decoder.files(paths):\n"
        "            if file.path.endswith('frame_1.nc'):\n"
        "                raise KeyboardInterrupt\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, str(script), str(tmp_path / "in")]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert "KeyboardInterrupt" in done.stderr
    assert time.monotonic() - began < 40  # the library sleeps for 60 s


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_reader_that_hangs_on_a_cluster_costs_its_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    write_series(tmp_path / "in", list(range(4)))
    setup = (
        "import time\n"
        "from data_prep import decode, workers\n"
        "def decode_file(path, options):\n"
        "    while path.endswith('frame_2.nc'):\n"
        "        time.sleep(1)\n"
        "    return decode.decode_file(path, options)\n"
        "workers.decode_file = decode_file\n"
    )
    (tmp_path / "preload.py").write_text(setup)
    monkeypatch.setattr(workers, "GRACE_S", 1.0)
    # Brought back afterwards, should the script run in this process as well.
    monkeypatch.setattr(workers, "decode_file", decode.decode_file)
    preload = str(tmp_path / "preload.py")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, preload=preload
    ) as cluster:
        report = ingest([tmp_path / "in"], tmp_path / "a.zarr", scheduler=cluster.scheduler_address, time_limit_s=5)
    assert report.stored == 3 and reasons(report) == {"frame_2.nc": "reading it takes longer than 5 s"}


def test_a_declared_format_is_blamed_only_where_another_is_right(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = write_pgm(tmp_path / "in" / "a.pgm", np.ones((6, 4), np.uint8), obstime="202001010000")
    with pytest.raises(DataError, match="not one of 1 files") as caught:
        run(tmp_path / "in", tmp_path / "a.zarr", format="mch_gif")
    assert "the first of them that can be told is of the format fmi_pgm" in str(caught.value.hint)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="not one of 1 files") as caught:
        run(tmp_path / "in", tmp_path / "a.zarr", format="fmi_pgm")
    assert "--format" not in str(caught.value.hint)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="wants /proc")
def test_the_server_of_the_workers_leaves_ctrl_c_to_this_process() -> None:
    code = (
        "import re, signal\n"
        "from multiprocessing import forkserver\n"
        "from data_prep import workers\n"
        "if __name__ == '__main__':\n"
        "    workers._stop(workers._start_pool(1))\n"
        "    status = open(f'/proc/{forkserver._forkserver._forkserver_pid}/status').read()\n"
        "    blocked = int(re.search(r'SigBlk:\\s*(\\w+)', status)[1], 16)\n"
        "    here = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
        "    print(bool(blocked >> (signal.SIGINT - 1) & 1), here)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "False"], done.stderr
