"""Noise channels: fields of known statistics, members that differ, draws that can be had again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nowcast.config import load_config
from nowcast.errors import ConfigError
from nowcast.models.noise import WithNoise, draw_noise
from nowcast.models.registry import build_forecaster


def net(*overrides: str) -> torch.nn.Module:
    torch.manual_seed(0)
    settings = ["model.noise_channels=2", "model.hidden_channels=[8]", "data.input_frames=3", "data.output_frames=2"]
    return build_forecaster(load_config(overrides=[*settings, *overrides], environment={}).config, 2).eval()


def test_noise_is_standard_and_correlated_over_its_scale() -> None:
    noise = draw_noise(40, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    # Channel 2 has about 40 * 16 independent blocks: its variance is known to 10 %, the others better.
    torch.testing.assert_close(noise.var(dim=(0, 2, 3)), torch.ones(3, dtype=torch.float64), rtol=0.2, atol=0.0)
    assert noise.mean(dim=(0, 2, 3)).abs().max() < 0.15

    def correlation(channel: int, distance: int) -> float:
        field = noise[:, channel]
        return float((field[..., distance:] * field[..., :-distance]).mean())

    # Two means over boxes of `side` pixels, `distance` apart, share (side - distance) / side of their numbers.
    for channel, distance, wanted in ((0, 1, 0.0), (1, 1, 0.75), (1, 4, 0.0), (2, 4, 0.75), (2, 16, 0.0)):
        assert correlation(channel, distance) == pytest.approx(wanted, abs=0.15)


def test_a_field_drawn_from_a_generator_is_the_same_again() -> None:
    fields = [draw_noise(1, 2, 9, 7, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*fields) and fields[0].shape == (1, 2, 9, 7)


@pytest.mark.parametrize("name", ["encoder_forecaster", "pyramid", "seq2seq", "autoencoder", "unet"])
def test_every_net_draws_members_that_differ_only_by_their_noise(name: str) -> None:
    hidden = {"pyramid": "[8,8]", "autoencoder": "[8,8]", "unet": "[8,8]"}.get(name, "[8]")
    model = net(f"model.name={name}", f"model.hidden_channels={hidden}")
    assert isinstance(model, WithNoise)
    frames, noise = torch.rand(1, 3, 2, 18, 21), draw_noise(2, 2, 18, 21)
    first, second, again = (model.forward_logits(frames, 2, noise[k : k + 1]) for k in (0, 1, 0))
    assert first.shape == (1, 2, 1, 18, 21)
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert not torch.equal(model.forward_logits(frames, 2), model.forward_logits(frames, 2))


def test_a_net_that_is_fed_true_frames_keeps_its_noise() -> None:
    model = net("model.name=seq2seq").train()
    frames, targets = torch.rand(2, 3, 2, 16, 16), torch.rand(2, 2, 1, 16, 16)
    valid = torch.ones_like(targets, dtype=torch.bool)
    drawn = []
    for _ in range(2):
        drawn.append(model.scheduled_logits(frames, targets, valid, 0.0))  # type: ignore[operator]
    assert drawn[0].shape == targets.shape and not torch.equal(*drawn)


def test_a_base_ignores_the_noise_and_a_net_without_validity_has_none() -> None:
    model = net("model.base=true")
    assert isinstance(model, WithNoise)
    frames = torch.rand(1, 3, 2, 16, 16)
    torch.nn.init.normal_(model.net.weight)  # type: ignore[arg-type]
    base = model.net.base_logits(frames, 2)  # type: ignore[operator]
    noisy = torch.cat([frames, torch.randn(1, 3, 2, 16, 16)], dim=2)
    assert torch.equal(model.net.base_logits(noisy, 2), base)  # type: ignore[operator]
    config = load_config(overrides=["model.noise_channels=1", "model.base=true"], environment={}).config
    with pytest.raises(ConfigError, match="does not go with noise alone"):
        build_forecaster(config, 1)
    assert np.isfinite(base.detach().numpy()).all()
