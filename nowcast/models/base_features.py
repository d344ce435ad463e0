"""What the base of a forecaster sees: rain near by, rain a while ago, and rain as it fades, scale by scale.

No weights live here; `nowcast.models.base` has them.

Shapes: B batch, T frames in, L frames out, C fields, S scales, H rows, W columns. Values are normalised rain rates.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# Sides of the neighbourhoods [pixels]: a pixel, small boxes, and a box of the last side on ever coarser grids.
BOXES = (1, 3, 7)
HALVINGS = 3
SCALES = (*BOXES, *(BOXES[-1] * 2**halving for halving in range(1, HALVINGS + 1)))
# Scales of the neighbourhoods whose rain varies: wide enough to hold some, narrow enough to say how it is here.
VARIED = (3, 4)
# A share of none or all is as good as this far from it: log odds are finite, and one pixel in many is not nothing.
SMALLEST_ODDS = 0.005
# Correlations are kept below 1, or a scale would live for ever and its process would have no solution.
LARGEST_CORRELATION = 0.9999
# Shares of measured pixels below this are none.
SMALLEST_SHARE = 1e-6


class Neighbourhoods:
    """The neighbourhoods of the pixels of a grid: boxes of the sides `SCALES`, of which the measured pixels count.

    Boxes are centred and end at the edges of the grid; the wide ones are taken on grids of half, a quarter and an
    eighth of the resolution, where they cost little, and looked up bilinearly. What depends on the measured pixels
    alone is made once for all fields.

    Args:
        valid: (B, 1, H, W), 1 where measured, else 0.
    """

    def __init__(self, valid: Tensor) -> None:
        self.valid = valid
        self._shares = [amount.clamp(min=SMALLEST_SHARE) for amount in _amounts(valid)]

    def means(self, fields: Tensor) -> Iterator[Tensor]:
        """Means (B, C, H, W) of fields (B, C, H, W), scale after scale; zero where nothing near is measured."""
        for amount, share in zip(_amounts(fields * self.valid), self._shares, strict=True):
            yield amount / share


def neighbourhood_means(fields: Tensor, valid: Tensor) -> Tensor:
    """Means (B, C, S, H, W) of fields (B, C, H, W) over the `Neighbourhoods` of each pixel, valid (B, 1, H, W)."""
    return torch.stack(list(Neighbourhoods(valid).means(fields)), dim=2)


def log_odds(shares: Tensor) -> Tensor:
    """Log odds of shares in [0, 1], each held off its end by `SMALLEST_ODDS`.

    What a regression for log odds should see: from no rain near by to a little is a longer way than from much to more.
    """
    return torch.log((shares + SMALLEST_ODDS) / (1 + SMALLEST_ODDS - shares))


def variability(values: Tensor, means: Tensor, near: Neighbourhoods) -> Tensor:
    """Standard deviations (B, V, H, W) of values (B, 1, H, W) in the neighbourhoods of the scales `VARIED`.

    Showers die sooner than the steady rain of the same mean.

    Args:
        means: (B, S, H, W) of the values in the neighbourhoods.
        near: Those of the measured pixels.
    """
    squares = list(near.means(values.square()))
    spreads = [squares[scale] - means[:, scale, None].square() for scale in VARIED]
    return torch.cat(spreads, dim=1).clamp(min=0).sqrt()


def without_gaps(values: Tensor, valid: Tensor) -> Tensor:
    """Values (B, T, H, W) in which what an older frame misses is taken from the next one.

    In the moving frame older frames miss the strip that the motion left empty: dry, it would look like rain that comes.
    """
    filled = [values[:, -1]]
    for age in range(values.shape[1] - 2, -1, -1):
        filled.insert(0, torch.where(valid[:, age] > 0, values[:, age], filled[0]))
    return torch.stack(filled, dim=1)


def faded(means: Tensor, valid: Tensor, num_leads: int) -> Tensor:
    """The field (B, L, H, W) that is expected when each scale fades as fast as it did in the last frames.

    The differences of neighbouring scales are bands; each follows an AR(2) process whose correlations at one and two
    steps are those of the last three frames, a sample of the batch for itself (Seed 2003; Bowler et al. 2006,
    doi 10.1256/qj.04.100; there with Fourier bands). The widest scale counts as a band of its own. With two frames
    the process is of first order; a single frame does not fade.

    Args:
        means: (B, T, S, H, W) in the neighbourhoods, oldest first; the last three count.
        valid: (B, 1, H, W), 1 where measured: the correlations are over these pixels.
    """
    recent = means[:, -3:]
    bands = torch.cat([recent[:, :, :-1] - recent[:, :, 1:], recent[:, :, -1:]], dim=2)
    last, before = bands[:, -1], bands[:, max(-2, -bands.shape[1])]
    weights = lead_weights(*_correlations(bands, valid), num_leads).to(bands.dtype)
    return torch.einsum("lbs,bshw->blhw", weights[:, 0], last) + torch.einsum("lbs,bshw->blhw", weights[:, 1], before)


def lead_weights(first: Tensor, second: Tensor, num_leads: int) -> Tensor:
    """Weights (L, 2, ...) of the last field and the one before, from the correlations (...) at lags 1 and 2.

    Yule-Walker. Rain fades and does not swing to and fro: a second correlation so low that the process would (complex
    roots) is raised to where it just does not (a double root r, with first = 2 r / (1 + r^2)).
    """
    first = first.clamp(1e-6, LARGEST_CORRELATION)
    root = (1 - (1 - first.square()).sqrt()) / first
    second = torch.minimum(torch.maximum(second, 2 * first * root - root.square()), first)
    phi1 = first * (1 - second) / (1 - first.square())
    phi2 = (second - first.square()) / (1 - first.square())
    last, older_last = torch.ones_like(first), torch.zeros_like(first)
    before, older_before = torch.zeros_like(first), torch.ones_like(first)
    weights = []
    for _ in range(num_leads):
        last, older_last = phi1 * last + phi2 * older_last, last
        before, older_before = phi1 * before + phi2 * older_before, before
        weights.append(torch.stack([last, before]))
    return torch.stack(weights)


def _correlations(bands: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Correlations (B, S) float64 of bands (B, T, S, H, W) one and two steps apart, over all pairs of measured pixels.

    Without a pair that far apart, those of a process of first order; without any, those of no change.
    """
    # In double precision: of slow scales, the small differences from 1 decide how they fade.
    seen = [(scale * valid).flatten(-2).double() for scale in bands.unbind(dim=2)]
    products = torch.stack([scale @ scale.mT for scale in seen], dim=1)  # (B, S, T, T): each field with each
    length = bands.shape[1]
    found: list[Tensor] = []
    for lag in range(1, min(length, 3)):
        power = products.diagonal(dim1=-2, dim2=-1)
        together = products.diagonal(offset=lag, dim1=-2, dim2=-1).sum(dim=-1)
        both = power[..., : length - lag].sum(dim=-1) * power[..., lag:].sum(dim=-1)
        found.append(together / both.sqrt().clamp(min=1e-12))
    if not found:
        found = [torch.full_like(products[..., 0, 0], LARGEST_CORRELATION)] * 2
    return found[0], found[1] if len(found) > 1 else found[0].square()


def _amounts(fields: Tensor) -> Iterator[Tensor]:
    """What the neighbourhoods hold of fields (B, C, H, W), scale after scale, in a unit of its own each."""
    for side in BOXES:
        yield _box_sum(fields, side)
    coarse = fields
    for _halving in range(1, HALVINGS + 1):
        coarse = F.avg_pool2d(coarse, 2, ceil_mode=True, count_include_pad=False)
        mean = _box_sum(coarse, BOXES[-1]) / _box_sum(torch.ones_like(coarse[:1, :1]), BOXES[-1])
        # To the size of the grid, though the last coarse pixels may reach beyond it: out by less than one of them.
        yield F.interpolate(mean, size=fields.shape[-2:], mode="bilinear")


def _box_sum(fields: Tensor, side: int) -> Tensor:
    """Sums over the part of a centred box that lies inside the grid, of (B, C, H, W); one axis after the other."""
    return fields if side == 1 else _line_sum(_line_sum(fields, side, -2), side, -1)


def _line_sum(fields: Tensor, side: int, dim: int) -> Tensor:
    """Sums along an axis over a centred line of an odd number of pixels: the middle one and a run on either side."""
    half, size = side // 2, fields.shape[dim]
    padded = F.pad(fields, (0, 0, half, half) if dim == -2 else (half, half))
    run = padded.narrow(dim, 0, size + half + 1)
    for step in range(1, half):
        run = run + padded.narrow(dim, step, size + half + 1)
    return run.narrow(dim, 0, size) + fields + run.narrow(dim, half + 1, size)
