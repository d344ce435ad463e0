"""A chart as data: lines with ribbons and guides on two axes. `svg` draws it for the page, `figures` for a picture.

Both draw the same numbers; what is on a chart is decided in `nowcast.report.skill_charts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

NICE_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Style:
    """How a line looks: colour on white paper and on a dark page, dashes and marker; never the colour alone."""

    light: str
    dark: str
    dash: tuple[int, ...]
    marker: str


# Blue, vermilion and grey first: apart for every kind of colour vision, and in lightness.
STYLES = (
    Style("#0b5cad", "#7ab8f5", (), "circle"),
    Style("#6b7580", "#a3adb8", (6, 3), "square"),
    Style("#b9480a", "#f59a5a", (2, 2), "triangle"),
    Style("#00795c", "#4fc79f", (), "diamond"),
    Style("#9a3a7d", "#e38fc7", (8, 3, 2, 3), "circle"),
    Style("#7a6000", "#d9bd3d", (4, 2), "diamond"),
    Style("#1c2229", "#e6eaee", (), "none"),
)
OBSERVED = len(STYLES) - 1


@dataclass(frozen=True, eq=False)
class Line:
    """Points joined by a line; NaN breaks it.

    Attributes:
        label: For the legend; empty for none.
        x, y: (n,).
        style: Index into `STYLES`; None is a thin guide in the ink of the axes.
        low, high: (n,) of a ribbon, or None.
        notes: (n,) words beside the points; empty for none.
        joined: Whether a line joins the points.
        bars: Columns from the foot of the axis to y in place of line and markers.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    style: int | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    joined: bool = True
    bars: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis: its words and range.

    Attributes:
        label: Quantity and unit.
        low, high: Range.
        log: Logarithmic.
        ticks: Places; chosen at round numbers where None.
    """

    label: str
    low: float
    high: float
    log: bool = False
    ticks: tuple[float, ...] | None = None

    def place(self, values: np.ndarray | float) -> np.ndarray:
        """0 at `low` ... 1 at `high`; NaN where a logarithm has no value."""
        numbers = np.asarray(values, dtype=np.float64)
        if not self.log:
            return np.asarray((numbers - self.low) / (self.high - self.low))
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(numbers > 0, np.log10(numbers), np.nan)
        return np.asarray((logs - np.log10(self.low)) / (np.log10(self.high) - np.log10(self.low)))

    def tick_values(self) -> tuple[float, ...]:
        if self.ticks is not None:
            least, most = sorted((self.low, self.high))
            return tuple(tick for tick in self.ticks if least <= tick <= most)
        return _log_ticks(self.low, self.high) if self.log else nice_ticks(self.low, self.high)


@dataclass(frozen=True, eq=False)
class Chart:
    """Lines on two axes.

    Attributes:
        title: What the panel shows, for example its threshold.
        x, y: Axes.
        lines: Guides first, so that they lie below.
        words: A sentence for who cannot see it.
    """

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = field(default_factory=tuple)
    words: str = ""


def nice_ticks(low: float, high: float, number: int = 5) -> tuple[float, ...]:
    """Round numbers from `low` to `high`, about `number` of them."""
    if not high > low:
        return (low,)
    rough = (high - low) / number
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(power * next(nice for nice in NICE_STEPS if nice * power >= 0.999 * rough))
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    return tuple(float(np.round(index * step, 12)) + 0.0 for index in np.arange(first, last + 1))


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    """1, 2, 5 times powers of ten, or powers alone over a wide range."""
    powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    factors = (1, 2, 5) if np.log10(high / low) <= 2.5 else (1,)
    values = [float(factor * 10.0**power) for power in powers for factor in factors]
    return tuple(value for value in values if 0.999 * low <= value <= 1.001 * high)


def step_range(values: Sequence[np.ndarray], *, least: float = 0.0) -> tuple[float, float]:
    """A range that holds all finite values, from and to round numbers; at least 0 to `least`."""
    finite = np.concatenate([np.ravel(value)[np.isfinite(np.ravel(value))] for value in values] or [np.zeros(0)])
    low, high = float(min(finite.min(initial=0.0), 0.0)), float(max(finite.max(initial=least), least))
    if high <= low:
        high = low + 1.0
    ticks = nice_ticks(low, high)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
    return float(np.floor(low / step + 1e-9) * step), float(np.ceil(high / step - 1e-9) * step)
