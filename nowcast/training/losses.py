"""Losses on logits, one value a pixel, and the one masked mean that every loss is reduced by.

Shapes: logits (B, L, K, H, W), K = 1 but for the exceedance head; targets, valid (B, L, 1, H, W); logits of M members
(M, B, L, 1, H, W). Targets lie in [0, 1], the range of the Normalizer.
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
from nowcast.models.heads import Exceedance, Head

# loss(logits, targets) -> one float32 value a pixel, (B, L, 1, H, W); which pixels count is not its business. That of
# an ensemble takes logits with a first axis of members.
PixelLoss = Callable[[Tensor, Tensor], Tensor]


def make_loss(config: LossConfig, normalizer: Normalizer, head: Head | None = None) -> PixelLoss:
    """The loss that a configuration names, `loss(logits, targets)` -> one value a pixel.

    Args:
        head: How the net's outputs are meant; a bounded mean unless given.

    Raises:
        ConfigError: A normaliser whose range the loss cannot work with, or a head that it does not fit.
    """
    exceedance = isinstance(head, Exceedance)
    if exceedance != (config.name == "exceedance"):
        raise ConfigError(
            f"loss {config.name} does not fit the {'exceedance' if exceedance else 'mean'} head",
            "the exceedance head goes with loss.name=exceedance, the mean head with the others",
        )
    if isinstance(head, Exceedance):
        return ExceedanceLoss(head, config.exceedance_weights)
    if normalizer.range != (0.0, 1.0):
        raise ConfigError(f"loss {config.name} needs values in (0, 1), the normaliser gives {normalizer.range}")
    if config.name == "cross_entropy":
        return cross_entropy
    if config.name == "mse":
        return squared_error
    if config.name == "mae":
        return absolute_error
    if config.name == "quantile":
        return PinballLoss(config.quantile)
    if config.name == "crps":
        return AlmostFairCRPS(config.crps_alpha)
    borders = normalizer.transform(np.array(config.thresholds_mm_h))
    if np.any(np.diff(borders) <= 0) or np.any(borders >= 1):
        raise ConfigError(
            f"balanced loss: thresholds {config.thresholds_mm_h} mm/h do not rise inside the normaliser's range, "
            f"which ends at {normalizer.largest_mm_h:g} mm/h",
            "raise normalizer.maximum_mm_h or lower loss.thresholds_mm_h",
        )
    return BalancedLoss(borders, config.weights, mse_weight=config.mse_weight, mae_weight=config.mae_weight)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of grey targets in nats (Shi et al. 2015, section 4.1, there summed over pixels)."""
    return functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")


def squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Squared error of the normalised field."""
    return (torch.sigmoid(logits.float()) - targets).square()


def absolute_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Absolute error of the normalised field."""
    return (torch.sigmoid(logits.float()) - targets).abs()


class PinballLoss:
    """The loss that is least, in expectation, where the forecast is a quantile of the observation.

    q (y - x) where the observation y is above the forecast x, (1 - q) (x - y) where it is below; half the absolute
    error for the median. The normaliser rises, so the quantile of the normalised field is that of the rain rate.

    Source: Koenker and Bassett 1978, doi 10.2307/1913643.
    """

    def __init__(self, level: float) -> None:
        self.level = level

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        above = targets - torch.sigmoid(logits.float())
        return torch.maximum(self.level * above, (self.level - 1) * above)


class AlmostFairCRPS:
    """Continuous ranked probability score of M members at each pixel, almost as if there were infinitely many.

    1/M sum_j |x_j - y| - (1 - e) / (2 M (M - 1)) sum_jk |x_j - x_k|, with e = (1 - alpha) / M: alpha of the fair
    score, which is unbiased in M, and 1 - alpha of that of the members as they stand. The fair one alone does not
    care where one member lies that the others bracket with the observation; a little of the other keeps it in place.

    Args:
        alpha: 1 is fair, 0 is plain.

    Source: afCRPS of Lang et al. 2024, arXiv 2412.15832; here by sorted members, in float32.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """One value a pixel, (B, L, 1, H, W), of logits (M, B, L, 1, H, W), M at least 2; may be negative."""
        members = torch.sigmoid(logits.float())
        size = members.shape[0]
        error = (members - targets).abs().mean(dim=0)
        # The gap above the g-th of the sorted members lies between g of them and size - g others.
        below = torch.arange(1, size, device=members.device).view(-1, *(1,) * targets.dim())
        pairs = (below * (size - below) * members.sort(dim=0).values.diff(dim=0)).sum(dim=0)
        epsilon = (1 - self.alpha) / size
        return error - (1 - epsilon) / (size * (size - 1)) * pairs


class ExceedanceLoss:
    """Cross-entropy of the chance of each threshold against whether it was reached, a weighted mean over thresholds.

    The mean is over the thresholds, divided by the sum of the weights. A proper score: it is least in expectation
    where the forecast chances are the true ones.
    """

    def __init__(self, head: Exceedance, weights: tuple[float, ...] | None = None) -> None:
        chosen = (1.0,) * head.channels if weights is None else weights
        if len(chosen) != head.channels or min(chosen) < 0 or sum(chosen) == 0:
            raise ConfigError(
                f"loss.exceedance_weights are {chosen} for {head.channels} thresholds",
                "give one weight a threshold of model.thresholds_mm_h, none negative",
            )
        self.head = head
        self.weights = torch.tensor(chosen, dtype=torch.float32) / sum(chosen)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        happened = self.head.encode(targets)
        losses = functional.binary_cross_entropy_with_logits(logits.float(), happened, reduction="none")
        return (losses * self.weights.to(losses.device).view(-1, 1, 1)).sum(dim=-3, keepdim=True)


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

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        classes = torch.bucketize(targets, self.borders.to(targets.device), right=True)
        weight = self.weights.to(targets.device)[classes]
        error = torch.sigmoid(logits.float()) - targets
        return weight * (self.mse_weight * error.square() + self.mae_weight * error.abs())


def masked_mean(values: Tensor, valid: Tensor, *, count: Tensor | None = None) -> Tensor:
    """Mean of `values` where `valid`; exactly 0, with zero gradient, where nothing is.

    Args:
        count: What to divide the sum by, where it is not the number of valid pixels here: with several
            processes it is the mean of their numbers, so that the mean of their losses is the mean over all pixels.
    """
    total = torch.where(valid, values, 0.0).sum()
    return total / (valid.sum() if count is None else count).clamp(min=1)
