"""WithBase: a net on top of a forecast that is there from the first step, so that it need only add to it.

The base is a logistic regression for each lead time and threshold. It sees whether a pixel and how much of ever larger
neighbourhoods reached the threshold, how hard it rained there in the last frame and on average before it, how much that
varies, and the rain as it fades scale by scale. In the moving frame that is a probabilistic extrapolation whose small
scales decay, as S-PROG's do (Seed 2003, doi 10.1175/1520-0450(2003)042<0381:ADASAA>2.0.CO;2), calibrated on the
training rain. `fit` finds its weights by Newton's method before the first step of the net.

Shapes: B batch, T frames in, L frames out, K thresholds, F features, H rows, W columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nowcast.models.base_features import (
    SCALES,
    VARIED,
    Neighbourhoods,
    faded,
    log_odds,
    variability,
    without_gaps,
)
from nowcast.models.blocks import ForecastNet
from nowcast.models.logistic import fit_logistic

# Normalised values this close to a threshold are at it.
ROUNDING = 1e-6
# Features of the faded field: its value, and how far it is above the threshold.
FADED = 2
# The prior on standardised weights: pixels of one storm are not independent, so it counts more than a few of them.
PENALTY = 20.0
# A regression with fewer events than this stays at the climatology.
FEWEST_EVENTS = 20
SMALLEST_SPREAD = 1e-3


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the base sees of a batch.

    Attributes:
        own: (B, K, S + 1, H, W) of each threshold: whether and how much of the neighbourhoods reached it. None for a
            mean head.
        shared: (B, 2 S + V, H, W) mean rain of the neighbourhoods, in the last frame and before it, and how it varies.
        faded: (B, L, H, W).
        valid: (B, 1, H, W) of the last frame.
    """

    own: Tensor | None
    shared: Tensor
    faded: Tensor
    valid: Tensor


@dataclass(frozen=True, eq=False)
class _Base:
    """What the base adds to a net: all of it but the faded rain, for all lead times, and what that counts.

    Attributes:
        fixed: (B, K, L, H, W).
        faded: (B, L, H, W).
        weight: (L, K, FADED), of the faded rain and of how far it is above the border.
        borders: (K,), the value from which faded rain counts once more.
    """

    fixed: Tensor
    faded: Tensor
    weight: Tensor
    borders: Tensor

    def logits(self, leads: slice) -> Tensor:
        """(B, L, K, H, W) of some lead times."""
        value, excess = (self.weight[leads, :, part, None, None] for part in range(FADED))
        field = self.faded[:, leads, None]
        fixed = self.fixed[:, :, leads].transpose(1, 2)
        return fixed + value * field + excess * _above(field, self.borders.view(-1, 1, 1))


@dataclass(eq=False)
class _Rows:
    """What a base is fitted on, a row a pixel. The room is taken once: rows that were kept batch by batch, between
    large fields that come and go, would leave gigabytes of memory in pieces.

    Attributes:
        near: (N, K, F - FADED) features that are the same for all lead times.
        fading: (N, K, FADED, L) those that are not.
        events: (N, L, K) in [0, 1].
        known: (N, L) bool.
        filled: How many rows there are.
    """

    near: Tensor
    fading: Tensor
    events: Tensor
    known: Tensor
    filled: int = 0

    @classmethod
    def empty(cls, size: int, leads: int, channels: int, features: int) -> _Rows:
        return cls(
            torch.empty(size, channels, features - FADED),
            torch.empty(size, channels, FADED, leads),
            torch.empty(size, leads, channels),
            torch.empty(size, leads, dtype=torch.bool),
        )

    def known_at(self, lead: int, k: int) -> tuple[Tensor, Tensor]:
        """Features (N, F) and events (N,) of an output channel at a lead time, where they are known."""
        known = self.known[: self.filled, lead].nonzero().squeeze(1)
        features = torch.cat([self.near[known, k], self.fading[known, k, :, lead]], dim=1)
        return features, self.events[known, lead, k]


class WithBase(nn.Module):
    """The logits of a net, which starts at zero but for its output bias, plus those of the base.

    Args:
        net: A forecaster of this package; the weights of its output layer are set to zero.
        borders: Thresholds as normalised values, ascending, one for each output channel; none for a mean head, which
            regresses on the values alone.
        num_leads: Lead times with weights of their own; the last ones serve the leads beyond.
    """

    def __init__(self, net: nn.Module, borders: Sequence[float], num_leads: int) -> None:
        super().__init__()
        if not isinstance(net, ForecastNet):
            raise ValueError(f"a base needs a forecaster of this package under it, got {type(net).__name__}")
        channels = net.output.out_channels
        if len(borders) not in (0, channels):
            raise ValueError(f"{len(borders)} borders for {channels} output channels")
        nn.init.zeros_(net.output.convolution.weight)
        net.output.unit_features = True
        self.net = net
        self.num_leads = num_leads
        self._own_features = len(SCALES) + 1 if borders else 0
        features = self._own_features + 2 * len(SCALES) + len(VARIED) + FADED
        self.register_buffer("borders", torch.tensor([float(border) - ROUNDING for border in borders]))
        self.register_buffer("center", torch.zeros(num_leads, channels, features))
        self.register_buffer("spread", torch.ones(num_leads, channels, features))
        self.weight = nn.Parameter(torch.zeros(num_leads, channels, features))
        self.bias = nn.Parameter(torch.zeros(num_leads, channels))

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """Forecast (B, num_frames, K, H, W) in [0, 1] after frames (B, T, C, H, W)."""
        return torch.sigmoid(self.forward_logits(frames, num_frames))

    def forward_logits(self, frames: Tensor, num_frames: int) -> Tensor:
        """The forecast before the sigmoid, nested along K."""
        return _nested(self.net.forward_logits(frames, num_frames) + self.base_logits(frames, num_frames))  # type: ignore[operator]

    def lead_logits(self, frames: Tensor, num_frames: int) -> Iterator[Tensor]:
        """`forward_logits` one lead time after the other, (B, K, H, W)."""
        base = self._base(frames, num_frames)
        for lead, logits in enumerate(self.net.lead_logits(frames, num_frames)):  # type: ignore[operator, arg-type]
            yield _nested(logits + base.logits(slice(lead, lead + 1))[:, 0])

    def base_logits(self, frames: Tensor, num_frames: int) -> Tensor:
        """What the base adds, (B, num_frames, K, H, W) float32, after frames (B, T, C, H, W).

        In single precision whatever the net runs in: its features differ in the third digit.
        """
        return self._base(frames, num_frames).logits(slice(None))

    def _base(self, frames: Tensor, num_frames: int) -> _Base:
        if not torch.is_autocast_enabled(frames.device.type):  # an exported program has no place for the context
            return self._regression(frames, num_frames)
        with torch.autocast(frames.device.type, enabled=False):
            return self._regression(frames, num_frames)

    def _regression(self, frames: Tensor, num_frames: int) -> _Base:
        leads = torch.arange(num_frames, device=frames.device).clamp(max=self.num_leads - 1)
        weight = self.weight[leads] / self.spread[leads]  # type: ignore[index]
        bias = self.bias[leads] - (weight * self.center[leads]).sum(dim=-1)  # type: ignore[index]
        seen = self._seen(frames, num_frames)
        own, shared, _ = weight.transpose(0, 1).split((self._own_features, seen.shared.shape[1], FADED), dim=-1)
        # All lead times together: the features are many, and so are read once.
        # By `shape`: `len` would make an exported program one for batches of this size alone.
        batch, (channels, _, size) = frames.shape[0], shared.shape
        fixed = torch.baddbmm(
            bias.T.reshape(1, -1, 1), shared.reshape(-1, size).expand(batch, -1, -1), seen.shared.flatten(-2)
        )
        if seen.own is not None:
            each = own.expand(batch, -1, -1, -1).flatten(0, 1)
            fixed.view(batch * channels, num_frames, -1).baddbmm_(each, seen.own.flatten(-2).flatten(0, 1))
        fixed = fixed.view(batch, channels, num_frames, *frames.shape[-2:])
        return _Base(fixed, seen.faded, weight[..., -FADED:], self._borders())

    def set_output_bias(self, mean: float | Sequence[float]) -> None:
        """Start the output at the climatology."""
        self.net.set_output_bias(mean)  # type: ignore[operator]

    @torch.no_grad()
    def fit(self, samples: Iterable[tuple[Tensor, Tensor, Tensor]], *, batches: int, pixels: int, seed: int) -> None:
        """Give the base the weights of a logistic regression on some pixels of some samples.

        Args:
            samples: Frames (B, T, C, H, W), events (B, L, K, H, W) in [0, 1] and their validity (B, L, 1, H, W),
                with as many lead times as the base has.
            batches: How many of these there are; further ones are left out.
            pixels: How many to draw of each batch, uniformly from those measured in the last frame and at some lead.
            seed: Of the draw.
        """
        generator = torch.Generator().manual_seed(seed)
        rows = _Rows.empty(batches * pixels, self.num_leads, *self.weight.shape[1:])
        for sample in itertools.islice(samples, batches):
            self._draw(*sample, pixels, generator, rows)
        if rows.filled == 0:
            raise ValueError("a base cannot be fitted on no sample")
        start = self._climatology_logits()
        for k in range(self.weight.shape[1]):
            for lead in range(self.num_leads):
                features, events = rows.known_at(lead, k)
                self._fit_one(lead, k, features.to(start.device), events.to(start.device), start[k])

    def _fit_one(self, lead: int, k: int, features: Tensor, events: Tensor, start: Tensor) -> None:
        happened = float(events.sum())
        if not FEWEST_EVENTS <= happened <= len(events) - FEWEST_EVENTS:
            return
        center, spread = features.mean(dim=0), features.std(dim=0).clamp(min=SMALLEST_SPREAD)
        weight, bias = fit_logistic((features - center) / spread, events, PENALTY)
        self.center[lead, k], self.spread[lead, k] = center, spread  # type: ignore[operator]
        self.weight[lead, k], self.bias[lead, k] = weight, bias - start

    def _climatology_logits(self) -> Tensor:
        """The logits (K,) that the net gives before it has learnt anything: its output bias."""
        output = self.net.output
        features = torch.zeros(1, 1, output.convolution.in_channels, 1, 1, device=self.bias.device)  # type: ignore[union-attr]
        return output(features)[0, 0, :, 0, 0]  # type: ignore[operator]

    def _draw(
        self, frames: Tensor, events: Tensor, valid: Tensor, pixels: int, generator: torch.Generator, rows: _Rows
    ) -> None:
        """Add features and events of some pixels to the rows."""
        seen = self._seen(frames, self.num_leads)
        places = (seen.valid * valid.amax(dim=1)).flatten().nonzero().squeeze(1)
        chosen = places[torch.randperm(len(places), generator=generator)[:pixels].to(places.device)]
        sample, place = chosen // seen.valid[0].numel(), chosen % seen.valid[0].numel()
        new = slice(rows.filled, rows.filled + len(chosen))

        def at(fields: Tensor) -> Tensor:  # (B, ..., H, W) -> (N, ...)
            return fields.flatten(-2)[sample, ..., place]

        if seen.own is not None:
            rows.near[new, :, : self._own_features] = at(seen.own).cpu()
        rows.near[new, :, self._own_features :] = at(seen.shared)[:, None].cpu()
        value = at(seen.faded)[:, None]
        rows.fading[new, :, 0] = value.cpu()
        rows.fading[new, :, 1] = _above(value, self._borders().view(-1, 1)).cpu()
        rows.events[new], rows.known[new] = at(events).cpu(), at(valid[:, :, 0]).cpu() > 0
        rows.filled = new.stop

    def _borders(self) -> Tensor:
        """(K,), zero for a mean head."""
        borders: Tensor = self.borders  # type: ignore[assignment]
        return borders if borders.numel() else torch.zeros_like(self.bias[0])

    def _seen(self, frames: Tensor, num_frames: int) -> _Seen:
        values = frames[:, :, 0].float()
        valid = frames[:, :, 1].float() if frames.shape[2] > 1 else torch.ones_like(values)
        values, last_valid = without_gaps(values, valid), valid[:, -1:]
        near = Neighbourhoods(last_valid)
        means = torch.stack(list(near.means(values)), dim=2)
        before = means[:, :-1].mean(dim=1) if means.shape[1] > 1 else means[:, -1]
        shared = torch.cat([means[:, -1], before, variability(values[:, -1:], means[:, -1], near)], dim=1)
        return _Seen(self._own(values, near), shared, faded(means, last_valid, num_frames), last_valid)

    def _own(self, values: Tensor, near: Neighbourhoods) -> Tensor | None:
        """Features (B, K, S + 1, H, W) of values (B, T, H, W) that each threshold has for itself."""
        if self.borders.numel() == 0:  # type: ignore[operator]
            return None
        last, earlier = values[:, -1:], values[:, :-1] if values.shape[1] > 1 else values
        features = []
        for border in self.borders.unbind():  # type: ignore[operator]
            happened = (last >= border).float()
            before = torch.zeros_like(happened)
            for frame in earlier.split(1, dim=1):
                before = before + (frame >= border)
            _, *wider = near.means(happened)
            features.append(torch.cat([happened, before / earlier.shape[1], *map(log_odds, wider)], dim=1))
        return torch.stack(features, dim=1)


def _above(values: Tensor, borders: Tensor) -> Tensor:
    """How far values are above borders, zero below."""
    return (values - borders).clamp(min=0)


def _nested(logits: Tensor) -> Tensor:
    """Logits (..., K, H, W), each at most the one before: the sum of nested logits and a base need not be."""
    # Slice by slice: cummin is slow on the CPU.
    return torch.stack(list(itertools.accumulate(logits.unbind(dim=-3), torch.minimum)), dim=-3)
