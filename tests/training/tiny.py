"""A net of a few weights and a data set of a few fields: what the training tests train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nowcast.config import Config, load_config
from nowcast.data.normalize import Normalizer
from nowcast.models.inputs import Batch, rain_inputs, rain_targets
from nowcast.models.registry import register_forecaster
from nowcast.training.dataset import TrainingData

NAME = "tiny_for_tests"


class Tiny(nn.Module):
    """One convolution over the last frame, the same for every lead time, with dropout."""

    def __init__(self, in_channels: int, *, dropout: float = 0.2, explode: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.explode = explode

    def forward_logits(self, frames: Tensor, num_frames: int) -> Tensor:
        field = self.convolution(self.dropout(frames[:, -1]))
        if self.explode and self.training:
            field = field * torch.inf
        return field.unsqueeze(1).expand(-1, num_frames, -1, -1, -1)

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        return torch.sigmoid(self.forward_logits(frames, num_frames))

    def set_output_bias(self, mean: float) -> None:
        with torch.no_grad():
            self.convolution.bias.fill_(float(np.log(mean / (1 - mean))))  # type: ignore[union-attr]


def _build(config: Config, in_channels: int) -> nn.Module:
    return Tiny(in_channels, **config.model.options)


register_forecaster(NAME, _build)


class Fields:
    """Samples of seeded noise: sample k is a function of k alone."""

    weights = None

    def __init__(self, number: int, *, side: int = 8, leads: int = 2, missing_share: float = 0.2) -> None:
        self.number, self.side, self.leads, self.missing_share = number, side, leads, missing_share
        self.normalizer = Normalizer()
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.number

    def rain_rate(self, index: int) -> np.ndarray:
        rng = np.random.default_rng([7, index])
        rain = rng.gamma(0.4, 4.0, (2 + self.leads, self.side, self.side)).astype(np.float32)
        # Samples differ in how much of them is missing, or a mean of means would go unnoticed.
        rain[rng.random(rain.shape) < self.missing_share * (index % 4)] = np.nan
        return rain

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        self.asked += list(indices)
        rain = np.stack([self.rain_rate(index) for index in indices])
        return Batch(rain_inputs(rain[:, :2], self.normalizer), *rain_targets(rain[:, 2:], self.normalizer))


def tiny_data(number: int = 24, *, validation: int = 8) -> TrainingData:
    fields = Fields(number)
    normalizer = fields.normalizer.fit(fields.rain_rate(index) for index in range(number))
    return TrainingData(fields, Fields(validation) if validation else None, normalizer, 2, 300.0, (1.0, 1.0))


def tiny_config(*overrides: str, **options: Any) -> Config:
    settings = [
        f"model.name={NAME}",
        f"model.options={options}",
        "loss.name=mse",
        "data.input_frames=2",
        "data.output_frames=2",
        "training.batch_size=4",
        "training.max_steps=12",
        "training.warmup_steps=2",
        "training.validate_every=4",
        "training.checkpoint_every=3",
        "training.learning_rate=0.01",
        "training.workers=0",
        "training.precision=32",
    ]
    return load_config(overrides=[*settings, *overrides], environment={}).config
