"""Charts as matplotlib figures, for PNG, PDF and SVG files. The numbers on them are those of the report's page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from nowcast.report.chart import STYLES, Chart, Line
from nowcast.report.plot import FAINT, INK

MARKERS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D", "none": ""}
PANEL = (3.1, 2.4)


def charts_figure(charts: Sequence[Chart], *, title: str, subtitle: str = "", columns: int = 3) -> Figure:
    """Charts side by side under one title, with one legend."""
    columns = min(columns, len(charts))
    rows = -(-len(charts) // columns)
    width, height = columns * PANEL[0] + 0.2, rows * PANEL[1] + 0.9
    figure = Figure(figsize=(width, height))
    for index, chart in enumerate(charts):
        row, column = divmod(index, columns)
        left, bottom = column * PANEL[0] + 0.62, height - 0.5 - (row + 1) * PANEL[1] + 0.48
        axes = figure.add_axes((left / width, bottom / height, (PANEL[0] - 0.75) / width, (PANEL[1] - 0.85) / height))
        draw_chart(axes, chart)
    figure.text(0.15 / width, 1 - 0.1 / height, title, fontsize=11, fontweight="bold", color=INK, va="top")
    figure.text(0.15 / width, 1 - 0.36 / height, subtitle, fontsize=8, color=INK, va="top")
    handles = _handles(figure)
    if handles:
        figure.legend(
            list(handles.values()), list(handles), loc="lower left", ncols=len(handles), frameon=False, fontsize=8
        )
    return figure


def draw_chart(axes: Axes, chart: Chart) -> None:
    """Draw one chart into axes."""
    for axis, set_limits, scale, which in (
        (chart.x, axes.set_xlim, axes.set_xscale, axes.xaxis),
        (chart.y, axes.set_ylim, axes.set_yscale, axes.yaxis),
    ):
        if axis.log:
            scale("log")
        set_limits(axis.low, axis.high)
        which.set_major_locator(FixedLocator(list(axis.tick_values())))
        which.set_minor_locator(NullLocator())
        which.set_minor_formatter(NullFormatter())
        if axis.log and axis.ticks is not None:
            which.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(chart.x.label, fontsize=8, color=INK, labelpad=2)
    axes.set_ylabel(chart.y.label, fontsize=8, color=INK, labelpad=2)
    axes.set_title(chart.title, fontsize=9, color=INK, loc="left", pad=4)
    axes.tick_params(labelsize=7, color=FAINT, labelcolor=INK, length=2.5)
    axes.grid(True, color="#dde2e7", linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=FAINT)
    for line in chart.lines:
        _draw_line(axes, line)


def _draw_line(axes: Axes, line: Line) -> None:
    if line.style is None:
        axes.plot(line.x, line.y, color=FAINT, linewidth=0.8, alpha=0.7)
    else:
        style = STYLES[line.style]
        if line.bars:
            foot = axes.get_ylim()[0]
            width = 0.7 * float(np.diff(line.x).min()) if line.x.size > 1 else 0.7
            axes.bar(line.x, line.y - foot, width, bottom=foot, color=style.light, alpha=0.75, label=line.label)
            return
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=style.light, alpha=0.18, linewidth=0)
        axes.plot(
            line.x,
            line.y,
            color=style.light,
            linewidth=1.5,
            linestyle=((0, tuple(np.divide(style.dash, 1.5))) if style.dash else "solid") if line.joined else "none",
            marker=MARKERS[style.marker],
            markersize=3,
            label=line.label,
        )
    for x, y, note in zip(line.x, line.y, line.notes, strict=False):
        if note and np.isfinite(y):
            axes.annotate(
                note, (x, y), xytext=(2, 2), textcoords="offset points", fontsize=6.5, color=INK, annotation_clip=True
            )


def _handles(figure: Figure) -> dict[str, Artist]:
    """What was drawn for each name, once."""
    found: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return found
