"""Speed of ingest, each figure a ratio in one run: `python -m tests.benchmarks.bench_ingest [--quick] [--only PART]`.

bare       a whole ingest against bare decode plus encode of the same frames: by a plain script of the usual
           libraries, and by our own decoders
importers  one file against pySTEPS' importer of it (in its own unit, without time or archive), and what share of our
           time the C decoder alone takes
workers    two processes against one, beside two bare decoders against one
growing    the rate while the archive grows, first against last fifth
year       a year at 5 minutes (105,120 slots of 512x512, sparse): seconds and memory to open and index

`--quick` runs all but the importers on a few small files; both sides of a ratio must give the same frames, always.
"""

from __future__ import annotations

import argparse
import datetime
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
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path

import h5py
import numpy as np

from data_prep.ingest import ingest
from data_prep.readers.gif import parse_gif
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import read_frames
from nowcast.data.archive import open_archive
from nowcast.data.archive_store import encode_chunk
from nowcast.data.archive_writer import ArchiveWriter
from nowcast.data.encoded_frame import encode_frame
from nowcast.data.grid import Grid
from tests.benchmarks.plain_decoders import PLAIN
from tests.data_prep.readers.reader_files import write_pgm

STEP = np.timedelta64(300, "s")
START = np.datetime64("2023-01-01T00:00:00", "s")
YEAR_SLOTS = 105_120
# On how many days an event is repeated: what a new archive takes once then weighs little.
COPIES = {"mch": 40, "fmi": 25, "knmi": 16, "opera": 48}
EVENTS = {
    "mch gif 640x710": ("radar/mch/20160711", "AQC16193*.gif"),
    "fmi pgm 1226x760": ("radar/fmi/pgm/20160928", "*.pgm.gz"),
    "knmi h5 765x700": ("radar/KNMI/2010/08", "*.h5"),
    "opera h5 2200x1900": ("radar/OPERA/20180824", "*.hdf"),
    "bom netcdf 512x512": ("radar/bom/prcp-cscn/2/2018/06/16", "*.nc"),
}
# Those whose date can be replaced in the bytes, so that they make an archive of many days.
INGESTED = tuple(event for event in EVENTS if not event.startswith("bom"))
WORKED_ON = "fmi pgm 1226x760"
# What the corners of the small files fit.
PGM_SHAPE = (6, 4)


def seconds(function: Callable[[], object]) -> float:
    """Wall time of a run."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def files_of(data: Path, event: str) -> list[Path]:
    folder, pattern = EVENTS[event]
    return sorted((data / folder).glob(pattern))


def bare(paths: list[Path]) -> list[bytes]:
    """Decode and compress, and nothing else: no quality step, digest, mask, manifest, commit; the last chunks.

    As in an ingest, the quality index stays where it is.
    """
    chunks: deque[bytes] = deque(maxlen=8)
    for path in paths:
        for frame in read_frames(path, options=ReadOptions(read_quality=False)):
            chunks.append(encode_chunk(frame.rain_rate))
    return list(chunks)


def plain(paths: list[Path], decode: Callable[[Path], np.ndarray]) -> list[np.ndarray]:
    """Decode by a few lines around the usual library and compress; the last fields."""
    fields: deque[np.ndarray] = deque(maxlen=3)
    for path in paths:
        fields.append(decode(path))
        encode_chunk(fields[-1])
    return list(fields)


def require_same(paths: list[Path], archive: Path) -> int:
    """The number of frames of an archive, which must hold every frame of the files, and its last ones as they are."""
    stored = open_archive(archive)
    frames = [frame for path in paths[-3:] for frame in read_frames(path)]
    for frame in frames:
        capped = np.minimum(frame.rain_rate, np.float32(stored.attrs["rate_cap_mmh"]))
        np.testing.assert_array_equal(stored.frame(frame.valid_time), capped)
    number = int(stored.present.sum())
    assert number == len(paths), f"{number} frames of {len(paths)} files"
    return number


def fresh_ingest(paths: list[Path], folder: Path, workers: int = 1) -> tuple[float, float, Path]:
    """(wall time, processor time of this process, path) of an ingest into a new archive.

    Nothing is removed between two runs: ext4 steps over every file that was removed within the last minutes, one by
    one, each time it makes a new one, which would be measured instead.
    """
    path = Path(tempfile.mkdtemp(dir=folder)) / "a.zarr"
    return *timed(lambda: ingest(paths, path, workers=workers)), path


def timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


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
        day = _day("2023-01-01", copy, "%Y%m%d")
        content = re.sub(rb"obstime \d{8}", b"obstime " + day, gzip.decompress(content), count=1)
        return gzip.compress(content, 6, mtime=0)
    content = re.sub(rb"AQC16193", b"AQC16%03d" % (193 + copy), content)
    for ago, day in ((0, b"26-AUG-2010"), (1, b"25-AUG-2010")):
        content = content.replace(day, _day("2010-09-03", copy - ago, "%d-%b-%Y").upper())
    return content.replace(b"20180824", _day("2018-08-10", copy, "%Y%m%d"))


def _day(first: str, later: int, form: str) -> bytes:
    """A date so many days later, as a file writes it."""
    day: datetime.date = (np.datetime64(first, "D") + later).item()
    return day.strftime(form).encode()


def against_bare(sets: Mapping[str, list[Path]], folder: Path, repeats: int) -> None:
    print("\nthroughput of ingest / bare decode + encode (wanted: 0.8), processor time; by usual libraries, by ours")
    for event, paths in sets.items():
        by_library = PLAIN[event.split()[0]]
        require_same_fields(paths[-3:], plain(paths[-3:], by_library))
        bare(paths[:2])
        times = []
        for _ in range(repeats):  # one beside the other, so that a busy machine slows all
            took = [timed(lambda paths=paths, by_library=by_library: plain(paths, by_library))]
            took.append(timed(lambda paths=paths: bare(paths)))
            *ingested, archive = fresh_ingest(paths, folder)
            times.append([*took, ingested])
        frames = require_same(paths, archive)
        library, ours, whole = 1000 * np.min(times, axis=0) / frames
        print(
            f"  {event:<20} {library[1]:7.2f} and {ours[1]:7.2f} ms bare, {whole[1]:7.2f} ms ingest a frame: ratio "
            f"{library[1] / whole[1]:.2f} and {ours[1] / whole[1]:.2f} (by wall time {library[0] / whole[0]:.2f} and "
            f"{ours[0] / whole[0]:.2f}; {frames} frames)"
        )


def require_same_fields(paths: list[Path], fields: list[np.ndarray]) -> None:
    """That the plain script's last fields are what our reader makes of the files."""
    for path, field in zip(paths, fields, strict=True):
        (frame,) = read_frames(path)
        np.testing.assert_array_equal(field, frame.rain_rate)


def against_pysteps(data: Path, repeats: int = 9) -> None:
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
        "bom netcdf 512x512": lambda path: importers.import_bom_rf3(str(path)),
    }
    for event, read in theirs.items():
        path = files_of(data, event)[1]
        works = (lambda path=path: list(read_frames(path)), lambda path=path, read=read: read(path), _decoder(path))
        times = np.full((repeats, 3), np.inf)
        for repeat in range(repeats):
            for side, work in enumerate(works):
                started = time.process_time()
                work()
                times[repeat, side] = time.process_time() - started
        ours, other, decoder = 1000 * times.min(axis=0)
        print(
            f"  {event:<20} {ours:7.2f} ms ours, {other:7.2f} ms pySTEPS, x{other / ours:.1f}; "
            f"the decoder alone {decoder:7.2f} ms, {decoder / ours:.0%} of ours (processor time)"
        )


def _decoder(path: Path) -> Callable[[], object]:
    """What unpacks the pixels of a file, and nothing else: zlib, LZW, HDF5's filters."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        return lambda: zlib.decompress(content, wbits=31)
    if content[:4] == b"GIF8":
        gif = parse_gif(content)
        return gif.indices

    def arrays() -> None:
        with h5py.File(path) as file:
            fields: list[h5py.Dataset] = []
            file.visititems(lambda name, found: fields.append(found) if _is_field(found) else None)
            for found in fields:
                found[()]

    return arrays


def _is_field(found: object) -> bool:
    return isinstance(found, h5py.Dataset) and found.ndim == 2 and found.size > 10_000


def two_workers(paths: list[Path], folder: Path) -> None:
    """Long enough that the start of the processes counts little; that is told, too.

    Wall times say what the machine had to give at the time, processor times what two idle cores could do at most.
    """
    one, one_processor, archive = fresh_ingest(paths, folder, workers=1)
    frames = require_same(paths, archive)
    two, two_processor, archive = fresh_ingest(paths, folder, workers=2)
    two_processor += _of_ended_workers()
    assert require_same(paths, archive) == frames
    start = fresh_ingest(paths[:26], folder, workers=2)[0] - 26 * two / frames
    _of_ended_workers()
    alone, side = _scaling(paths[:80])
    print(f"\nthe machine itself: 2 bare decoders at once do x{2 * alone / side:.2f} of what one does alone")
    print(
        f"2 workers / 1 (wanted: 1.7): {one:.1f} s with 1, {two:.1f} s with 2, x{one / two:.2f} ({frames} frames); "
        f"of that {start:.1f} s are the start of the processes and of the archive"
    )
    print(
        f"processor time of all processes: {one_processor:.1f} s with 1, {two_processor:.1f} s with 2: "
        f"two idle cores would do x{2 * one_processor / two_processor:.2f} at most"
    )


def _of_ended_workers() -> float:
    """Processor time of the worker processes since this was last asked for; ends the server that they are forked by."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _scaling(paths: list[Path]) -> tuple[float, float]:
    """Wall time of one bare decoder, and of two at once: what the machine has to give at the moment."""
    code = "import sys; from pathlib import Path; from tests.benchmarks.bench_ingest import bare, seconds\n"
    code += "paths = [Path(name) for name in sys.argv[1:]]; bare(paths[:3]); print(seconds(lambda: bare(paths)))"
    command = [sys.executable, "-c", code, *map(str, paths)]
    alone = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    return alone, max(float(process.communicate()[0]) for process in both)


def small_files(folder: Path, number: int) -> list[Path]:
    """A few FMI files of some pixels."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    paths = []
    for index in range(number):
        values = random.integers(0, 120, PGM_SHAPE).astype(np.uint8)
        stamp = re.sub(r"[-T:]", "", str(START + index * STEP))[:12]
        paths.append(write_pgm(folder / f"{index}.pgm.gz", values, obstime=stamp))
    return paths


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


def year(folder: Path, slots: int = YEAR_SLOTS) -> None:
    """Opened in a process of its own, so that its memory is its own."""
    rain = np.zeros((512, 512), dtype=np.float32)
    grid = Grid.from_corner(0.0, 0.0, 1000.0, 1000.0, (512, 512), "EPSG:3035")
    shutil.rmtree(folder / "y.zarr", ignore_errors=True)
    with ArchiveWriter.create(folder / "y.zarr", grid, first_time=START, step=STEP) as writer:
        for index in (*range(0, slots, 997), slots - 1):
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
    took, kilobytes, found = done.stdout.split()
    assert int(found) == slots
    print(
        f"\na year at 5 minutes, {slots} slots of 512x512, sparse: opened, indexed and fingerprinted in "
        f"{float(took):.2f} s, {int(kilobytes) / 1024:.0f} MB at most in the process (wanted: 2 s, 1 GB)"
    )


PARTS = ("bare", "importers", "workers", "growing", "year")


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NOWCAST_TEST_DATA", "../shared/data")))
    parser.add_argument("--quick", action="store_true", help="A few small files of its own.")
    parser.add_argument("--only", choices=PARTS, action="append", help="This part alone; may be given again.")
    parser.add_argument("--events", nargs="*", help="For the parts bare and importers: names that begin so.")
    parser.add_argument("--copies", type=int, help="Days that each event is repeated on.")
    arguments = parser.parse_args(given)
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, NumPy {np.__version__}; best of several; seed 0")
    logging.disable(logging.WARNING)
    parts = arguments.only or PARTS
    with tempfile.TemporaryDirectory(prefix="bench_ingest_") as scratch:
        folder = Path(scratch)
        if arguments.quick:
            run(folder, parts, {"fmi pgm small": small_files(folder / "in", 30)}, repeats=1, grown=(20, (64, 64)))
        else:
            names = [name for name in INGESTED if not arguments.events or name.startswith(tuple(arguments.events))]
            wanted = names if "bare" in parts else [WORKED_ON] if "workers" in parts else []
            copies = {name: arguments.copies or COPIES[name.split()[0]] for name in wanted}
            sets = {name: repeated(arguments.data, name, folder, copies[name]) for name in wanted}
            if "importers" in parts:
                against_pysteps(arguments.data)
            run(folder, parts, sets, repeats=3, grown=(2015, (1226, 760)))
    print(f"\npeak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def run(
    folder: Path,
    parts: Sequence[str],
    sets: Mapping[str, list[Path]],
    *,
    repeats: int,
    grown: tuple[int, tuple[int, int]],
) -> None:
    """The parts that need no data, and those on the files that are given."""
    if "bare" in parts:
        against_bare(sets, folder, repeats)
    if "workers" in parts:
        two_workers(sets.get(WORKED_ON) or next(iter(sets.values())), folder)
    if "growing" in parts:
        growing(folder, *grown)
    if "year" in parts:
        year(folder, YEAR_SLOTS if grown[0] > 100 else 300)


if __name__ == "__main__":
    main()
