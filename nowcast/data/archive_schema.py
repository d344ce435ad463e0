"""What an archive consists of: its arrays, their CF attributes, and an empty one.

Per-frame numbers (status, digest, statistics) are series along time, coordinates of the rain rate, so that rain
stays the only data variable beside its grid mapping.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from nowcast.data.archive_store import LEVEL
from nowcast.data.forecast import LEAP_SECONDS, space_coordinates
from nowcast.data.frame_measures import CHANGES, WET_MM_H
from nowcast.data.grid import Grid

FORMAT = "nowcast-archive-1"
RAIN_RATE = "rainfall_rate"
QUALITY = "quality"
VALID_SHARE = "valid_share"
TIME_BOUNDS = "time_bnds"
MANIFEST = "manifest"
MANIFEST_LINES = "manifest/lines"
# The values of frame_status; "present" and "partial" frames can be read.
STATUS = ("missing", "present", "partial", "bad")
MISSING, PRESENT, PARTIAL, BAD = range(4)

# Attribute of an archive whose axis has moved: the first time of the axis before, whose chunks are there still.
SUPERSEDED = "superseded_chunks"
TIME_CHUNK = 8192
MANIFEST_CHUNK = 1 << 18
TIME_UNITS = "seconds since 1970-01-01 00:00:00"


@dataclass(frozen=True)
class Series:
    """One number for every frame."""

    dtype: str
    attributes: Mapping[str, Any]
    fill: float = 0


SERIES: dict[str, Series] = {
    "time": Series(
        "int64",
        {
            "standard_name": "time",
            "long_name": "valid time",
            "axis": "T",
            "units": TIME_UNITS,
            "calendar": "standard",
            **LEAP_SECONDS,
        },
    ),
    "frame_status": Series(
        "int64",
        {
            "long_name": "what is known of the frame",
            "flag_values": list(range(len(STATUS))),
            "flag_meanings": " ".join(STATUS),
        },
    ),
    "frame_digest": Series("uint64", {"long_name": "digest of the frame's contents"}),
    "valid_pixels": Series("int32", {"long_name": "number of valid pixels", "units": "1"}),
    "wet_share": Series(
        "float32", {"long_name": f"share of valid pixels with {WET_MM_H} mm/h or more", "units": "1"}, np.nan
    ),
    "maximum_rate": Series("float32", {"long_name": "largest rain rate of the frame", "units": "kg m-2 h-1"}, np.nan),
    "mean_rate": Series("float32", {"long_name": "mean rain rate of the valid pixels", "units": "kg m-2 h-1"}, np.nan),
    "edge_share": Series(
        "float32",
        {"long_name": "share of neighbouring pixels in a row of which one alone is wet", "units": "1"},
        np.nan,
    ),
    "cut_pixels": Series(
        "float32",
        {
            "long_name": "longest straight cut along a row: dry within rain, or measured within what is not; where "
            "no checksum guards the file",
            "units": "1",
        },
        np.nan,
    ),
    "lone_rate": Series(
        "float32",
        {
            "long_name": "largest excess of a pixel over twice the largest rain rate around it; where no checksum "
            "guards the file",
            "units": "kg m-2 h-1",
        },
        np.nan,
    ),
    **{f"n_{name}": Series("int32", {"long_name": text, "units": "1"}) for name, text in CHANGES.items()},
}


def create_store(
    path: Path,
    grid: Grid,
    *,
    first_time: np.datetime64,
    step: np.timedelta64,
    interval_minutes: float | None,
    quality: bool,
    attributes: Mapping[str, Any],
) -> None:
    """An archive without a frame, as a folder: made in memory, where Zarr takes half the time, then written."""
    files: dict[str, Any] = {}
    interval = {} if interval_minutes is None else {"interval_minutes": float(interval_minutes)}
    group = zarr.create_group(
        MemoryStore(files),
        zarr_format=3,
        attributes={
            "Conventions": "CF-1.11",
            "title": "Rain rate from radar",
            "institution": "not stated",
            "source": "weather radar",
            "history": "made by nowcast",
            "references": "not stated",
            "comment": "NaN is not measured, 0 is dry.",
            **attributes,
            **interval,
            "format": FORMAT,
            "first_time": str(first_time.astype("datetime64[s]")),
            "step_seconds": int(step / np.timedelta64(1, "s")),
        },
    )
    _create_fields(group, grid, interval_minutes, quality)
    for name, series in SERIES.items():
        text = dict(series.attributes)
        if name == "time" and interval_minutes is not None:
            text["bounds"] = TIME_BOUNDS
        create_array(group, name, (0,), series.dtype, ("time",), text, fill=series.fill, chunks=(TIME_CHUNK,))
    if interval_minutes is not None:
        create_array(group, TIME_BOUNDS, (0, 2), "int64", ("time", "bnds"), chunks=(TIME_CHUNK, 2))
    group.create_group(MANIFEST, attributes={"content": "one JSON object a line, UTF-8"})
    create_array(group, MANIFEST_LINES, (0,), "uint8", ("byte",), chunks=(MANIFEST_CHUNK,))
    with warnings.catch_warnings():
        # Every reader that matters understands it, and it is what makes a commit a single step.
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        zarr.consolidate_metadata(group.store)
    for key, content in files.items():
        file = path / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.to_bytes())


def _create_fields(group: zarr.Group, grid: Grid, interval_minutes: float | None, quality: bool) -> None:
    rows, columns = grid.shape
    axes, chunks = ("time", "y", "x"), (1, rows, columns)
    coordinates = [name for name in SERIES if name != "time"] + [VALID_SHARE, *([QUALITY] if quality else [])]
    rain = {
        "standard_name": "rainfall_flux",
        "long_name": "rain rate",
        "units": "kg m-2 h-1",
        "cell_methods": "time: point" if interval_minutes is None else "time: mean",
        "grid_mapping": "crs",
        "coordinates": " ".join([*([] if grid.is_geographic else ["lat", "lon"]), *coordinates]),
    }
    nan = float("nan")
    create_array(group, RAIN_RATE, (0, rows, columns), "float32", axes, rain, fill=nan, chunks=chunks)
    if quality:
        text = {"long_name": "quality index", "units": "1", "grid_mapping": "crs", "valid_range": [0.0, 1.0]}
        create_array(group, QUALITY, (0, rows, columns), "float32", axes, text, fill=nan, chunks=chunks)
    for name, (dims, values, attributes) in space_coordinates(grid).items():
        axis = (dims,) if isinstance(dims, str) else dims
        create_array(group, name, values.shape, str(values.dtype), axis, attributes)[:] = values
    create_array(group, "crs", (), "int32", (), grid.cf_grid_mapping())
    share = {"long_name": "share of frames in which the pixel is valid", "units": "1", "grid_mapping": "crs"}
    create_array(group, VALID_SHARE, (rows, columns), "float32", ("y", "x"), {**share, "frames": 0}, fill=nan)


def create_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    axes: tuple[str, ...],
    attributes: Mapping[str, Any] | None = None,
    *,
    fill: float = 0,
    chunks: tuple[int, ...] | None = None,
) -> zarr.Array:
    """An empty array, its chunks named "c.0.0", compressed as all of the archive's."""
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunks if chunks is not None else (shape or "auto"),
        dimension_names=axes,
        attributes=dict(attributes or {}),
        fill_value=fill,
        compressors=ZstdCodec(level=LEVEL, checksum=True) if shape else None,
        chunk_key_encoding={"name": "default", "separator": "."},
    )
