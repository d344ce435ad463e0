"""`nowcast resample`: an archive in, an archive out, and every mistake one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nowcast.data.archive import open_archive
from nowcast.data.archive_writer import write_archive
from nowcast.data.grid import Grid
from tests.cli.conftest import Run


def test_the_new_archive_has_the_step_and_the_pixels_asked_for(nowcast: Run, archive: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.zarr"
    result = nowcast("resample", archive, "-o", new, "--step", "10min", "--pixel-km", "2")
    assert f"{new}: 30 of 30 frames" in result.output and "every 10 min, 16x20 pixels of 2x2 km" in result.output
    assert f"30 frames at times of {archive}, 0 made between two" in result.output
    source, made = open_archive(archive), open_archive(new)
    blocks = source.frame(made.times[3]).reshape(16, 2, 20, 2).mean(axis=(1, 3))
    measured = np.isfinite(blocks)
    assert measured.mean() > 0.5
    np.testing.assert_allclose(made.frame(made.times[3])[measured], blocks[measured], rtol=1e-5)
    assert "step 10 min" in nowcast("inspect", new).output


def test_json_tells_what_was_made(nowcast: Run, archive: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.zarr"
    report = json.loads(nowcast("resample", archive, "-o", new, "--step", "4min", "--json").stdout)
    # Frames at 0, 5, ... 295 min; slots at 0, 4, ... 292.
    assert (report["taken"], report["made"], report["absent"]) == (15, 59, 0)
    assert report["archive"] == str(new) and open_archive(new).present.sum() == 74


def test_slots_beside_missing_frames_are_counted(nowcast: Run, tmp_path: Path) -> None:
    grid = Grid.from_corner(0.0, 3e4, 1e3, 1e3, (30, 30), "EPSG:3035")
    first, step = np.datetime64("2024-06-01T00:00:00", "s"), np.timedelta64(300, "s")
    gappy = write_archive(
        tmp_path / "gappy.zarr",
        np.zeros((8, 30, 30), np.float32),
        first_time=first,
        step=step,
        grid=grid,
        present=np.arange(8) != 3,
    )
    # Of the slots at 0, 3, ... 33 min, those at 12 and 18 are beside the frame of 15, and 15 is that frame.
    result = nowcast("resample", gappy, "-o", tmp_path / "new.zarr", "--step", "3min")
    assert f"3 slots stay absent: a frame of {gappy} at them or beside them is missing" in result.output


def test_mistakes_are_refused_and_nothing_is_written(nowcast: Run, archive: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.zarr"
    for options, sentence in (
        ((), "neither a cadence nor a pixel size is given"),
        (("--step", "5min"), "nothing would change"),
        (("--step", "0.1s"), "a step must be a second or more"),
        (("--pixel-km", "0.5"), "nothing is gained by dividing them"),
    ):
        result = nowcast("resample", archive, "-o", new, *options, expect=2)
        assert sentence in str(result.exception), options
    assert "is not a length of time" in nowcast("resample", archive, "-o", new, "--step", "0min", expect=2).output
    assert "no archive" in str(nowcast("resample", new, "-o", new, "--step", "1h", expect=3).exception)
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_replaced_only_when_told_and_never_what_is_read(
    nowcast: Run, archive: Path, tmp_path: Path
) -> None:
    before = open_archive(archive).fingerprint
    result = nowcast("resample", archive, "-o", archive, "--step", "10min", "--overwrite", expect=2)
    assert "is read and would be overwritten" in str(result.exception)
    assert open_archive(archive).fingerprint == before
    new, letters = tmp_path / "new.zarr", tmp_path / "letters"
    letters.mkdir()
    (letters / "mine.txt").write_text("mine")
    result = nowcast("resample", archive, "-o", letters, "--step", "10min", "--overwrite", expect=2)
    assert "is not an archive" in str(result.exception) and (letters / "mine.txt").read_text() == "mine"
    nowcast("resample", archive, "-o", new, "--step", "10min")
    assert f"{new} exists" in str(nowcast("resample", archive, "-o", new, "--step", "20min", expect=2).exception)
    nowcast("resample", archive, "-o", new, "--step", "20min", "--overwrite")
    assert open_archive(new).step_minutes == 20


def test_a_picture_says_which_frames_were_made(
    nowcast: Run, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, said = tmp_path / "new.zarr", []
    nowcast("resample", archive, "-o", new, "--step", "4min")
    monkeypatch.setattr("nowcast.report.plot.frame_figure", lambda *_, subtitle, **__: said.append(subtitle))
    monkeypatch.setattr("nowcast.report.plot.save_figure", lambda *_: None)
    for time in open_archive(new).times[:2]:
        nowcast("plot", "frame", new, "--at", time, "-o", tmp_path / "a.png")
    assert "interpolated" not in said[0] and "interpolated between frames" in said[1]
