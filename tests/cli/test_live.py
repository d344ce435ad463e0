"""`nowcast live`: files that arrive in a folder become forecasts, bad ones are passed over, signals end it cleanly."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cli.live import Feed
from nowcast.data.archive import open_archive
from nowcast.data.forecast import load_forecast
from nowcast.errors import DataError
from tests.cli.conftest import Run
from tests.data_prep.radar_files import at, write_series

READ = {"format_name": "auto", "step": None, "time_pattern": None, "accumulation_minutes": None}


def issue_times(folder: Path) -> list[str]:
    return [path.stem.split("_")[1] for path in sorted(folder.glob("*.nc"))]


def test_files_become_forecasts_and_later_ones_more(nowcast: Run, tmp_path: Path) -> None:
    arriving, out = tmp_path / "arriving", tmp_path / "out"
    write_series(arriving, [0, 1, 2])
    command = ["live", "persistence", arriving, "-o", out, "--once", "--minutes", 10]
    nowcast(*command)
    assert issue_times(out) == ["20240501T1200Z", "20240501T1205Z", "20240501T1210Z"]
    newest = load_forecast(out / "persistence_20240501T1210Z.nc")
    np.testing.assert_array_equal(newest.rain_rate[0, 0, 1], open_archive(tmp_path / "out.zarr").frame(at(2)))
    write_series(arriving, [4])
    (arriving / "damaged.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    (arriving / "notes.txt").write_text("no radar data")
    result = nowcast(*command, expect=5)
    assert "1 forecast by persistence" in result.output
    assert issue_times(out)[-1] == "20240501T1220Z" and len(issue_times(out)) == 4
    assert (tmp_path / "out.zarr").is_dir()


def test_a_folder_of_nothing_usable_is_said_so(nowcast: Run, tmp_path: Path) -> None:
    (tmp_path / "arriving").mkdir()
    for name in ("", "notes.txt"):
        if name:
            (tmp_path / "arriving" / name).write_text("no radar data")
        result = nowcast("live", "persistence", tmp_path / "arriving", "-o", tmp_path / "out", "--once", expect=3)
        assert "could be used" in str(result.exception)


def test_the_output_does_not_lie_in_the_watched_folder(nowcast: Run, tmp_path: Path) -> None:
    result = nowcast("live", "persistence", tmp_path, "-o", tmp_path / "out", "--once", expect=2)
    assert "lies in the folder that is watched" in str(result.exception)


def test_a_seed_without_members_is_refused(nowcast: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    command = ["live", "persistence", tmp_path / "in", "-o", tmp_path / "out", "--once", "--seed", "1"]
    assert "none are asked for" in str(nowcast(*command, expect=2).exception)


def test_a_file_is_read_when_it_has_stopped_growing(tmp_path: Path) -> None:
    first, second, third = write_series(tmp_path / "elsewhere", [0, 1, 2])
    arriving = tmp_path / "arriving"
    arriving.mkdir()
    for path in (first, second):
        path.rename(arriving / path.name)
    feed = Feed(arriving, tmp_path / "a.zarr", READ, patient=True)
    assert feed.refresh() is None and feed.refresh().present.sum() == 2
    whole = third.read_bytes()
    growing = arriving / third.name
    growing.write_bytes(whole[:300])
    assert feed.refresh().present.sum() == 2
    growing.write_bytes(whole)
    assert feed.refresh().present.sum() == 2
    assert feed.refresh().present.sum() == 3
    assert feed.unused == set()


def test_a_bad_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    arriving = tmp_path / "arriving"
    good = write_series(arriving, [0, 1, 2])[2]
    whole = good.read_bytes()
    good.write_bytes(whole[:300])
    feed = Feed(arriving, tmp_path / "a.zarr", READ, patient=False)
    assert feed.refresh().present.sum() == 2 and feed.unused == {good}
    good.write_bytes(whole)
    assert feed.refresh().present.sum() == 3 and feed.unused == set()


def test_before_there_is_an_archive_unusable_files_wait_for_the_next_one(tmp_path: Path) -> None:
    arriving = tmp_path / "arriving"
    arriving.mkdir()
    (arriving / "a_bad.nc").write_bytes(b"not a file of radar")
    feed = Feed(arriving, tmp_path / "a.zarr", READ, patient=False)
    with pytest.raises(DataError):
        feed.refresh()
    assert feed.refresh() is None  # not tried again for nothing
    write_series(arriving, [0, 1])
    assert feed.refresh().present.sum() == 2


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_its_code_and_files_that_can_be_read(
    tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    arriving, out = tmp_path / "arriving", tmp_path / "out"
    write_series(arriving, [0, 1])
    command = [sys.executable, "-m", "cli.main", "live", "persistence", str(arriving), "-o", str(out), "--poll", "0.2s"]
    # A job in the background of a shell ignores SIGINT, and would hand that down.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    running = subprocess.Popen([*command, "--minutes", "10"], stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    try:
        _until(lambda: len(issue_times(out)) == 2, running)
        write_series(arriving, [2])
        _until(lambda: len(issue_times(out)) == 3, running)
        running.send_signal(signum)
        _, said = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == code, said
    assert "Traceback" not in said
    assert load_forecast(out / "persistence_20240501T1210Z.nc").rain_rate.shape == (1, 1, 2, 10, 12)


def _until(happened: object, running: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + 240
    while not happened():  # type: ignore[operator]
        assert running.poll() is None and time.monotonic() < ends
        time.sleep(0.05)
