"""Speed of ingest, each figure a ratio in one run: `python tests/benchmarks/bench_ingest.py [--quick]`.

1. Throughput of a whole ingest against bare decode plus encode of the same frames.
2. One file against pySTEPS' importer of the same file (in its own unit, without time or archive), both best of three.
3. Two processes against one.
4. The rate while the archive grows, first against last fifth.
5. A year at 5 minutes (105,120 slots of 512x512, sparse): seconds and memory to open and index.
"""

from __future__ import annotations

import argparse
import gzip
import logging
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_prep.ingest import ingest
from data_prep.readers.registry import read_frames
from nowcast.data.archive import open_archive
from nowcast.data.archive_store import encode_chunk
from nowcast.data.archive_writer import ArchiveWriter
from nowcast.data.encoded_frame import encode_frame
from nowcast.data.grid import Grid

STEP = np.timedelta64(300, "s")
START = np.datetime64("2023-01-01T00:00:00", "s")
YEAR_SLOTS = 105_120
COPIES = 12
EVENTS = {
    "mch gif 640x710": ("radar/mch/20160711", "AQC16193*.gif"),
    "fmi pgm 1226x760": ("radar/fmi/pgm/20160928", "*.pgm.gz"),
    "knmi h5 765x700": ("radar/KNMI/2010/08", "*.h5"),
    "opera h5 2200x1900": ("radar/OPERA/20180824", "*.hdf"),
}


def seconds(function: Callable[[], object], repeats: int = 1) -> float:
    """Least wall time of some runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def files_of(data: Path, event: str) -> list[Path]:
    folder, pattern = EVENTS[event]
    return sorted((data / folder).glob(pattern))


def bare(paths: list[Path]) -> None:
    """Decode and compress, and nothing else: no quality step, digest, mask, manifest, commit."""
    for path in paths:
        for frame in read_frames(path):
            encode_chunk(frame.rain_rate)


def fresh_ingest(paths: list[Path], folder: Path, workers: int = 1) -> None:
    shutil.rmtree(folder / "a.zarr", ignore_errors=True)
    ingest(paths, folder / "a.zarr", workers=workers)


def repeated(data: Path, event: str, folder: Path, copies: int) -> list[Path]:
    """The files of an event as those of other days too: the date inside is replaced, and nothing else."""
    folder = folder / event.split()[0]
    shutil.rmtree(folder, ignore_errors=True)
    found = []
    for copy in range(copies):
        (folder / str(copy)).mkdir(parents=True)
        for path in files_of(data, event):
            found.append(folder / str(copy) / _on_another_day(path.name.encode(), copy).decode())
            found[-1].write_bytes(_on_another_day(path.read_bytes(), copy))
    return found


def _on_another_day(content: bytes, copy: int) -> bytes:
    if content[:2] == b"\x1f\x8b":
        day = str(START.astype("datetime64[D]") + copy).replace("-", "").encode()
        content = re.sub(rb"obstime \d{8}", b"obstime " + day, gzip.decompress(content), count=1)
        return gzip.compress(content, 6, mtime=0)
    content = re.sub(rb"AQC16193", b"AQC16%03d" % (193 + copy), content)
    content = content.replace(b"26-AUG-2010", b"%02d-SEP-2010" % (3 + copy))
    content = content.replace(b"25-AUG-2010", b"%02d-SEP-2010" % (2 + copy))
    return content.replace(b"20180824", b"201808%02d" % (10 + copy))


def cpu_seconds(function: Callable[[], object], repeats: int) -> float:
    """Least processor time of some runs: what a busy machine does not distort."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return min(times)


def against_bare(data: Path, folder: Path, repeats: int) -> None:
    print("\nthroughput of ingest / bare decode + encode (wanted: 0.8), wall time and processor time")
    for event in EVENTS:
        paths = repeated(data, event, folder, copies=COPIES)
        bare(paths[:2])
        plain, whole = [], []
        for _ in range(repeats):  # one beside the other, so that a busy machine slows both
            plain.append(seconds(lambda paths=paths: bare(paths)))  # type: ignore[misc]
            whole.append(seconds(lambda paths=paths: fresh_ingest(paths, folder)))  # type: ignore[misc]
        plain_cpu = cpu_seconds(lambda paths=paths: bare(paths), repeats)  # type: ignore[misc]
        whole_cpu = cpu_seconds(lambda paths=paths: fresh_ingest(paths, folder), repeats)  # type: ignore[misc]
        frames = int(open_archive(folder / "a.zarr").present.sum())
        bare_ms, ingest_ms = (1000 * min(times) / len(paths) for times in (plain, whole))
        print(
            f"  {event:<20} {bare_ms:7.1f} ms bare, {ingest_ms:7.1f} ms ingest a frame, "
            f"ratio {bare_ms / ingest_ms:.2f}, of processor time {plain_cpu / whole_cpu:.2f} ({frames} frames)"
        )


def against_pysteps(data: Path) -> None:
    try:
        from pysteps.io import importers
    except ImportError:
        print("\npySTEPS is not installed: no comparison")
        return
    print("\nour read of one file / pySTEPS' importer (wanted: 2 times as fast where decoding is not the bound)")
    theirs = {
        "mch gif 640x710": lambda path: importers.import_mch_gif(str(path), "AQC", "mm", 5.0),
        "fmi pgm 1226x760": lambda path: importers.import_fmi_pgm(str(path), gzipped=True),
        "knmi h5 765x700": lambda path: importers.import_knmi_hdf5(str(path), qty="ACRR", accutime=5.0, pixelsize=1.0),
        "opera h5 2200x1900": lambda path: importers.import_odim_hdf5(str(path), qty="RATE"),
    }
    for event, read in theirs.items():
        path = files_of(data, event)[1]
        ours_s, theirs_s = np.inf, np.inf
        for _ in range(5):
            ours_s = min(ours_s, seconds(lambda path=path: list(read_frames(path))))  # type: ignore[misc]
            theirs_s = min(theirs_s, seconds(lambda path=path, read=read: read(path)))  # type: ignore[misc]
        print(
            f"  {event:<20} {1000 * ours_s:7.1f} ms ours, {1000 * theirs_s:7.1f} ms pySTEPS, x{theirs_s / ours_s:.1f}"
        )


def two_workers(data: Path, folder: Path, copies: int) -> None:
    """Long enough that the start of the processes counts little."""
    paths = repeated(data, "fmi pgm 1226x760", folder, copies)
    one, two = np.inf, np.inf
    for _ in range(2):
        one = min(one, seconds(lambda: fresh_ingest(paths, folder, workers=1)))
        two = min(two, seconds(lambda: fresh_ingest(paths, folder, workers=2)))
    alone, side = _scaling(paths[:80])
    print(f"\nthe machine itself: 2 bare decoders at once do x{2 * alone / side:.2f} of what one does alone")
    number = f"{len(paths)} files, {int(open_archive(folder / 'a.zarr').present.sum())} frames"
    print(f"\n2 workers / 1 (wanted: 1.7): {one:.1f} s with 1, {two:.1f} s with 2, x{one / two:.2f} ({number})")


def _scaling(paths: list[Path]) -> tuple[float, float]:
    """Wall time of one bare decoder, and of two at once: what the machine has to give at the moment."""
    code = "import sys; from pathlib import Path; from tests.benchmarks.bench_ingest import bare, seconds\n"
    code += "paths = [Path(name) for name in sys.argv[1:]]; bare(paths[:3]); print(seconds(lambda: bare(paths)))"
    command = [sys.executable, "-c", code, *map(str, paths)]
    alone = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    return alone, max(float(process.communicate()[0]) for process in both)


def growing(folder: Path, frames: int, shape: tuple[int, int]) -> None:
    """Encoded frames of real size, committed one at a time: the cost of the archive alone."""
    rain = np.random.default_rng(0).gamma(0.3, 2.0, shape).round(1).astype(np.float32)
    rain[rain < 1] = 0
    grid = Grid.from_corner(0.0, 0.0, 1000.0, 1000.0, shape, "EPSG:3035")
    encoded = encode_frame(START, rain)
    shutil.rmtree(folder / "g.zarr", ignore_errors=True)
    marks = [time.perf_counter()]
    with ArchiveWriter.create(folder / "g.zarr", grid, first_time=START, step=STEP) as writer:
        for index in range(frames):
            writer.put(_at(encoded, index))
            writer.commit()
            if (index + 1) % (frames // 5) == 0:
                marks.append(time.perf_counter())
    fifths = 1000 * np.diff(marks) / (frames // 5)
    print(
        f"\ncommits of one frame of {shape[0]}x{shape[1]} each, {frames} frames: "
        + ", ".join(f"{value:.2f}" for value in fifths)
        + f" ms a frame in each fifth; last / first {fifths[-1] / fifths[0]:.2f} (wanted: about 1)"
    )


def _at(encoded: object, index: int) -> object:
    import dataclasses

    return dataclasses.replace(encoded, time=START + index * STEP)  # type: ignore[type-var]


def year(folder: Path) -> None:
    """Opened in a process of its own, so that its memory is its own."""
    rain = np.zeros((512, 512), dtype=np.float32)
    grid = Grid.from_corner(0.0, 0.0, 1000.0, 1000.0, (512, 512), "EPSG:3035")
    shutil.rmtree(folder / "y.zarr", ignore_errors=True)
    with ArchiveWriter.create(folder / "y.zarr", grid, first_time=START, step=STEP) as writer:
        for index in (*range(0, YEAR_SLOTS, 997), YEAR_SLOTS - 1):
            writer.put(_at(encode_frame(START, rain), index))  # type: ignore[arg-type]
    code = (
        "import re, sys, time\n"
        "import numpy, zarr, xarray, pyproj\n"
        "started = time.perf_counter()\n"
        "from nowcast.data.archive import open_archive\n"
        "from nowcast.data.windows import window_report, window_starts\n"
        "archive = open_archive(sys.argv[1])\n"
        "window_report(archive.present, 17), window_starts(archive.present, 1), archive.fingerprint\n"
        "archive.index_of(archive.times[-1])\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]\n"
        "print(time.perf_counter() - started, peak, archive.times.size)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "y.zarr")], capture_output=True, text=True, check=True
    )
    took, kilobytes, slots = done.stdout.split()
    print(
        f"\na year at 5 minutes, {slots} slots of 512x512, sparse: opened, indexed and fingerprinted in "
        f"{float(took):.2f} s, {int(kilobytes) / 1024:.0f} MB at most in the process (wanted: 2 s, 1 GB)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NOWCAST_TEST_DATA", "../shared/data")))
    parser.add_argument("--quick", action="store_true", help="Small sizes, synthetic parts alone.")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, NumPy {np.__version__}; best of several; seed 0")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="bench_ingest_") as scratch:
        folder = Path(scratch)
        if not arguments.quick and (arguments.data / "radar").is_dir():
            against_bare(arguments.data, folder, repeats=2)
            against_pysteps(arguments.data)
            two_workers(arguments.data, folder, copies=COPIES)
        growing(folder, 100 if arguments.quick else 2015, (64, 64) if arguments.quick else (1226, 760))
        year(folder)
    print(f"\npeak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
