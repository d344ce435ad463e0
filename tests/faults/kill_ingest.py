"""Kill one ingest many times at random moments (SIGKILL), then let it end: `python -m tests.faults.kill_ingest`.

After every kill the archive must open, and each frame in it be the frame of its source file; the archive that is left
after the last run must equal one made without a kill. Names run against time and some times come twice, so that kills
also fall into rearrangements and replacements.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

import data_prep.ingest
from data_prep.ingest import IngestOptions, ingest
from nowcast.data.archive import open_archive
from tests.data_prep.radar_files import STEP, at, field, write_frames

REPLACED = 1000


@dataclass
class Tally:
    """What the kills hit."""

    kills: int = 0
    without_archive: int = 0
    in_commit: int = 0
    frames_checked: int = 0
    ended_early: int = 0


def make_sources(folder: Path, frames: int) -> None:
    """One file a frame, the latest first by name; every tenth time again with other contents."""
    for number in range(frames):
        write_frames(folder / f"{frames - number:05d}.nc", [at(number)], [field(number)])
        if number % 10 == 0:
            write_frames(folder / f"{frames - number:05d}_corrected.nc", [at(number)], [field(REPLACED + number)])


def run_ingest(sources: Path, archive: Path) -> None:
    data_prep.ingest.COMMIT_SECONDS = data_prep.ingest.COMMIT_COSTS = 0.0
    ingest([sources], archive, options=IngestOptions(step=STEP, duplicates="last"))


def kill_ingest(folder: Path, *, kills: int, frames: int, seed: int) -> Tally:
    """Kill an ingest of `frames` frames and check the archive after each kill.

    Raises:
        AssertionError: An archive that does not open, or that holds anything but the source frames.
    """
    generator = np.random.default_rng(seed)
    make_sources(folder / "in", frames)
    archive = folder / "killed.zarr"
    started = time.monotonic()
    run_ingest(folder / "in", folder / "whole.zarr")
    seconds = time.monotonic() - started
    tally = Tally()
    while tally.kills < kills:
        # So long that the work lasts for about as many kills as are left; never so short that nothing is done.
        share = 1.0 / (kills - tally.kills + 2)
        # One kill in five at any time; the others once there are frames, however slow the machine is to begin.
        begun = generator.random() > 0.2
        if run_and_kill(folder / "in", archive, delay=seconds * share * generator.uniform(0.2, 2.0), begun=begun):
            tally.kills += 1
            check(archive, frames, tally)
        else:
            tally.ended_early += 1
            for path in sorted(archive.parent.glob("killed.zarr")):
                path.rename(folder / f"done_{tally.ended_early}.zarr")
    run_ingest(folder / "in", archive)
    killed, whole = open_archive(archive), open_archive(folder / "whole.zarr")
    assert killed.fingerprint == whole.fingerprint, "the archive differs from one that was never killed"
    np.testing.assert_array_equal(killed.rain_rate(0, frames), whole.rain_rate(0, frames))
    np.testing.assert_array_equal(killed.valid_share(), whole.valid_share())
    assert "writing" not in killed.attrs
    return tally


def run_and_kill(sources: Path, archive: Path, *, delay: float, begun: bool) -> bool:
    """Whether a forked ingest was still at work when it was killed, `delay` seconds after its archive held frames."""
    child = os.fork()
    if child == 0:
        try:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - the child lives no longer than this
            run_ingest(sources, archive)
        finally:
            os._exit(0)
    ended, status = 0, 0
    while begun and not ended and not (archive.exists() and _has_frames(archive)):
        time.sleep(0.002)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def check(path: Path, frames: int, tally: Tally) -> None:
    """The archive opens, and whatever it shows is a source frame at its own time."""
    if not path.exists():
        tally.without_archive += 1
        return
    archive = open_archive(path) if _has_frames(path) else None
    if archive is None:
        tally.without_archive += 1
        return
    tally.in_commit += bool(archive.attrs.get("writing"))
    for index in np.flatnonzero(archive.present):
        number = int((archive.times[index] - at(0)) // STEP)
        found = archive.frame(archive.times[index])
        same = [np.array_equal(found, field(n), equal_nan=True) for n in (number, REPLACED + number)]
        assert any(same), f"the frame of {archive.times[index]} is not one of its source files"
        tally.frames_checked += 1
    with xr.open_zarr(path, chunks=None) as dataset:
        assert dataset.sizes["time"] == archive.times.size
        for time_, rain in zip(dataset["time"].values, dataset["rainfall_rate"].values, strict=True):
            number = int((time_ - at(0)) // STEP)
            shown = not np.isnan(rain).all()
            assert not shown or any(np.array_equal(rain, field(n), equal_nan=True) for n in (number, REPLACED + number))


def _has_frames(path: Path) -> bool:
    from nowcast.errors import DataError

    try:
        open_archive(path)
    except DataError as error:
        assert "without a single frame" in error.message, error
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # fields of noise look implausible to an ingest
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill_ingest_") as folder:
        tally = kill_ingest(Path(folder), kills=arguments.kills, frames=arguments.frames, seed=arguments.seed)
    print(
        f"{tally.kills} kills ({tally.without_archive} before the first frame was committed, "
        f"{tally.in_commit} with the archive open for writing, {tally.ended_early} runs ended before their kill); "
        f"{tally.frames_checked} frames compared with their files after a kill; "
        f"the final archive equals one that was never killed; {time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
