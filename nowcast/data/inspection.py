"""What an archive holds, in numbers: frames, gaps, windows, rain by day, what quality steps changed, its files."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from nowcast.data.archive import BAD, PARTIAL, STATUS, RadarArchive
from nowcast.data.frame_measures import CHANGES
from nowcast.data.plausibility import COMPARED, implausible_frames
from nowcast.data.windows import present_runs, window_report

# Pixels that are valid in all frames but this share belong to the static mask.
STATIC_SHARE = 0.99
GAPS_LISTED = 20
QUALITY_STEPS = (
    "rain_threshold_mmh",
    "rate_cap_mmh",
    "quality_index_minimum",
    "clutter_mask",
    "speckle_neighbours",
)


@dataclass(frozen=True)
class Day:
    """One UTC day of an archive: frames present and expected, wet share of their valid pixels, largest rate [mm/h]."""

    date: str
    present: int
    slots: int
    wet_share: float
    maximum_mm_h: float


def inspect_archive(archive: RadarArchive, *, window_length: int) -> dict[str, Any]:
    """Everything worth knowing of an archive, as JSON values; reads no frame."""
    present = archive.present
    step = archive.step_minutes
    valid_share = archive.valid_share()
    report = window_report(present, window_length)
    dy, dx = archive.grid.pixel_size_km
    valid = archive.series("valid_pixels").astype(np.float64)
    usual = float(np.median(valid[present])) if present.any() else float("nan")
    attributes = dict(archive.attrs)
    return {
        "kind": "archive",
        "path": str(archive.path),
        "quantity": {
            "stored": "rain rate [mm/h]",
            "made_from": attributes.get("quantity", ""),
            "interval_minutes": archive.interval_minutes,
            "zr_a": attributes.get("zr_a"),
            "zr_b": attributes.get("zr_b"),
            "read_options": json.loads(str(attributes.get("read_options", "{}"))),
        },
        "source": {key: attributes.get(key, "") for key in ("source_format", "institution", "product", "license")},
        "synthetic": archive.is_synthetic,
        "being_written": bool(attributes.get("writing", False)),
        "grid": {
            "shape": list(archive.grid.shape),
            "pixel_km": [dy, dx],
            "crs": archive.grid.crs.name,
            "projection": archive.grid.cf_grid_mapping().get("grid_mapping_name", ""),
            "corners_lon_lat": _corners(archive),
        },
        "step_minutes": step,
        "time": {"first": str(archive.times[0]), "last": str(archive.times[-1])},
        "frames": {name: int(np.count_nonzero(archive.status == code)) for code, name in enumerate(STATUS)},
        "slots": int(archive.times.size),
        "partial": [
            {"time": str(archive.times[index]), "valid_share": float(valid[index] / usual)}
            for index in np.flatnonzero(archive.status == PARTIAL)
        ],
        "bad": [str(time) for time in archive.times[archive.status == BAD]],
        "gaps": _gaps(archive),
        "runs": report.runs,
        "longest_run": report.longest_run,
        "window_length": window_length,
        "windows": report.windows,
        "rain": {
            "frames_measured": int(np.count_nonzero(~np.isnan(archive.series("wet_share")[present]))),
            "wet_share": _wet_share(archive, present),
            "maximum_mm_h": _maximum(archive.series("maximum_rate")[present]),
            "days": [vars(day) for day in days_of(archive)],
        },
        "mask": {
            "always_valid": float(np.mean(valid_share >= STATIC_SHARE)),
            "never_valid": float(np.mean(~(valid_share > 0))),
            "varies": float(np.mean((valid_share > 0) & (valid_share < STATIC_SHARE))),
        },
        "implausible": [
            {"time": str(archive.times[index]), "reason": reason} for index, reason in _implausible(archive)
        ],
        "quality": {
            "steps": {name: attributes.get(name, "off") for name in QUALITY_STEPS},
            "pixels_changed": {name: int(archive.series(f"n_{name}").sum()) for name in CHANGES},
            "frames_changed": {name: int(np.count_nonzero(archive.series(f"n_{name}"))) for name in CHANGES},
        },
        "files": _files(archive),
    }


def days_of(archive: RadarArchive) -> list[Day]:
    """Coverage and rain of each UTC day."""
    dates = archive.times.astype("datetime64[D]")
    valid = archive.series("valid_pixels")
    largest = archive.series("maximum_rate")
    days = []
    for date in np.unique(dates):
        here = dates == date
        rows = here & archive.present & (valid > 0)
        days.append(
            Day(
                date=str(date),
                present=int(np.count_nonzero(archive.present[here])),
                slots=int(np.count_nonzero(here)),
                wet_share=_wet_share(archive, rows),
                maximum_mm_h=_maximum(largest[rows]),
            )
        )
    return days


def _implausible(archive: RadarArchive) -> list[tuple[int, str]]:
    rows, columns = archive.grid.shape
    measured = archive.present & ~np.isnan(archive.series("mean_rate"))
    return implausible_frames({name: archive.series(name) for name in COMPARED}, measured, pixels=rows * columns)


def _gaps(archive: RadarArchive) -> dict[str, Any]:
    runs = present_runs(~archive.present)
    lengths = runs[:, 1] - runs[:, 0]
    longest = np.argsort(-lengths, kind="stable")[:GAPS_LISTED]
    return {
        "number": len(runs),
        "frames": int(lengths.sum()),
        "longest": [
            {
                "first": str(archive.times[runs[n, 0]]),
                "last": str(archive.times[runs[n, 1] - 1]),
                "frames": int(lengths[n]),
                "bad": int(np.count_nonzero(archive.status[runs[n, 0] : runs[n, 1]] == BAD)),
            }
            for n in longest
        ],
    }


def _files(archive: RadarArchive) -> dict[str, Any]:
    """The last word on each source file, by status and by reason."""
    entries = {entry.file: entry for entry in archive.manifest()}.values()
    reasons: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for entry in entries:
        if entry.reason:
            key = (entry.status, general_reason(entry.reason))
            reasons[key] += 1
            examples.setdefault(key, f"{entry.file}: {entry.reason}")
    return {
        "number": len(entries),
        "by_status": dict(Counter(entry.status for entry in entries)),
        "by_format": dict(Counter(entry.format or "unknown" for entry in entries)),
        "duplicate_frames": sum(entry.duplicates for entry in entries),
        "replaced_frames": sum(len(entry.replaced) for entry in entries),
        "suspects": [{"file": entry.file, "suspicion": entry.suspicion} for entry in entries if entry.suspicion],
        "by_reason": [
            {"status": status, "reason": reason, "files": number, "example": examples[status, reason]}
            for (status, reason), number in reasons.most_common()
        ],
    }


def general_reason(reason: str) -> str:
    """A reason without numbers, paths and what stands in quotes, so that like ones count together."""
    named = re.sub(r"\S*/\S+|b?'[^']*'", "...", reason)
    return re.sub(r"\d+(?:[.,:T-]\d+)*", "#", named)[:160]


def _corners(archive: RadarArchive) -> list[list[float]]:
    """Longitude and latitude of the outermost pixel centres: NW, NE, SW, SE."""
    grid = archive.grid
    x, y = grid.x[[0, -1, 0, -1]], grid.y[[0, 0, -1, -1]]
    if not grid.is_geographic:
        import pyproj

        geodetic = grid.crs.geodetic_crs
        assert geodetic is not None
        x, y = pyproj.Transformer.from_crs(grid.crs, geodetic, always_xy=True).transform(x, y)
    return [[round(float(lon), 4), round(float(lat), 4)] for lon, lat in zip(x, y, strict=True)]


def _wet_share(archive: RadarArchive, frames: np.ndarray) -> float:
    """Of all valid pixels of some frames; NaN where there are none."""
    wet = archive.series("wet_share")[frames].astype(np.float64)
    valid = np.where(np.isnan(wet), 0, archive.series("valid_pixels")[frames])
    pixels = float(valid.sum())
    return float(np.sum(np.nan_to_num(wet) * valid)) / pixels if pixels else float("nan")


def _maximum(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else float("nan")
