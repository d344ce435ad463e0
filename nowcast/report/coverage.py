"""An archive in one picture: coverage in time, rain by day, where it is valid, and one frame."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch

from nowcast.data.archive import BAD, PARTIAL, RadarArchive
from nowcast.data.grid import Grid
from nowcast.data.inspection import days_of
from nowcast.report.colours import NO_DATA
from nowcast.report.graticule import extent_km
from nowcast.report.plot import FAINT, INK, draw_frame, draw_legend

# Inches; the maps take what their grid needs of the height, up to this.
WIDTH, HEAD, FOOT, MAP_WIDTH, TALLEST_MAP = 10.0, 4.15, 1.0, 4.3, 4.3
PRESENT_COLOUR, PARTIAL_COLOUR, BAD_COLOUR, BAR_COLOUR = "#3072c1", "#e08214", "#b2182b", "#61a5f0"
# A frame in a column of many is drawn as high as this, or it is not seen.
LEAST_SHARE = 0.15
# Of the valid share: pixels that are never valid are grey as everywhere, those that always are nearly white.
SHARE_COLOURS = LinearSegmentedColormap.from_list("valid share", ["#7f2704", "#e08214", "#fee8c8", "#f2f7fc"])
# Columns of the coverage strip: what a page shows.
STRIP_COLUMNS = 600
FEWEST_BARS = 8


def archive_figure(archive: RadarArchive) -> Figure:
    """Coverage, rain share by day, valid share of each pixel, and the frame with the most rain."""
    height_km, width_km = extent_km(archive.grid)
    map_height = min(TALLEST_MAP, MAP_WIDTH * height_km / width_km)
    height = HEAD + map_height + FOOT
    figure = Figure(figsize=(WIDTH, height), facecolor="white")

    def place(left: float, top: float, width: float, tall: float) -> Axes:
        return figure.add_axes((left / WIDTH, 1 - (top + tall) / height, width / WIDTH, tall / height))

    synthetic = " (synthetic)" if archive.is_synthetic else ""
    figure.text(0.06, 1 - 0.23 / height, f"{archive.path.name}{synthetic}", fontsize=13, color=INK, va="top")
    figure.text(0.06, 1 - 0.5 / height, archive.describe(), fontsize=8.5, color=INK, va="top")
    _draw_coverage(place(0.8, 0.97, 8.8, 0.37), archive)
    _draw_days(place(0.8, 2.02, 8.8, 1.33), archive)
    share = _draw_valid_share(place(0.6, HEAD, MAP_WIDTH, map_height), archive)
    _draw_wettest(place(5.3, HEAD, MAP_WIDTH, map_height), archive)
    draw_legend(figure, left=5.3)
    bar = figure.colorbar(share, cax=place(0.6, height - 0.5, 3.1, 0.14), orientation="horizontal")
    bar.ax.tick_params(labelsize=7.5)
    bar.ax.set_title("share of frames", fontsize=7.5, color=INK, loc="left", pad=3)
    bar.outline.set(color=FAINT, linewidth=0.7)  # type: ignore[operator]
    return figure


def _draw_coverage(axes: Axes, archive: RadarArchive) -> None:
    """A strip of time: in each column the shares of whole, partial and bad frames from below; gaps stay grey."""
    number = archive.times.size
    edges = np.unique(np.linspace(0, number, min(STRIP_COLUMNS, number) + 1).astype(int))
    kinds = {
        "whole": (PRESENT_COLOUR, archive.present & (archive.status != PARTIAL)),
        "partial": (PARTIAL_COLOUR, archive.status == PARTIAL),
        "bad": (BAD_COLOUR, archive.status == BAD),
    }
    axes.set_facecolor(NO_DATA)
    bottom = np.zeros(edges.size - 1)
    for colour, frames in kinds.values():
        share = np.add.reduceat(frames.astype(float), edges[:-1]) / np.diff(edges)
        share = np.where(share > 0, np.maximum(share, LEAST_SHARE), 0.0)
        # What does not fit above is drawn over what is below it.
        start = np.minimum(bottom, 1 - share)
        axes.bar(edges[:-1], share, np.diff(edges), start, align="edge", color=colour, lw=0)
        bottom = start + share
    axes.set(xlim=(0, number), ylim=(0, 1), yticks=[])
    _time_ticks(axes, archive)
    axes.set_title(f"{int(archive.present.sum())} of {number} frames", fontsize=9, color=INK, loc="left")
    words = {"whole": "whole", "partial": "partial", "bad": "bad: a file came and was of no use"}
    swatches = [Patch(color=colour, label=words[name]) for name, (colour, frames) in kinds.items() if frames.any()]
    if archive.status.size > sum(int(frames.sum()) for _, frames in kinds.values()):
        swatches.append(Patch(color=NO_DATA, label="missing"))
    axes.legend(
        handles=swatches,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=4,
        frameon=False,
        fontsize=7.5,
        handlelength=1,
        handleheight=1,
        borderaxespad=0.2,
        columnspacing=1.2,
        labelcolor=INK,
    )


def _draw_days(axes: Axes, archive: RadarArchive) -> None:
    days = days_of(archive)
    share = np.array([day.wet_share for day in days])
    axes.bar(np.arange(len(days)), np.nan_to_num(share) * 100, color=BAR_COLOUR, width=0.8)
    dry = [index for index, value in enumerate(share) if np.isnan(value)]
    axes.plot(dry, np.zeros(len(dry)), "x", color=FAINT, clip_on=False)
    ticks = np.unique(np.linspace(0, len(days) - 1, min(8, len(days))).astype(int))
    axes.set_xticks(ticks, [days[tick].date for tick in ticks], fontsize=7.5)
    axes.tick_params(axis="y", labelsize=7.5)
    # Few days stand in the middle and do not grow to walls.
    room = max(len(days), FEWEST_BARS) / 2 + 0.1
    axes.set_xlim((len(days) - 1) / 2 - room, (len(days) - 1) / 2 + room)
    axes.set_title("wet share of valid pixels by day [%], 0.1 mm/h and more", fontsize=9, color=INK, loc="left")


def _draw_valid_share(axes: Axes, archive: RadarArchive) -> AxesImage:
    """The mask: pixels that are always measured, never, or in a share of the frames."""
    share = archive.valid_share()
    step = max(1, -(-max(share.shape) // 700))
    height_km, width_km = extent_km(archive.grid)
    axes.set_facecolor(NO_DATA)
    image = axes.imshow(
        np.ma.masked_less_equal(np.nan_to_num(share[::step, ::step]), 0),
        vmin=0,
        vmax=1,
        cmap=SHARE_COLOURS,
        interpolation="nearest",
        extent=(0, width_km, 0, height_km),
    )
    _plain(axes)
    axes.set_anchor("N")
    axes.set_title("share of frames in which a pixel is valid; grey: never", fontsize=9, color=INK, loc="left")
    return image


def _draw_wettest(axes: Axes, archive: RadarArchive) -> None:
    wet = np.where(archive.present, np.nan_to_num(archive.series("wet_share"), nan=-1.0), -1.0)
    index = int(np.argmax(wet))
    grid: Grid = archive.grid
    if not archive.present[index]:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no frame", ha="center", transform=axes.transAxes)
        return
    draw_frame(axes, archive.rain_rate(index, index + 1)[0], grid, width=MAP_WIDTH)
    axes.set_anchor("N")
    axes.set_title(f"the frame with the most rain, {archive.times[index]} UTC", fontsize=9, color=INK, loc="left")


def _time_ticks(axes: Axes, archive: RadarArchive) -> None:
    number = archive.times.size
    ticks = np.unique(np.linspace(0, number - 1, min(6, number)).astype(int))
    axes.set_xticks(ticks, [str(archive.times[tick].astype("datetime64[m]")) for tick in ticks], fontsize=7.5)
    if ticks.size > 1:
        axes.get_xticklabels()[0].set_horizontalalignment("left")
        axes.get_xticklabels()[-1].set_horizontalalignment("right")


def _plain(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=FAINT, linewidth=0.7)
