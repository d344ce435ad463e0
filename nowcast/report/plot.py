"""Pictures of rain: one frame on its grid, a sequence by lead time, an animation.

Figures are made without pyplot, so nothing global is touched. Skill figures are in `nowcast.report.figures`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from nowcast.data.grid import Grid
from nowcast.errors import ConfigError, MissingPackageError
from nowcast.report.colours import NO_DATA, RAIN, ColourScale, shrink, shrink_factor
from nowcast.report.files import draft
from nowcast.report.graticule import extent_km, graticule, scale_bar_km

INK, FAINT = "#222222", "#8a8a8a"
DPI = 110
IMAGE_FORMATS = (".png", ".pdf", ".svg")

# Inches around and between the panels of a figure.
TOP, BOTTOM, LEFT, RIGHT, GAP, LABEL = 0.58, 0.78, 0.42, 0.15, 0.08, 0.24
LEGEND, MINIMUM_WIDTH = 0.55, 4.6


def frame_figure(rain_rate: np.ndarray, grid: Grid, *, title: str, subtitle: str = "", width: float = 6.5) -> Figure:
    """One (H, W) field of rain rate [mm/h] on its grid, with graticule, km scale and legend.

    Args:
        title: First line: what it is and its time.
        subtitle: Second line, smaller.
        width: Width of the map in inches; a field of more pixels than that shows is drawn as block means.
    """
    figure, axes = _panels(1, 1, _aspect(grid), width, labels=False)
    _head(figure, title, _joined(subtitle, _shrunk_note(grid, width)))
    draw_frame(axes[0, 0], rain_rate, grid, width=width)
    draw_legend(figure)
    return figure


def sequence_figure(
    rows: Mapping[str, np.ndarray],
    grid: Grid,
    labels: Sequence[str],
    *,
    title: str,
    subtitle: str = "",
    width: float = 2.1,
) -> Figure:
    """Rows of frames, for example observed above forecast, one column a lead time.

    Args:
        rows: Name of the row -> (L, H, W) rain rate [mm/h]; all NaN is drawn as no data.
        labels: Over each of the L columns.
    """
    figure, axes = _panels(len(rows), len(labels), _aspect(grid), width, labels=True)
    _head(figure, title, _joined(subtitle, _shrunk_note(grid, width)))
    for row, (name, frames) in enumerate(rows.items()):
        axes[row, 0].set_ylabel(name, fontsize=9, color=INK, labelpad=4)
        for column, frame in enumerate(frames):
            draw_frame(axes[row, column], frame, grid, width=width, graticule=False, scale=row == column == 0)
            if row == 0:
                axes[row, column].set_title(labels[column], fontsize=9, color=INK, pad=4)
    draw_legend(figure)
    return figure


def draw_frame(
    axes: Axes,
    rain_rate: np.ndarray,
    grid: Grid,
    *,
    width: float,
    graticule: bool = True,
    names: bool = True,
    scale: bool = True,
) -> Any:
    """Draw one field into axes `width` inches wide, in km from the south-west corner; the image is returned.

    `graticule` draws meridians and parallels, `names` writes their degrees at the edge, `scale` draws the km bar.
    """
    height_km, width_km = extent_km(grid)
    image = axes.imshow(
        frame_colours(rain_rate, width), extent=(0, width_km, 0, height_km), interpolation="nearest", zorder=1
    )
    axes.set(xticks=[], yticks=[], xlim=(0, width_km), ylim=(0, height_km))
    for spine in axes.spines.values():
        spine.set(color=FAINT, linewidth=0.7)
    if graticule:
        _draw_graticule(axes, grid, names=names)
    if scale:
        _draw_scale(axes, width_km, height_km)
    return image


def frame_colours(rain_rate: np.ndarray, width: float) -> np.ndarray:
    """(h, w, 3) uint8 picture of a field, as block means where it has more pixels than `width` inches show."""
    small = shrink(np.asarray(rain_rate), shrink_factor(rain_rate.shape, int(width * DPI)))
    return np.asarray(RAIN.palette[RAIN.classify(small)])


def draw_legend(figure: Figure, scale: ColourScale = RAIN, *, left: float = LEFT) -> None:
    """A row of class colours with their bounds along the foot, from `left` [inches], and a box for no data."""
    width, height = figure.get_size_inches()
    box_width = min(0.42, (width - left - RIGHT - 0.75) / len(scale.colours))
    axes = figure.add_axes((0.0, 0.0, 1.0, LEGEND / height), frameon=False)
    axes.set(xlim=(0, width), ylim=(0, LEGEND), xticks=[], yticks=[])
    size = 7.5 if box_width > 0.3 else 6.0
    start = left
    for index, colour in enumerate(scale.colours):
        axes.add_patch(
            Rectangle((start + index * box_width, 0.36), box_width, 0.14, facecolor=colour, edgecolor=FAINT, lw=0.5)
        )
    for index, bound in enumerate(scale.bounds):
        axes.text(start + (index + 1) * box_width, 0.32, f"{bound:g}", ha="center", va="top", fontsize=size, color=INK)
    axes.text(start, 0.03, scale.title, ha="left", va="bottom", fontsize=7.5, color=INK)
    end = start + len(scale.colours) * box_width + 0.12
    axes.add_patch(Rectangle((end, 0.36), 0.2, 0.14, facecolor=NO_DATA, edgecolor=FAINT, lw=0.5))
    axes.text(end + 0.1, 0.32, "no data", ha="center", va="top", fontsize=size, color=INK)


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as .png, .pdf or .svg, atomically; the same figure gives the same bytes.

    Raises:
        ConfigError: Another ending.
    """
    path = Path(path)
    if path.suffix.lower() not in IMAGE_FORMATS:
        raise ConfigError(f"{path}: pictures are written as {', '.join(IMAGE_FORMATS)}", "choose one of these endings")
    metadata = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    with draft(path) as place:
        figure.savefig(place, dpi=DPI, facecolor="white", metadata=metadata[path.suffix.lower()])
    return path


def animate(
    panels: Mapping[str, np.ndarray],
    grid: Grid,
    labels: Sequence[str],
    path: str | Path,
    *,
    title: str,
    frames_per_second: float = 4.0,
    width: float = 4.2,
) -> Path:
    """Write frames as a moving picture: .gif, or .mp4 with the `movie` extra; atomically.

    Args:
        panels: Name -> (T, H, W) rain rate [mm/h], side by side.
        labels: Time of each of the T frames.
        frames_per_second: How fast; a GIF rests a second on its last frame.

    Raises:
        ConfigError: Another ending.
        MissingPackageError: MP4 without imageio-ffmpeg.
    """
    path = Path(path)
    writers = {".gif": _write_gif, ".mp4": _write_mp4}
    if path.suffix.lower() not in writers:
        raise ConfigError(f"{path}: moving pictures are written as .gif or .mp4", "choose one of these endings")
    pictures = _render(panels, grid, labels, title, width)
    with draft(path) as place:
        writers[path.suffix.lower()](pictures, place, frames_per_second)
    return path


def _render(
    panels: Mapping[str, np.ndarray], grid: Grid, labels: Sequence[str], title: str, width: float
) -> Iterator[np.ndarray]:
    """(h, w, 3) uint8 pictures, one a time, with even sides."""
    figure, axes = _panels(1, len(panels), _aspect(grid), width, labels=True)
    _head(figure, title, "")
    canvas = FigureCanvasAgg(figure)
    images = []
    for column, (name, frames) in enumerate(panels.items()):
        images.append(draw_frame(axes[0, column], frames[0], grid, width=width, names=column == 0))
        axes[0, column].set_title(name, fontsize=9, color=INK, pad=4)
    draw_legend(figure)
    inches_wide, inches_high = figure.get_size_inches()
    stamp = figure.text(LEFT / inches_wide, 1 - 0.36 / inches_high, "", fontsize=9, color=INK, va="top")
    for index, label in enumerate(labels):
        for image, frames in zip(images, panels.values(), strict=True):
            image.set_data(frame_colours(frames[index], width))
        stamp.set_text(label)
        canvas.draw()
        picture = np.asarray(canvas.buffer_rgba())[..., :3]
        # A video codec wants even sides.
        yield np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])


def _write_gif(pictures: Iterator[np.ndarray], path: Path, frames_per_second: float) -> None:
    from PIL import Image

    greys = np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[:, None], 3, axis=1)
    colours = np.vstack([RAIN.palette, greys])
    images = []
    for picture in pictures:
        indices = _nearest(picture, colours)
        image = Image.frombytes("P", (indices.shape[1], indices.shape[0]), indices.tobytes())
        image.putpalette(colours.tobytes())
        images.append(image)
    durations = [round(1000 / frames_per_second)] * (len(images) - 1) + [1000]
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)


def _nearest(picture: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(h, w) uint8 indices of the nearest of (n, 3) colours; the classes of the scale are met exactly."""
    packed = (picture.astype(np.uint32) << np.array([16, 8, 0], dtype=np.uint32)).sum(axis=-1, dtype=np.uint32)
    distinct, place = np.unique(packed, return_inverse=True)
    channels = (distinct[:, None] >> np.array([16, 8, 0], dtype=np.uint32) & 255).astype(np.int32)
    distance = ((channels[:, None, :] - colours.astype(np.int32)) ** 2).sum(axis=-1)
    return np.asarray(distance.argmin(axis=1).astype(np.uint8)[place.reshape(packed.shape)])


def _write_mp4(pictures: Iterator[np.ndarray], path: Path, frames_per_second: float) -> None:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise MissingPackageError("imageio-ffmpeg", "movie", "writing MP4") from error
    first = next(pictures)
    size = (first.shape[1], first.shape[0])
    writer = imageio_ffmpeg.write_frames(
        str(path), size, fps=frames_per_second, codec="libx264", pix_fmt_out="yuv420p", macro_block_size=2, quality=8
    )
    writer.send(None)
    for picture in (first, *pictures):
        writer.send(picture.tobytes())
    writer.close()


def _panels(rows: int, columns: int, aspect: float, width: float, *, labels: bool) -> tuple[Figure, np.ndarray]:
    """A figure of rows x columns maps `width` inches wide, laid out in inches; axes of shape (rows, columns)."""
    height, top = width * aspect, TOP + (LABEL if labels else 0.0)
    full_width = max(LEFT + columns * width + (columns - 1) * GAP + RIGHT, MINIMUM_WIDTH)
    full_height = top + rows * (height + GAP) + BOTTOM
    figure = Figure(figsize=(full_width, full_height))
    axes = np.empty((rows, columns), dtype=object)
    for row in range(rows):
        for column in range(columns):
            left = LEFT + column * (width + GAP)
            bottom = full_height - top - height - row * (height + GAP)
            axes[row, column] = figure.add_axes(
                (left / full_width, bottom / full_height, width / full_width, height / full_height)
            )
    return figure, axes


def _head(figure: Figure, title: str, subtitle: str) -> None:
    width, height = figure.get_size_inches()
    figure.text(LEFT / width, 1 - 0.1 / height, title, fontsize=11, fontweight="bold", color=INK, va="top")
    figure.text(LEFT / width, 1 - 0.36 / height, subtitle, fontsize=8, color=INK, va="top")


def _shrunk_note(grid: Grid, width: float) -> str:
    factor = shrink_factor(grid.shape, int(width * DPI))
    return "" if factor == 1 else f"drawn as means of {factor}x{factor} pixels"


def _joined(*parts: str) -> str:
    return "  ·  ".join(part for part in parts if part)


def _aspect(grid: Grid) -> float:
    height_km, width_km = extent_km(grid)
    return height_km / width_km


def _draw_scale(axes: Axes, width_km: float, height_km: float) -> None:
    """A bar of a round number of km in the south-east corner."""
    length = scale_bar_km(width_km)
    right, y = 0.96 * width_km, 0.05 * height_km
    halo = [withStroke(linewidth=3.5, foreground="white")]
    axes.plot([right - length, right], [y, y], color=INK, lw=1.8, solid_capstyle="butt", path_effects=halo, zorder=5)
    axes.annotate(
        f"{length} km",
        (right - length / 2, y),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7.5,
        color=INK,
        path_effects=halo,
        zorder=5,
    )


def _draw_graticule(axes: Axes, grid: Grid, *, names: bool) -> None:
    """Meridians and parallels at round degrees, named where they meet the lower and the left edge."""
    lines = graticule(grid)
    for line in lines:
        axes.plot(*line.points_km.T, color=FAINT, linewidth=0.5, zorder=2)
    for axis, edge in ((axes.xaxis, "bottom"), (axes.yaxis, "left")):
        named = {line.label: line.at_km for line in lines if names and line.edge == edge and line.at_km is not None}
        axis.set_ticks(list(named.values()), list(named))
    axes.tick_params(length=2, width=0.5, labelsize=7, color=FAINT, labelcolor=INK, pad=1.5)
    for label in axes.get_yticklabels():
        label.set(rotation=90, va="center")
