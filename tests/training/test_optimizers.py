"""Which weights decay: those of convolutions and regressions, and no bias, norm or peephole."""

from __future__ import annotations

import pytest

from nowcast.config import load_config
from nowcast.models.registry import build_forecaster
from nowcast.training.optimizers import make_optimizer


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])
def test_weights_decay_and_biases_and_peepholes_do_not(name: str) -> None:
    settings = ["model.base=true", "model.head=exceedance", "loss.name=exceedance", "model.peephole=channel"]
    config = load_config(overrides=[*settings, f"training.optimizer={name}"], environment={}).config
    net = build_forecaster(config, 2)
    decays = {
        id(parameter): group["weight_decay"]
        for group in make_optimizer(net, config.training).param_groups
        for parameter in group["params"]
    }
    named = dict(net.named_parameters())
    assert len(decays) == len(named)
    kept = {key for key, parameter in named.items() if decays[id(parameter)] == 0}
    assert kept == {key for key in named if "bias" in key or "peephole" in key}
    assert "bias" in kept and named["bias"].ndim == 2 and any("peephole" in key for key in kept)
