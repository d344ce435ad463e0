"""An archive of another cadence or pixel size, made from an archive: only ever when asked for.

Space comes first, by area (`nowcast.data.resample`); then time, along the motion of the rain. Readers and ingest know
nothing of it: they never resample.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nowcast.data.archive import RadarArchive, open_archive
from nowcast.data.archive_schema import SUPERSEDED
from nowcast.data.archive_writer import ArchiveWriter, lock_archive
from nowcast.data.encoded_frame import encode_frame
from nowcast.data.frame_measures import CHANGES
from nowcast.data.grid import Grid
from nowcast.data.motion import carry, estimate_motion
from nowcast.data.outputs import put_in_place, require_free
from nowcast.data.resample import Resampler
from nowcast.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

# Pixels whose sizes differ by less than this share are the same: 999.7 m is 1 km.
PIXEL_SIZE_TOLERANCE = 1e-3
# A kill loses no more frames than this.
FRAMES_PER_COMMIT = 16
FINGERPRINT = "resampled_from_fingerprint"
# Attributes that tell of the source's own files; the new archive's writer sets its own, or they hold no longer.
NOT_CARRIED = {
    *("Conventions", "format", "first_time", "step_seconds", "interval_minutes", "manifest_sha256", "writing"),
    *("grid_file", "keeps_quality", "consistent_timestep_start", SUPERSEDED),
    *(f"n_{name}" for name in CHANGES),
}

Progress = Callable[[Sequence[int]], Iterable[int]]


@dataclass(frozen=True)
class Slots:
    """Where the frames of a new time axis come from.

    Attributes:
        times: (N,) datetime64[s], ascending; those of the new axis that get a frame.
        before: (N,) index of the source's frame at each time or next before it.
        share: (N,) of the way from there to the source's next frame, in [0, 1); exactly 0 at the frame itself.
        absent: Slots between the source's first and last frame that get none, since a frame at them or beside them is
            missing.
    """

    times: np.ndarray
    before: np.ndarray
    share: np.ndarray
    absent: int


@dataclass
class ResampleReport:
    """What was made.

    Attributes:
        archive: Where it lies.
        taken: Frames at the times of source frames.
        made: Frames made along the motion, between two source frames.
        absent: Slots left out, since a source frame at them or beside them is missing.
        kept: Of `taken` and `made`, those that an interrupted run had finished.
        description: The archive in one line.
        seconds: How long it took.
    """

    archive: Path
    taken: int
    made: int
    absent: int
    kept: int = 0
    description: str = ""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**dataclasses.asdict(self), "archive": str(self.archive)}


def resample_archive(
    source: str | Path,
    output: str | Path,
    *,
    step: np.timedelta64 | None = None,
    pixel_km: float | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ResampleReport:
    """Write an archive of another step, of larger pixels, or both, from an archive.

    A slot at the time of a source frame gets that frame, bit for bit where the pixels stay. A slot between two frames
    gets the one before carried forward and the one after carried back along the motion between them, blended; see
    `between_frames`. No slot is filled outside the source's period or beside a missing frame. A step longer than the
    source's takes what is at its slots: it does not average over time.

    What is blended is smoother than what was observed: peaks are lower and edges wider than in the frames beside it.
    The attributes hold the source's axis, so that the two kinds can be told apart.

    Archives of accumulations hold means over the interval that ends at the time stamp. Such a mean is treated as a
    rate at its time stamp: a frame that is made stands for the mean over an interval of the same length that ends at
    its own. So `interval_minutes` stays the source's, and the intervals of frames overlap at a shorter step, and leave
    time between them at a longer one.

    The new archive is made in a hidden folder beside `output` and takes its place once whole. After an interruption
    the same call goes on with it. The quality index and the counts of what quality steps changed are not carried over.

    Args:
        step: The new cadence, in whole seconds; the source's unless given.
        pixel_km: The new pixel size, not below the source's; the source's unless given.
        overwrite: Replace an archive at `output`.
        progress: Wraps the slots as they are worked through.

    Raises:
        ConfigError: Nothing would change, a step that is not positive, smaller pixels than the source's, or a path
            that may not be replaced.
        DataError: No such archive, one without frames, or an output that is being written.

    Source: Nielsen, Thorndahl and Rasmussen (2014), doi 10.1016/j.atmosres.2013.10.015, for interpolation along the
    motion; motion, carrying and the blend of both neighbours are those of this package.
    """
    started, output = time.monotonic(), Path(output)
    archive = open_archive(source)
    step = archive.step if step is None else step.astype("timedelta64[s]")
    if step <= np.timedelta64(0, "s"):
        raise ConfigError("a step must be a second or more", "give for example --step 5min")
    resampler = coarser_pixels(archive.grid, pixel_km)
    if step == archive.step and resampler is None:
        raise ConfigError(
            f"{source} has a step of {archive.step_minutes:g} min and pixels of "
            f"{_kilometres(archive.grid)} already: nothing would change",
            "give another --step or a larger --pixel-km",
        )
    require_free(output, "archive", overwrite=overwrite, inputs=[source])
    slots = plan_slots(archive, step)
    taken = int(np.count_nonzero(slots.share == 0))
    report = ResampleReport(output, taken, slots.times.size - taken, slots.absent)
    draft = output.with_name(f".{output.name}.resample") / output.name
    with lock_archive(output):
        with _opened(draft, archive, slots, step, archive.grid if resampler is None else resampler.grid) as writer:
            report.kept = _fill(writer, slots, _Source(archive, resampler), progress or iter)
        require_free(output, "archive", overwrite=overwrite, inputs=[source])
        put_in_place(draft, output)
        shutil.rmtree(draft.parent)
    report.description = open_archive(output).describe()
    report.seconds = time.monotonic() - started
    return report


def plan_slots(archive: RadarArchive, step: np.timedelta64) -> Slots:
    """The slots of a new step in the period of an archive's frames.

    Slots are whole multiples of the step since midnight UTC of 1970-01-01, so that 5 min is :00, :05, :10; where these
    would never meet the archive's own times, they are shifted by as little as makes them do.

    Raises:
        DataError: Not one slot can be filled.
    """
    present = archive.present
    if not present.any():
        raise DataError(f"{archive.path} has no frame that can be read")
    times, seconds = archive.times.astype(np.int64), int(step.astype("timedelta64[s]").astype(np.int64))
    source_seconds = int(archive.step.astype("timedelta64[s]").astype(np.int64))
    first, last = times[present][[0, -1]]
    shift = times[0] % np.gcd(seconds, source_seconds)
    wanted = np.arange(first + (shift - first) % seconds, last + 1, seconds)
    before, rest = np.divmod(wanted - times[0], source_seconds)
    after = np.where(rest == 0, before, before + 1)
    filled = present[before] & present[after]
    if not filled.any():
        raise DataError(
            f"{archive.path}: none of {wanted.size} slots every {seconds / 60:g} min is at a frame or between two "
            "neighbouring ones",
            "give a shorter --step",
        )
    return Slots(
        wanted[filled].astype("datetime64[s]"),
        before[filled],
        rest[filled] / source_seconds,
        int(np.count_nonzero(~filled)),
    )


def between_frames(before: np.ndarray, after: np.ndarray, motion: np.ndarray, share: float) -> np.ndarray:
    """The field (H, W) float32 at a share of the way between two, along the motion.

    `before` is carried on by `share` of a step, `after` back by the rest, and what arrives is blended by nearness:
    (1 - share) of the one and `share` of the other. Where only one arrives it stands alone, as where rain comes into
    the frame. NaN where neither does, and where neither field is measured at the pixel itself: a place that the radar
    does not see stays unseen.

    Args:
        before, after: (H, W) [mm/h], NaN where missing.
        motion: (2, H, W) [pixels per step] from the one to the other, as of `nowcast.data.motion.estimate_motion`.
        share: In [0, 1].
    """
    ahead, back = np.float32(share), np.float32(1.0 - share)
    forward, backward = carry(before, motion * ahead, 1), carry(after, motion * back, -1)
    blended = back * forward + ahead * backward
    arrived = np.where(np.isnan(forward), backward, np.where(np.isnan(backward), forward, blended))
    return np.where(np.isnan(before) & np.isnan(after), np.float32(np.nan), arrived)


def coarser_pixels(grid: Grid, pixel_km: float | None) -> Resampler | None:
    """The map to square pixels of `pixel_km`; None where the grid has them already, or none are asked for.

    Raises:
        ConfigError: Not a size, smaller than the grid's pixels, or so large that fewer than two fit along a side.
    """
    if pixel_km is None:
        return None
    if not 0 < pixel_km < float("inf"):
        raise ConfigError(f"a pixel size of {pixel_km:g} km is none", "give for example --pixel-km 1")
    sizes = np.array(grid.pixel_size_km)
    if np.allclose(sizes, pixel_km, rtol=PIXEL_SIZE_TOLERANCE, atol=0.0):
        return None
    if pixel_km < sizes.max() * (1 - PIXEL_SIZE_TOLERANCE):
        raise ConfigError(
            f"pixels of {pixel_km:g} km are smaller than the archive's, {_kilometres(grid)}: "
            "nothing is gained by dividing them",
            f"give --pixel-km {sizes.max():.4g} or more",
        )
    if np.any(np.array(grid.shape) * sizes < 2 * pixel_km):
        rows, columns = np.array(grid.shape) * sizes
        raise ConfigError(
            f"fewer than two pixels of {pixel_km:g} km fit along a side of {rows:.4g} by {columns:.4g} km",
            "give a smaller --pixel-km",
        )
    return Resampler.to_pixel_size(grid, (pixel_km, pixel_km))


class _Source:
    """Fields of the source on the new grid; for times that ascend, each frame is read once and two are held."""

    def __init__(self, archive: RadarArchive, resampler: Resampler | None) -> None:
        self._archive, self._resampler = archive, resampler
        self._held: dict[int, np.ndarray] = {}
        self._motion: tuple[int, np.ndarray] | None = None

    def field(self, before: int, share: float) -> np.ndarray:
        """(H, W) float32 [mm/h] at a share of the way from the frame `before` to the next."""
        if share == 0:
            return self._frame(before)
        earlier, later = self._frame(before), self._frame(before + 1)
        if self._motion is None or self._motion[0] != before:
            self._motion = before, estimate_motion(np.stack([earlier, later]))
        return between_frames(earlier, later, self._motion[1], share)

    def _frame(self, index: int) -> np.ndarray:
        if index not in self._held:
            field = self._archive.rain_rate(index, index + 1)[0]
            self._held = {at: held for at, held in self._held.items() if at == index - 1}
            self._held[index] = field if self._resampler is None else self._resampler(field)
        return self._held[index]


def _fill(writer: ArchiveWriter, slots: Slots, source: _Source, progress: Progress) -> int:
    """Write the frames that are not there; the number of those that are."""
    kept = 0
    for number in progress(range(slots.times.size)):
        valid_time = slots.times[number]
        if writer.has_chunk(valid_time):
            kept += 1
            continue
        writer.put(encode_frame(valid_time, source.field(int(slots.before[number]), float(slots.share[number]))))
        if number % FRAMES_PER_COMMIT == FRAMES_PER_COMMIT - 1:
            writer.commit()
    return kept


def _opened(draft: Path, archive: RadarArchive, slots: Slots, step: np.timedelta64, grid: Grid) -> ArchiveWriter:
    """The archive that an interrupted run of the same kind left, or a new one."""
    if draft.parent.exists():
        try:
            writer = ArchiveWriter.append(draft)
        except DataError:
            pass
        else:
            if (
                writer.attrs.get(FINGERPRINT) == archive.fingerprint
                and writer.step == step
                and writer.grid.to_dict() == grid.to_dict()
            ):
                return writer
            writer.close()
        logger.info("what an earlier run left in %s is of another source or other options: it is made anew", draft)
        shutil.rmtree(draft.parent)
    return ArchiveWriter.create(
        draft,
        grid,
        first_time=slots.times[0],
        step=step,
        interval_minutes=archive.interval_minutes,
        attributes=_attributes(archive, step, grid),
    )


def _attributes(archive: RadarArchive, step: np.timedelta64, grid: Grid) -> dict[str, Any]:
    """Those of the source that hold still, and what was done to it."""
    said = {
        key: value for key, value in archive.attrs.items() if key not in NOT_CARRIED and not key.startswith("mlcast_")
    }
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    done = (
        f"{now} nowcast resample: from {archive.path} ({archive.fingerprint[:16]}), "
        f"{archive.step_minutes:g} min to {step / np.timedelta64(60, 's'):g} min, "
        f"pixels of {_kilometres(archive.grid)} to {_kilometres(grid)}"
    )
    note = "Resampled: frames between those of the source are made along the motion, larger pixels are means by area."
    comments = [text for text in (str(said.get("comment", "")), note) if text]
    return {
        **said,
        "comment": " ".join(dict.fromkeys(comments)),
        "history": "\n".join(filter(None, [done, str(said.get("history", ""))])),
        "keeps_quality": 0,
        "resampled_from": str(archive.path),
        FINGERPRINT: archive.fingerprint,
        "resampled_from_first_time": str(archive.times[0]),
        "resampled_from_step_seconds": int(archive.step / np.timedelta64(1, "s")),
        "resampled_from_pixel_km": list(archive.grid.pixel_size_km),
    }


def _kilometres(grid: Grid) -> str:
    dy, dx = grid.pixel_size_km
    return f"{dy:.4g} by {dx:.4g} km"
