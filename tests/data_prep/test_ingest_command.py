"""`nowcast ingest` and `nowcast inspect`: exit codes, one sentence for what is wrong, JSON, a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli.ingest import command as ingest_command
from cli.inspect import command as inspect_command
from nowcast.data.archive import BAD, MISSING, PRESENT, open_archive
from nowcast.errors import ConfigError, DataError
from tests.data_prep.radar_files import at, field, write_frames, write_series
from tests.data_prep.readers.reader_files import write_odim

FIVE, NONE = np.timedelta64(5, "m"), np.timedelta64(0, "m")


def ingest(*arguments: object) -> Result:
    return CliRunner().invoke(ingest_command, [*map(str, arguments), "--workers", "1"])


def inspect(*arguments: object) -> Result:
    return CliRunner().invoke(inspect_command, [str(argument) for argument in arguments])


def test_exit_codes_tell_whole_from_partial_from_nothing(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1, 3])
    whole = ingest(tmp_path / "in", "-o", tmp_path / "a.zarr")
    assert whole.exit_code == 0 and "3 of 4 frames" in whole.stdout
    (tmp_path / "in" / "broken.nc").touch()
    partial = ingest(tmp_path / "in", "-o", tmp_path / "a.zarr")
    assert partial.exit_code == 5 and "1 files" in partial.stdout
    nothing = ingest(tmp_path / "in" / "broken.nc", "-o", tmp_path / "b.zarr")
    assert isinstance(nothing.exception, DataError)


def test_append_wants_an_archive_and_overwrite_excludes_it(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    result = ingest(tmp_path / "in", "-o", tmp_path / "a.zarr", "--append")
    assert isinstance(result.exception, ConfigError) and "no archive" in str(result.exception)
    result = ingest(tmp_path / "in", "-o", tmp_path / "a.zarr", "--append", "--overwrite")
    assert isinstance(result.exception, ConfigError)


def test_overwrite_takes_no_source_and_replaces_an_archive_beside_its_sources(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    archive = tmp_path / "in" / "a.zarr"
    assert ingest(tmp_path / "in", "-o", archive).exit_code == 0
    for profile in ("nowcast", "mlcast"):
        for sources in ([tmp_path / "in", archive], [archive / "zarr.json", tmp_path / "in"]):
            result = ingest(*sources, "-o", archive, "--overwrite", "--profile", profile)
            assert isinstance(result.exception, ConfigError) and "read" in str(result.exception)
            assert open_archive(archive).times.size == 2
    assert ingest(tmp_path / "in", "-o", archive, "--overwrite").exit_code == 0
    assert open_archive(archive).times.size == 2


def test_options_reach_readers_and_quality_steps(tmp_path: Path) -> None:
    rain = field(0) * 0 + 2.0
    rain[5, 5], rain[6, 6] = 500.0, 0.01
    write_frames(tmp_path / "0.nc", [at(0), at(1)], [rain, rain])
    result = ingest(
        tmp_path / "0.nc", "-o", tmp_path / "a.zarr", "--crop-pixels", "2,8,3,9", "--rain-threshold", "0.1",
        "--rate-cap", "100", "--attribute", "license=CC-BY-4.0", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    report = json.loads(result.stdout)
    assert report["stored"] == 2 and report["changed"] == {"capped": 2, "below_threshold": 2}
    archive = open_archive(tmp_path / "a.zarr")
    assert archive.grid.shape == (6, 6) and archive.attrs["license"] == "CC-BY-4.0"
    assert archive.series("maximum_rate").max() == 100.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--crop", "1,2,3"], "expected 4 numbers"),
        (["--crop", "1,2,3,4", "--crop-pixels", "0,1,0,1"], "give one of them"),
        (["--rate-cap", "much"], "expected a number or 'off'"),
        (["--attribute", "license"], "expected KEY=VALUE"),
        (["--format", "gif89"], "there is no reader"),
    ],
)
def test_options_that_cannot_be_meant_are_named(tmp_path: Path, arguments: list[str], message: str) -> None:
    write_series(tmp_path / "in", [0])
    result = ingest(tmp_path / "in", "-o", tmp_path / "a.zarr", *arguments)
    assert isinstance(result.exception, ConfigError) and message in str(result.exception)


def test_inspect_says_what_the_archive_holds(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1, 2, 5])
    (tmp_path / "in" / "broken.nc").touch()
    ingest(tmp_path / "in", "-o", tmp_path / "a.zarr")
    result = inspect(tmp_path / "a.zarr", "--json", "--window", "3", "--files", "--picture", tmp_path / "a.png")
    assert result.exit_code == 0, result.exception
    said = json.loads(result.stdout)
    assert said["frames"] == {"missing": 2, "present": 4, "partial": 0, "bad": 0}
    assert said["gaps"]["number"] == 1 and said["gaps"]["longest"][0]["frames"] == 2
    assert (said["runs"], said["longest_run"], said["windows"]) == (2, 3, 1)
    assert said["grid"]["shape"] == [10, 12] and said["step_minutes"] == 5
    assert said["files"]["by_status"] == {"stored": 4, "skipped": 1}
    assert "empty" in said["files"]["by_reason"][0]["example"] and len(said["files"]["entries"]) == 5
    assert said["rain"]["maximum_mm_h"] == pytest.approx(max(float(field(n)[1:].max()) for n in (0, 1, 2, 5)))
    assert (tmp_path / "a.png").stat().st_size > 10_000
    text = inspect(tmp_path / "a.zarr").stdout
    assert "2024-05-01: 4 of 6 frames" in text and "0.8 % never valid" in text


def test_a_slot_whose_file_came_damaged_is_bad_until_a_whole_one_comes(tmp_path: Path) -> None:
    """Names are three minutes before the times inside, as for every file that can be read."""
    folder = tmp_path / "in"
    for number in (0, 1, 2, 3, 5, 7):
        write_frames(folder / f"rain_{name_of(number)}.nc", [at(number)], [field(number)])
    damaged = [folder / f"rain_{name_of(number)}.nc" for number in (3, 4, 90)]
    whole = damaged[0].read_bytes()
    for path in damaged:
        path.write_bytes(whole[:2000])
    write_frames(folder / f"rain_{name_of(8)}.nc", [at(8)], [field(8)])
    ingest(folder, "-o", tmp_path / "a.zarr")
    said = json.loads(inspect(tmp_path / "a.zarr", "--json").stdout)["frames"]
    assert said == {"missing": 1, "present": 6, "partial": 0, "bad": 2}
    assert open_archive(tmp_path / "a.zarr").status[[3, 4, 6]].tolist() == [BAD, BAD, MISSING]
    damaged[0].write_bytes(whole)
    ingest(folder, "-o", tmp_path / "a.zarr")
    assert open_archive(tmp_path / "a.zarr").status[[3, 4, 6]].tolist() == [PRESENT, BAD, MISSING]


def name_of(number: int) -> str:
    return str(at(number) - np.timedelta64(3, "m")).replace("-", "").replace(":", "").replace("T", "")[:12]


def test_a_check_from_a_time_after_the_last_says_that_it_read_nothing(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    ingest(tmp_path / "in", "-o", tmp_path / "a.zarr")
    said = inspect(tmp_path / "a.zarr", "--check-from", "2030-01-01T00:00")
    assert said.exit_code == 0 and "no frame from that time on" in said.stdout


def test_inspect_says_what_each_quality_step_changed_and_which_are_off(tmp_path: Path) -> None:
    rain = np.zeros((10, 12), dtype=np.float32)
    rain[2:5, 2:5], rain[8, 8], rain[0, 11], rain[0, 0] = 2.0, 1.0, 0.05, 400.0
    write_frames(tmp_path / "0.nc", [at(0), at(1)], [rain, np.zeros_like(rain)])
    mask = np.zeros((10, 12), dtype=bool)
    mask[2, 2] = True
    np.save(tmp_path / "clutter.npy", mask)
    result = ingest(
        tmp_path / "0.nc", "-o", tmp_path / "a.zarr", "--speckle", "1", "--rain-threshold", "0.1",
        "--rate-cap", "1.5", "--clutter-mask", tmp_path / "clutter.npy",
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    quality = json.loads(inspect(tmp_path / "a.zarr", "--json").stdout)["quality"]
    # Speckle takes the lone pixels, the extreme one too, before the cap sees them; the clutter pixel counts twice.
    assert quality["pixels_changed"] == {
        "low_quality": 0, "clutter": 2, "speckle": 2, "capped": 8, "below_threshold": 1
    }  # fmt: skip
    assert quality["frames_changed"]["clutter"] == 2 and quality["frames_changed"]["capped"] == 1
    assert quality["steps"]["quality_index_minimum"] == "off" and quality["steps"]["rate_cap_mmh"] == 1.5
    text = inspect(tmp_path / "a.zarr").stdout
    assert "8 pixels brought down to the rain rate cap, in 1 frame" in text and "capped at 1.5 mm/h" in text
    assert "2 pixels made missing by the static clutter mask, in 2 frames" in text


def test_inspect_names_what_is_not_there(tmp_path: Path) -> None:
    assert isinstance(inspect(tmp_path / "none").exception, DataError)
    (tmp_path / "empty").mkdir()
    assert "not a rain archive" in str(inspect(tmp_path / "empty").exception)


@pytest.mark.parametrize("change", ["other files", "other options", "overwrite"])
def test_an_mlcast_data_set_holds_nothing_that_a_stopped_run_left_of_others(tmp_path: Path, change: str) -> None:
    write_series(tmp_path / "old", [0, 1])
    write_series(tmp_path / "new", [5, 6])
    sources = tmp_path / "old" if change == "other options" else tmp_path / "new"
    left = tmp_path / ".m.zarr.ingest"
    assert ingest(tmp_path / "old", "-o", tmp_path / "left.zarr", "--profile", "mlcast").exit_code == 0
    assert ingest(tmp_path / "old", "-o", left).exit_code == 0
    more = {"other files": [], "other options": ["--rate-cap", "5"], "overwrite": ["--overwrite"]}[change]
    result = ingest(sources, "-o", tmp_path / "m.zarr", "--profile", "mlcast", *more)
    assert result.exit_code == 0, result.exception
    archive = open_archive(tmp_path / "m.zarr")
    assert archive.times[0] == at(0 if change == "other options" else 5) and archive.present.sum() == 2
    if change == "other options":
        assert archive.series("maximum_rate").max() == 5
    assert "command_options" not in archive.attrs and not left.exists()


def test_files_join_an_mlcast_data_set_in_another_one(tmp_path: Path) -> None:
    """What the refusal of an append says to do."""
    write_means(tmp_path / "old", [0, 1])
    write_means(tmp_path / "new", [2, 4])
    old, both = tmp_path / "old.zarr", tmp_path / "both.zarr"
    assert ingest(tmp_path / "old", "-o", old, "--profile", "mlcast").exit_code == 0
    for options in ([], ["--append"], ["--profile", "mlcast"]):
        refused = ingest(tmp_path / "new", "-o", old, *options).exception
        assert isinstance(refused, DataError | ConfigError) and "MLCast data set, which is written once" in str(refused)
        assert f"nowcast ingest {old} SRC... -o NEW --profile mlcast" in str(refused)
    assert ingest(old, tmp_path / "new", "-o", both, "--profile", "mlcast").exit_code == 0
    archive = open_archive(both)
    assert archive.present.tolist() == [True, True, True, False, True] and archive.interval_minutes == 5
    np.testing.assert_array_equal(archive.frame(at(1)), open_archive(old).frame(at(1)))
    np.testing.assert_allclose(archive.frame(at(4)), field(4), rtol=1e-6)


def write_means(folder: Path, numbers: list[int]) -> None:
    """Depths of five minutes, whose means are the rates of `field`."""
    folder.mkdir()
    for number in numbers:
        start, end = (
            str(at(number) - minutes).replace("-", "").replace(":", "").split("T") for minutes in (FIVE, NONE)
        )
        interval = {"startdate": start[0], "starttime": start[1], "enddate": end[0], "endtime": end[1]}
        depth = field(number).astype(np.float64) / 12
        write_odim(folder / f"{number}.h5", depth, quantity="ACRR", dataset=interval)


def test_inspect_says_what_else_it_is_and_where_to_turn(tmp_path: Path) -> None:
    (tmp_path / "skill").mkdir()
    (tmp_path / "skill" / "evaluation.json").write_text("{}")
    result = inspect(tmp_path / "skill")
    assert isinstance(result.exception, DataError) and "nowcast report" in str(result.exception)
    for name in ("a.nc", "b.nc"):
        write_frames(tmp_path / "forecasts" / name, [at(0)], [field(0)])
    assert "folder of 2 netCDF files (name one of them, such as" in str(inspect(tmp_path / "forecasts").exception)
    (tmp_path / "notes.txt").write_text("these are the May files")
    assert "no known format" in str(inspect(tmp_path / "notes.txt").exception)
    write_odim(tmp_path / "radar.h5", np.ones((3, 4)))
    assert "a radar file of the format odim_h5" in str(inspect(tmp_path / "radar.h5").exception)
    (tmp_path / "empty").mkdir()
    assert "it holds no Zarr group" in str(inspect(tmp_path / "empty").exception)


def test_a_z_relation_of_zero_is_named(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0])
    result = ingest(tmp_path / "in", "-o", tmp_path / "a.zarr", "--z-relation", "0,1")
    assert isinstance(result.exception, ConfigError) and "--z-relation 0,1: both numbers" in str(result.exception)


def test_a_named_quality_step_is_the_one_that_is_compared(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    assert ingest(tmp_path / "in", "-o", tmp_path / "a.zarr", "--rain-threshold", "0.1").exit_code == 0
    assert ingest(tmp_path / "in", "-o", tmp_path / "a.zarr", "--rain-threshold", "0.1").exit_code == 0
    result = ingest(tmp_path / "in", "-o", tmp_path / "a.zarr", "--rate-cap", "60")
    assert "rate_cap_mmh = 300.0, now it would be 60.0" in str(result.exception)


def test_inspect_says_with_what_the_files_were_read(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0, 1])
    assert ingest(tmp_path / "in", "-o", tmp_path / "a.zarr", "--missing-value", "7.5").exit_code == 0
    assert json.loads(inspect(tmp_path / "a.zarr", "--json").stdout)["quantity"]["read_options"] == {
        "missing_values": [7.5]
    }
    assert "missing_values = [7.5]" in inspect(tmp_path / "a.zarr").stdout


def test_a_time_limit_reaches_the_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "in", [0, 1])
    asked: dict[str, object] = {}

    def ask(*_: object, **options: object) -> None:
        asked.update(options)
        raise DataError("asked")

    monkeypatch.setattr("data_prep.ingest.ingest", ask)
    ingest(tmp_path / "in", "-o", tmp_path / "a.zarr", "--time-limit", "90s")
    assert asked["time_limit_s"] == 90.0
    ingest(tmp_path / "in", "-o", tmp_path / "a.zarr")
    assert asked["time_limit_s"] is None
