"""WithBase: a net on top of a forecast that is there from the first step, so that it need only add to it.

The base is a logistic regression on the last frame, blurred over ever larger neighbourhoods: rain that covers much of
a neighbourhood is likely to be at its middle, and small rain is soon forgotten. In the moving frame it is a
probabilistic extrapolation whose small scales decay, as S-PROG's do (Seed 2003,
doi 10.1175/1520-0450(2003)042<0381:ADASAA>2.0.CO;2).

Shapes: B batch, T frames in, L frames out, K thresholds, S scales, H rows, W columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nowcast.models.blocks import ForecastNet

# Sides of the neighbourhoods [pixels], odd so that they are centred.
SCALES = (1, 3, 7, 15, 31, 63)
# Shares are multiplied by this, so that the regression learns at the learning rate of a net.
GAIN = 8.0
# Normalised values this close to a threshold are at it.
ROUNDING = 1e-6


class WithBase(nn.Module):
    """The logits of a net, which starts at zero but for its output bias, plus those of the base.

    Args:
        net: A forecaster of this package; the weights of its output layer are set to zero.
        borders: Thresholds as normalised values, ascending, one for each output channel; none for a mean head, which
            regresses on the values themselves.
        num_leads: Lead times with weights of their own; the last ones serve the leads beyond.
    """

    def __init__(self, net: nn.Module, borders: Sequence[float], num_leads: int) -> None:
        super().__init__()
        if not isinstance(net, ForecastNet):
            raise ValueError(f"a base needs a forecaster of this package under it, got {type(net).__name__}")
        if len(borders) not in (0, net.output.out_channels):
            raise ValueError(f"{len(borders)} borders for {net.output.out_channels} output channels")
        nn.init.zeros_(net.output.convolution.weight)
        self.net = net
        self.num_leads = num_leads
        self.register_buffer("borders", torch.tensor([float(border) - ROUNDING for border in borders]))
        self.weight = nn.Parameter(torch.zeros(num_leads, net.output.out_channels, len(SCALES)))
        self.bias = nn.Parameter(torch.zeros(num_leads, net.output.out_channels))

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """Forecast (B, num_frames, K, H, W) in [0, 1] after frames (B, T, C, H, W)."""
        return torch.sigmoid(self.forward_logits(frames, num_frames))

    def forward_logits(self, frames: Tensor, num_frames: int) -> Tensor:
        """The forecast before the sigmoid, nested along K."""
        logits = self.net.forward_logits(frames, num_frames) + self.base_logits(frames[:, -1], num_frames)  # type: ignore[operator]
        # The sum of nested logits and a base need not be nested. Slice by slice: cummin is slow on the CPU.
        return torch.stack(list(itertools.accumulate(logits.unbind(dim=-3), torch.minimum)), dim=-3)

    def base_logits(self, last: Tensor, num_frames: int) -> Tensor:
        """What the base adds, (B, num_frames, K, H, W), of the last frame (B, C, H, W)."""
        leads = torch.arange(num_frames, device=last.device).clamp(max=self.num_leads - 1)
        shares = neighbourhood_shares(last, self.borders)  # type: ignore[arg-type]
        logits = torch.einsum("lks,bkshw->blkhw", self.weight[leads], GAIN * shares)
        return logits + self.bias[leads][..., None, None]

    def set_output_bias(self, mean: float | Sequence[float]) -> None:
        """Start the output at the climatology."""
        self.net.set_output_bias(mean)  # type: ignore[operator]


def neighbourhood_shares(frame: Tensor, borders: Tensor) -> Tensor:
    """Share of the measured pixels about each pixel that reach a threshold, (B, K, S, H, W), of a frame (B, C, H, W).

    Channel 0 is the normalised value, channel 1, if there is one, its validity. Without borders: the mean value.
    Zero where nothing near is measured.
    """
    value = frame[:, :1].float()
    valid = frame[:, 1:2].float() if frame.shape[1] > 1 else torch.ones_like(value)
    events = value if borders.numel() == 0 else (value >= borders.view(-1, 1, 1)).to(value.dtype)
    measured = torch.cat([events * valid, valid], dim=1)
    means = torch.stack([_box_mean(measured, side) for side in SCALES], dim=2)
    return means[:, :-1] / means[:, -1:].clamp(min=1e-6)


def _box_mean(fields: Tensor, side: int) -> Tensor:
    """Mean over the part of a centred box that lies inside the grid, of (B, C, H, W); one axis after the other."""
    half = side // 2
    rows = F.avg_pool2d(fields, (side, 1), stride=1, padding=(half, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), stride=1, padding=(0, half), count_include_pad=False)
