"""ReadOptions: what a caller may declare where a file does not say it, and the window that is wanted of it."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nowcast.data.grid import Grid
from nowcast.data.units import ZRelation
from nowcast.errors import ConfigError, DataError, NowcastError

# Options that say nothing of what a file lacks.
USED_BY_ALL = ("crop", "coarsen", "max_pixels", "read_quality", "max_frames", "frame_range")
# Options on which the rain rate depends; crop, coarsen and grid show in an archive's grid.
VALUE_OPTIONS = ("z_relation", "accumulation_minutes", "variable", "missing_values", "vil_rain_rate")
# What a strptime directive of `time_pattern` may look like in a file name.
_DIRECTIVES = {
    "Y": r"\d{4}",
    "y": r"\d{2}",
    "m": r"\d{2}",
    "d": r"\d{2}",
    "j": r"\d{3}",
    "H": r"\d{2}",
    "M": r"\d{2}",
    "S": r"\d{2}",
}


def option_name(name: str) -> str:
    """What the command line calls one of `ReadOptions`."""
    return "--missing-value" if name == "missing_values" else "--" + name.replace("_", "-")


@dataclass(frozen=True)
class BoundingBox:
    """A window in degrees: every pixel of the rectangle of pixels that encloses it is kept."""

    south: float
    west: float
    north: float
    east: float

    def __post_init__(self) -> None:
        if not (-90 <= self.south < self.north <= 90):
            raise ConfigError(f"a bounding box needs -90 <= south < north <= 90, got {self.south} and {self.north}")
        if not (self.west < self.east <= self.west + 360):
            raise ConfigError(f"a bounding box needs west < east <= west + 360, got {self.west} and {self.east}")


@dataclass(frozen=True)
class PixelWindow:
    """A window in pixels of the file's grid, north first: rows and columns as (start, stop)."""

    rows: tuple[int, int]
    columns: tuple[int, int]

    def __post_init__(self) -> None:
        for name, (start, stop) in (("rows", self.rows), ("columns", self.columns)):
            if not 0 <= start < stop:
                raise ConfigError(f"a pixel window needs 0 <= start < stop, got {name} {start} to {stop}")


class ManyFramesError(NowcastError):
    """A file holds more frames than are to be read at once."""

    def __init__(self, count: int) -> None:
        super().__init__(f"holds {count} frames", "read them by ranges (frame_range)")
        self.count = count


@dataclass(frozen=True)
class ReadOptions:
    """What a reader is told.

    Attributes:
        z_relation: Z = a R^b to use for reflectivity, above what the file or the source's documentation says.
        accumulation_minutes: Length of the interval of an accumulation, where the file does not give it.
        crop: The window that is wanted, in degrees or in pixels; None is the whole grid.
        coarsen: Side of the blocks of pixels that are averaged; a block less than half measured is NaN.
        time_pattern: strptime pattern found in the file's name, for files without a time inside ("RAD%y%m%d%H%M%S").
        variable: Name of the variable (netCDF, Zarr) or quantity (ODIM) to read where there are several.
        missing_values: Stored values, in the file's unit, that also mean "not measured".
        grid: Where the pixels are, for formats without geography: a Grid, or "hko7" for that data set's.
        coordinates: A file of coordinates beside the data (MeteoNet), if it is not found by its usual name.
        pickled_dates: Read the pickled dates of a MeteoNet file through an unpickler that admits dates and
            nothing else. Off: such a file is refused.
        vil_rain_rate: (a, b) of R = a VIL^b [mm/h of kg m-2], the declared conversion without which
            vertically integrated liquid is not accepted as rain.
        catalog: The CSV table of times and places that belongs to a SEVIR file.
        event: Id of the one event to read of a file that holds many (SEVIR).
        read_quality: Read the quality index of a file that has one; off, its frames come without, and sooner.
        max_frames: Refuse a file of more frames with `ManyFramesError`, before one is decoded; readers of formats
            that hold many heed it, and `frame_range`, so that several processes can share a file.
        frame_range: First and last + 1 of the positions to read; a position may hold no frame.
        max_pixels: The largest grid that is decoded; a file that claims more is refused before anything is allocated.
    """

    z_relation: ZRelation | None = None
    accumulation_minutes: float | None = None
    crop: BoundingBox | PixelWindow | None = None
    coarsen: int = 1
    time_pattern: str | None = None
    variable: str | None = None
    missing_values: tuple[float, ...] = ()
    grid: Grid | str | None = None
    coordinates: str | Path | None = None
    pickled_dates: bool = False
    vil_rain_rate: tuple[float, float] | None = None
    catalog: str | Path | None = None
    event: str | None = None
    read_quality: bool = True
    max_frames: int | None = None
    frame_range: tuple[int, int] | None = None
    max_pixels: int = 60_000_000

    def __post_init__(self) -> None:
        if self.coarsen < 1:
            raise ConfigError(f"coarsen is a whole number of pixels from 1 up, got {self.coarsen}")
        if self.accumulation_minutes is not None and not 0 < self.accumulation_minutes < float("inf"):
            raise ConfigError(f"accumulation_minutes must be positive, got {self.accumulation_minutes}")
        if self.max_pixels < 1:
            raise ConfigError(f"max_pixels must be positive, got {self.max_pixels}")
        if self.time_pattern is not None:
            name_pattern(self.time_pattern)

    def wanted_frames(self, count: int) -> range:
        """The positions to read among `count` of a file.

        Raises:
            ManyFramesError: All are wanted, and they are more than `max_frames`.
        """
        if self.frame_range is not None:
            return range(count)[slice(*self.frame_range)]
        if self.max_frames is not None and count > self.max_frames:
            raise ManyFramesError(count)
        return range(count)

    def given(self) -> tuple[str, ...]:
        """Names of the options that only some readers use and that are not at their defaults."""
        return tuple(
            field.name
            for field in dataclasses.fields(self)
            if field.name not in USED_BY_ALL and getattr(self, field.name) != field.default
        )

    def recorded(self) -> dict[str, Any]:
        """The given ones that change values, as an archive records them (JSON)."""
        values = {name: getattr(self, name) for name in VALUE_OPTIONS if name in self.given()}
        if self.z_relation is not None:
            values["z_relation"] = (self.z_relation.a, self.z_relation.b)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def with_recorded(self, recorded: Mapping[str, Any]) -> ReadOptions:
        """These, with those that an archive was made with."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in recorded.items()
        }
        if "z_relation" in values:
            values["z_relation"] = ZRelation(*values["z_relation"])
        return dataclasses.replace(self, **values)

    def time_from_name(self, path: Path) -> np.datetime64 | None:
        """The time in the file's name by `time_pattern`; None where no pattern is declared.

        Raises:
            DataError: The name holds no such time.
        """
        if self.time_pattern is None:
            return None
        found = name_pattern(self.time_pattern).search(path.name)
        try:
            time = None if found is None else datetime.datetime.strptime(found.group(0), self.time_pattern)
        except ValueError:
            time = None
        if time is None:
            raise DataError(
                f"its name {path.name} holds no time by the pattern {self.time_pattern}",
                "declare the pattern that it is named by (--time-pattern)",
            )
        return np.datetime64(time, "s")


def name_pattern(time_pattern: str) -> re.Pattern[str]:
    """The regular expression of a strptime pattern of numbers, for use within a file's name.

    Raises:
        ConfigError: A directive that is not a number, or a pattern without a date.
    """
    parts = re.split(r"%(.)", time_pattern)
    unknown = [f"%{code}" for code in parts[1::2] if code not in _DIRECTIVES]
    if unknown:
        raise ConfigError(f"time pattern {time_pattern!r} holds {unknown[0]}", "use %Y %y %m %d %j %H %M %S")
    codes = set(parts[1::2])
    if not (codes & {"Y", "y"} and ({"m", "d"} <= codes or "j" in codes)):
        raise ConfigError(f"time pattern {time_pattern!r} gives no date", "it needs a year, and %m%d or %j")
    text = [re.escape(part) if number % 2 == 0 else _DIRECTIVES[part] for number, part in enumerate(parts)]
    return re.compile("".join(text))
