"""The portable model: what is saved comes back, and what is damaged is named."""

import json

import numpy as np
import pytest
import torch

from nowcast.config import load_config
from nowcast.data.normalize import Normalizer
from nowcast.errors import ConfigError, DataError
from nowcast.models.bundle import DESCRIPTION, FORMAT_VERSION, WEIGHTS, Bundle, load_bundle
from nowcast.models.chances import ChanceMap
from nowcast.models.registry import build_forecaster


def bundle(**options) -> Bundle:
    config = load_config(
        overrides=["model.hidden_channels=[4, 3]", "model.head=exceedance", "model.thresholds_mm_h=[0.5, 2]"],
        environment={},
    ).config
    torch.manual_seed(0)
    net = build_forecaster(config, 2).eval()
    settings = {"step_seconds": 300.0, "pixel_size_km": (1.0, 0.9), "provenance": {"seed": 3}} | options
    return Bundle(net, config, Normalizer("log", mean=0.1), 2, **settings)


def test_a_bundle_comes_back_as_it_was(tmp_path):
    saved = bundle(decision_levels=((0.3, 0.4), (0.2, 0.1)))
    loaded = load_bundle(saved.save(tmp_path / "model"))
    for name in ("config", "normalizer", "in_channels", "step_seconds", "pixel_size_km", "decision_levels"):
        assert getattr(loaded, name) == getattr(saved, name), name
    assert loaded.provenance == {"seed": 3}
    frames = torch.rand(1, 3, 2, 9, 7)
    assert torch.equal(loaded.net(frames, 2), saved.net(frames, 2))


def test_decision_levels_of_the_bundle_decide_the_forecast(tmp_path):
    logits = torch.logit(torch.tensor([0.35, 0.05]))[None, :, None, None]
    plain = load_bundle(bundle().save(tmp_path / "plain"))
    calibrated = load_bundle(bundle(decision_levels=((0.3, 0.4),)).save(tmp_path / "calibrated"))
    assert plain.head.rain_rate(logits)[0, 0, 0] < 0.5 <= calibrated.head.rain_rate(logits)[0, 0, 0] < 2


def test_a_run_folder_means_the_bundle_inside_and_an_older_one_is_replaced(tmp_path):
    bundle().save(tmp_path / "run" / "model")
    bundle(provenance={"seed": 4}).save(tmp_path / "run" / "model")
    assert load_bundle(tmp_path / "run").provenance == {"seed": 4}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["model"]


def test_a_bundle_written_before_decision_levels_still_loads(tmp_path):
    folder = bundle().save(tmp_path / "model")
    values = json.loads((folder / DESCRIPTION).read_text())
    del values["decision_levels"]
    (folder / DESCRIPTION).write_text(json.dumps(values))
    assert load_bundle(folder).decision_levels is None


def test_damage_is_named(tmp_path):
    with pytest.raises(DataError, match="neither a model bundle nor a run folder"):
        load_bundle(tmp_path)
    folder = bundle().save(tmp_path / "model")
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        load_bundle(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": FORMAT_VERSION + 1}, f"bundle format {FORMAT_VERSION + 1}"),
        ({"in_channels": 1}, "cannot be read"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, change, message):
    folder = bundle().save(tmp_path / "model")
    values = json.loads((folder / DESCRIPTION).read_text()) | change
    (folder / DESCRIPTION).write_text(json.dumps(values))
    with pytest.raises(DataError, match=message):
        load_bundle(folder)


def test_weights_are_plain_float32(tmp_path):
    from safetensors.numpy import load_file

    arrays = load_file(bundle().save(tmp_path / "model") / WEIGHTS)
    assert all(array.dtype == np.float32 for array in arrays.values())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("in_channels", "x"),
        ("in_channels", 0),
        ("step_seconds", "five minutes"),
        ("pixel_size_km", [1.0]),
        ("normalizer", None),
        ("normalizer", {"kind": "sqrt", "minimum_mm_h": 0.1, "maximum_mm_h": 1.0}),
        ("config", {"model": {"patch": -1}}),
        ("provenance", 3),
    ],
)
def test_a_damaged_description_is_named(tmp_path, key, value):
    folder = bundle().save(tmp_path / "model")
    values = json.loads((folder / DESCRIPTION).read_text()) | {key: value}
    (folder / DESCRIPTION).write_text(json.dumps(values))
    with pytest.raises(DataError, match=f"the model bundle {folder} cannot be"):
        load_bundle(folder)


def test_a_map_of_chances_travels_along_and_belongs_to_the_thresholds_of_the_head(tmp_path):
    said, happened = ((((0.1, 0.9), ()),), (((0.0, 0.5), ()),))
    saved = bundle(chance_map=ChanceMap((0.5, 2.0), said, happened))
    assert load_bundle(saved.save(tmp_path / "model")).chance_map == saved.chance_map
    with pytest.raises(ConfigError, match=r"thresholds \(1.0, 3.0\) mm/h, the model says the chances of \(0.5, 2.0\)"):
        bundle(chance_map=ChanceMap((1.0, 3.0), said, happened))


def test_weights_in_half_precision_take_half_the_space_and_forecast_almost_the_same(tmp_path):
    whole = bundle()
    half = whole.save(tmp_path / "half", dtype=torch.float16)
    sizes = [(path / WEIGHTS).stat().st_size for path in (whole.save(tmp_path / "whole"), half)]
    assert sizes[1] < 0.75 * sizes[0]  # the names of the weights take their place too
    loaded, frames = load_bundle(half).net, torch.rand(1, 3, 2, 9, 7)
    assert all(value.dtype == torch.float32 for value in loaded.state_dict().values())
    difference = (loaded(frames, 2) - whole.net(frames, 2)).abs().max()
    assert 0 < difference < 1e-3  # float16 keeps 11 bits
