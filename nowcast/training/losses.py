"""Masked losses on logits. Each is a mean over valid pixels; a batch without one gives exactly 0.

Shapes: logits, targets, valid (B, L, 1, H, W). Targets lie in [0, 1], the range of the Normalizer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nowcast.config import LossConfig
from nowcast.data.normalize import Normalizer
from nowcast.errors import ConfigError

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def make_loss(config: LossConfig, normalizer: Normalizer) -> Loss:
    """The loss that a configuration names, `loss(logits, targets, valid) -> scalar`.

    Raises:
        ConfigError: A normaliser whose range the loss cannot work with.
    """
    if normalizer.range != (0.0, 1.0):
        raise ConfigError(f"loss {config.name} needs values in (0, 1), the normaliser gives {normalizer.range}")
    if config.name == "cross_entropy":
        return cross_entropy
    if config.name == "mse":
        return mean_squared_error
    if config.name == "mae":
        return mean_absolute_error
    borders = normalizer.transform(np.array(config.thresholds_mm_h))
    if np.any(np.diff(borders) <= 0) or borders[-1] >= 1:
        raise ConfigError(
            f"balanced loss: thresholds {config.thresholds_mm_h} mm/h do not rise inside the normaliser's range, "
            f"which ends at {normalizer.largest_mm_h:g} mm/h",
            "raise normalizer.maximum_mm_h or lower loss.thresholds_mm_h",
        )
    return BalancedLoss(borders, config.weights, mse_weight=config.mse_weight, mae_weight=config.mae_weight)


def cross_entropy(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Mean binary cross-entropy of grey targets, in nats a pixel (Shi et al. 2015, section 4.1, there summed)."""
    return masked_mean(functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none"), valid)


def mean_squared_error(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error of the normalised field."""
    return masked_mean((torch.sigmoid(logits.float()) - targets).square(), valid)


def mean_absolute_error(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute error of the normalised field."""
    return masked_mean((torch.sigmoid(logits.float()) - targets).abs(), valid)


class BalancedLoss:
    """Squared and absolute error weighted by the *observed* rain rate (B-MSE + B-MAE of Shi et al. 2017, eq. 5-6).

    Args:
        borders: Class borders as normalised values, ascending; a value on a border belongs to the class above.
        weights: One more than borders.
    """

    def __init__(
        self, borders: np.ndarray, weights: tuple[float, ...], *, mse_weight: float, mae_weight: float
    ) -> None:
        self.borders = torch.as_tensor(borders, dtype=torch.float32)
        self.weights = torch.as_tensor(weights, dtype=torch.float32)
        self.mse_weight = mse_weight
        self.mae_weight = mae_weight

    def __call__(self, logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        classes = torch.bucketize(targets, self.borders.to(targets.device), right=True)
        weight = self.weights.to(targets.device)[classes]
        error = torch.sigmoid(logits.float()) - targets
        return masked_mean(weight * (self.mse_weight * error.square() + self.mae_weight * error.abs()), valid)


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of `values` where `valid`; exactly 0, with zero gradient, where nothing is."""
    total = torch.where(valid, values, 0.0).sum()
    return total / valid.sum().clamp(min=1)
