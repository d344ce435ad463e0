"""The curves of a run as a picture: loss, scores of the validation, learning rate, by step."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nowcast.training.metrics import read_metrics

PICTURE = "curves.png"
CSI = "val_csi_"
PANEL = (4.2, 3.0)
# The line of the training loss is a mean over this share of its points.
SMOOTHING_SHARE = 0.05
# Losses are drawn from their smallest up to this share of them: a first step would flatten all others.
SHOWN_SHARE = 0.98
INK, FAINT, STRONG = "#222222", "#b8c4d6", "#1f5fa8"


def draw_curves(run: str | Path) -> Path | None:
    """Write `curves.png` into a run folder from its log, whole or not at all; None where nothing is logged yet."""
    run = Path(run)
    metrics = read_metrics(run)
    if "train_loss" not in metrics:
        return None
    scores = {name.removeprefix(CSI): series for name, series in metrics.items() if name.startswith(CSI)}
    panels = 2 + bool(scores)
    figure = Figure(figsize=(panels * PANEL[0], PANEL[1]), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(1, panels)))
    _draw_loss(axes[0], metrics)
    if scores:
        _draw_scores(axes[1], scores)
    _draw_rate(axes[-1], metrics)
    for each in axes:
        each.set_xlabel("step")
        each.spines[["top", "right"]].set_visible(False)
        each.grid(alpha=0.25)
    figure.suptitle(run.absolute().name, x=0.01, ha="left", fontsize=10, color=INK)
    draft = run / f".{PICTURE}"
    figure.savefig(draft, format="png", dpi=100)
    os.replace(draft, run / PICTURE)
    return run / PICTURE


def _draw_loss(axes: Axes, metrics: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    steps, loss = metrics["train_loss"]
    finite = np.isfinite(loss)
    steps, loss = steps[finite], loss[finite]
    axes.plot(steps, loss, ".", color=FAINT, markersize=3, label="training")
    width = max(1, round(SMOOTHING_SHARE * loss.size))
    if width > 1:
        mean = np.convolve(loss, np.full(width, 1 / width), "valid")
        axes.plot(steps[width - 1 :], mean, color=STRONG, linewidth=1, label=f"mean of {width}")
    if "val_loss" in metrics:
        at, value = metrics["val_loss"]
        axes.plot(at, value, "o-", color=INK, markersize=3, linewidth=1, label="validation")
        if np.isfinite(value).any():
            best = int(np.nanargmin(value))
            axes.plot(at[best], value[best], "*", color="#c0392b", markersize=10, label=f"best, step {at[best]}")
            loss = np.append(loss, value[np.isfinite(value)])
    if loss.size:
        low, high = float(loss.min()), float(np.quantile(loss, SHOWN_SHARE))
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - room, high + room)
    axes.set_title("loss", fontsize=9)
    axes.legend(fontsize=7, frameon=False)


def _draw_scores(axes: Axes, scores: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for threshold, (steps, csi) in sorted(scores.items(), key=lambda entry: float(entry[0])):
        axes.plot(steps, csi, "o-", markersize=3, linewidth=1, label=f"{threshold} mm/h")
    axes.set_ylim(0, 1)
    axes.set_title("CSI of the validation", fontsize=9)
    axes.legend(fontsize=7, frameon=False)


def _draw_rate(axes: Axes, metrics: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    if "learning_rate" in metrics:
        axes.plot(*metrics["learning_rate"], color=STRONG, linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_title("learning rate", fontsize=9)
