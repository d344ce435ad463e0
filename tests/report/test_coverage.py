"""The picture of an archive: gaps where they are, a mask, and a frame on any grid, a satellite's included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nowcast.data.archive import RadarArchive, open_archive
from nowcast.data.archive_writer import write_archive
from nowcast.data.grid import Grid
from nowcast.report.coverage import PARTIAL_COLOUR, PRESENT_COLOUR, archive_figure
from nowcast.report.graticule import graticule

START = np.datetime64("2018-06-01T23:00:00", "s")
SATELLITE = Grid.from_corner(
    -3_300_000.0, 4_600_000.0, 60_000.0, 60_000.0, (50, 110), "+proj=geos +h=35785831 +lon_0=0 +sweep=y +type=crs"
)


@pytest.fixture
def archive(tmp_path: Path) -> RadarArchive:
    """Eight slots over midnight: two missing, one partial; a disc that the satellite sees."""
    latitude, _ = SATELLITE.lat_lon()
    rain = np.where(np.isfinite(latitude), 0.0, np.nan).astype(np.float32) * np.ones((8, 1, 1), dtype=np.float32)
    rain[3, 30:40] = 2.0
    rain[6, 25:] = np.nan
    present = np.array([1, 1, 0, 1, 1, 0, 1, 1], dtype=bool)
    return open_archive(
        write_archive(
            tmp_path / "a.zarr", rain, first_time=START, step=np.timedelta64(900, "s"), grid=SATELLITE, present=present
        )
    )


def test_the_picture_shows_gaps_days_mask_and_the_wettest_frame(archive: RadarArchive) -> None:
    figure = archive_figure(archive)
    figure.draw_without_rendering()
    coverage, days, share, frame = figure.axes[:4]
    colours = [patch.get_facecolor()[:3] for patch in coverage.patches]
    of = [tuple(int(code[n : n + 2], 16) / 255 for n in (1, 3, 5)) for code in (PRESENT_COLOUR, PARTIAL_COLOUR)]
    assert [sum(np.allclose(colour, one) for colour in colours) for one in of] == [5, 1]
    assert [label.get_text() for label in days.get_xticklabels()] == ["2018-06-01", "2018-06-02"]
    mask = share.images[0].get_array()
    assert mask is not None and np.ma.getmaskarray(mask)[0, 0] and not np.ma.getmaskarray(mask)[40, 50]
    assert frame.get_title(loc="left").endswith(f"{START + 3 * np.timedelta64(900, 's')} UTC")
    labels = [label.get_window_extent() for label in coverage.get_xticklabels()]
    assert labels[0].x0 >= 0 and labels[-1].x1 <= figure.bbox.x1
    for axes in (share, frame):
        box = axes.get_position()
        assert box.width == pytest.approx(0.43, abs=0.01) and box.height > 0.1


def test_lines_that_leave_the_earth_at_the_edge_are_named_where_they_are_seen(archive: RadarArchive) -> None:
    """The western edge of the grid sees the Earth in its lower part alone."""
    named = [line for line in graticule(archive.grid) if line.at_km is not None]
    assert {line.edge for line in named} == {"bottom", "left"}
    assert all(np.isfinite(line.at_km) for line in named if line.at_km is not None)
