"""A net on its base starts at the climatology, sees true neighbourhoods, and only adds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from nowcast.config import load_config
from nowcast.data.normalize import Normalizer
from nowcast.models.base import GAIN, SCALES, WithBase, neighbourhood_shares
from nowcast.models.encoder_forecaster import EncoderForecaster
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


def test_shares_are_those_of_the_measured_pixels_of_each_neighbourhood() -> None:
    frame = frames()[:, -1]
    shares = neighbourhood_shares(frame, torch.tensor(BORDERS))
    value, valid = frame[0, 0].numpy(), frame[0, 1].numpy() > 0
    for scale, side in enumerate(SCALES):
        for row, column in ((0, 0), (7, 9), (19, 23)):
            box = tuple(slice(max(0, at - side // 2), at + side // 2 + 1) for at in (row, column))
            measured = value[box][valid[box]]
            for k, border in enumerate(BORDERS):
                wanted = np.mean(measured >= border) if measured.size else 0.0
                assert shares[0, k, scale, row, column].item() == pytest.approx(wanted, abs=1e-5)


def test_it_starts_at_the_climatology_of_every_threshold() -> None:
    model = make()
    model.set_output_bias([0.4, 0.2, 0.05])
    forecast = model(frames(), 4)
    wanted = torch.tensor([0.4, 0.2, 0.05]).view(1, 1, 3, 1, 1).expand_as(forecast)
    torch.testing.assert_close(forecast, wanted, atol=1e-5, rtol=0)


def test_the_base_is_a_logistic_regression_with_weights_for_each_lead_and_threshold() -> None:
    model = make()
    with torch.no_grad():
        nn.init.normal_(model.weight, std=0.2)
        nn.init.normal_(model.bias)
    logits = model.base_logits(frames()[:, -1], 4)
    shares = neighbourhood_shares(frames()[:, -1], model.borders)
    by_hand = model.bias[2, 1] + GAIN * (model.weight[2, 1] * shares[1, 1, :, 5, 6]).sum()
    torch.testing.assert_close(logits[1, 2, 1, 5, 6], by_hand)


def test_leads_beyond_the_last_use_its_weights_and_chances_stay_nested() -> None:
    model = make(leads=2)
    nn.init.normal_(model.weight)
    chances = model(frames(), 4)
    torch.testing.assert_close(model.base_logits(frames()[:, -1], 4)[:, 3], model.base_logits(frames()[:, -1], 4)[:, 1])
    assert (chances[:, :, 1:] <= chances[:, :, :-1]).all()


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


def test_a_module_without_our_output_layer_has_no_base() -> None:
    with pytest.raises(ValueError, match="a base needs a forecaster of this package under it, got Linear"):
        WithBase(nn.Linear(2, 2), [], 3)
