"""Many files of any format into one archive: time from the contents, one grid, one step, nothing twice.

Workers decode, this process alone writes. Every file ends in the manifest with what became of it, and the same call
again continues where it stopped and changes nothing that is there.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from data_prep.cadence import describe_distances, infer_step, nearest_slot, time_in_name
from data_prep.decode import (
    DecodedFile,
    DecodedFrame,
    DecodeOptions,
    describe_grid,
    file_stamp,
    stream_frames,
    with_hint,
)
from data_prep.quality import QualityOptions
from data_prep.readers.frame import RadarFrame
from data_prep.readers.options import ReadOptions, option_name
from data_prep.readers.registry import detect_format, read_frames, reader
from data_prep.sources import list_sources
from data_prep.workers import decode_files
from nowcast.data.archive import FileStatus, ManifestEntry, read_manifest
from nowcast.data.archive_schema import CHANGES
from nowcast.data.archive_writer import ArchiveWriter, lock_archive
from nowcast.data.grid import Grid
from nowcast.data.outputs import require_free
from nowcast.data.plausibility import implausible_frames
from nowcast.errors import ConfigError, DataError, MissingPackageError, NowcastError

logger = logging.getLogger(__name__)

# Frames that are read before the archive is made: its grid and step are those of most of them.
FRAMES_TO_PLAN = 24
# Groups of neighbouring files spread over the rest, read for their times alone: the step may change later on.
GROUPS_TO_PLAN, GROUP_SIZE, FILES_PER_GROUP = 6, 3, 60
# So many, and such a share, of the files must stand alike in time and name before one that differs is a suspect.
OFFSETS_TO_TRUST, SHARE_TO_TRUST = 5, 0.8
# Files that are named as the ingest goes; all stand in the report and the manifest.
FILES_LOGGED = 50
# A commit comes after this time, or after so many times its own cost, or after so many bytes.
COMMIT_SECONDS, COMMIT_COSTS, COMMIT_BYTES = 1.0, 20.0, 64 << 20
# Whether frames fit together; the other attributes of a file describe it.
ATTRIBUTES_KEPT = ("source_format", "institution", "source", "product", "license", "licence", "zr_a", "zr_b")

# The attribute of an archive that says which reader options changed its values (JSON).
READ_OPTIONS = "read_options"

LONGEST_GAP = np.timedelta64(366, "D")
NO_TIME = np.timedelta64(0, "s")
Duplicates = Literal["refuse", "last"]
Progress = Callable[[int, int, "IngestReport"], None]


@dataclass(frozen=True)
class IngestOptions:
    """What an ingest is told.

    Attributes:
        format: One of the readers' names, or "auto".
        read: What the files do not say; see `ReadOptions`.
        quality: Steps between reader and archive; None for the defaults, or for those that an archive was made with.
            A mapping sets some of them, by the attributes of `QualityOptions`, and leaves the others so.
        keep_quality: Whether the quality index is stored.
        step: Cadence of the archive; None to find it.
        time_tolerance: Frames so near a slot are moved to it; 0 moves none.
        duplicates: What becomes of a different frame for a time that is there: refused, or put in its place.
        longest_gap: A frame further than this from all others is refused: its time is probably wrong.
        attributes: Global attributes of a new archive, above what the files say.
    """

    format: str = "auto"
    read: ReadOptions = field(default_factory=ReadOptions)
    quality: QualityOptions | Mapping[str, Any] | None = None
    keep_quality: bool = False
    step: np.timedelta64 | None = None
    time_tolerance: np.timedelta64 = NO_TIME
    duplicates: Duplicates = "refuse"
    longest_gap: np.timedelta64 = LONGEST_GAP
    attributes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if self.duplicates not in ("refuse", "last"):
            raise ConfigError(f"duplicates are handled by 'refuse' or 'last', got {self.duplicates!r}")
        if self.step is not None and self.step <= np.timedelta64(0, "s"):
            raise ConfigError(f"the step must be positive, got {self.step}")


@dataclass
class IngestReport:
    """What an ingest did.

    Attributes:
        archive: Where it lies.
        files: Number of files by status; "known" are those that an earlier ingest took.
        stored, replaced, duplicates, refused: Numbers of frames.
        changed: Pixels that each quality step changed.
        skipped: Files that could not be used at all or in part, with the reason.
        suspects: Files whose frames were stored and look wrong, with the reason.
        cadence: The distances between the archive's frames, for people.
        description: The archive in one line.
        seconds: How long it took.
    """

    archive: Path
    files: Counter[str] = field(default_factory=Counter)
    stored: int = 0
    replaced: int = 0
    duplicates: int = 0
    refused: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    suspects: list[tuple[str, str]] = field(default_factory=list)
    cadence: str = ""
    description: str = ""
    seconds: float = 0.0

    @property
    def is_partial(self) -> bool:
        """Whether some file, or some frame of one, could not be used."""
        return bool(self.skipped)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values = dataclasses.asdict(self)
        values |= {"archive": str(self.archive), "files": dict(self.files), "changed": dict(self.changed)}
        for name in ("skipped", "suspects"):
            values[name] = [{"file": file, "reason": reason} for file, reason in getattr(self, name)]
        return values


def ingest(
    sources: Iterable[str | Path],
    archive: str | Path,
    *,
    options: IngestOptions | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> IngestReport:
    """Bring files into an archive, new or existing.

    Args:
        sources: Files, folders, patterns.
        archive: Where the archive is, or will be.
        workers: Processes that decode; with more than one, the calling script needs the usual
            `if __name__ == "__main__"` guard.
        scheduler: Address of a Dask scheduler to decode on instead.
        overwrite: Replace an existing archive once the first frames of the new one are read.
        on_progress: Called after each file with (files done, files in all, report so far).

    Raises:
        ConfigError: A source that is not there, a path that may not be replaced, or options
            that the archive was not made with.
        DataError: Nothing usable; an archive that is being written, or cannot be.
        MissingPackageError: Nothing is usable without an optional package.
    """
    options, path = options or IngestOptions(), Path(archive)
    started, sources = time.monotonic(), list(sources)
    paths = [str(source) for source in list_sources(sources, without=path)]
    if overwrite:
        # A folder of sources may hold the archive beside them: that is left out above.
        within = path.resolve().parents
        inputs = [source for source in sources if Path(source).resolve() not in within]
        require_free(path, "archive", overwrite=True, inputs=inputs)
    run = _Run(path, options, workers, scheduler, overwrite=overwrite, on_progress=on_progress)
    try:
        run.take_all(paths)
    finally:
        run.close()
    run.report.seconds = time.monotonic() - started
    return run.report


class _Run:
    """One ingest under way: a plan of the archive, the writer, the tally."""

    def __init__(
        self,
        path: Path,
        options: IngestOptions,
        workers: int,
        scheduler: str | None,
        *,
        overwrite: bool,
        on_progress: Progress | None,
    ) -> None:
        self.report = IngestReport(path)
        self._path, self._options = path, options
        self._workers, self._scheduler = workers, scheduler
        self._on_progress = on_progress
        self._overwrite = overwrite and path.exists()
        self._writer: ArchiveWriter | None = None
        self._lock = lock_archive(path)
        self._manifest: dict[str, ManifestEntry] = {}
        self._origin: dict[str, str] = {}
        self._missing_package: tuple[str, str | None] | None = None
        self._committed = time.monotonic()
        self._commit_cost = 0.0
        self._period: tuple[np.datetime64, np.datetime64] = (np.datetime64("NaT"), np.datetime64("NaT"))
        self._name_offsets: list[tuple[str, np.datetime64, int]] = []
        self._stored_here: dict[str, str] = {}
        try:
            if path.exists() and not overwrite:
                self._open()
            self._decode = self._decode_options()
            self._check_attributes()
        except BaseException:
            self._lock.close()
            raise

    def take_all(self, paths: Sequence[str]) -> None:
        self._check_options(paths)
        todo = [path for path in paths if not self._is_known(path)]
        total, done = len(paths), len(paths) - len(todo)
        results = decode_files(todo, self._decode, workers=self._workers, scheduler=self._scheduler)
        if self._writer is None:
            first, plan = self._plan(results, todo)
            self._create(plan)
            results = _chain(first, results)
        for file in results:
            self._take(file)
            self._commit_when_due()
            done += 1
            if self._on_progress is not None:
                self._on_progress(done, total, self.report)
        self._finish()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._lock.close()

    @property
    def _open_writer(self) -> ArchiveWriter:
        assert self._writer is not None
        return self._writer

    def _open(self) -> None:
        self._writer = ArchiveWriter.append(self._path, lock=self._lock)
        attributes = self._writer.attrs
        self._fit = _Fit(
            self._writer.grid,
            attributes.get("interval_minutes"),
            str(attributes.get("quantity", "")),
            str(attributes.get("grid_file", self._path)),
            _relation(attributes),
        )
        if self._options.step is not None and self._options.step != self._writer.step:
            raise ConfigError(
                f"{self._path} has a step of {self._writer.step / np.timedelta64(60, 's'):g} min, "
                f"{self._options.step / np.timedelta64(60, 's'):g} min is asked for",
                "leave --step out, or ingest into another archive",
            )
        last = self._writer.first_time + max(0, self._writer.length - 1) * self._writer.step
        self._period = (self._writer.first_time, last)
        for entry in read_manifest(self._path):
            self._manifest[entry.file] = entry
            self._origin.update((valid_time, entry.file) for valid_time in entry.times)

    def _decode_options(self) -> DecodeOptions:
        options, read = self._options, self._options.read
        given = {} if options.quality is None else options.quality
        quality = given if isinstance(given, QualityOptions) else QualityOptions(**given)
        keep_quality = options.keep_quality
        if self._writer is not None:
            attributes = self._writer.attrs
            recorded = {name: attributes[name] for name in quality.to_attributes() if name in attributes}
            if not isinstance(given, QualityOptions):
                quality = dataclasses.replace(QualityOptions.from_attributes(attributes), **given)
            for name, value in quality.to_attributes().items():
                if name != "clutter_mask" and recorded.get(name, value) != value:
                    raise ConfigError(
                        f"{self._path} was made with {name} = {recorded[name]}, now it would be {value}",
                        "leave the option out to go on as it was made, or ingest into another archive",
                    )
            keep_quality = bool(attributes.get("keeps_quality"))
            if options.keep_quality and not keep_quality:
                raise ConfigError(
                    f"{self._path} was made without the quality index, so it cannot be kept now",
                    "leave --keep-quality out, or ingest into another archive",
                )
            read = self._read_options(attributes)
        return DecodeOptions(options.format, read, quality, keep_quality)

    def _read_options(self, attributes: Mapping[str, Any]) -> ReadOptions:
        """What files are read with: what the archive was made with, which what is given must not contradict."""
        read = self._options.read
        if READ_OPTIONS not in attributes:
            return read
        recorded = json.loads(str(attributes[READ_OPTIONS]))
        for name, value in read.recorded().items():
            if recorded.get(name) != value:
                made = f"{name} = {recorded[name]}" if name in recorded else f"no {name}"
                raise ConfigError(
                    f"{self._path} was made with {made}, now it would be {value}",
                    f"leave {option_name(name)} out to go on as it was made, or ingest into another archive",
                )
        return read.with_recorded(recorded)

    def _check_attributes(self) -> None:
        """Attributes are those of a new archive; an existing one may only be told what it says already."""
        if self._writer is None:
            return
        there = self._writer.attrs
        for name, value in self._options.attributes.items():
            if name != "history" and there.get(name) != value:
                raise ConfigError(
                    f"{self._path} says {name} = {there.get(name, 'nothing')}, {value} is asked for",
                    "--attribute is for a new archive: leave it out, or ingest into another one",
                )

    def _check_options(self, paths: Sequence[str]) -> None:
        """Refuse an option that not one of the files' readers heeds; as many files are looked at as that takes."""
        unused = set(self._options.read.given())
        met: dict[str, None] = {}
        if self._options.format != "auto":
            met[self._options.format] = None
            paths = ()
        for path in paths:
            if not unused:
                return
            entry = self._manifest.get(path)
            try:
                met[(entry.format if entry is not None else "") or detect_format(path)] = None
            except (NowcastError, OSError):
                continue
            unused.difference_update(*(reader(name).uses for name in met))
        unused.difference_update(*(reader(name).uses for name in met))
        if met and unused:
            names = ", ".join(option_name(name) for name in self._options.read.given() if name in unused)
            heeded = [option_name(name) for used in met for name in reader(used).uses]
            raise ConfigError(
                f"{names} means nothing to the reader{'s' if len(met) > 1 else ''} {', '.join(met)}",
                f"leave it out; these files take {', '.join(dict.fromkeys(heeded)) or 'no such option'}",
            )

    def _is_known(self, path: str) -> bool:
        """Whether an earlier ingest took the file as it is now, wholly, and its frames are still there."""
        entry = self._manifest.get(path)
        if entry is None or entry.status not in ("stored", "duplicate") or not entry.sha256:
            return False
        try:
            state = Path(path).stat()
            same = (state.st_size, state.st_mtime_ns) == (entry.size, entry.modified_ns)
            same = same or file_stamp(path).sha256 == entry.sha256
            same = same and all(self._open_writer.has_chunk(np.datetime64(time, "s")) for time in entry.times)
        except OSError:
            return False
        if same:
            self.report.files["known"] += 1
        return same

    def _plan(self, results: Iterator[DecodedFile], todo: Sequence[str]) -> tuple[list[DecodedFile], _Plan]:
        """Read on until grid and step can be told; what was read, and the plan."""
        read: list[DecodedFile] = []
        frames: list[tuple[str, DecodedFrame]] = []
        for file in results:
            read.append(file)
            frames += [(file.path, frame) for frame in self._sample(file)]
            if len({frame.encoded.time for _, frame in frames}) >= FRAMES_TO_PLAN:
                break
        if not frames:
            raise self._nothing_usable(read)
        name, model = _most_common(frames)
        times = _together([frame.encoded.time for _, frame in frames if _fits(model, frame)], self._options.longest_gap)
        step = self._options.step
        if step is None:
            later = self._later_times(todo[len(read) :], model)
            try:
                step = _step_of(model, [np.array(times), *later])
            except DataError as error:
                raise DataError(
                    f"{name}{' and others' if len(times) > 1 else ''}: {error.message}", error.hint
                ) from error
        return read, _Plan(name, model, min(times), step)

    def _sample(self, file: DecodedFile) -> Iterable[DecodedFrame]:
        if not file.is_long:
            return file.frames
        try:
            return list(islice(stream_frames(file.path, self._decode), FRAMES_TO_PLAN))
        except NowcastError:
            return ()

    def _later_times(self, paths: Sequence[str], model: DecodedFrame) -> Iterator[np.ndarray]:
        groups = min(GROUPS_TO_PLAN, len(paths) // FILES_PER_GROUP)
        for start in np.linspace(0, len(paths), groups, endpoint=False, dtype=int):
            frames = [frame for path in paths[start : start + GROUP_SIZE] for frame in self._frames_of(path)]
            yield np.array(
                [frame.valid_time for frame in frames if _same_grid(model.grid, frame.grid)], "datetime64[s]"
            )

    def _frames_of(self, path: str) -> Iterable[RadarFrame]:
        try:
            return list(islice(read_frames(path, format=self._decode.format, options=self._decode.read), GROUP_SIZE))
        except (NowcastError, OSError):
            return ()

    def _create(self, plan: _Plan) -> None:
        model = plan.model
        said = {key: value for key, value in model.attributes.items() if key in ATTRIBUTES_KEPT and value != ""}
        attributes = {
            **said,
            **self._decode.quality.to_attributes(),
            **self._options.attributes,
            "quantity": model.quantity,
            "grid_file": plan.file,
            "keeps_quality": int(self._decode.keep_quality),
            READ_OPTIONS: json.dumps(self._decode.read.recorded()),
        }
        if model.relation is not None:
            attributes["zr_a"], attributes["zr_b"] = model.relation
        self._writer = ArchiveWriter.create(
            self._path,
            model.grid,
            first_time=plan.first_time,
            step=plan.step,
            interval_minutes=model.interval_minutes,
            quality=self._decode.keep_quality,
            attributes=attributes,
            overwrite=self._overwrite,
            lock=self._lock,
        )
        self._fit = _Fit(model.grid, model.interval_minutes, model.quantity, plan.file, model.relation)
        self._period = (plan.first_time, plan.first_time)

    def _take(self, file: DecodedFile) -> None:
        """Put the frames of one file where they belong, and note what became of it."""
        outcome = _Outcome(file.reason)
        frames: Iterable[DecodedFrame] = file.frames
        if file.is_long:
            frames = self._stream(file.path, outcome)
        for frame in frames:
            self._place(file.path, frame, outcome)
        if len(outcome.times) == 1:
            self._compare_with_name(file.path, np.datetime64(outcome.times[0], "s"))
        if file.missing_package is not None:
            self._missing_package = file.missing_package
        entry = outcome.entry(file)
        self._tally(entry, outcome)
        if not _says_the_same(self._manifest.get(file.path), entry):
            self._open_writer.note(entry)
        self._manifest[file.path] = entry

    def _stream(self, path: str, outcome: _Outcome) -> Iterator[DecodedFrame]:
        try:
            for frame in stream_frames(path, self._decode):
                yield frame
                self._commit_when_due()
        except NowcastError as error:
            outcome.refuse(f"{with_hint(error, path)}; the frames before that are kept")

    def _place(self, path: str, frame: DecodedFrame, outcome: _Outcome) -> None:
        writer = self._open_writer
        reason = self._fit.objection(frame)
        if reason:
            outcome.refuse(reason)
            return
        when = nearest_slot(frame.encoded.time, writer.first_time, writer.step, self._options.time_tolerance)
        encoded = dataclasses.replace(frame.encoded, time=when)
        try:
            same = writer.holds(encoded)
        except DataError as error:
            advice = "ingest it into an archive of its own, or give --time-tolerance to move it to the nearest slot"
            if self._options.step is not None:
                advice = "leave --step out to find the step from the files"
            outcome.refuse(f"{error.message}; {advice}")
            return
        far = self._gap_to(when)
        if far > self._options.longest_gap:
            outcome.refuse(
                f"its time {when} is {far / np.timedelta64(1, 'D'):.0f} days from every other frame; "
                "if that is right, give --longest-gap"
            )
            return
        if same:
            outcome.duplicates += 1
            return
        if same is not None and self._options.duplicates == "refuse":
            other = self._origin.get(str(when), "another file")
            outcome.refuse(f"{when} is in the archive with other contents, from {other}; --duplicates last replaces it")
            return
        writer.put(encoded)
        outcome.add(when, encoded.series, replaces=same is not None)
        self._origin[str(when)] = self._stored_here[str(when)] = path

    def _gap_to(self, when: np.datetime64) -> np.timedelta64:
        """Distance of a time from the period that the archive covers so far."""
        first, last = self._period
        gap = max(first - when, when - last, NO_TIME)
        if gap <= self._options.longest_gap:
            self._period = (when if when < first else first, when if when > last else last)
        return gap

    def _compare_with_name(self, path: str, when: np.datetime64) -> None:
        named = time_in_name(path)
        if named is not None:
            self._name_offsets.append((path, when, int((when - named) / np.timedelta64(60, "s"))))

    def _suspect_times(self) -> None:
        """Note frames whose time stands to their file's name as almost no other does."""
        if not self._name_offsets:
            return
        usual, number = Counter(offset for _, _, offset in self._name_offsets).most_common(1)[0]
        if number < OFFSETS_TO_TRUST or number < SHARE_TO_TRUST * len(self._name_offsets):
            return
        self.report.suspects += [
            (path, f"its time {when} is {offset} min from that in its name; for other files it is {usual} min")
            for path, when, offset in self._name_offsets
            if offset != usual
        ]

    def _tally(self, entry: ManifestEntry, outcome: _Outcome) -> None:
        report = self.report
        report.files[entry.status] += 1
        report.stored += len(entry.times) - len(entry.replaced)
        report.replaced += len(entry.replaced)
        report.duplicates += entry.duplicates
        report.refused += len(outcome.refusals)
        report.changed.update(outcome.changed)
        if entry.reason:
            report.skipped.append((entry.file, entry.reason))
            if len(report.skipped) <= FILES_LOGGED:
                logger.warning("%s: %s", entry.file, entry.reason)
            if len(report.skipped) == FILES_LOGGED:
                logger.warning("further files that cannot be used stand in the manifest alone")

    def _commit_when_due(self) -> None:
        writer, now = self._open_writer, time.monotonic()
        due = self._committed + max(COMMIT_SECONDS, COMMIT_COSTS * self._commit_cost)
        if now >= due or writer.pending_bytes > COMMIT_BYTES:
            writer.commit()
            self._committed = time.monotonic()
            self._commit_cost = self._committed - now

    def _finish(self) -> None:
        writer = self._open_writer
        writer.commit()
        present = np.flatnonzero(np.isin(writer.status, (1, 2)))
        if present.size == 0:
            raise self._nothing_usable([])
        seconds = np.diff(present) * int(writer.step / np.timedelta64(1, "s"))
        self._suspect_times()
        self._suspect_fields(writer)
        self.report.cadence = describe_distances(seconds) if seconds.size else ""
        self.report.description = (
            f"{present.size} of {writer.length} frames from {writer.first_time + present[0] * writer.step} to "
            f"{writer.first_time + present[-1] * writer.step} UTC every {writer.step / np.timedelta64(60, 's'):g} min, "
            f"{writer.grid.describe()}"
        )

    def _suspect_fields(self, writer: ArchiveWriter) -> None:
        """Note frames of this run that do not go with their neighbours in time."""
        rows, columns = writer.grid.shape
        odd = implausible_frames(writer.series, np.isin(writer.status, (1, 2)), pixels=rows * columns)
        for index, reason in odd:
            when = str(writer.first_time + index * writer.step)
            if when in self._stored_here:
                self.report.suspects.append((self._stored_here[when], f"{when}: {reason}"))
        for file, reason in self.report.suspects[:FILES_LOGGED]:
            logger.warning("stored, but look at it: %s: %s", file, reason)

    def _nothing_usable(self, read: Sequence[DecodedFile]) -> NowcastError:
        reasons = self.report.skipped or [(file.path, file.reason) for file in read]
        self.report.skipped = reasons
        missing = next((file.missing_package for file in read if file.missing_package), self._missing_package)
        if missing is not None:
            error = MissingPackageError("", "", "")
            error.message, error.hint = missing
            error.args = (missing[0],)
            return error
        shown = "; ".join(f"{file}: {reason}" for file, reason in reasons[:3])
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        return DataError(
            f"not one of {len(reasons)} files can be used: {shown}{more}",
            "nowcast ingest --help lists what can be declared of files that do not say it",
        )


@dataclass(frozen=True)
class _Plan:
    """What a new archive will be like."""

    file: str
    model: DecodedFrame
    first_time: np.datetime64
    step: np.timedelta64


class _Fit:
    """What every frame of the archive must have in common."""

    def __init__(
        self,
        grid: Grid,
        interval_minutes: float | None,
        quantity: str,
        file: str,
        relation: tuple[float, float] | None,
    ) -> None:
        self._grid, self._interval_minutes, self._quantity, self._file = grid, interval_minutes, quantity, file
        self._relation = relation

    def objection(self, frame: DecodedFrame) -> str:
        """Why a frame does not belong in the archive; empty where it does."""
        if not _same_grid(self._grid, frame.grid):
            return (
                f"its grid is {describe_grid(frame.grid)}, that of the archive, from {self._file}, "
                f"is {describe_grid(self._grid)}"
            )
        if frame.interval_minutes != self._interval_minutes:
            return (
                f"it is {_kind(frame.interval_minutes)}, the archive, from {self._file}, "
                f"holds {_kind(self._interval_minutes)}"
            )
        if self._quantity and frame.quantity and frame.quantity != self._quantity:
            return f"it holds {frame.quantity}, the archive, from {self._file}, is made of {self._quantity}"
        if self._relation and frame.relation and frame.relation != self._relation:
            return (
                f"its rain rate is by {_formula(frame.relation)}, that of the archive, from {self._file}, "
                f"by {_formula(self._relation)}"
            )
        return ""


@dataclass
class _Outcome:
    """What becomes of the frames of one file."""

    reason: str = ""
    times: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    duplicates: int = 0
    refusals: list[str] = field(default_factory=list)
    changed: Counter[str] = field(default_factory=Counter)

    def add(self, when: np.datetime64, series: Mapping[str, float], *, replaces: bool) -> None:
        self.times.append(str(when))
        if replaces:
            self.replaced.append(str(when))
        self.changed.update({name: int(series[f"n_{name}"]) for name in CHANGES if series.get(f"n_{name}")})

    def refuse(self, reason: str) -> None:
        self.refusals.append(reason)

    def entry(self, file: DecodedFile) -> ManifestEntry:
        reason = self.reason
        if self.refusals:
            more = f" (and {len(self.refusals) - 1} more frames)" if len(self.refusals) > 1 else ""
            reason = f"{self.refusals[0]}{more}"
        status: FileStatus = "stored" if self.times else "duplicate"
        if reason:
            status = "partial" if self.times or self.duplicates else "skipped"
        stamp = file.stamp
        return ManifestEntry(
            file=file.path,
            status=status,
            sha256=stamp.sha256,
            size=stamp.size,
            modified_ns=stamp.modified_ns,
            format=file.format,
            times=tuple(self.times),
            replaced=tuple(self.replaced),
            duplicates=self.duplicates,
            reason=reason,
        )


def _most_common(frames: Sequence[tuple[str, DecodedFrame]]) -> tuple[str, DecodedFrame]:
    """The first frame of the largest group of frames that fit together."""
    groups: list[list[tuple[str, DecodedFrame]]] = []
    for item in frames:
        group = next((group for group in groups if _fits(group[0][1], item[1])), None)
        if group is None:
            groups.append([item])
        else:
            group.append(item)
    return max(groups, key=len)[0]


def _together(times: Sequence[np.datetime64], longest_gap: np.timedelta64) -> list[np.datetime64]:
    """The times of the largest group without a gap that is too long: one wrong date must not set the axis."""
    ordered = np.sort(np.array(times, dtype="datetime64[s]"))
    groups = np.split(ordered, np.flatnonzero(np.diff(ordered) > longest_gap) + 1)
    return list(groups[int(np.argmax([group.size for group in groups]))])


def _fits(model: DecodedFrame, frame: DecodedFrame) -> bool:
    return not _Fit(model.grid, model.interval_minutes, model.quantity, "", model.relation).objection(frame)


def _same_grid(one: Grid, other: Grid) -> bool:
    same = one.crs_wkt == other.crs_wkt and np.array_equal(one.x, other.x) and np.array_equal(one.y, other.y)
    return same or one.matches(other)


def _step_of(model: DecodedFrame, blocks: Sequence[np.ndarray]) -> np.timedelta64:
    """The step of the frames; where there is one time alone, the interval that its rate is the mean of."""
    if np.unique(np.concatenate(blocks)).size == 1 and model.interval_minutes is not None:
        return np.timedelta64(round(model.interval_minutes * 60), "s")
    return infer_step(blocks)


def _relation(attributes: Mapping[str, Any]) -> tuple[float, float] | None:
    """The Z-R relation that an archive records, if any."""
    if "zr_a" not in attributes or "zr_b" not in attributes:
        return None
    return float(attributes["zr_a"]), float(attributes["zr_b"])


def _formula(relation: tuple[float, float]) -> str:
    return f"Z = {relation[0]:g} R^{relation[1]:g}"


def _kind(interval_minutes: float | None) -> str:
    return "an instantaneous rate" if interval_minutes is None else f"a mean over {interval_minutes:g} min"


def _says_the_same(old: ManifestEntry | None, new: ManifestEntry) -> bool:
    """Whether a file is refused again for the same reason: said once is enough."""
    return old is not None and (old.sha256, old.reason) == (new.sha256, new.reason) and not new.times


def _chain(first: Iterable[DecodedFile], rest: Iterator[DecodedFile]) -> Iterator[DecodedFile]:
    yield from first
    yield from rest
