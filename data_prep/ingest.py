"""Many files of any format into one archive: time from the contents, one grid, one step, nothing twice.

Workers decode, this process alone writes. Every file ends in the manifest with what became of it, and the same call
again continues where it stopped and changes nothing that is there.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from data_prep.cadence import describe_distances, nearest_slot
from data_prep.decode import DecodedFile, DecodedFrame, DecodeOptions, file_stamp
from data_prep.fit import Fit, fits, same_grid
from data_prep.ingest_report import IngestReport, group_reasons
from data_prep.named_times import NamedTimes, times_of_skipped
from data_prep.outcome import Outcome, says_the_same
from data_prep.plan import FRAMES_TO_PLAN, Plan, most_common, spread_groups, step_of, together
from data_prep.quality import QualityOptions
from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import detect_format
from data_prep.settings import check_attributes, check_heeded, continued_settings, recorded_settings
from data_prep.sources import list_sources
from data_prep.workers import FileDecoder, file_decoder
from nowcast.data.archive import PARTIAL, PRESENT, ManifestEntry, read_manifest
from nowcast.data.archive_lock import lock_archive
from nowcast.data.archive_writer import ArchiveWriter
from nowcast.data.outputs import require_free
from nowcast.data.plausibility import implausible_frames
from nowcast.errors import ConfigError, DataError, MissingPackageError, NowcastError

# A commit comes after this time, or after so many times its own cost, or after so many bytes.
COMMIT_SECONDS, COMMIT_COSTS, COMMIT_BYTES = 2.0, 30.0, 64 << 20
# Whether frames fit together; the other attributes of a file describe it.
ATTRIBUTES_KEPT = ("source_format", "institution", "source", "product", "license", "licence", "zr_a", "zr_b")

LONGEST_GAP = np.timedelta64(366, "D")
NO_TIME = np.timedelta64(0, "s")
Duplicates = Literal["refuse", "last"]
Progress = Callable[[int, int, IngestReport], None]


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


def ingest(
    sources: Iterable[str | Path],
    archive: str | Path,
    *,
    options: IngestOptions | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    time_limit_s: float | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> IngestReport:
    """Bring files into an archive, new or existing.

    Args:
        sources: Files, folders, patterns.
        archive: Where the archive is, or will be.
        workers: Processes that decode; with more than one, or a time limit, the calling script needs the usual
            `if __name__ == "__main__"` guard.
        scheduler: Address of a Dask scheduler to decode on instead.
        time_limit_s: Skip a file that takes longer to read; see `data_prep.workers.file_decoder`.
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
    run = _Run(path, options, overwrite=overwrite, on_progress=on_progress)
    try:
        todo = run.new_among(paths)
        with file_decoder(run.decoding, workers=workers, scheduler=scheduler, time_limit_s=time_limit_s) as decoder:
            run.take_all(todo, decoder, already_done=len(paths) - len(todo))
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
        *,
        overwrite: bool,
        on_progress: Progress | None,
    ) -> None:
        self.report = IngestReport(path)
        self._path, self._options = path, options
        self._on_progress = on_progress
        self._overwrite = overwrite and path.exists()
        self._writer: ArchiveWriter | None = None
        self._lock = lock_archive(path)
        self._manifest: dict[str, ManifestEntry] = {}
        self._origin: dict[str, str] = {}
        self._missing_package: MissingPackageError | None = None
        self._committed = time.monotonic()
        self._commit_cost = 0.0
        self._period: tuple[np.datetime64, np.datetime64] = (np.datetime64("NaT"), np.datetime64("NaT"))
        self._named_times = NamedTimes()
        self._stored_here: dict[str, str] = {}
        try:
            if path.exists() and not overwrite:
                self._open()
            self.decoding = self._settings()
        except BaseException:
            self._lock.close()
            raise

    def new_among(self, paths: Sequence[str]) -> list[str]:
        """The files that have to be read; options that none of all heeds are refused."""
        if self._options.format != "auto":
            check_heeded(self._options.read, [self._options.format])
        else:
            check_heeded(self._options.read, self._formats(paths))
        return [path for path in paths if not self._is_known(path)]

    def take_all(self, paths: Sequence[str], decoder: FileDecoder, *, already_done: int) -> None:
        done, total = already_done, already_done + len(paths)
        decoded: dict[str, DecodedFile] = {}
        if self._writer is None:
            self._create(self._plan(paths, decoder, decoded))
        rest = decoder.files([path for path in paths if path not in decoded])
        for path in paths:
            file = decoded.pop(path, None) or next(rest)
            self._take(file, decoder)
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
        self._fit = Fit.of_archive(self._writer.grid, self._writer.attrs, str(self._path))
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

    def _settings(self) -> DecodeOptions:
        options = self._options
        if self._writer is not None:
            there = self._writer.attrs
            check_attributes(self._path, there, options.attributes)
            return continued_settings(
                self._path, there, options.format, options.read, options.quality, keep_quality=options.keep_quality
            )
        quality = options.quality
        if not isinstance(quality, QualityOptions):
            quality = QualityOptions(**(quality or {}))
        quality.check_mask()
        return DecodeOptions(options.format, options.read, quality, options.keep_quality)

    def _formats(self, paths: Sequence[str]) -> Iterator[str]:
        for path in paths:
            entry = self._manifest.get(path)
            found = (entry.format if entry is not None else "") or _told_by_contents(path)
            if found:
                yield found

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

    def _plan(self, paths: Sequence[str], decoder: FileDecoder, decoded: dict[str, DecodedFile]) -> Plan:
        """Read on until grid and step can be told; what was read is in `decoded`."""
        frames: list[tuple[str, DecodedFrame]] = []
        for start in range(0, len(paths), FRAMES_TO_PLAN):
            for file in decoder.files(paths[start : start + FRAMES_TO_PLAN]):
                decoded[file.path] = file
                frames += [(file.path, frame) for frame in _first_frames(file, decoder)]
            if len({frame.encoded.time for _, frame in frames}) >= FRAMES_TO_PLAN:
                break
        if not frames:
            raise self._nothing_usable(list(decoded.values()))
        name, model = most_common(frames)
        times = together([frame.encoded.time for _, frame in frames if fits(model, frame)], self._options.longest_gap)
        step = self._options.step
        if step is None:
            later = _later_times(paths[len(decoded) :], model, decoder, decoded)
            try:
                step = step_of(model, [np.array(times), *later])
            except DataError as error:
                raise DataError(
                    f"{name}{' and others' if len(times) > 1 else ''}: {error.message}", error.hint
                ) from error
        return Plan(name, model, min(times), step)

    def _create(self, plan: Plan) -> None:
        model = plan.model
        said = {key: value for key, value in model.attributes.items() if key in ATTRIBUTES_KEPT and value != ""}
        attributes = {
            **said,
            **recorded_settings(self.decoding),
            **self._options.attributes,
            "quantity": model.quantity,
            "grid_file": plan.file,
        }
        if model.relation is not None:
            attributes["zr_a"], attributes["zr_b"] = model.relation
        self._writer = ArchiveWriter.create(
            self._path,
            model.grid,
            first_time=plan.first_time,
            step=plan.step,
            interval_minutes=model.interval_minutes,
            quality=self.decoding.keep_quality,
            attributes=attributes,
            overwrite=self._overwrite,
            lock=self._lock,
        )
        self._fit = Fit.of_frame(model, plan.file)
        self._period = (plan.first_time, plan.first_time)

    def _take(self, file: DecodedFile, decoder: FileDecoder) -> None:
        """Put the frames of one file where they belong, and note what became of it."""
        outcome = Outcome(file.reason)
        for frame in self._parts(file, decoder, outcome) if file.is_long else file.frames:
            self._place(file.path, frame, outcome)
        if len(outcome.times) == 1 and file.named_time is not None:
            self._named_times.add(file.path, file.named_time, np.datetime64(outcome.times[0], "s"))
        if file.missing_package is not None:
            self._missing_package = file.missing_package
        entry = outcome.entry(file)
        self._tally(entry, outcome)
        if not says_the_same(self._manifest.get(file.path), entry):
            self._open_writer.note(entry)
        self._manifest[file.path] = entry

    def _parts(self, file: DecodedFile, decoder: FileDecoder, outcome: Outcome) -> Iterator[DecodedFrame]:
        for part in decoder.parts(file):
            for frame in part.frames:
                yield frame
                self._commit_when_due()
            if part.reason:
                outcome.refuse(f"{part.reason}; the frames before that are kept")

    def _place(self, path: str, frame: DecodedFrame, outcome: Outcome) -> None:
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
            slot = nearest_slot(frame.encoded.time, writer.first_time, writer.step, writer.step)
            apart = abs(frame.encoded.time - slot) / np.timedelta64(1, "s")
            advice = "ingest it into another archive"
            if self._options.step is not None:
                advice = "leave --step out to find the step from the files"
            advice += f", or give --time-tolerance {apart:.0f}s to move it to {slot}"
            outcome.refuse(f"{error.message}; {advice}")
            return
        far = self._gap_to(when)
        if far > self._options.longest_gap:
            outcome.refuse(
                f"its time {when} is {far / np.timedelta64(1, 'D'):.0f} days from every other frame; "
                f"if that is right, give --longest-gap {np.ceil(far / np.timedelta64(1, 'D')):.0f}d"
            )
            return
        if same and str(when) in self._origin:
            outcome.duplicates += 1
            return
        if same is False and self._options.duplicates == "refuse":
            other = self._origin.get(str(when), "another file")
            outcome.refuse(f"{when} is in the archive with other contents, from {other}; --duplicates last replaces it")
            return
        # The same and of no file: a run that was stopped within a long file left it.
        if not same:
            writer.put(encoded)
        outcome.add(when, encoded.series, replaces=same is False)
        self._origin[str(when)] = self._stored_here[str(when)] = path

    def _gap_to(self, when: np.datetime64) -> np.timedelta64:
        """Distance of a time from the period that the archive covers so far."""
        first, last = self._period
        gap = max(first - when, when - last, NO_TIME)
        if gap <= self._options.longest_gap:
            self._period = (when if when < first else first, when if when > last else last)
        return gap

    def _mark_bad(self) -> None:
        """Tell empty slots whose file came and could not be used from those that nothing came for."""
        for when in times_of_skipped(self._manifest.values()):
            self._open_writer.mark_bad(when)
        self._open_writer.commit()

    def _tally(self, entry: ManifestEntry, outcome: Outcome) -> None:
        report = self.report
        report.files[entry.status] += 1
        report.stored += len(entry.times) - len(entry.replaced)
        report.replaced += len(entry.replaced)
        report.duplicates += entry.duplicates
        report.refused += len(outcome.refusals)
        report.changed.update(outcome.changed)
        if entry.reason:
            report.skip(entry.file, entry.reason)

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
        present = np.flatnonzero(np.isin(writer.status, (PRESENT, PARTIAL)))
        if present.size == 0:
            raise self._nothing_usable([])
        seconds = np.diff(present) * int(writer.step / np.timedelta64(1, "s"))
        self._mark_bad()
        self._note_suspects(writer)
        self.report.cadence = describe_distances(seconds) if seconds.size else ""
        self.report.description = (
            f"{present.size} of {writer.length} frames from {writer.first_time + present[0] * writer.step} to "
            f"{writer.first_time + present[-1] * writer.step} UTC every {writer.step / np.timedelta64(60, 's'):g} min, "
            f"{writer.grid.describe()}"
        )

    def _note_suspects(self, writer: ArchiveWriter) -> None:
        """Say which frames of this run do not go with their name or their neighbours in time.

        The manifest says it too: of the entries of a file the last counts.
        """
        for file, reason in (*self._named_times.suspects(), *self._odd_frames(writer)):
            self.report.suspect(file, reason)
        for file, reason in dict(reversed(self.report.suspects)).items():
            self._manifest[file] = dataclasses.replace(self._manifest[file], suspicion=reason)
            writer.note(self._manifest[file])
        writer.commit()

    def _odd_frames(self, writer: ArchiveWriter) -> Iterator[tuple[str, str]]:
        rows, columns = writer.grid.shape
        odd = implausible_frames(writer.series, np.isin(writer.status, (PRESENT, PARTIAL)), pixels=rows * columns)
        for index, reason in odd:
            when = str(writer.first_time + index * writer.step)
            if when in self._stored_here:
                yield self._stored_here[when], f"{when}: {reason}"

    def _nothing_usable(self, read: Sequence[DecodedFile]) -> NowcastError:
        reasons = self.report.skipped or [(file.path, file.reason) for file in read]
        self.report.skipped = reasons
        missing = next((file.missing_package for file in read if file.missing_package), self._missing_package)
        if missing is not None:
            return missing
        hint = "nowcast ingest --help lists what can be declared of files that do not say it"
        told = self._options.format
        if told != "auto":
            found = next((name for file, _ in reasons if (name := _told_by_contents(file))), told)
            if found != told:
                hint = f"leave --format {told} out: the first of them that can be told is of the format {found}"
        return DataError(f"not one of {len(reasons)} files can be used: {group_reasons(reasons)}", hint)


def _told_by_contents(path: str) -> str:
    """The format of a file; empty where it cannot be told."""
    try:
        return detect_format(path)
    except (NowcastError, OSError):
        return ""


def _first_frames(file: DecodedFile, decoder: FileDecoder) -> Sequence[DecodedFrame]:
    """The frames of a file, or enough of a long one to plan by."""
    if not file.is_long:
        return file.frames
    frames: list[DecodedFrame] = []
    for part in decoder.parts(file):
        frames += part.frames
        if len(frames) >= FRAMES_TO_PLAN:
            break
    return frames


def _later_times(
    paths: Sequence[str], model: DecodedFrame, decoder: FileDecoder, decoded: dict[str, DecodedFile]
) -> list[np.ndarray]:
    """Times of frames on the model's grid, of neighbouring files here and there; what was read is in `decoded`."""
    groups = list(spread_groups(paths))
    decoded |= {file.path: file for file in decoder.files([path for group in groups for path in group])}
    blocks = []
    for group in groups:
        frames = [frame for path in group for frame in _first_frames(decoded[path], decoder)]
        times = [frame.encoded.time for frame in frames if same_grid(model.grid, frame.grid)]
        blocks.append(np.array(times, "datetime64[s]"))
    return blocks
