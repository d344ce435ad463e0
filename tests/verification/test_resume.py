"""An evaluation that was stopped goes on to the bytes of one that was not."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest

from nowcast.data.archive_lock import lock_archive
from nowcast.data.archive_writer import write_archive
from nowcast.data.forecast import Forecast
from nowcast.data.grid import Grid
from nowcast.errors import ConfigError, DataError
from nowcast.prediction.persistence import Persistence
from nowcast.verification.case_scores import CaseScores
from nowcast.verification.case_store import CaseStore, draft_of
from nowcast.verification.counts import Case
from nowcast.verification.evaluate import evaluate

START = np.datetime64("2016-07-11T21:00:00", "s")
STEP = np.timedelta64(300, "s")
GRID = Grid.from_corner(4_000_000.0, 3_000_000.0, 1000.0, 1000.0, (20, 26), "EPSG:3035")
ISSUES = (1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    rng = np.random.default_rng(0)
    field = np.where(rng.random((12, *GRID.shape)) < 0.4, rng.gamma(0.6, 4.0, (12, *GRID.shape)), 0.0)
    field[:, 3, 4:9] = np.nan
    write_archive(folder / "mch.zarr", field.astype(np.float32), first_time=START, step=STEP, grid=GRID)
    for issue in ISSUES:
        # Three members: sums of every kind are kept.
        members = rng.gamma(0.5, 2.0, (3, 1, 3, *GRID.shape)).astype(np.float32)
        made = Forecast(members, START + np.array([issue]) * STEP, np.arange(1, 4) * STEP, GRID, "net")
        made.save(folder / "net" / f"{issue}.nc")
    return folder


def run(place: Path, output: Path, **more: Any) -> None:
    options: dict[str, Any] = {"thresholds": (0.1, 1.0), "windows": (1, 5), **more}
    evaluate([place / "net"], place / "mch.zarr", baselines=[Persistence()], output=output, **options)


def stopping_after(number: int, scored: list[Any]) -> Callable[[Iterator[Any], int], Iterator[Any]]:
    def cases(scores: Iterator[Any], total: int) -> Iterator[Any]:
        for done, one in enumerate(scores):
            if done == number:
                raise KeyboardInterrupt
            scored.append(one.case)
            yield one

    return cases


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def unbroken(place: Path) -> dict[str, bytes]:
    run(place, place / "unbroken")
    return contents(place / "unbroken")


@pytest.mark.parametrize("stops", [(0,), (1,), (4,), (5,), (2, 1, 0)])
def test_stopped_between_cases_it_goes_on_to_the_same_bytes(
    stops: tuple[int, ...], place: Path, tmp_path: Path, unbroken: dict[str, bytes]
) -> None:
    scored: list[Any] = []
    for number in stops:
        try:
            run(place, tmp_path / "skill", progress=stopping_after(number, scored), resume=True)
        except KeyboardInterrupt:
            assert not (tmp_path / "skill").exists()
    if stops != (5,):
        run(place, tmp_path / "skill", progress=stopping_after(9, scored), resume=True)
    assert contents(tmp_path / "skill") == unbroken
    # No case was scored twice, and nothing is left beside the evaluation.
    assert len(scored) == len(set(scored)) == len(ISSUES)
    assert [entry.name for entry in tmp_path.iterdir()] == ["skill"]


@pytest.mark.parametrize("left", [0, -40])
def test_a_case_that_a_disk_has_cut_is_scored_again(
    left: int, place: Path, tmp_path: Path, unbroken: dict[str, bytes]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(place, tmp_path / "skill", progress=stopping_after(3, []))
    cut = sorted(draft_of(tmp_path / "skill").glob("*.npz"))[0]
    cut.write_bytes(cut.read_bytes()[:left])
    run(place, tmp_path / "skill", resume=True)
    assert contents(tmp_path / "skill") == unbroken


@pytest.mark.parametrize("fault", ["negative rates", "damaged bytes"])
def test_a_bad_forecast_met_late_costs_no_case_that_was_scored(
    fault: str, place: Path, tmp_path: Path, unbroken: dict[str, bytes]
) -> None:
    shutil.copytree(place / "net", tmp_path / "net")
    bad = tmp_path / "net" / "4.nc"
    if fault == "negative rates":
        with netCDF4.Dataset(bad, "a") as file:
            file["rainfall_rate"][0, 0] = -5.0
    else:
        with h5py.File(bad) as file:
            chunk = file["rainfall_rate"].id.get_chunk_info(0)
        whole = bytearray(bad.read_bytes())
        whole[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
        bad.write_bytes(whole)
    about: dict[str, Any] = {"thresholds": (0.1, 1.0), "windows": (1, 5), "baselines": [Persistence()]}
    with pytest.raises(DataError, match="4.nc") as found:
        evaluate([tmp_path / "net"], place / "mch.zarr", output=tmp_path / "skill", **about)
    assert "3 cases are scored and kept: mend it, then go on with --resume" in str(found.value.hint)
    shutil.copy(place / "net" / "4.nc", bad)
    scored: list[Any] = []
    evaluate(
        [tmp_path / "net"], place / "mch.zarr", output=tmp_path / "skill", resume=True,
        progress=stopping_after(9, scored), **about,
    )  # fmt: skip
    assert len(scored) == 2 and contents(tmp_path / "skill") == unbroken


def test_a_full_disk_is_said_and_costs_no_case_that_was_kept(
    place: Path, tmp_path: Path, unbroken: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, written = np.savez, []

    def full(file: Any, **arrays: Any) -> None:
        written.append(file)
        if len(written) == 3:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DataError, match="skill cannot be written: No space left on device") as found:
        run(place, tmp_path / "skill")
    assert "2 cases are scored and kept: mend it, then go on with --resume" in str(found.value.hint)
    assert not list(draft_of(tmp_path / "skill").glob("*.draft"))
    monkeypatch.undo()
    run(place, tmp_path / "skill", resume=True)
    assert contents(tmp_path / "skill") == unbroken


def test_a_forecast_that_was_made_again_meanwhile_is_scored_again(
    place: Path, tmp_path: Path, unbroken: dict[str, bytes]
) -> None:
    shutil.copytree(place / "net", tmp_path / "net")
    about: dict[str, Any] = {"thresholds": (0.1, 1.0), "windows": (1, 5), "baselines": [Persistence()]}
    with netCDF4.Dataset(tmp_path / "net" / "1.nc", "a") as file:
        file["rainfall_rate"][:] = 0.0
    with pytest.raises(KeyboardInterrupt):
        evaluate(
            [tmp_path / "net"], place / "mch.zarr", output=tmp_path / "skill", progress=stopping_after(3, []), **about
        )
    shutil.copy(place / "net" / "1.nc", tmp_path / "net" / "1.nc")
    evaluate([tmp_path / "net"], place / "mch.zarr", output=tmp_path / "skill", resume=True, **about)
    assert contents(tmp_path / "skill") == unbroken


@pytest.mark.slow
def test_killed_between_cases_it_goes_on_to_the_same_bytes(
    place: Path, tmp_path: Path, unbroken: dict[str, bytes]
) -> None:
    command = [
        "evaluate", str(place / "net"), "--against", str(place / "mch.zarr"), "-o", str(tmp_path / "skill"),
        "--baseline", "persistence", "--threshold", "0.1,1", "--scale", "1,5",
    ]  # fmt: skip
    script = (
        "import os, signal, sys, cli.evaluate as command\n"
        "def killed(cases, number):\n"
        "    for done, case in enumerate(cases):\n"
        "        if done == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield case\n"
        "command._progress = killed\n"
        "from cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(draft_of(tmp_path / "skill").glob("*.npz"))) == 2 and not (tmp_path / "skill").exists()
    for arguments, code in ((command, 2), ([*command, "--resume"], 0)):
        # In a process of its own: what other tests have done to the loggers of this one would silence a message.
        done = subprocess.run([sys.executable, "-m", "cli.main", *arguments], capture_output=True, check=False)
        err = done.stderr.decode()
        assert done.returncode == code, err
        assert ("was stopped before its end" in err and "go on with --resume" in err) == (code == 2)
    assert "2 of 5 cases were scored before the run was stopped" in err and "3/3" in err
    assert contents(tmp_path / "skill") == unbroken


def test_another_evaluation_is_not_gone_on_with(place: Path, tmp_path: Path, unbroken: dict[str, bytes]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(place, tmp_path / "skill", progress=stopping_after(2, []))
    with pytest.raises(ConfigError, match="skill was stopped before its end"):
        run(place, tmp_path / "skill")
    with pytest.raises(ConfigError, match="that was stopped had other thresholds, windows"):
        run(place, tmp_path / "skill", thresholds=(0.5,), windows=(3,), resume=True)
    scored: list[Any] = []
    run(place, tmp_path / "skill", overwrite=True, progress=stopping_after(9, scored))
    assert len(scored) == len(ISSUES) and contents(tmp_path / "skill") == unbroken
    with pytest.raises(ConfigError, match="skill exists"):
        run(place, tmp_path / "skill", resume=True)


def test_two_runs_do_not_write_the_same_evaluation(place: Path, tmp_path: Path) -> None:
    lock = lock_archive(draft_of(tmp_path / "skill"))
    with pytest.raises(DataError, match="another process"):
        run(place, tmp_path / "skill")
    lock.close()


def test_what_fails_on_its_data_leaves_nothing_behind(place: Path, tmp_path: Path) -> None:
    blind = np.full((1, 1, 3, *GRID.shape), np.nan, dtype=np.float32)
    Forecast(blind, START + np.array([2]) * STEP, np.arange(1, 4) * STEP, GRID, "b").save(tmp_path / "in" / "b.nc")
    with pytest.raises(DataError, match="no pixel"):
        evaluate([tmp_path / "in"], place / "mch.zarr", thresholds=(0.1,), output=tmp_path / "skill")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_cases_within_a_minute_are_kept_apart(tmp_path: Path) -> None:
    def scores(seconds: int) -> CaseScores:
        case = Case("mch", START + np.timedelta64(seconds, "s"))
        table = np.full((1, 1, 1, 4), seconds)
        return CaseScores(case, table, np.ones(1, np.int64), np.zeros(1, np.uint64), {"net": 1}, {"net": 1}, {})

    with CaseStore(tmp_path / "skill", {}) as store:
        for seconds in (0, 30):
            store.write(scores(seconds), {"net": "a"})
        for seconds in (0, 30):
            found = store.read(scores(seconds).case, {"net": "a"})
            assert found is not None and (found.table == seconds).all()
        assert store.read(scores(15).case, {"net": "a"}) is None
        assert store.read(scores(30).case, {"net": "b"}) is None


def test_what_a_failed_run_leaves_is_removed_under_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = []
    remove = CaseStore.remove

    def watched(store: CaseStore) -> None:
        with pytest.raises(DataError, match="another process"):
            lock_archive(draft_of(store.path))
        locked.append(store.path)
        remove(store)

    monkeypatch.setattr(CaseStore, "remove", watched)
    with pytest.raises(DataError, match="no pixel"), CaseStore(tmp_path / "skill", {}):
        raise DataError("no pixel")
    assert locked == [tmp_path / "skill"] and not list(tmp_path.iterdir())


def test_after_a_case_that_fails_no_other_is_begun(place: Path) -> None:
    begun: list[Future[Any]] = []

    class Pool(Executor):
        def submit(self, *arguments: Any, **named: Any) -> Future[Any]:
            begun.append(Future())
            if len(begun) == 1:
                begun[0].set_exception(DataError("damaged"))
            return begun[-1]

    with pytest.raises(DataError, match="damaged"):
        evaluate([place / "net"], place / "mch.zarr", thresholds=(0.1,), executor=Pool())
    assert len(begun) == len(ISSUES) and all(future.cancelled() for future in begun[1:])
