"""Archives packed for training: one memory-mapped array each, made once.

From then on training needs neither Zarr nor the archive, and workers share the pages of one file.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nowcast.data.grid import Grid
from nowcast.data.resample import Resampler
from nowcast.errors import DataError
from nowcast.training.arrays import make_array

ARRAY = "rain_rate.npy"
DESCRIPTION = "packed.json"
# Pixel sizes that differ by less than this are one: FMI's 0.9997 km and MeteoSwiss's 1 km.
PIXEL_SIZE_TOLERANCE = 0.01


class Archive(Protocol):
    """What packing needs of an archive."""

    @property
    def path(self) -> Path: ...

    @property
    def grid(self) -> Grid: ...

    @property
    def step(self) -> np.timedelta64: ...

    @property
    def times(self) -> np.ndarray: ...

    @property
    def present(self) -> np.ndarray: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def is_synthetic(self) -> bool: ...

    def rain_rate(self, start: int, stop: int) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class PackedArchive:
    """An archive as one array on disk.

    Attributes:
        name: Where it came from, for messages.
        rain_rate: (T, H, W) float32 [mm/h], memory-mapped, NaN where missing.
        present: (T,) bool.
        first_time: Valid time of frame 0, datetime64[s].
        step_seconds: Cadence.
        grid: Where the pixels are.
        fingerprint: That of the archive.
        synthetic: Whether the rain was generated.
        folder: Where the array is.
    """

    name: str
    rain_rate: np.ndarray
    present: np.ndarray
    first_time: np.datetime64
    step_seconds: float
    grid: Grid
    fingerprint: str
    synthetic: bool
    folder: Path

    def __reduce__(self) -> str | tuple[Any, ...]:
        """A worker opens the file for itself: a memory-mapped array would be pickled whole."""
        if isinstance(self.rain_rate, np.memmap):
            return open_packed, (self.folder,)
        return super().__reduce__()


def pack_archive(
    archive: Archive,
    cache: str | Path,
    *,
    pixel_size_km: tuple[float, float] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PackedArchive:
    """The packed copy of an archive, made in the folder `cache` unless it is there already.

    The copy is found by the archive's fingerprint, so a changed archive is packed anew. Written atomically. With
    `pixel_size_km` (dy, dx) an archive of another pixel size is resampled to it by area.
    """
    resampler = None
    if pixel_size_km is not None and not np.allclose(archive.grid.pixel_size_km, pixel_size_km, PIXEL_SIZE_TOLERANCE):
        resampler = Resampler.to_pixel_size(archive.grid, pixel_size_km)
    size = "" if resampler is None else "-" + "x".join(f"{side:.4g}" for side in resampler.grid.pixel_size_km)
    folder = Path(cache) / (archive.fingerprint[:24] + size)
    if not (folder / DESCRIPTION).is_file():
        _write_packed(archive, folder, resampler, on_progress)
    return open_packed(folder)


def _write_packed(
    archive: Archive, folder: Path, resampler: Resampler | None, on_progress: Callable[[int, int], None] | None
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    grid = archive.grid if resampler is None else resampler.grid
    shape = (len(archive.times), *grid.shape)
    with tempfile.TemporaryDirectory(prefix=".packing-", dir=folder.parent) as scratch:
        draft = Path(scratch) / "packed"
        draft.mkdir()
        array = make_array(draft / ARRAY, np.float32, shape, place=folder.parent)
        for index in range(shape[0]):
            field_ = archive.rain_rate(index, index + 1)[0] if archive.present[index] else None
            array[index] = np.nan if field_ is None else field_ if resampler is None else resampler(field_)
            if on_progress is not None:
                on_progress(index + 1, shape[0])
        array.flush()
        del array
        description = {
            "name": str(archive.path),
            "grid": grid.to_dict(),
            "step_seconds": int(archive.step / np.timedelta64(1, "s")),
            "first_time": str(archive.times[0].astype("datetime64[s]")),
            "present": [int(flag) for flag in archive.present],
            "fingerprint": archive.fingerprint,
            "synthetic": archive.is_synthetic,
        }
        (draft / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")
        try:
            draft.rename(folder)
        except OSError:  # somebody else packed the same archive meanwhile; theirs is as good
            if not (folder / DESCRIPTION).is_file():
                raise


def open_packed(folder: str | Path) -> PackedArchive:
    """A packed archive, memory-mapped.

    Raises:
        DataError: The folder is not one, or its array was cut short.
    """
    folder = Path(folder)
    try:
        values = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        array = np.load(folder / ARRAY, mmap_mode="r", allow_pickle=False)
        pack = PackedArchive(
            values["name"],
            array,
            np.array(values["present"], dtype=bool),
            np.datetime64(values["first_time"], "s"),
            float(values["step_seconds"]),
            Grid.from_dict(values["grid"]),
            values["fingerprint"],
            bool(values["synthetic"]),
            folder,
        )
        if array.shape != (pack.present.size, *pack.grid.shape):
            raise ValueError(f"the array is {array.shape}, its description speaks of {pack.present.size} frames")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is not a packed archive: {error}", "remove it; it will be packed again") from error
    return pack


def default_cache() -> Path:
    """Where packed archives are kept unless said otherwise: `$XDG_CACHE_HOME/nowcast` or `~/.cache/nowcast`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "nowcast"
