"""Losses: known values, masks that leave no trace, weights by observed rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nowcast.config import LossConfig
from nowcast.data.normalize import Normalizer
from nowcast.errors import ConfigError
from nowcast.training.losses import (
    BalancedLoss,
    absolute_error,
    cross_entropy,
    make_loss,
    masked_mean,
    squared_error,
)

SHAPE = (2, 3, 1, 4, 5)


def logit(probability: float) -> torch.Tensor:
    return torch.logit(torch.full(SHAPE, probability, dtype=torch.float64)).float()


def test_cross_entropy_of_a_perfect_grey_forecast_is_the_entropy_of_the_grey() -> None:
    grey = torch.full(SHAPE, 0.3)
    entropy = -(0.3 * np.log(0.3) + 0.7 * np.log(0.7))
    torch.testing.assert_close(cross_entropy(logit(0.3), grey), torch.full(SHAPE, entropy, dtype=torch.float32))


def test_squared_and_absolute_error_are_those_of_the_field_not_of_the_logits() -> None:
    targets = torch.full(SHAPE, 0.25)
    torch.testing.assert_close(squared_error(logit(0.75), targets), torch.full(SHAPE, 0.25))
    torch.testing.assert_close(absolute_error(logit(0.75), targets), torch.full(SHAPE, 0.5))


def test_the_mean_is_over_valid_pixels_and_masked_ones_leave_no_gradient() -> None:
    logits = torch.randn(SHAPE, requires_grad=True)
    targets, valid = torch.rand(SHAPE), torch.rand(SHAPE) > 0.4
    values = squared_error(logits, targets)
    loss = masked_mean(values, valid)
    torch.testing.assert_close(loss, values[valid].mean())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[~valid] == 0).all() and (gradient[valid] != 0).all()


def test_nan_under_the_mask_stays_there() -> None:
    values = torch.tensor([1.0, torch.nan, 3.0])
    assert masked_mean(values, torch.tensor([True, False, True])) == 2.0


def test_nothing_valid_gives_exactly_zero_with_zero_gradient() -> None:
    logits = torch.randn(SHAPE, requires_grad=True)
    loss = masked_mean(squared_error(logits, torch.rand(SHAPE)), torch.zeros(SHAPE, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 0 and (gradient == 0).all()


def test_two_processes_weigh_each_pixel_alike() -> None:
    values, valid = torch.rand(SHAPE), torch.rand(SHAPE) > 0.5
    valid[0] = False
    valid[0, 0, 0, 0, 0] = True  # one sample has a single valid pixel
    count = valid.sum() / 2
    halves = [masked_mean(values[i], valid[i], count=count) for i in range(2)]
    torch.testing.assert_close(torch.stack(halves).mean(), masked_mean(values, valid))


def test_balanced_weights_follow_the_observed_rate_and_a_border_belongs_above() -> None:
    normalizer = Normalizer("linear", maximum_mm_h=100.0)
    loss = make_loss(LossConfig(name="balanced", mse_weight=0.0, mae_weight=1.0), normalizer)
    observed = torch.from_numpy(normalizer.transform(np.array([0.0, 1.99, 2.0, 4.99, 5.0, 10.0, 29.9, 30.0, 90.0])))
    forecast = torch.full_like(observed, 0.5)
    weight = loss(torch.logit(forecast), observed) / (forecast - observed).abs()
    torch.testing.assert_close(weight, torch.tensor([1.0, 1, 2, 2, 5, 10, 10, 30, 30]), rtol=1e-5, atol=1e-5)


def test_balanced_adds_squares_and_absolute_values_with_their_weights() -> None:
    loss = BalancedLoss(np.array([0.5]), (1.0, 3.0), mse_weight=2.0, mae_weight=0.5)
    targets = torch.tensor([0.25, 0.75])
    error = 0.5 - targets
    torch.testing.assert_close(
        loss(torch.zeros(2), targets), torch.tensor([1.0, 3.0]) * (2 * error**2 + 0.5 * error.abs())
    )


def test_a_scale_that_saturates_below_a_border_is_refused() -> None:
    with pytest.raises(ConfigError, match="do not rise inside the normaliser's range, which ends at 20"):
        make_loss(LossConfig(name="balanced"), Normalizer("db", maximum_mm_h=20.0))
