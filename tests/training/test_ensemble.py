"""An ensemble trained by its CRPS: the score falls, the members differ, a resumed run is the unbroken one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nowcast.errors import ConfigError
from nowcast.models.bundle import load_bundle
from nowcast.models.noise import WithNoise, draw_noise
from nowcast.training.checkpoints import CHECKPOINTS, step_name
from nowcast.training.fit import fit
from nowcast.training.losses import AlmostFairCRPS, masked_mean
from tests.training.tiny import tiny_config, tiny_data

SETTINGS = ["model.noise_channels=1", "loss.name=crps", "training.ensemble_size=4"]


def crps_of(net: torch.nn.Module) -> float:
    batch = tiny_data(24).train.__getitems__(range(24))
    inputs = batch.inputs.repeat(8, 1, 1, 1, 1)
    noise = draw_noise(inputs.shape[0], 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = net.forward_logits(inputs, 2, noise).unflatten(0, (8, -1))  # type: ignore[operator]
    return float(masked_mean(AlmostFairCRPS(1.0)(logits, batch.targets), batch.valid))


def test_the_crps_falls_in_training_and_members_differ(tmp_path: Path) -> None:
    few = tiny_config(*SETTINGS, "training.max_steps=1", "training.learning_rate=1e-6", dropout=0.0)
    start = fit(tiny_data(), few, tmp_path / "start")
    longer = tiny_config(*SETTINGS, "training.max_steps=150", "training.learning_rate=0.05", dropout=0.0)
    end = fit(tiny_data(), longer, tmp_path / "end")
    before, after = (load_bundle(result.bundle).net for result in (start, end))
    assert isinstance(after, WithNoise)
    assert crps_of(after) < 0.98 * crps_of(before)
    frames = tiny_data().train.__getitems__([0]).inputs
    members = [after(frames, 2, draw_noise(1, 1, 8, 8)) for _ in range(3)]
    # The targets are noise, so a member that says less than their spread would score worse.
    assert float(torch.stack(members).std(dim=0).mean().detach()) > 0.02


def test_a_stopped_ensemble_run_continues_to_the_same_weights(tmp_path: Path) -> None:
    config = tiny_config(*SETTINGS)
    whole = load_bundle(fit(tiny_data(), config, tmp_path / "whole").bundle).net.state_dict()
    fit(tiny_data(), config, tmp_path / "parts")
    (tmp_path / "parts" / CHECKPOINTS / f"{step_name(12)}.ckpt").unlink()
    data = tiny_data()
    resumed = load_bundle(fit(data, config, tmp_path / "parts", resume=True).bundle).net.state_dict()
    assert len(data.train.asked) == 3 * 4  # type: ignore[attr-defined]
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.parametrize("overrides", [SETTINGS[:1], SETTINGS[1:]])
def test_noise_and_crps_go_together(tmp_path: Path, overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"does not go with \d noise channels"):
        fit(tiny_data(), tiny_config(*overrides), tmp_path)


def test_a_quantile_above_the_median_forecasts_more(tmp_path: Path) -> None:
    frames = tiny_data().train.__getitems__([0, 1, 2]).inputs
    means = []
    for level in (0.3, 0.9):
        settings = ["loss.name=quantile", f"loss.quantile={level}", "training.max_steps=60"]
        result = fit(tiny_data(), tiny_config(*settings, "training.learning_rate=0.05"), tmp_path / str(level))
        with torch.no_grad():
            means.append(float(load_bundle(result.bundle).net(frames, 2).mean()))
    assert means[0] < means[1] - 0.1
    assert np.isfinite(means).all()
