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
from numba import njit
from scipy.special import expit
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
        So the field rises with every chance and falls with every level. NaN where the first logit is.
        """
        values = logits.detach().cpu().numpy()
        leads, _, *grid = values.shape[-4:]
        fields = np.empty((*values.shape[:-4], leads, *grid), dtype=np.float32)
        lower = np.array([0.0, *(_at_or_above(t) for t in self.thresholds_mm_h)], dtype=np.float32)
        upper = np.append(np.nextafter(lower[1:], np.float32(0)), np.float32(self.normalizer.largest_mm_h))
        for lead in range(leads):
            levels = np.array(self.levels_at(lead))
            borders = smallest_logits(levels)
            for place in np.ndindex(values.shape[:-4]):
                _fill_rates(values[*place, lead], levels, borders, lower, upper, fields[*place, lead])
        return fields

    def levels_at(self, lead: int) -> tuple[float, ...]:
        """The decision levels (K,) of a lead time, counted from 0."""
        rows = self.decision_levels or ((DEFAULT_LEVEL,) * self.channels,)
        return rows[min(lead, len(rows) - 1)]


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


def smallest_logits(levels: np.ndarray) -> np.ndarray:
    """The smallest float64 whose sigmoid reaches each chance of (K,): a comparison of logits is then one of chances."""
    low, high = np.full_like(levels, -750.0), np.full_like(levels, 750.0)  # beyond, the sigmoid is 0 and 1
    while True:
        middle = 0.5 * (low + high)
        if ((middle == low) | (middle == high)).all():
            return high
        reached = expit(middle) >= levels
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_rates(
    logits: np.ndarray, levels: np.ndarray, borders: np.ndarray, lower: np.ndarray, upper: np.ndarray, out: np.ndarray
) -> None:
    """Fill `out` (H, W) with rates of logits (K, H, W): between `lower` and `upper` (K + 1,) of the thresholds reached.

    Args:
        levels, borders: (K,) decision levels and `smallest_logits` of them.
    """
    last = levels.size - 1
    log_lower, log_upper = (
        np.log(np.maximum(lower, np.float32(1e-30)).astype(np.float64)),
        np.log(upper.astype(np.float64)),
    )
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            if np.isnan(logits[0, row, column]):
                out[row, column] = np.nan
                continue
            number = 0
            while number <= last and logits[number, row, column] >= borders[number]:
                number += 1
            # How far the rate is on the way to the next threshold, or beyond the last to the largest rate.
            chance = 1.0 / (1.0 + np.exp(-np.float64(logits[min(number, last), row, column])))
            way = chance / levels[number] if number <= last else (chance - levels[last]) / (1.0 - levels[last])
            along = min(max(way, 0.0), 1.0)
            if number == 0:
                rate = upper[0] * along
            else:
                rate = np.exp(log_lower[number] * (1.0 - along) + log_upper[number] * along)
            out[row, column] = min(max(np.float32(rate), lower[number]), upper[number])
