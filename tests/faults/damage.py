"""Damage real files in many ways and read each: `python -m tests.faults.damage [--variants 2100]`.

Every variant runs through detection, reading and encoding in a worker with limits on time and memory, and ends as
identical (the frame is the undamaged one), skipped (with a reason), or different (a frame came out that is not the
undamaged one). A different frame must not go unreported: it counts as reported when an ingest would refuse it (grid,
interval, quantity, time off the axis or far away), or would name it as unlike the other frames of its archive or its
file's name. Crashes, hangs and runaway allocations fail the run. What is different and not reported is counted and
listed under two names:

* "undetectable": in nothing that could betray it does the frame leave what the undamaged frames of its source show
  (see `Look`): no pixel stands further above or below the eight around it, no more pixels are measured or missing
  alone, no straight cut is longer, and as many pixels are measured. Whatever test on these would find it would also
  accuse a frame that is whole. In a raster without a checksum each value of a byte is one that radar measures, so a
  bit that flips one into another leaves no trace but its distance from the values around it; where real frames hold
  such distances, none.
* "silent": it does leave that range in something, by less than is reported: what is reported must be so far from all
  real frames that a source which differs somewhat is not accused.

"before gzip" are files damaged first and compressed then: a whole gzip file, whose checksum is that of the damage. They
stand for files of formats without a checksum of their own that came uncompressed.
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_prep.cadence import time_in_name
from data_prep.decode import DecodedFile, DecodedFrame, DecodeOptions, decode_file
from data_prep.fit import fits
from data_prep.readers.options import ReadOptions
from nowcast.data.archive_tables import WHOLE_SHARE
from nowcast.data.plausibility import COMPARED, implausible_frames

TIME_LIMIT_S = 120
MEMORY_LIMIT = 6 << 30
HEADER_BYTES = 2048
LONGEST_GAP = np.timedelta64(366, "D")
AS_IT_IS = ReadOptions()


@dataclass(frozen=True)
class Sample:
    """One real file: its reader, its folder's pattern, its step, and its part of the corpus.

    Attributes:
        weight: Large grids take seconds to decode and get fewer variants.
        archive: Pattern of all files that an ingest would have together; unless given, those of `pattern`.
    """

    name: str
    folder: str
    pattern: str
    step_minutes: int
    weight: float = 1.0
    options: ReadOptions = AS_IT_IS
    archive: str = ""

    @property
    def whole_pattern(self) -> str:
        """Of all files that an archive of this source would have."""
        return self.archive or self.pattern


SAMPLES = (
    Sample("mch_gif", "radar/mch/20160711", "AQC16193210*.gif", 5),
    Sample("fmi_pgm", "radar/fmi/pgm/20160928", "2016092815*.pgm.gz", 5, archive="*.pgm.gz"),
    Sample("fmi_geotiff", "radar/fmi/geotiff/20160928", "*.tif", 5, 0.1),
    Sample("bom_netcdf", "radar/bom/prcp-cscn/2/2018/06/16", "*_10*.nc", 6),
    Sample("knmi_h5", "radar/KNMI/2010/08", "*2010082600*.h5", 5),
    Sample("odim_rate", "radar/OPERA/20180824", "*.hdf", 15, 0.3),
    Sample("odim_accumulation", "radar/OPERA/20241126/NIMBUS", "T_PASH22*.hdf", 15, 0.3),
    Sample("odim_reflectivity", "radar/OPERA/20241126/CIRRUS", "*.hdf", 5, 0.1),
    Sample("mrms_grib2", "mrms/2019/06/10", "*.grib2", 2, 0.05),
    Sample("saf_crr", "saf/20180601/CRR", "*.nc", 15, 0.4),
    Sample("radolan_yw", "radolan/yw", "*.gz", 5),
    Sample("radolan_rw", "radolan/rw", "*.gz", 60),
    Sample("meteonet_npz", "meteonet", "rainfall*.npz", 5, 0.15, ReadOptions(pickled_dates=True)),
)


def truncate(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    return content[: int(generator.integers(0, len(content)))]


def flip_bits(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    return _flip(content, generator, len(content))


def flip_header_bits(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    return _flip(content, generator, min(len(content), HEADER_BYTES))


def zero_range(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    start = int(generator.integers(0, len(content)))
    length = int(generator.choice([1, 16, 256, 4096]))
    return content[:start] + bytes(min(length, len(content) - start)) + content[start + length :]


def swap_header(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    length = int(generator.choice([8, 64, 512]))
    return other[:length] + content[length:]


def _flip(content: bytes, generator: np.random.Generator, end: int) -> bytes:
    damaged = bytearray(content)
    for _ in range(int(generator.choice([1, 1, 2, 8]))):
        damaged[int(generator.integers(0, end))] ^= 1 << int(generator.integers(0, 8))
    return bytes(damaged)


MUTATIONS: tuple[Callable[[bytes, bytes, np.random.Generator], bytes], ...] = (
    truncate,
    flip_bits,
    flip_header_bits,
    zero_range,
    swap_header,
)


@dataclass(frozen=True)
class Variant:
    sample: Sample
    mutation: str
    content: bytes
    inside_gzip: bool


@dataclass(frozen=True)
class Verdict:
    """identical, skipped, reported, undetectable, silent, crash, hang; with the details."""

    sample: str
    mutation: str
    kind: str
    detail: str


def files_of(sample: Sample, data: Path) -> list[Path]:
    return sorted((data / sample.folder).glob(sample.pattern))


def variants(data: Path, number: int, seed: int) -> Iterator[Variant]:
    """The corpus: gzipped files are damaged outside, where a checksum guards them, and inside, where none does."""
    total = sum(sample.weight for sample in SAMPLES)
    heads = [_victim(sample, data).read_bytes()[:512] for sample in SAMPLES]
    for index, sample in enumerate(SAMPLES):
        raw = _victim(sample, data).read_bytes()
        bodies = [(raw, False)] + ([(gzip.decompress(raw), True)] if raw[:2] == b"\x1f\x8b" else [])
        for count in range(max(len(MUTATIONS), round(number * sample.weight / total))):
            generator = np.random.default_rng([seed, index, count])
            mutation = MUTATIONS[count % len(MUTATIONS)]
            body, inside = bodies[(count // len(MUTATIONS)) % len(bodies)]
            content = mutation(body, heads[(index + 1 + count) % len(heads)], generator)
            yield Variant(sample, mutation.__name__, content, inside)


def judge(variant: Variant, data: Path, folder: Path) -> Verdict:
    """Read one damaged file and say what came of it; runs in a worker."""
    sample = variant.sample
    path = folder / f"{os.getpid()}_{_victim(sample, data).name}"
    path.write_bytes(gzip.compress(variant.content, 1, mtime=0) if variant.inside_gzip else variant.content)
    name = sample.name + (" before gzip" if variant.inside_gzip else "")
    mutation = variant.mutation

    def stop(signum: int, frame: object) -> None:
        raise _HangError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(TIME_LIMIT_S)
    try:
        result = decode_file(str(path), DecodeOptions(read=sample.options))
    except _HangError:
        return Verdict(name, mutation, "hang", f"longer than {TIME_LIMIT_S} s")
    except Exception as error:
        return Verdict(name, mutation, "crash", f"{type(error).__name__}: {error}")
    finally:
        signal.alarm(0)
        path.unlink(missing_ok=True)
    return Verdict(name, mutation, *_compare(result, sample, data))


class _HangError(BaseException):
    pass


def _compare(result: DecodedFile, sample: Sample, data: Path) -> tuple[str, str]:
    if result.reason or result.is_long:
        return "skipped", result.reason or "it claims more frames than the file has"
    original = _original(sample, str(data))
    same = len(result.frames) == len(original) and all(
        fits(one, other)
        and (one.encoded.time, one.encoded.digest, one.quantity)
        == (other.encoded.time, other.encoded.digest, other.quantity)
        for one, other in zip(original, result.frames, strict=True)
    )
    if same:
        return "identical", ""
    if len(result.frames) != len(original):
        return "reported", f"{len(result.frames)} frames instead of {len(original)}"
    return _report(result.frames, original, sample, data)


def _report(
    frames: tuple[DecodedFrame, ...], original: tuple[DecodedFrame, ...], sample: Sample, data: Path
) -> tuple[str, str]:
    """Whether an ingest of the file among its undamaged neighbours would say that something is wrong."""
    for found, true in zip(frames, original, strict=True):
        if not fits(true, found):
            return "reported", "refused: grid, interval or quantity is not that of the other files"
        shift = found.encoded.time - true.encoded.time
        if shift % np.timedelta64(sample.step_minutes * 60, "s") or abs(shift) > LONGEST_GAP:
            return "reported", f"refused: time moved by {shift}"
        if shift:
            named = time_in_name(_victim(sample, data).name)
            kind = "silent" if named is None and len(files_of(sample, data)) < 2 else "reported"
            return (
                kind,
                f"time moved by {shift}; it stands unlike the others to the file's name, or takes another's slot",
            )
        if found.encoded.digest != true.encoded.digest:
            difference = _difference(found, true)
            if reason := _odd(found, sample, data):
                return "reported", f"{difference}: {reason}"
            return ("undetectable" if _looks_real(found, sample, str(data)) else "silent"), difference
    return "reported", "attributes alone differ"


def _difference(found: DecodedFrame, true: DecodedFrame) -> str:
    one, other = found.encoded.series, true.encoded.series
    changed = _values(found) != _values(true)
    both_missing = np.isnan(_values(found)) & np.isnan(_values(true))
    share = np.count_nonzero(changed & ~both_missing) / changed.size
    return f"{100 * share:.4f} % of pixels differ, wet share {other.get('wet_share')} -> {one.get('wet_share')}"


def _values(frame: DecodedFrame) -> np.ndarray:
    from numcodecs.zstd import Zstd

    return np.frombuffer(Zstd().decode(frame.encoded.rain_rate), dtype="<f4")


def _pixels(frame: DecodedFrame) -> int:
    rows, columns = frame.grid.shape
    return rows * columns


def _victim(sample: Sample, data: Path) -> Path:
    files = files_of(sample, data)
    return files[len(files) // 2]


@lru_cache(maxsize=4)
def _original(sample: Sample, data: str) -> tuple[DecodedFrame, ...]:
    return decode_file(str(_victim(sample, Path(data))), DecodeOptions(read=sample.options)).frames


@dataclass(frozen=True)
class Look:
    """What could betray one changed pixel, or a few, in a frame alone.

    Attributes:
        above, below: How far a pixel stands above the largest, or below the smallest, of the eight around it, at most
            [mm/h]; of pixels that are measured all nine.
        measured_alone, missing_alone: Pixels that none of the eight around is like.
        cut: As the archive's `cut_pixels`.
        measured: Pixels.
    """

    above: float
    below: float
    measured_alone: int
    missing_alone: int
    cut: float
    measured: int


def look_at(frame: DecodedFrame) -> Look:
    rate = _values(frame).reshape(frame.grid.shape)
    measured = ~np.isnan(rate)
    around = np.stack([rate[1 + i : rate.shape[0] - 1 + i, 1 + j : rate.shape[1] - 1 + j] for i, j in AROUND])
    middle = rate[1:-1, 1:-1]
    like = np.isnan(around).sum(axis=0)
    # NaN passes through minimum and maximum.
    with np.errstate(invalid="ignore"):
        above, below = middle - around.max(axis=0), around.min(axis=0) - middle
    return Look(
        above=float(np.nan_to_num(above).max()),
        below=float(np.nan_to_num(below).max()),
        measured_alone=int(np.count_nonzero((like == 8) & ~np.isnan(middle))),
        missing_alone=int(np.count_nonzero((like == 0) & np.isnan(middle))),
        cut=float(frame.encoded.series.get("cut_pixels", 0.0)),
        measured=int(np.count_nonzero(measured)),
    )


AROUND = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]


def _looks_real(found: DecodedFrame, sample: Sample, data: str) -> bool:
    """Whether the frame leaves in nothing what the undamaged frames of its source show."""
    one, others = look_at(found), _looks(sample, data)
    largest = {name: max(getattr(other, name) for other in others) for name in Look.__dataclass_fields__}
    fewest = min(other.measured for other in others)
    return one.measured >= fewest and all(getattr(one, name) <= most for name, most in largest.items())


@lru_cache(maxsize=4)
def _looks(sample: Sample, data: str) -> list[Look]:
    return [look_at(frame) for frame in _archive(sample, data)]


@lru_cache(maxsize=2)
def _archive(sample: Sample, data: str) -> list[DecodedFrame]:
    """The undamaged frames of the source, in the order of time."""
    files = sorted((Path(data) / sample.folder).glob(sample.whole_pattern))
    decoded = (decode_file(str(path), DecodeOptions(read=sample.options)) for path in files)
    return sorted((frame for file in decoded for frame in file.frames), key=lambda frame: frame.encoded.time)


def _odd(found: DecodedFrame, sample: Sample, data: Path) -> str:
    """What an ingest would say of the frame among the undamaged ones of its source; empty where nothing."""
    frames = _archive(sample, str(data))
    if len(frames) < 5:
        # Of a source of few files, the frame itself stands for those around it.
        frames = [_original(sample, str(data))[0]] * 5
        place = 2
    else:
        place = int(np.argmin([abs(frame.encoded.time - found.encoded.time) for frame in frames]))
    archive = [*frames[:place], found, *frames[place + 1 :]]
    series = {name: np.array([frame.encoded.series.get(name, np.nan) for frame in archive]) for name in COMPARED}
    if series["valid_pixels"][place] < WHOLE_SHARE * np.median(series["valid_pixels"]):
        return "the frame is partial"
    return dict(implausible_frames(series, np.ones(len(archive), bool), pixels=_pixels(found))).get(place, "")


def _start_worker() -> None:
    import resource

    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)  # C libraries write what they think of a file there
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_LIMIT, resource.RLIM_INFINITY))


def run(data: Path, *, number: int, seed: int, workers: int, only: str | None = None) -> list[Verdict]:
    """Judge the whole corpus, one format after the other."""
    context = multiprocessing.get_context("forkserver")
    if __name__ != "__main__":  # which is loaded anyway
        context.set_forkserver_preload(["tests.faults.damage"])
    verdicts: list[Verdict] = []
    queue = [variant for variant in variants(data, number, seed) if only in (None, variant.sample.name)]
    with tempfile.TemporaryDirectory(prefix="damage_") as scratch:
        while queue:
            pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
            futures = [pool.submit(judge, variant, data, Path(scratch)) for variant in queue]
            done = 0
            try:
                for future in futures:
                    verdicts.append(future.result())
                    done += 1
                queue = []
            except BrokenProcessPool:
                # The first that did not come back is tried alone; the rest go on in a new pool.
                verdicts.append(_judge_alone(queue[done], data, Path(scratch)))
                queue = queue[done + 1 :]
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    return verdicts


def _judge_alone(variant: Variant, data: Path, folder: Path) -> Verdict:
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_start_worker) as pool:
        try:
            return pool.submit(judge, variant, data, folder).result()
        except BrokenProcessPool:
            return Verdict(variant.sample.name, variant.mutation, "crash", "the process died")


def table(verdicts: list[Verdict]) -> str:
    """Counts by format and outcome, as Markdown."""
    kinds = ("identical", "skipped", "reported", "undetectable", "silent", "crash", "hang")
    lines = ["| format | variants | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 2) + "|"]
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for verdict in verdicts:
        groups[verdict.sample][verdict.kind] += 1
        groups["all"][verdict.kind] += 1
    names = [name + place for name in (sample.name for sample in SAMPLES) for place in ("", " before gzip")]
    for name in [name for name in names if name in groups] + ["all"]:
        counts = groups[name]
        lines.append(f"| {name} | {counts.total()} | " + " | ".join(str(counts[kind]) for kind in kinds) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NOWCAST_TEST_DATA", "../shared/data")))
    parser.add_argument("--variants", type=int, default=2100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", help="One format alone.")
    parser.add_argument("--list", action="store_true", help="List every different frame, not the silent ones alone.")
    arguments = parser.parse_args()
    started = time.monotonic()
    verdicts = run(
        arguments.data, number=arguments.variants, seed=arguments.seed, workers=arguments.workers, only=arguments.only
    )
    print(table(verdicts))
    shown = ("undetectable", "silent", "crash", "hang", *(("reported",) if arguments.list else ()))
    for verdict in verdicts:
        if verdict.kind in shown:
            print(f"{verdict.kind}: {verdict.sample}, {verdict.mutation}: {verdict.detail}")
    print(f"{len(verdicts)} variants in {time.monotonic() - started:.0f} s")
    sys.exit(any(verdict.kind in ("crash", "hang") for verdict in verdicts))


if __name__ == "__main__":
    main()
