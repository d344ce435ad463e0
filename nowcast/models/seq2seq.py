"""Sequence-to-sequence nets: SequenceToSequence feeds its predictions back, RecurrentAutoencoder its hidden state.

Shapes: B batch, T frames in, L frames out, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nowcast.models.blocks import (
    ForecastNet,
    OutputLayer,
    over_frames,
    pad_to_multiple,
    recurrent_layers,
    space_to_depth,
)
from nowcast.models.pyramid import SLOPE, downsampling, shuffle_upsampling

# Not a normalised value: there the net's own forecast is fed back.
UNKNOWN = -1.0


class SequenceToSequence(ForecastNet):
    """CNN encoder of a frame -> recurrent layers -> CNN decoder; every forecast frame is the input of the next.

    In training some of the fed-back frames are the true ones (scheduled sampling, Bengio et al. 2015,
    arXiv 1506.03099): all at first, none after the share `sampling_end` of the run, linear in between.

    Args:
        in_channels: Channels of an input frame; the first is the value, the others (validity) keep what they were
            in the last input frame when forecasts are fed back.
        hidden_channels: One number for each recurrent layer.
        features: Channels of the convolutions.
        downsamplings: How many times the encoder halves the grid.
        cell, kernel_size, options: Of the recurrent layers.
        sampling_end: Share of the training run after which only forecasts are fed back; 0: always.
        out_channels: 1; a head of several thresholds has no frame to feed back.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: Sequence[int] = (64, 64),
        *,
        features: int = 32,
        downsamplings: int = 2,
        cell: str = "convlstm",
        kernel_size: int | list[int] = 3,
        sampling_end: float = 0.5,
        out_channels: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, multiple=2**downsamplings)
        if out_channels != 1:
            raise ValueError("predictions are fed back as frames, which takes the mean head (one output channel)")
        if not 0 <= sampling_end <= 1:
            raise ValueError(f"sampling_end is a share of the run, got {sampling_end}")
        hidden = list(hidden_channels)
        self.sampling_end = sampling_end
        first = nn.Sequential(nn.Conv2d(in_channels, features, 3, padding=1), nn.LeakyReLU(SLOPE))
        self.embed = nn.Sequential(first, *(downsampling(features, features, 2) for _ in range(downsamplings)))
        self.recurrent = recurrent_layers(cell, features, hidden, kernel_size, **options)
        narrow = nn.Sequential(nn.Conv2d(hidden[-1], features, 3, padding=1), nn.LeakyReLU(SLOPE))
        self.decode = nn.Sequential(narrow, *(shuffle_upsampling(features, features, 2) for _ in range(downsamplings)))
        self.output = OutputLayer(features)

    def compute_logits(self, frames: Tensor, num_frames: int) -> Tensor:
        return self._forecast(frames, num_frames, None)

    def scheduled_logits(self, frames: Tensor, targets: Tensor, valid: Tensor, progress: float) -> Tensor:
        """Logits for training, with some of the fed-back frames replaced by the true ones.

        Args:
            frames: (B, T, C, H, W).
            targets, valid: (B, L, 1, H, W); what is not valid is never fed back.
            progress: Share of the run that is done.
        """
        self.check(frames, targets.shape[1])
        share = 1 - progress / self.sampling_end if progress < self.sampling_end else 0.0
        chosen = torch.rand(targets.shape[:2], device=targets.device) < share
        known = pad_to_multiple(
            torch.where(valid & chosen[..., None, None, None], targets, UNKNOWN), self.multiple, UNKNOWN
        )
        logits = self._forecast(pad_to_multiple(frames, self.multiple), targets.shape[1], known)
        height, width = frames.shape[-2:]
        return logits[..., :height, :width]

    def _forecast(self, frames: Tensor, num_frames: int, known: Tensor | None) -> Tensor:
        """Logits (B, L, 1, H, W); `known` holds what to feed back in place of forecasts, UNKNOWN where it has none."""
        outputs, state = self.recurrent(over_frames(self.embed, frames))
        hidden, others = outputs[-1][:, -1:], frames[:, -1:, 1:]
        logits = [self.output(over_frames(self.decode, hidden))]
        for lead in range(num_frames - 1):
            value = torch.sigmoid(logits[-1]).to(frames.dtype)
            if known is not None:
                true = known[:, lead : lead + 1]
                value = torch.where(true == UNKNOWN, value, true)
            frame = torch.cat([value, others], dim=2)
            outputs, state = self.recurrent(over_frames(self.embed, frame), state)
            logits.append(self.output(over_frames(self.decode, outputs[-1])))
        return torch.cat(logits, dim=1)


class RecurrentAutoencoder(ForecastNet):
    """ConvLSTM encoder -> ConvLSTM decoder, which takes its own h as the next input -> 3-D convolution over the leads.

    The decoder starts from the states of all encoder layers, cell states included.

    Args:
        in_channels: Channels of an input frame.
        hidden_channels: Of each encoder layer, and of each decoder layer.
        head_kernel_size: (leads, rows, columns) of the 3-D convolution. More than one lead makes the last
            forecasts depend on how many are asked for.
        features: Channels of the 3-D convolution.
        patch: Side of the space-to-depth patches.
        cell, kernel_size, options: Of the recurrent layers.
        out_channels: 1 for a field; more for nested exceedance logits (see OutputLayer).
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: Sequence[int] = (64, 64),
        *,
        head_kernel_size: Sequence[int] = (1, 3, 3),
        features: int = 16,
        patch: int = 2,
        cell: str = "convlstm",
        kernel_size: int | list[int] = 3,
        out_channels: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, multiple=patch)
        hidden = list(hidden_channels)
        if len(head_kernel_size) != 3 or any(side % 2 == 0 for side in head_kernel_size):
            raise ValueError(f"head_kernel_size must be three odd numbers, got {tuple(head_kernel_size)}")
        self.patch = patch
        self.encoder = recurrent_layers(cell, in_channels * patch**2, hidden, kernel_size, **options)
        self.decoder = recurrent_layers(cell, hidden[-1], hidden, kernel_size, **options)
        leads, rows, columns = head_kernel_size
        padding = (leads // 2, rows // 2, columns // 2)
        self.head = nn.Conv3d(hidden[-1], features, (leads, rows, columns), padding=padding)
        self.output = OutputLayer(features, out_channels, patch=patch)

    def compute_logits(self, frames: Tensor, num_frames: int) -> Tensor:
        outputs, state = self.encoder(space_to_depth(frames, self.patch))
        hidden = outputs[-1][:, -1:]
        forecast = []
        for _ in range(num_frames):
            outputs, state = self.decoder(hidden, state)
            hidden = outputs[-1]
            forecast.append(hidden)
        stacked = torch.cat(forecast, dim=1).transpose(1, 2)  # (B, C, L, H, W)
        features = nn.functional.leaky_relu(self.head(stacked), SLOPE).transpose(1, 2)
        logits: Tensor = self.output(features)
        return logits
