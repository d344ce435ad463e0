"""A net on its base starts at the climatology, sees true neighbourhoods, fades rain as it faded, and only adds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from nowcast.config import load_config
from nowcast.data.normalize import Normalizer
from nowcast.models.base import WithBase
from nowcast.models.base_features import (
    BOXES,
    SCALES,
    VARIED,
    Neighbourhoods,
    faded,
    lead_weights,
    log_odds,
    neighbourhood_means,
    variability,
    without_gaps,
)
from nowcast.models.encoder_forecaster import EncoderForecaster
from nowcast.models.logistic import fit_logistic
from nowcast.models.registry import build_forecaster

BORDERS = [0.2, 0.5, 0.8]


def make(channels: int = 3, leads: int = 4) -> WithBase:
    torch.manual_seed(0)
    net = EncoderForecaster(2, [8], kernel_size=3, patch=2, out_channels=channels)
    return WithBase(net, BORDERS if channels > 1 else [], leads)


def frames(height: int = 20, width: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    value = torch.rand(2, 3, 1, height, width, generator=generator)
    valid = (torch.rand(2, 3, 1, height, width, generator=generator) > 0.3).float()
    return torch.cat([value * valid, valid], dim=2)


def test_means_are_those_of_the_measured_pixels_of_each_neighbourhood() -> None:
    frame = frames()[:, -1]
    means = neighbourhood_means(frame[:, :1], frame[:, 1:])[0, 0]
    value, valid = frame[0, 0].numpy(), frame[0, 1].numpy() > 0
    for scale, side in enumerate(BOXES):
        for row, column in ((0, 0), (7, 9), (19, 23)):
            box = tuple(slice(max(0, at - side // 2), at + side // 2 + 1) for at in (row, column))
            measured = value[box][valid[box]]
            wanted = measured.mean() if measured.size else 0.0
            assert means[scale, row, column].item() == pytest.approx(wanted, abs=1e-5)


def test_wide_neighbourhoods_are_as_wide_as_they_say() -> None:
    """The response to one wet pixel has mass one and the second moment of a box of that side, or nearly."""
    side = 192  # the coarse pixels end where the grid does
    field = torch.zeros(1, 1, side, side)
    field[0, 0, side // 2, side // 2] = 1.0
    response = neighbourhood_means(field, torch.ones_like(field))[0, 0].double()
    place = torch.arange(side).double() - side // 2
    for scale, width in enumerate(SCALES):
        rows = response[scale].sum(dim=1)
        assert rows.sum().item() == pytest.approx(1.0, abs=0.02)
        spread = (rows * place.square()).sum().sqrt().item()
        assert spread == pytest.approx(np.sqrt((width**2 - 1) / 12), rel=0.15, abs=1e-6)


def test_log_odds_are_those_of_the_share_and_finite_at_its_ends() -> None:
    shares = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    found = log_odds(shares)
    torch.testing.assert_close(found[1:4], torch.logit(shares[1:4]), atol=0.02, rtol=0.02)
    torch.testing.assert_close(found, -log_odds(1 - shares))
    assert found[0].item() == pytest.approx(np.log(0.005 / 1.005), rel=1e-5)


def test_variability_is_the_spread_of_the_measured_pixels_near_by() -> None:
    generator = torch.Generator().manual_seed(5)
    values = torch.rand(1, 1, 160, 160, generator=generator) * torch.tensor([0.2, 1.0]).repeat_interleave(80)
    valid = (torch.rand(1, 1, 160, 160, generator=generator) > 0.2).float()
    near = Neighbourhoods(valid)
    spread = variability(values, neighbourhood_means(values, valid)[:, 0], near)[0]
    assert spread.shape == (len(VARIED), 160, 160)
    for here in spread:  # of uniform numbers: their range over the root of 12
        assert here[40:120, 30:50].mean().item() == pytest.approx(0.2 / np.sqrt(12), rel=0.05)
        assert here[40:120, 110:130].mean().item() == pytest.approx(1.0 / np.sqrt(12), rel=0.05)
    # Pixels that are not measured do not count.
    torch.testing.assert_close(spread, variability(values * valid, neighbourhood_means(values, valid)[:, 0], near)[0])


def test_what_an_older_frame_misses_is_taken_from_the_next() -> None:
    values = torch.arange(1.0, 4.0).view(1, 3, 1, 1).expand(1, 3, 1, 2).clone()
    valid = torch.ones_like(values)
    valid[0, 0, 0, 0] = valid[0, 0, 0, 1] = valid[0, 1, 0, 1] = 0
    assert without_gaps(values, valid)[0, :, 0].tolist() == [[2.0, 3.0], [2.0, 3.0], [3.0, 3.0]]


def test_weights_are_those_of_an_autoregressive_process() -> None:
    """Correlations of a known AR(2) process give its coefficients back, and its forecast step by step."""
    phi1, phi2 = 1.1, -0.25
    first = phi1 / (1 - phi2)
    second = phi1 * first + phi2
    weights = lead_weights(torch.tensor([first]), torch.tensor([second]), 4)[:, :, 0]
    now, before = 2.0, 1.0
    for lead in range(4):
        said = (weights[lead, 0] * 2.0 + weights[lead, 1] * 1.0).item()
        now, before = phi1 * now + phi2 * before, now
        assert said == pytest.approx(now, rel=1e-4)


def test_scales_fade_as_fast_as_they_did_and_the_mean_stays() -> None:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.normal(size=(1, 1, 6, 6))).float()
    steady = nn.functional.interpolate(coarse, size=(192, 192), mode="bicubic")[0, 0] + 3.0
    fine = rng.normal(size=(3, 192, 192))
    values = torch.stack([steady + 0.5 * torch.from_numpy(noise).float() for noise in fine])[None]
    valid = torch.ones(1, 1, 192, 192)
    (field,) = faded(neighbourhood_means(values, valid), valid, 6)
    # The noise is another one in each frame, so nothing of it is foreseen; the steady field stays.
    assert (field[0] - steady).std() < 0.2 < 0.45 < (values[0, -1] - steady).std()
    # What is left of it had been smoothed, so that little of the steady field goes.
    correlation = np.corrcoef(field[-1].flatten().numpy(), steady.flatten().numpy())[0, 1]
    assert correlation > 0.98 and field[-1].mean().item() == pytest.approx(3.0 + coarse.mean().item(), abs=0.1)


@pytest.mark.parametrize("number", [1, 2])
def test_fewer_frames_give_a_process_of_lower_order(number: int) -> None:
    values, valid = frames()[:1, -number:, 0], torch.ones(1, 1, 20, 24)
    field = faded(neighbourhood_means(values, valid), valid, 3)
    if number == 1:
        torch.testing.assert_close(field[0, 2], values[0, 0], atol=5e-3, rtol=0)
    else:
        # First order: each lead takes the same share of what the lead before left of every scale.
        steps = [(field[0, lead] - field[0, lead + 1]).abs().mean() for lead in range(2)]
        assert 0 < steps[1] < steps[0]


def test_newton_finds_the_weights_of_a_logistic_world() -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(40_000, 3, generator=generator)
    truth, offset = torch.tensor([1.0, -2.0, 0.0]), -1.5
    events = torch.bernoulli(torch.sigmoid(features @ truth + offset), generator=generator)
    weight, bias = fit_logistic(features, events, penalty=1.0)
    torch.testing.assert_close(weight, truth, atol=0.06, rtol=0)
    assert bias.item() == pytest.approx(offset, abs=0.06)
    # At the optimum the slope of the penalised cost vanishes.
    slope = features.T @ (torch.sigmoid(features @ weight + bias) - events) + weight
    assert slope.abs().max() < 1.0 and fit_logistic(features, events, penalty=1e6)[0].abs().max() < 0.05


def test_newton_stays_on_the_device_of_its_features() -> None:
    """What it makes without naming a device would be made elsewhere here, as beside features on a GPU."""
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(500, 2, generator=generator)
    events = (features[:, 0] + torch.randn(500, generator=generator) > 0).float()
    with torch.device("meta"):
        weight, bias = fit_logistic(features, events, penalty=1.0)
    assert weight.device == bias.device == features.device and weight[0] > 0.5


def test_it_starts_at_the_climatology_of_every_threshold() -> None:
    model = make()
    model.set_output_bias([0.4, 0.2, 0.05])
    forecast = model(frames(), 4)
    wanted = torch.tensor([0.4, 0.2, 0.05]).view(1, 1, 3, 1, 1).expand_as(forecast)
    torch.testing.assert_close(forecast, wanted, atol=1e-5, rtol=0)


def smooth_batch(number: int, height: int = 40, width: int = 40) -> torch.Tensor:
    """Blobs that do not change, with a validity channel."""
    noise = torch.randn(number, 1, height, width, generator=torch.Generator().manual_seed(number))
    field = nn.functional.avg_pool2d(noise, 7, stride=1, padding=3)
    field = (field / field.std() * 0.3 + 0.4).clamp(0, 1)
    return torch.stack([field.expand(-1, 3, -1, -1), torch.ones(number, 3, height, width)], dim=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_fitted_it_forecasts_the_chances_that_come_true(channels: int) -> None:
    """Events that happen where the last frame is high, but for the second lead time, when nothing happens anew."""
    model = make(channels, leads=2)
    model.set_output_bias([0.4, 0.2, 0.05][:channels])
    seen = smooth_batch(6)
    borders = torch.tensor(BORDERS[:channels]).view(1, 1, -1, 1, 1)
    events = (seen[:, -1:, :1] >= borders).float().expand(-1, 2, -1, -1, -1).clone()
    if channels == 1:
        events = seen[:, -1:, :1].expand(-1, 2, -1, -1, -1).clone()
    events[:, 1] = events[:, 1].roll(20, dims=-1)  # far from where anything says so
    valid = torch.ones(6, 2, 1, 40, 40)
    model.fit([(seen, events, valid)], batches=1, pixels=5000, seed=0)
    new = smooth_batch(7)
    chances = model(new, 2)
    truth = (new[:, -1:, :1] >= borders).float() if channels > 1 else new[:, -1:, :1]
    climatology = events[:, 0].mean(dim=(0, 2, 3), keepdim=True)
    near, far = ((chances[:, lead : lead + 1] - truth).square().mean() for lead in (0, 1))
    assert near < 0.35 * (climatology - truth).square().mean() < far
    torch.testing.assert_close(chances[:, 1].mean(dim=(0, 2, 3)), events[:, 1].mean(dim=(0, 2, 3)), atol=0.1, rtol=0.4)


def test_light_rain_near_by_is_told_from_none() -> None:
    """Where events happen once a little of the neighbourhood is wet they are near certain; elsewhere they are not."""
    field = torch.zeros(4, 1, 96, 96)
    field[:, :, 10::40, 10::40] = 0.9  # one wet pixel in many
    field[..., 48:] = 0
    seen = torch.stack([field.expand(-1, 3, -1, -1), torch.ones(4, 3, 96, 96)], dim=2)
    happens = (nn.functional.max_pool2d(field, 13, stride=1, padding=6) > 0).float()
    events = happens[:, None].expand(-1, 1, 3, -1, -1).clone()
    model = make(leads=1)
    model.set_output_bias([0.3, 0.3, 0.3])
    model.fit([(seen, events, torch.ones(4, 1, 1, 96, 96))], batches=1, pixels=20_000, seed=0)
    chances = model(seen, 1)[:, 0, 2]
    assert chances[:, :, 60:].max() < 0.05
    assert chances[happens[:, 0] > 0].mean() > 0.8 > 0.2 > chances[happens[:, 0] == 0].mean()


def test_pixels_that_are_not_known_do_not_count() -> None:
    seen, valid = smooth_batch(6), torch.ones(6, 2, 1, 40, 40)
    events = (seen[:, -1:, :1] >= torch.tensor(BORDERS).view(1, 1, -1, 1, 1)).float().expand(-1, 2, -1, -1, -1).clone()
    valid[..., 20:] = 0
    spoilt = events.clone()
    spoilt[..., 20:] = 1 - spoilt[..., 20:]
    models = [make(leads=2), make(leads=2)]
    for model, happened in zip(models, (events, spoilt), strict=True):
        model.fit([(seen, happened, valid)], batches=1, pixels=5000, seed=0)
    torch.testing.assert_close(models[0].weight, models[1].weight)
    assert models[0].weight.abs().max() > 0.1


def test_too_few_events_leave_the_climatology() -> None:
    model, seen = make(leads=2), smooth_batch(6)
    events = torch.zeros(6, 2, 3, 40, 40)
    events[0, 0, 2, 0, :5] = 1
    model.fit([(seen, events, torch.ones(6, 2, 1, 40, 40))], batches=1, pixels=9600, seed=0)
    assert not model.weight.any() and not model.bias.any()


def test_leads_beyond_the_last_use_its_weights_and_chances_stay_nested() -> None:
    model = make(leads=2)
    nn.init.normal_(model.weight)
    chances = model(frames(), 4)
    assert (chances[:, :, 1:] <= chances[:, :, :-1]).all()
    only_fixed = make(leads=2)
    with torch.no_grad():
        only_fixed.weight[:, :, :-2].normal_()
    base = only_fixed.base_logits(frames(), 4)
    torch.testing.assert_close(base[:, 3], base[:, 1])


@pytest.mark.parametrize("channels", [1, 3])
def test_lead_times_one_by_one_are_those_of_all_at_once(channels: int) -> None:
    model = make(channels, leads=2)
    for part in (model.weight, model.bias, model.net.output.convolution.weight):  # type: ignore[union-attr]
        nn.init.normal_(part)  # type: ignore[arg-type]
    one_by_one = torch.stack(list(model.lead_logits(frames(), 4)), dim=1)
    torch.testing.assert_close(one_by_one, model.forward_logits(frames(), 4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_base_is_the_weighted_sum_of_its_features(channels: int) -> None:
    """Feature by feature and pixel by pixel, for a threshold and lead time at once, with its center and spread."""
    model, seen = make(channels, leads=2), frames()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for part in (model.weight, model.bias, model.center, model.spread):
            part.copy_(torch.rand(part.shape, generator=generator) + 0.5)  # type: ignore[operator]
        found = model.base_logits(seen, 2)
    values, valid = without_gaps(seen[:, :, 0], seen[:, :, 1]), seen[:, -1:, 1]
    means = neighbourhood_means(values, valid)
    spreads = variability(values[:, -1:], means[:, -1], Neighbourhoods(valid))
    shared = [*means[:, -1].unbind(1), *means[:, :2].mean(dim=1).unbind(1), *spreads.unbind(1)]
    fading = faded(means, valid, 2)
    for k in range(channels):
        happened = (values >= model.borders[k]).float() if channels > 1 else values  # type: ignore[index]
        shares = neighbourhood_means(happened[:, -1:], valid)[:, 0, 1:]
        own = [happened[:, -1], happened[:, :-1].mean(dim=1), *log_odds(shares).unbind(1)] if channels > 1 else []
        for lead in range(2):
            above = (fading[:, lead] - (model.borders[k] if channels > 1 else 0)).clamp(min=0)  # type: ignore[index]
            features = torch.stack([*own, *shared, fading[:, lead], above], dim=-1)
            scaled = (features - model.center[lead, k]) / model.spread[lead, k]  # type: ignore[index]
            wanted = scaled @ model.weight[lead, k] + model.bias[lead, k]
            torch.testing.assert_close(found[:, lead, k], wanted, rtol=1e-4, atol=1e-4)


def test_slow_scales_fade_as_double_precision_says() -> None:
    """A correlation near 1 leaves little of its difference from it in single precision, and leads multiply that."""
    place = torch.arange(200.0)
    steady = (place[:, None] / 40).sin() * (place / 30).cos() + 0.5
    changing = [
        a * (place / 20).sin() + b * (place[:, None] / 15).cos() for a, b in ((0, 1), (0.6, -0.8), (-0.96, 0.28))
    ]
    values = torch.stack([steady + 0.03 * change for change in changing])[None]
    valid = torch.ones(1, 1, 200, 200)
    exact = faded(neighbourhood_means(values.double(), valid.double()), valid.double(), 12)
    # Correlations of single precision lead twice as far off as this, and more.
    torch.testing.assert_close(faded(neighbourhood_means(values, valid), valid, 12).double(), exact, atol=1e-6, rtol=0)


def test_net_and_base_both_learn() -> None:
    for channels in (1, 3):
        model = make(channels)
        model(frames(), 4).square().sum().backward()
        assert model.weight.grad is not None and model.weight.grad.abs().sum() > 0
        output = model.net.output.convolution.weight.grad  # type: ignore[union-attr]
        assert output is not None and output.abs().sum() > 0


def test_the_configuration_names_it_and_the_thresholds_become_borders() -> None:
    config = load_config(overrides=["model.base=true", "model.head=exceedance", "loss.name=exceedance"]).config
    net = build_forecaster(config, 2)
    assert isinstance(net, WithBase) and net.num_leads == config.data.output_frames
    wanted = Normalizer("db").transform(np.array(config.model.thresholds_mm_h))
    np.testing.assert_allclose(net.borders.numpy(), wanted, atol=2e-6)  # type: ignore[operator]
    assert all(low < high for low, high in itertools.pairwise(net.borders.tolist()))  # type: ignore[operator]


def test_a_module_without_our_output_layer_has_no_base() -> None:
    with pytest.raises(ValueError, match="a base needs a forecaster of this package under it, got Linear"):
        WithBase(nn.Linear(2, 2), [], 3)


def test_the_base_keeps_single_precision_where_the_net_does_not() -> None:
    model = make()
    nn.init.normal_(model.weight)
    plain = model.base_logits(frames(), 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.base_logits(frames(), 4), plain)


def test_no_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="on no sample"):
        make().fit([], batches=1, pixels=10, seed=0)


def test_a_net_with_faint_features_learns_at_the_pace_of_others() -> None:
    """What the net adds after a step does not depend on how strong the features of a fresh net are."""
    added = []
    for strength in (1.0, 1e-2):
        model = make(leads=2)
        output = model.net.output  # type: ignore[union-attr]
        features = strength * torch.randn(1, 2, output.convolution.in_channels, 8, 8, generator=torch.Generator())  # type: ignore[union-attr, operator]
        nn.init.constant_(output.convolution.weight, 1e-2)  # type: ignore[union-attr, arg-type]
        added.append(output(features).std().item())  # type: ignore[operator]
    assert added[1] == pytest.approx(added[0], rel=0.05) and added[0] > 1e-3
