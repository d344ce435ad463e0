"""Quality steps between a reader and the archive: each is off or on, and counts the pixels that it changes.

In this order: low quality index and static clutter become missing, speckle becomes dry, rates are capped, and what is
below the rain threshold becomes dry. Missing pixels stay missing in every step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nowcast.data.frame_measures import WET_MM_H
from nowcast.errors import ConfigError, DataError

if TYPE_CHECKING:
    from nowcast.data.archive import RadarArchive

OFF = "off"
# Radar composites hold spikes of thousands of mm/h where the quality index is 0; the heaviest rain measured over a
# few minutes on the ground is around this value.
DEFAULT_CAP_MM_H = 300.0
# Pixels that are wet more often than this are taken for clutter by `find_static_clutter`.
CLUTTER_SHARE = 0.9
# Over less than this, rain that stays looks like clutter.
CLUTTER_DAYS, CLUTTER_FRAMES = 7, 200


@dataclass(frozen=True)
class QualityOptions:
    """Which steps run, None for off.

    Attributes:
        rain_threshold_mm_h: Smaller rates become 0: reflectivity turns noise into traces of rain.
        rate_cap_mm_h: Larger rates become this.
        minimum_quality: Pixels with a smaller quality index become missing; those without one stay.
        clutter_mask: File of pixels that become missing in every frame: a boolean .npy, or a .png that is not black
            there; of the frames' shape, north first.
        speckle_neighbours: A wet pixel (0.1 mm/h) with fewer wet ones among its 8 neighbours becomes dry.
    """

    rain_threshold_mm_h: float | None = None
    rate_cap_mm_h: float | None = DEFAULT_CAP_MM_H
    minimum_quality: float | None = None
    clutter_mask: str | None = None
    speckle_neighbours: int | None = None

    def __post_init__(self) -> None:
        threshold, cap = self.rain_threshold_mm_h, self.rate_cap_mm_h
        if threshold is not None and not 0 <= threshold < float("inf"):
            raise ConfigError(f"the rain threshold must be 0 mm/h or more, got {threshold:g}")
        if cap is not None and not (threshold or 0) < cap < float("inf"):
            raise ConfigError(f"the rate cap must lie above the rain threshold, got {cap:g} mm/h")
        if self.minimum_quality is not None and not 0 < self.minimum_quality <= 1:
            raise ConfigError(f"the quality index lies between 0 and 1, got a minimum of {self.minimum_quality:g}")
        if self.speckle_neighbours is not None and not 1 <= self.speckle_neighbours <= 8:
            raise ConfigError(f"a pixel has 8 neighbours; speckle needs 1 to 8 of them, got {self.speckle_neighbours}")

    def check_mask(self) -> None:
        """Refuse a clutter mask that cannot be read, before any file is blamed for it.

        Raises:
            ConfigError: It is not there, or no mask.
        """
        if self.clutter_mask is not None:
            _digest(self.clutter_mask)
            _load_mask(self.clutter_mask, Path(self.clutter_mask).stat().st_mtime_ns)

    def to_attributes(self) -> dict[str, Any]:
        """As an archive records it."""
        values = {
            "rain_threshold_mmh": self.rain_threshold_mm_h,
            "rate_cap_mmh": self.rate_cap_mm_h,
            "quality_index_minimum": self.minimum_quality,
            "speckle_neighbours": self.speckle_neighbours,
            "clutter_mask": self.clutter_mask,
            "clutter_mask_sha256": None if self.clutter_mask is None else _digest(self.clutter_mask),
        }
        return {name: OFF if value is None else value for name, value in values.items()}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], *, clutter_mask: str | None = None) -> QualityOptions:
        """As an archive recorded it.

        Args:
            clutter_mask: Where the mask lies now, if it is given.

        Raises:
            ConfigError: The clutter mask is not where it was, or is another one.
        """

        def value(name: str) -> Any:
            found = attributes.get(name, OFF)
            return None if found == OFF else found

        recorded = value("clutter_mask")
        mask = None if recorded is None else clutter_mask or recorded
        if mask is not None and (not Path(mask).is_file() or _digest(mask) != attributes["clutter_mask_sha256"]):
            found = "is another one" if Path(mask).is_file() else "is not there"
            raise ConfigError(
                f"the archive was made with the clutter mask {recorded}, and {mask} {found}",
                "give the mask that it was made with by --clutter-mask, or ingest into another archive",
            )
        return cls(
            rain_threshold_mm_h=value("rain_threshold_mmh"),
            rate_cap_mm_h=value("rate_cap_mmh"),
            minimum_quality=value("quality_index_minimum"),
            clutter_mask=mask,
            speckle_neighbours=value("speckle_neighbours"),
        )


def apply_quality(
    rain_rate: np.ndarray, quality: np.ndarray | None, options: QualityOptions
) -> tuple[np.ndarray, dict[str, int]]:
    """The field after every step that is on, and how many pixels each changed.

    Args:
        rain_rate: (H, W) float32 [mm/h], NaN where missing; not changed, and returned itself if no step finds anything.
        quality: (H, W) in [0, 1], NaN where unknown; None where the file has none.

    Raises:
        DataError: A quality cut is asked for and there is no quality index, or the clutter mask has another shape.
    """
    field = np.asarray(rain_rate, dtype=np.float32)
    changes: dict[str, int] = {}
    with np.errstate(invalid="ignore"):
        if options.minimum_quality is not None:
            if quality is None:
                raise DataError(
                    f"a quality index of {options.minimum_quality:g} or more is asked for, and the file has none",
                    "leave --minimum-quality out",
                )
            low = quality < np.float32(options.minimum_quality)
            field, changes["low_quality"] = _replace(field, low, np.nan)
        if options.clutter_mask is not None:
            field, changes["clutter"] = _replace(field, _mask_for(options.clutter_mask, field.shape), np.nan)
        if options.speckle_neighbours is not None:
            field, changes["speckle"] = _replace(field, _speckle(field, options.speckle_neighbours), 0.0)
        if options.rate_cap_mm_h is not None:
            field, changes["capped"] = _cap(field, np.float32(options.rate_cap_mm_h))
        if options.rain_threshold_mm_h is not None:
            noise = (field > 0) & (field < np.float32(options.rain_threshold_mm_h))
            field, changes["below_threshold"] = _replace(field, noise, 0.0)
    return field, changes


def find_static_clutter(archive: RadarArchive, *, wet_share: float = CLUTTER_SHARE) -> np.ndarray:
    """(H, W) bool: pixels that are wet in more than `wet_share` of the frames in which they are valid.

    Ground echoes stand still while rain passes, so this needs an archive of weeks; over a few hours of rain it would
    take the rain for clutter.

    Raises:
        DataError: The archive has frames on fewer than 7 days, or fewer than 200 frames.
    """
    times = archive.times[archive.present]
    days = np.unique(times.astype("datetime64[D]")).size
    if days < CLUTTER_DAYS or times.size < CLUTTER_FRAMES:
        raise DataError(
            f"{archive.path} has {times.size} frames on {days} day{'s' if days != 1 else ''}, too few to tell clutter "
            f"from rain: wanted {CLUTTER_FRAMES} frames on {CLUTTER_DAYS} days or more",
            "find the clutter of the same radar in a longer archive, with dry days in it",
        )
    wet, valid = (np.zeros(archive.grid.shape, dtype=np.int32) for _ in range(2))
    for index in np.flatnonzero(archive.present):
        field = archive.rain_rate(int(index), int(index) + 1)[0]
        with np.errstate(invalid="ignore"):
            wet += field >= np.float32(WET_MM_H)
        valid += ~np.isnan(field)
    return np.asarray((valid > 0) & (wet > wet_share * valid))


def _replace(field: np.ndarray, where: np.ndarray, value: float) -> tuple[np.ndarray, int]:
    """The field with another value at the valid pixels among `where`, and how many they were; a copy if any."""
    where = where & ~np.isnan(field)
    number = int(np.count_nonzero(where))
    return (np.where(where, np.float32(value), field) if number else field), number


def _cap(field: np.ndarray, cap: np.float32) -> tuple[np.ndarray, int]:
    """As `_replace`; most frames have nothing to cap, and their largest rate says so at once."""
    if not np.fmax.reduce(field, axis=None) > cap:
        return field, 0
    return np.minimum(field, cap), int(np.count_nonzero(field > cap))


def _speckle(rain_rate: np.ndarray, neighbours: int) -> np.ndarray:
    """Wet pixels with fewer than so many wet ones around them; beyond the edge nothing is wet."""
    wet = rain_rate >= np.float32(WET_MM_H)
    rows, columns = wet.shape
    padded = np.pad(wet, 1).astype(np.int8)
    around = sum(padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)) - wet.astype(np.int8)
    return np.asarray(wet & (around < neighbours))


def _mask_for(path: str, shape: tuple[int, ...]) -> np.ndarray:
    mask = _load_mask(path, Path(path).stat().st_mtime_ns)
    if mask.shape != shape:
        raise DataError(
            f"the clutter mask {path} has {mask.shape[0]}x{mask.shape[1]} pixels, "
            f"the frames have {shape[0]}x{shape[1]}",
            "make a mask on the grid that is stored, after any crop or coarsening",
        )
    return mask


@lru_cache(maxsize=2)
def _load_mask(path: str, modified_ns: int) -> np.ndarray:
    try:
        if path.endswith(".npy"):
            values = np.load(path, allow_pickle=False)
        else:
            from PIL import Image

            with Image.open(path) as image:
                values = np.asarray(image.convert("L"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the clutter mask {path} cannot be read: {error}", "give a .npy or .png file") from error
    if values.ndim != 2:
        raise ConfigError(f"the clutter mask {path} has {values.ndim} dimensions, expected 2")
    return np.asarray(values != 0)


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"the clutter mask {path} cannot be read: {error.strerror}") from error
