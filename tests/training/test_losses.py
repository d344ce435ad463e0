"""Losses: known values, masks that leave no trace, weights by observed rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nowcast.config import LossConfig
from nowcast.data.normalize import Normalizer
from nowcast.errors import ConfigError
from nowcast.training.losses import (
    AlmostFairCRPS,
    BalancedLoss,
    PinballLoss,
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


@pytest.mark.parametrize("level", [0.1, 0.5, 0.8])
def test_the_pinball_loss_is_least_at_the_quantile_of_numpy(level: float) -> None:
    sample = torch.from_numpy(np.random.default_rng(2).beta(0.5, 2.0, 501))
    forecasts = torch.linspace(0.002, 0.998, 997, dtype=torch.float64)
    losses = PinballLoss(level)(torch.logit(forecasts)[:, None], sample[None]).mean(dim=1)
    best = float(forecasts[losses.argmin()])
    assert best == pytest.approx(float(np.quantile(sample.numpy(), level)), abs=0.004)  # the spacing of either


def test_the_pinball_loss_charges_each_side_its_price_and_the_median_half_the_error() -> None:
    logits = torch.zeros(2)
    targets = torch.tensor([0.7, 0.1])
    torch.testing.assert_close(PinballLoss(0.9)(logits, targets), torch.tensor([0.9 * 0.2, 0.1 * 0.4]))
    torch.testing.assert_close(PinballLoss(0.5)(logits, targets), absolute_error(logits, targets) / 2)
    assert isinstance(make_loss(LossConfig(name="quantile", quantile=0.9), Normalizer()), PinballLoss)


def tied_ensemble(members: int) -> tuple[np.ndarray, np.ndarray]:
    """Members (M, 2, 1, 3, 8, 9) and observations that are often equal: most are dry."""
    rng = np.random.default_rng(members)
    x = np.round(rng.uniform(0.01, 0.99, (members, *SHAPE)), 1).clip(0.05, 0.95)
    x[rng.random(x.shape) < 0.5] = 0.05
    y = np.where(rng.random(SHAPE) < 0.5, x[0], 0.05)
    return x.astype(np.float32), y.astype(np.float32)


@pytest.mark.parametrize("members", [2, 3, 7])
def test_the_crps_is_that_of_the_verification_ties_included(members: int) -> None:
    from nowcast.verification.ensembles import crps, crps_sums, fair_crps

    x, y = tied_ensemble(members)
    pixels = x.reshape(members, -1, 1, 1), y.reshape(-1, 1, 1)
    sums = crps_sums(*pixels)
    logits, targets = torch.logit(torch.from_numpy(x).double()), torch.from_numpy(y)
    plain, fair, almost = (AlmostFairCRPS(alpha)(logits, targets).ravel().numpy() for alpha in (0.0, 1.0, 0.95))
    # Float32 of values up to 1.
    np.testing.assert_allclose(plain, crps(sums), atol=2e-6)
    np.testing.assert_allclose(fair, fair_crps(sums), atol=2e-6)
    np.testing.assert_allclose(almost, 0.95 * fair_crps(sums) + 0.05 * crps(sums), atol=2e-6)
    assert (plain[np.all(x == y, axis=0).ravel()] == 0).all()


def test_the_fair_crps_is_unbiased_in_the_size_of_the_ensemble_and_the_plain_one_is_not() -> None:
    # Members uniform on (0, 1): the CRPS of the distribution itself is (y^3 + (1 - y)^3) / 3.
    truth = (0.3**3 + 0.7**3) / 3
    rng = np.random.default_rng(5)
    for members in (2, 4, 16):
        x = torch.from_numpy(rng.uniform(1e-4, 1 - 1e-4, (members, 200_000)))
        y = torch.full((200_000,), 0.3)
        fair, plain = (float(AlmostFairCRPS(alpha)(torch.logit(x), y).mean()) for alpha in (1.0, 0.0))
        assert fair == pytest.approx(truth, abs=2e-3)  # four standard errors
        # E|x - x'| is 1/3: the plain score counts a member's distance from itself.
        assert plain == pytest.approx(truth + 1 / (6 * members), abs=2e-3)


def test_the_crps_moves_every_member_and_masked_pixels_leave_no_gradient() -> None:
    logits = torch.randn((3, *SHAPE), requires_grad=True)
    valid = torch.rand(SHAPE) > 0.4
    loss = masked_mean(AlmostFairCRPS(0.95)(logits, torch.rand(SHAPE)), valid)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, ~valid] == 0).all() and (gradient[:, valid] != 0).all()


def test_the_fair_crps_leaves_a_member_free_where_the_almost_fair_one_pulls_it() -> None:
    # One of two members on the observation: where the other lies does not matter to the fair score.
    logits = torch.logit(torch.tensor([[0.4], [0.9]])).requires_grad_()
    observed = torch.tensor([0.4])
    gradients = [torch.autograd.grad(AlmostFairCRPS(alpha)(logits, observed).sum(), logits)[0][1] for alpha in (1, 0.9)]
    assert gradients[0].abs() < 1e-7 < gradients[1]
