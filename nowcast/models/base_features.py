"""What the base of a forecaster sees: rain near by, rain a while ago, and rain as it fades, scale by scale.

No weights live here; `nowcast.models.base` has them.

Shapes: B batch, T frames in, L frames out, C fields, S scales, H rows, W columns. Values are normalised rain rates.
"""

from __future__ import annotations

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


def neighbourhood_means(fields: Tensor, valid: Tensor) -> Tensor:
    """Means (B, C, S, H, W) of fields (B, C, H, W) over the measured pixels about each pixel, at each of `SCALES`.

    Zero where nothing near is measured. Boxes are centred and end at the edges of the grid; the wide ones are taken
    on grids of half, a quarter and an eighth of the resolution, where they cost little, and looked up bilinearly.

    Args:
        valid: (B, 1, H, W), 1 where measured, else 0.
    """
    measured = torch.cat([fields * valid, valid], dim=1)
    means = [_box_mean(measured, side) for side in BOXES]
    coarse = measured
    for _halving in range(1, HALVINGS + 1):
        coarse = F.avg_pool2d(coarse, 2, ceil_mode=True, count_include_pad=False)
        # To the size of the grid, though the last coarse pixels may reach beyond it: out by less than one of them.
        means.append(F.interpolate(_box_mean(coarse, BOXES[-1]), size=fields.shape[-2:], mode="bilinear"))
    joined = torch.stack(means, dim=2)
    return joined[:, :-1] / joined[:, -1:].clamp(min=SMALLEST_SHARE)


def log_odds(shares: Tensor) -> Tensor:
    """Log odds of shares in [0, 1], each held off its end by `SMALLEST_ODDS`.

    What a regression for log odds should see: from no rain near by to a little is a longer way than from much to more.
    """
    return torch.log((shares + SMALLEST_ODDS) / (1 + SMALLEST_ODDS - shares))


def variability(values: Tensor, means: Tensor, valid: Tensor) -> Tensor:
    """Standard deviations (B, V, H, W) of values (B, 1, H, W) in the neighbourhoods of the scales `VARIED`.

    Showers die sooner than the steady rain of the same mean.

    Args:
        means: (B, S, H, W) of `neighbourhood_means` of the values.
        valid: (B, 1, H, W), 1 where measured.
    """
    squares = neighbourhood_means(values.square(), valid)[:, 0]
    chosen = list(VARIED)
    return (squares[:, chosen] - means[:, chosen].square()).clamp(min=0).sqrt()


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
        means: (B, T, S, H, W) of `neighbourhood_means`, oldest first; the last three count.
        valid: (B, 1, H, W), 1 where measured: the correlations are over these pixels.
    """
    recent = means[:, -3:]
    bands = torch.cat([recent[:, :, :-1] - recent[:, :, 1:], recent[:, :, -1:]], dim=2)
    first, second = (_correlations(bands, valid, lag) for lag in (1, 2))
    last, before = bands[:, -1], bands[:, max(-2, -bands.shape[1])]
    weights = lead_weights(first, second, num_leads)
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


def _correlations(bands: Tensor, valid: Tensor, lag: int) -> Tensor:
    """Correlation (B, S) of bands (B, T, S, H, W) `lag` steps apart, over all pairs; without one, that of no change."""
    if bands.shape[1] <= lag:
        first = _correlations(bands, valid, 1).square() if lag > 1 and bands.shape[1] > 1 else None
        return torch.full_like(bands[:, 0, :, 0, 0], LARGEST_CORRELATION) if first is None else first
    seen = bands * valid[:, None]
    before, after = seen[:, :-lag], seen[:, lag:]
    together, power_before, power_after = (
        (a * b).sum(dim=(1, 3, 4)) for a, b in ((before, after), (before, before), (after, after))
    )
    return together / (power_before * power_after).sqrt().clamp(min=1e-12)


def _box_mean(fields: Tensor, side: int) -> Tensor:
    """Mean over the part of a centred box that lies inside the grid, of (B, C, H, W); one axis after the other."""
    if side == 1:
        return fields
    half = side // 2
    rows = F.avg_pool2d(fields, (side, 1), stride=1, padding=(half, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), stride=1, padding=(0, half), count_include_pad=False)
