"""Discrete colour scales shared by every picture, and fields turned into indexed PNG images.

Grey is no data, white is dry (or no difference, or improbable). Lightness falls steadily with the rain rate, so that
the order of the classes survives colour blindness and a grey printer. No plotting package is needed here.
"""

from __future__ import annotations

import base64
import io
import itertools
from dataclasses import dataclass

import numpy as np

NO_DATA = "#bdbdbd"


@dataclass(frozen=True)
class ColourScale:
    """Classes of a quantity and their colours.

    Attributes:
        title: The quantity with its unit, for a legend.
        bounds: Ascending; a value on a bound belongs to the class above it.
        colours: `#rrggbb` of the classes, one more than there are bounds.
    """

    title: str
    bounds: tuple[float, ...]
    colours: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.colours) != len(self.bounds) + 1:
            raise ValueError(f"{len(self.bounds)} bounds make {len(self.bounds) + 1} classes, not {len(self.colours)}")

    def classify(self, values: np.ndarray) -> np.ndarray:
        """Class of each value, uint8: 0 where NaN, 1 below the first bound, ... up to `len(colours)`."""
        values = np.asarray(values)
        # Compared in the data's own type, as thresholds are: float32 0.1 is not below 0.1.
        bounds = np.asarray(self.bounds, dtype=values.dtype if values.dtype.kind == "f" else np.float64)
        classes = (np.searchsorted(bounds, values, side="right") + 1).astype(np.uint8)
        classes[np.isnan(values)] = 0
        return classes

    @property
    def palette(self) -> np.ndarray:
        """(1 + classes, 3) uint8 colours, no data first: what `classify` points into."""
        return palette((NO_DATA, *self.colours))

    @property
    def labels(self) -> tuple[str, ...]:
        """What each class holds, in words: `< 0.1`, `0.1–0.2`, ..., `≥ 100`."""
        bounds = [f"{bound:g}" for bound in self.bounds]
        between = [f"{low}–{high}" for low, high in itertools.pairwise(bounds)]
        return (f"< {bounds[0]}", *between, f"≥ {bounds[-1]}")


RAIN = ColourScale(
    "rain rate [mm/h]",
    (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0),
    (
        "#ffffff",
        "#cef3fc",
        "#a2dff7",
        "#7ac4f3",
        "#61a5f0",
        "#6082e9",
        "#7457d1",
        "#892998",
        "#870149",
        "#670116",
        "#2c0805",
    ),
)
# Brown: too dry, blue: too wet.
DIFFERENCE = ColourScale(
    "forecast minus observed [mm/h]",
    (-10.0, -5.0, -2.0, -0.5, 0.5, 2.0, 5.0, 10.0),
    ("#5b2c0d", "#97571c", "#c69356", "#e8d1ac", "#ffffff", "#c3e2fe", "#70b1ed", "#3072c1", "#1b3a76"),
)
PROBABILITY = ColourScale(
    "probability [%]",
    (5.0, 20.0, 40.0, 60.0, 80.0, 95.0),
    ("#ffffff", "#f4f1c3", "#d8e57d", "#94c759", "#38a065", "#097176", "#113d70"),
)
# Indices into EVENT_COLOURS; no data is 0 as in the scales.
EVENT_LABELS = ("no data", "neither", "hit", "false alarm", "miss")
EVENT_COLOURS = (NO_DATA, "#ffffff", "#17406d", "#9cc9ee", "#e08214")


def classify_events(forecast: np.ndarray, observed: np.ndarray, threshold: float) -> np.ndarray:
    """Hit, false alarm, miss or neither at each pixel, uint8 indices into `EVENT_LABELS`; 0 where either is NaN."""
    bound = np.asarray(threshold, dtype=np.result_type(forecast, observed))
    warned, rained = forecast >= bound, observed >= bound
    classes = np.ones(np.shape(forecast), dtype=np.uint8)
    classes[warned & rained], classes[warned & ~rained], classes[~warned & rained] = 2, 3, 4
    classes[np.isnan(forecast) | np.isnan(observed)] = 0
    return classes


def palette(colours: tuple[str, ...]) -> np.ndarray:
    """(n, 3) uint8 of `#rrggbb` strings."""
    return np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in colours], dtype=np.uint8)


def shrink(field: np.ndarray, factor: int) -> np.ndarray:
    """Means of `factor` x `factor` blocks of the last two axes; NaN where less than half of a block is valid.

    A ragged edge makes smaller blocks of what is there. `factor` 1 returns the field itself.
    """
    if factor == 1:
        return field
    rows, columns = (np.arange(0, size, factor) for size in field.shape[-2:])
    valid = ~np.isnan(field)

    def block_sums(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(values, rows, axis=-2), columns, axis=-1)

    number = block_sums(valid.astype(np.float64))
    size = block_sums(np.ones(field.shape[-2:]))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = block_sums(np.where(valid, field, 0.0).astype(np.float64)) / number
    return np.where(2 * number >= size, mean, np.nan).astype(np.float32)


def shrink_factor(shape: tuple[int, ...], max_pixels: int) -> int:
    """The least factor that leaves at most `max_pixels` along the longer of the last two axes."""
    return max(1, -(-max(shape[-2:]) // max_pixels))


def indexed_png(classes: np.ndarray, colours: np.ndarray) -> bytes:
    """A palette PNG of (H, W) uint8 indices into (n, 3) uint8 colours; the same input gives the same bytes."""
    from PIL import Image

    rows, columns = classes.shape
    image = Image.frombytes("P", (columns, rows), np.ascontiguousarray(classes, dtype=np.uint8).tobytes())
    image.putpalette(colours.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", bits=4 if len(colours) <= 16 else 8, compress_level=6)
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """The image as a `data:` address, for a page that needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
