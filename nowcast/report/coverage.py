"""An archive in one picture: coverage in time, rain by day, where it is valid, and one frame."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nowcast.data.archive import RadarArchive
from nowcast.data.grid import Grid
from nowcast.data.inspection import days_of
from nowcast.report.colours import NO_DATA
from nowcast.report.plot import FAINT, INK, draw_frame, draw_legend

WIDTH, HEIGHT = 10.0, 9.2
PRESENT_COLOUR, PARTIAL_COLOUR, BAR_COLOUR = "#3072c1", "#e08214", "#61a5f0"
# Columns of the coverage strip: what a page shows.
STRIP_COLUMNS = 600


def archive_figure(archive: RadarArchive) -> Figure:
    """Coverage, rain share by day, valid share of each pixel, and the frame with the most rain."""
    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor="white")
    synthetic = " (synthetic)" if archive.is_synthetic else ""
    figure.text(0.06, 0.975, f"{archive.path.name}{synthetic}", fontsize=13, color=INK, va="top")
    figure.text(0.06, 0.945, archive.describe(), fontsize=8.5, color=INK, va="top")
    _draw_coverage(figure.add_axes((0.08, 0.855, 0.88, 0.04)), archive)
    _draw_days(figure.add_axes((0.08, 0.635, 0.88, 0.145)), archive)
    _draw_valid_share(figure.add_axes((0.06, 0.12, 0.43, 0.43)), archive)
    _draw_wettest(figure.add_axes((0.53, 0.12, 0.43, 0.43)), archive)
    draw_legend(figure)
    return figure


def _draw_coverage(axes: Axes, archive: RadarArchive) -> None:
    """A strip of time: the share of frames that are present, dark; gaps stay grey."""
    number = archive.times.size
    edges = np.unique(np.linspace(0, number, min(STRIP_COLUMNS, number) + 1).astype(int))
    present = np.add.reduceat(archive.present.astype(float), edges[:-1]) / np.diff(edges)
    partial = np.add.reduceat((archive.status == 2).astype(float), edges[:-1]) > 0
    for left, right, share, is_partial in zip(edges[:-1], edges[1:], present, partial, strict=True):
        axes.axvspan(left, right, color=NO_DATA, lw=0)
        if share > 0:
            colour = PARTIAL_COLOUR if is_partial else PRESENT_COLOUR
            axes.axvspan(left, right, color=colour, lw=0, ymax=max(share, 0.05))
    axes.set(xlim=(0, number), ylim=(0, 1), yticks=[])
    _time_ticks(axes, archive)
    frames = f"{int(archive.present.sum())} of {number} frames"
    axes.set_title(f"{frames}; grey: gap, orange: partial", fontsize=9, color=INK, loc="left")


def _draw_days(axes: Axes, archive: RadarArchive) -> None:
    days = days_of(archive)
    share = np.array([day.wet_share for day in days])
    axes.bar(np.arange(len(days)), np.nan_to_num(share) * 100, color=BAR_COLOUR, width=0.8)
    dry = [index for index, value in enumerate(share) if np.isnan(value)]
    axes.plot(dry, np.zeros(len(dry)), "x", color=FAINT, clip_on=False)
    ticks = np.unique(np.linspace(0, len(days) - 1, min(8, len(days))).astype(int))
    axes.set_xticks(ticks, [days[tick].date for tick in ticks], fontsize=7.5)
    axes.tick_params(axis="y", labelsize=7.5)
    axes.set_xlim(-0.6, max(len(days), 3) - 0.4)
    axes.set_title("wet share of valid pixels by day [%], 0.1 mm/h and more", fontsize=9, color=INK, loc="left")


def _draw_valid_share(axes: Axes, archive: RadarArchive) -> None:
    share = archive.valid_share()
    step = max(1, -(-max(share.shape) // 700))
    image = axes.imshow(share[::step, ::step], vmin=0, vmax=1, cmap="cividis", interpolation="nearest")
    _plain(axes)
    axes.set_title("share of frames in which a pixel is valid", fontsize=9, color=INK, loc="left")
    bar = axes.figure.colorbar(image, ax=axes, orientation="horizontal", fraction=0.04, pad=0.03)
    bar.ax.tick_params(labelsize=7.5)


def _draw_wettest(axes: Axes, archive: RadarArchive) -> None:
    wet = np.where(archive.present, np.nan_to_num(archive.series("wet_share"), nan=-1.0), -1.0)
    index = int(np.argmax(wet))
    grid: Grid = archive.grid
    if not archive.present[index]:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no frame", ha="center", transform=axes.transAxes)
        return
    draw_frame(axes, archive.rain_rate(index, index + 1)[0], grid, width=4.3)
    axes.set_title(f"the frame with the most rain, {archive.times[index]} UTC", fontsize=9, color=INK, loc="left")


def _time_ticks(axes: Axes, archive: RadarArchive) -> None:
    number = archive.times.size
    ticks = np.unique(np.linspace(0, number - 1, min(6, number)).astype(int))
    axes.set_xticks(ticks, [str(archive.times[tick].astype("datetime64[m]")) for tick in ticks], fontsize=7.5)


def _plain(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=FAINT, linewidth=0.7)
