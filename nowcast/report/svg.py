"""Charts as inline SVG: small, themed by the page's style sheet, the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from markupsafe import Markup, escape

from nowcast.report.chart import STYLES, Axis, Chart, Line

WIDTH, HEIGHT = 320, 230
LEFT, RIGHT, TOP, BOTTOM = 42, 10, 24, 38
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def draw_svg(chart: Chart, *, width: int = WIDTH, height: int = HEIGHT) -> Markup:
    """An `<svg>` element of a chart; hovering a point shows its numbers."""
    panel = _Panel(chart, width, height)
    words = escape(chart.words or chart.title)
    head = (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{words}">'
        f'<text class="title" x="{LEFT}" y="14">{escape(chart.title)}</text>'
    )
    return Markup(head + "".join(panel.parts()) + "</svg>")


def swatch(style: int) -> Markup:
    """A short piece of a line for a legend."""
    marker = _marker(style, 17.0, 7.0)
    return Markup(
        f'<svg class="swatch" viewBox="0 0 34 14" aria-hidden="true">'
        f'<path class="line s{style}" d="M1 7H33"{_dash(style)}/>{marker}</svg>'
    )


def style_sheet() -> str:
    """CSS colours of the lines, for light and dark pages."""

    def rules(kind: str) -> str:
        return " ".join(f"--s{index}: {getattr(style, kind)};" for index, style in enumerate(STYLES))

    classes = " ".join(
        f".line.s{index} {{ stroke: var(--s{index}); }} "
        f".dot.s{index}, .bar.s{index}, .ribbon.s{index} {{ fill: var(--s{index}); }}"
        for index in range(len(STYLES))
    )
    return (
        f":root {{ {rules('light')} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {rules('dark')} }} }}\n"
        f"@media print {{ :root {{ {rules('light')} }} }}\n{classes}\n"
    )


class _Panel:
    def __init__(self, chart: Chart, width: int, height: int) -> None:
        self.chart = chart
        self.left, self.right, self.top, self.bottom = LEFT, width - RIGHT, TOP, height - BOTTOM

    def parts(self) -> Iterator[str]:
        yield from self._frame()
        for line in self.chart.lines:
            yield from self._ribbon(line)
        for line in self.chart.lines:
            yield from self._line(line)

    def _x(self, values: np.ndarray | float) -> np.ndarray:
        return self.left + self.chart.x.place(values) * (self.right - self.left)

    def _y(self, values: np.ndarray | float) -> np.ndarray:
        return self.bottom - self.chart.y.place(values) * (self.bottom - self.top)

    def _frame(self) -> Iterator[str]:
        for tick in self.chart.x.tick_values():
            across = _number(float(self._x(tick)))
            yield f'<path class="grid" d="M{across} {self.top}V{self.bottom}"/>'
            yield _text("tick", across, f"{self.bottom + 13}", _label(tick), "middle")
        for tick in self.chart.y.tick_values():
            down = float(self._y(tick))
            yield f'<path class="grid" d="M{self.left} {_number(down)}H{self.right}"/>'
            yield _text("tick", f"{self.left - 5}", _number(down + 4), _label(tick), "end")
        yield f'<path class="axis" d="M{self.left} {self.top}V{self.bottom}H{self.right}"/>'
        middle = (self.left + self.right) / 2
        yield _text("label", _number(middle), f"{self.bottom + 29}", self.chart.x.label, "middle")
        yield (
            f'<text class="label" transform="translate(10 {_number((self.top + self.bottom) / 2)}) rotate(-90)" '
            f'text-anchor="middle">{escape(self.chart.y.label)}</text>'
        )

    def _ribbon(self, line: Line) -> Iterator[str]:
        if line.low is None or line.high is None or line.style is None:
            return
        low, high = (_inside(bound, self.chart.y) for bound in (line.low, line.high))
        for run in _runs(~np.isnan(low) & ~np.isnan(high) & ~np.isnan(line.x)):
            x = self._x(line.x[run])
            there = _points(x, self._y(high[run]))
            back = _points(x[::-1], self._y(low[run])[::-1])
            yield f'<path class="ribbon s{line.style}" d="M{there}L{back}Z"/>'

    def _line(self, line: Line) -> Iterator[str]:
        x, y = self._x(line.x), self._y(line.y)
        if line.bars:
            yield from self._bars(line, x, y)
            return
        seen = self._visible(x, y)
        kind = "guide" if line.style is None else f"line s{line.style}"
        if line.joined:
            for run in _runs(seen):
                yield f'<path class="{kind}"{_dash(line.style)} d="M{_points(x[run], y[run])}"/>'
        if line.style is not None:
            for index in np.flatnonzero(seen).tolist():
                numbers = f"{line.label}: {_label(line.x[index])}, {line.y[index]:.3g}"
                yield _marker(line.style, float(x[index]), float(y[index]), numbers)
        for index, note in enumerate(line.notes):
            if note and seen[index]:
                at = min(float(x[index]) + 4, self.right - 2)
                anchor = "end" if at > self.right - 24 else "start"
                yield _text("note", _number(at), _number(float(y[index]) - 4), note, anchor)

    def _bars(self, line: Line, x: np.ndarray, y: np.ndarray) -> Iterator[str]:
        width = 0.7 * float(np.diff(x).min()) if x.size > 1 else 20.0
        for index in np.flatnonzero(np.isfinite(y) & (y < self.bottom)).tolist():
            top = max(float(y[index]), self.top)
            numbers = f"{line.label}: {_label(line.x[index])}, {line.y[index]:.3g}"
            place = f'x="{_number(float(x[index]) - width / 2)}" y="{_number(top)}"'
            size = f'width="{_number(width)}" height="{_number(self.bottom - top)}"'
            yield f'<rect class="bar s{line.style}" {place} {size}><title>{escape(numbers)}</title></rect>'

    def _visible(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            inside_x = (x >= self.left - 0.5) & (x <= self.right + 0.5)
            return np.asarray(inside_x & (y >= self.top - 0.5) & (y <= self.bottom + 0.5))


def _inside(values: np.ndarray, axis: Axis) -> np.ndarray:
    """Values drawn to the edge of the axis where they go beyond; NaN stays."""
    return np.asarray(np.clip(values, axis.low, axis.high))


def _runs(mask: np.ndarray) -> Iterator[slice]:
    """Runs of two or more True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    for start, stop in pairwise(edges):
        if mask[start] and stop - start > 1:
            yield slice(start, stop)


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return "L".join(f"{_number(float(a))} {_number(float(b))}" for a, b in zip(x, y, strict=True))


def _text(kind: str, x: str, y: str, words: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _label(value: float) -> str:
    if value != 0 and not 0.0099 < abs(value) < 1e5:
        mantissa, exponent = f"{value:.0e}".split("e")
        power = "10" + str(int(exponent)).translate(SUPERSCRIPTS)
        return power if mantissa == "1" else f"{mantissa}·{power}"
    return f"{value:.4g}".replace("-", "−")


def _dash(style: int | None) -> str:
    dash = () if style is None else STYLES[style].dash
    return f' stroke-dasharray="{" ".join(map(str, dash))}"' if dash else ""


def _marker(style: int, x: float, y: float, numbers: str = "") -> str:
    shapes = {
        "circle": "m-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0",
        "square": "m-2.3-2.3h4.6v4.6h-4.6z",
        "triangle": "m0-3l3 5.2h-6z",
        "diamond": "m0-3.2l3.2 3.2l-3.2 3.2l-3.2-3.2z",
    }
    shape = shapes.get(STYLES[style].marker)
    if shape is None:
        return ""
    title = f"<title>{escape(numbers)}</title>" if numbers else ""
    path = f'class="dot s{style}" d="M{_number(x)} {_number(y)}{shape}"'
    return f"<path {path}>{title}</path>" if title else f"<path {path}/>"
