"""Heads: how a net's outputs are read. Each knows its channels, what its loss compares with, and one map to rain.

Whatever the head, a forecast is one rain-rate field: decision levels act through a single monotone map from the
predicted distribution to mm/h, never as separate fields for each threshold.

Shapes: B batch, L lead times, K channels (thresholds), H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nowcast.config import ModelConfig
from nowcast.data.normalize import Normalizer
from nowcast.errors import ConfigError
from nowcast.models.inputs import rain_rate_of

# The median: an event is forecast where it is more likely than not. `nowcast calibrate` finds better ones.
DEFAULT_LEVEL = 0.5
# Normalised values this close to a threshold are at it: two ways to round must not make two events.
ROUNDING = 1e-6


class Head(Protocol):
    """What training and prediction ask of a head."""

    @property
    def channels(self) -> int:
        """How many output channels the net has."""
        ...

    def encode(self, targets: Tensor) -> Tensor:
        """What the loss compares the outputs with, (B, L, K, H, W), of normalised targets (B, L, 1, H, W)."""
        ...

    def rain_rate(self, logits: Tensor) -> np.ndarray:
        """Rain rates (..., L, H, W) float32 [mm/h] of the net's logits (..., L, K, H, W)."""
        ...


@dataclass(frozen=True)
class BoundedMean:
    """One channel: the sigmoid of the logit is the normalised field."""

    normalizer: Normalizer

    @property
    def channels(self) -> int:
        return 1

    def encode(self, targets: Tensor) -> Tensor:
        """The targets themselves."""
        return targets

    def rain_rate(self, logits: Tensor) -> np.ndarray:
        """The normaliser's inverse of the sigmoid, [mm/h]."""
        return rain_rate_of(torch.sigmoid(logits.float()), self.normalizer)


@dataclass(frozen=True)
class Exceedance:
    """A channel a threshold: the logit of the chance that the rain rate is at or above it.

    Attributes:
        thresholds_mm_h: Ascending, inside the normaliser's range.
        decision_levels: The chance from which an event is forecast, one a threshold, or rows of these a lead time
            (the last row serves the leads beyond); None: 0.5 for all.
    """

    normalizer: Normalizer
    thresholds_mm_h: tuple[float, ...]
    decision_levels: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        thresholds = self.thresholds_mm_h
        if not thresholds or thresholds[0] <= 0 or list(thresholds) != sorted(set(thresholds)):
            raise ConfigError(f"exceedance thresholds must be positive and ascend, got {thresholds} mm/h")
        if thresholds[-1] >= self.normalizer.largest_mm_h:
            raise ConfigError(
                f"the highest exceedance threshold is {thresholds[-1]:g} mm/h, the normaliser saturates at "
                f"{self.normalizer.largest_mm_h:g} mm/h",
                "raise normalizer.maximum_mm_h or lower model.thresholds_mm_h",
            )
        for row in self.decision_levels or ():
            if len(row) != len(thresholds) or not all(0 < level < 1 for level in row):
                raise ConfigError(f"{len(thresholds)} thresholds need as many decision levels in (0, 1), got {row}")

    @property
    def channels(self) -> int:
        return len(self.thresholds_mm_h)

    def encode(self, targets: Tensor) -> Tensor:
        """1 where the target is at or above a threshold, else 0."""
        borders = torch.from_numpy(self.normalizer.transform(np.array(self.thresholds_mm_h)) - ROUNDING)
        return (targets >= borders.to(targets.device).view(-1, 1, 1)).to(targets.dtype)

    def rain_rate(self, logits: Tensor) -> np.ndarray:
        """One field of rain rates [mm/h], at or above a threshold exactly where its event is forecast.

        An event is forecast where its chance reaches its decision level and all lower thresholds are forecast too.
        Between two thresholds the rate rises with the chance of the next one (geometrically; from zero, linearly).
        So the field rises with every chance and falls with every level.
        """
        levels = self._levels(logits.shape[-4])
        # One lead time after the other: all at once would take gigabytes on a continent.
        fields = [
            self._field(torch.sigmoid(logits[..., lead, :, :, :].double()).cpu().numpy(), level)
            for lead, level in enumerate(levels)
        ]
        return np.stack(fields, axis=-3)

    def _field(self, chance: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Rain rates (..., H, W) of chances (..., K, H, W) and decision levels (K, 1, 1)."""
        number = np.logical_and.accumulate(chance >= level, axis=-3).sum(axis=-3)  # thresholds reached
        lower = np.array([0.0, *(_at_or_above(t) for t in self.thresholds_mm_h)], dtype=np.float32)
        upper = np.append(np.nextafter(lower[1:], np.float32(0)), np.float32(self.normalizer.largest_mm_h))
        # How far the rate is on the way to the next threshold, or beyond the last to the largest rate.
        way = np.concatenate([chance / level, (chance[..., -1:, :, :] - level[-1:]) / (1 - level[-1:])], axis=-3)
        along = np.clip(np.take_along_axis(way, number[..., None, :, :], axis=-3).squeeze(-3), 0.0, 1.0)
        low, high = lower[number].astype(np.float64), upper[number].astype(np.float64)
        rate = np.where(number == 0, high * along, np.where(low > 0, low, 1.0) ** (1 - along) * high**along)
        return np.clip(rate.astype(np.float32), lower[number], upper[number])

    def _levels(self, num_leads: int) -> np.ndarray:
        """Decision levels (L, K, 1, 1)."""
        rows = self.decision_levels or ((DEFAULT_LEVEL,) * self.channels,)
        chosen = [rows[min(lead, len(rows) - 1)] for lead in range(num_leads)]
        return np.array(chosen)[..., None, None]


def make_head(
    config: ModelConfig, normalizer: Normalizer, decision_levels: Sequence[Sequence[float]] | None = None
) -> Head:
    """The head that a configuration names.

    Raises:
        ConfigError: Thresholds or levels that cannot be, or levels for a head that has none.
    """
    if config.head == "exceedance":
        levels = None if decision_levels is None else tuple(tuple(map(float, row)) for row in decision_levels)
        return Exceedance(normalizer, config.thresholds_mm_h, levels)
    if decision_levels is not None:
        raise ConfigError("decision levels belong to an exceedance head; this model has a mean head")
    return BoundedMean(normalizer)


def output_channels(config: ModelConfig) -> int:
    """How many channels a net needs for the head of its configuration."""
    return len(config.thresholds_mm_h) if config.head == "exceedance" else 1


def _at_or_above(threshold: float) -> np.float32:
    """The smallest float32 that is not below a threshold."""
    nearest = np.float32(threshold)
    return nearest if float(nearest) >= threshold else np.nextafter(nearest, np.float32(np.inf))
