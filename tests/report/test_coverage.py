"""The picture of an archive: each kind of slot has its colour, and they stand where they are in time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from nowcast.data.archive import open_archive
from nowcast.data.archive_writer import ArchiveWriter
from nowcast.data.encoded_frame import encode_frame
from nowcast.data.grid import Grid
from nowcast.data.inspection import inspect_archive
from nowcast.report.coverage import BAD_COLOUR, PARTIAL_COLOUR, PRESENT_COLOUR, archive_figure

START, STEP = np.datetime64("2024-05-01T12:00", "s"), np.timedelta64(300, "s")


def gappy(path: Path) -> Path:
    """Twelve slots: 2 partial, 5 bad, 7 and 8 missing, the others whole."""
    grid = Grid.from_corner(0.0, 20_000.0, 1000.0, 1000.0, (20, 30), "EPSG:3067")
    with ArchiveWriter.create(path, grid, first_time=START, step=STEP) as writer:
        for slot in set(range(12)) - {5, 7, 8}:
            field = np.full((20, 30), 1.0, dtype=np.float32)
            field[: 4 if slot == 2 else 0] = np.nan
            writer.put(encode_frame(START + slot * STEP, field))
        writer.commit()
        writer.mark_bad(START + 5 * STEP)
    return path


def test_the_strip_of_time_has_a_colour_for_each_kind_of_slot(tmp_path: Path) -> None:
    figure = archive_figure(open_archive(gappy(tmp_path / "a.zarr")))
    strip = figure.axes[0]
    drawn = {
        (to_hex(bar.get_facecolor()), round(bar.get_x()))
        for bar in strip.patches
        if isinstance(bar, Rectangle) and bar.get_height() > 0
    }
    whole = {(PRESENT_COLOUR, slot) for slot in (0, 1, 3, 4, 6, 9, 10, 11)}
    assert drawn == whole | {(PARTIAL_COLOUR, 2), (BAD_COLOUR, 5)}
    said = [text.get_text() for text in strip.get_legend().get_texts()]
    assert said == ["whole", "partial", "bad: a file came and was of no use", "missing"]


def test_the_times_of_partial_and_bad_slots_are_told(tmp_path: Path) -> None:
    said = inspect_archive(open_archive(gappy(tmp_path / "a.zarr")), window_length=2)
    assert said["partial"] == [{"time": "2024-05-01T12:10:00", "valid_share": 0.8}]
    assert said["bad"] == ["2024-05-01T12:25:00"]
    assert [(gap["frames"], gap["bad"]) for gap in said["gaps"]["longest"]] == [(2, 0), (1, 1)]


def test_the_wet_share_counts_pixels_and_not_frames(tmp_path: Path) -> None:
    grid = Grid.from_corner(0.0, 20_000.0, 1000.0, 1000.0, (20, 30), "EPSG:3067")
    with ArchiveWriter.create(tmp_path / "a.zarr", grid, first_time=START, step=STEP) as writer:
        half = np.full((20, 30), np.nan, dtype=np.float32)
        half[:10] = 1.0
        writer.put(encode_frame(START, half))
        writer.put(encode_frame(START + STEP, np.zeros((20, 30), dtype=np.float32)))
    said = inspect_archive(open_archive(tmp_path / "a.zarr"), window_length=2)
    assert said["rain"]["wet_share"] == said["rain"]["days"][0]["wet_share"] == 1 / 3
