"""Scores of Moving MNIST forecasts, and the anchors that give them meaning, on one set of sequences.

Conventions: cross-entropy in nats, summed over pixels and frames, mean over sequences (Shi et al. 2015); squared and
absolute error summed over the pixels of a frame, mean over frames and sequences (OpenSTL); SSIM and PSNR of frames.

Shapes: N sequences, L frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nowcast.training.moving_mnist import FixedSequences

# Probabilities of exactly 0 or 1 cannot be scored by cross-entropy; copies of grey images are clipped to this.
ANCHOR_CLIP = 1e-2
# Far below what a float32 logit of a net means; it only keeps log(0) away.
NET_CLIP = 1e-12
SSIM_WINDOW = 7


@dataclass(frozen=True)
class ImageSums:
    """Sums over sequences; adding two gives those of both sets, and the ratio is taken once, at the end."""

    sequences: int = 0
    frames: int = 0
    cross_entropy: float = 0.0
    squared_error: float = 0.0
    absolute_error: float = 0.0
    ssim: float = 0.0
    psnr: float = 0.0

    def __add__(self, other: ImageSums) -> ImageSums:
        return ImageSums(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def scores(self) -> dict[str, float]:
        """The means that are quoted: see the module's conventions."""
        return {
            "cross_entropy": self.cross_entropy / self.sequences,
            "mse": self.squared_error / self.frames,
            "mae": self.absolute_error / self.frames,
            "ssim": self.ssim / self.frames,
            "psnr": self.psnr / self.frames,
        }


def image_sums(forecast: Tensor, observed: Tensor, *, clip: float = NET_CLIP) -> ImageSums:
    """Sums of the scores of forecasts in [0, 1] against observed grey values in [0, 1], each (N, L, H, W)."""
    forecast, observed = forecast.double(), observed.double()
    error = forecast - observed
    per_frame = error.square().mean(dim=(-2, -1))
    return ImageSums(
        sequences=forecast.shape[0],
        frames=forecast.shape[0] * forecast.shape[1],
        cross_entropy=float(functional.binary_cross_entropy(forecast.clamp(clip, 1 - clip), observed, reduction="sum")),
        squared_error=float(error.square().sum()),
        absolute_error=float(error.abs().sum()),
        ssim=float(structural_similarity(forecast, observed).sum()),
        psnr=float((-10 * per_frame.clamp(min=1e-12).log10()).sum()),
    )


def structural_similarity(forecast: Tensor, observed: Tensor) -> Tensor:
    """SSIM of each frame (..., H, W) -> (...), in [-1, 1], 1 for equal frames, for a data range of 1.

    Wang et al. 2004, eq. 13, with a uniform 7x7 window, sample covariances and K = (0.01, 0.03). Public tables of
    Moving MNIST were partly made with a data range of 2, which gives higher values.
    """
    height, width = forecast.shape[-2:]
    x, y = forecast.reshape(-1, 1, height, width), observed.reshape(-1, 1, height, width)
    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, SSIM_WINDOW, stride=1)

    mean_x, mean_y = mean(x), mean(y)
    variance_x = unbiased * (mean(x * x) - mean_x**2)
    variance_y = unbiased * (mean(y * y) - mean_y**2)
    covariance = unbiased * (mean(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return similarity.mean(dim=(-3, -2, -1)).reshape(forecast.shape[:-2])


def net_scores(
    net: torch.nn.Module, sequences: FixedSequences, *, device: torch.device, batch_size: int = 32
) -> dict[str, float]:
    """Scores of a forecaster on a set, in evaluation mode."""
    total = ImageSums()
    net.eval()
    with torch.inference_mode():
        for inputs, targets in _batches(sequences, batch_size):
            logits = net.forward_logits(inputs.to(device), targets.shape[1])  # type: ignore[operator]
            total += image_sums(torch.sigmoid(logits.double()).squeeze(2).cpu(), targets)
    return total.scores()


def anchor_scores(sequences: FixedSequences, *, batch_size: int = 256) -> dict[str, dict[str, float]]:
    """Scores that need no net, by name.

    perfect: the targets themselves, whose cross-entropy is the entropy of their grey pixels, not 0.
    constant_mean: the mean of the targets everywhere (climatology).
    copy_last: the last input frame, clipped to [0.01, 0.99] for the cross-entropy.
    zeros: nothing anywhere, clipped likewise.
    """
    mean = float(np.mean(sequences.frames[sequences.input_frames :], dtype=np.float64)) / 255
    totals: dict[str, ImageSums] = dict.fromkeys(("perfect", "constant_mean", "copy_last", "zeros"), ImageSums())
    for inputs, targets in _batches(sequences, batch_size):
        totals["perfect"] += image_sums(targets, targets)
        totals["constant_mean"] += image_sums(torch.full_like(targets, mean), targets)
        last = inputs[:, -1].expand_as(targets)
        totals["copy_last"] += image_sums(last, targets, clip=ANCHOR_CLIP)
        totals["zeros"] += image_sums(torch.zeros_like(targets), targets, clip=ANCHOR_CLIP)
    return {name: total.scores() for name, total in totals.items()}


def cross_entropy_skill(cross_entropy: float, anchors: dict[str, dict[str, float]]) -> float:
    """0 at climatology, 1 at the entropy floor: (CE_mean - CE) / (CE_mean - CE_perfect)."""
    climatology, floor = anchors["constant_mean"]["cross_entropy"], anchors["perfect"]["cross_entropy"]
    return (climatology - cross_entropy) / (climatology - floor)


def frames_picture(rows: Sequence[np.ndarray], *, scale: int = 2, gap: int = 2) -> np.ndarray:
    """Rows of frames (T, H, W) in [0, 255] as one grey picture, uint8, enlarged; short rows end early."""
    height, width = rows[0].shape[1:]
    longest = max(len(row) for row in rows)
    canvas = np.full((len(rows) * (height + gap) - gap, longest * (width + gap) - gap), 255, dtype=np.uint8)
    for number, row in enumerate(rows):
        for step, frame in enumerate(row):
            top, left = number * (height + gap), step * (width + gap)
            canvas[top : top + height, left : left + width] = np.clip(np.rint(frame), 0, 255)
    return canvas.repeat(scale, axis=0).repeat(scale, axis=1)


def forecast_picture(
    net: torch.nn.Module, sequences: FixedSequences, numbers: Sequence[int], *, device: torch.device
) -> np.ndarray:
    """For each of these sequences three rows: the inputs, the targets, the forecast."""
    batch = sequences.__getitems__(numbers)
    with torch.inference_mode():
        forecast = net(batch.inputs.to(device), batch.targets.shape[1]).float().cpu()
    parts = [part[:, :, 0].numpy() * 255 for part in (batch.inputs, batch.targets, forecast)]
    return frames_picture([part[number] for number in range(len(numbers)) for part in parts])


def _batches(sequences: FixedSequences, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs (N, T, 1, H, W) and targets (N, L, H, W)."""
    for start in range(0, len(sequences), batch_size):
        batch = sequences.__getitems__(range(start, min(start + batch_size, len(sequences))))
        yield batch.inputs, batch.targets.squeeze(2)
