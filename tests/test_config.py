"""The configuration says what it refuses, and where each value came from."""

import pytest
import yaml

from nowcast.config import config_from_dict, load_config, preset_names, write_config
from nowcast.errors import ConfigError


def test_precedence_is_default_preset_file_environment_set(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("preset: demo\ntraining: {batch_size: 3, seed: 3, learning_rate: 1e-3}\n")
    loaded = load_config(
        file,
        overrides=["training.batch_size=7"],
        environment={"NOWCAST_TRAINING__SEED": "5", "NOWCAST_TRAINING__BATCH_SIZE": "6", "NOWCAST_TEST_DATA": "x"},
    )
    assert loaded.config.training.batch_size == 7
    assert loaded.config.training.seed == 5
    origins = {path: origin for path, _, origin in loaded.explain()}
    assert origins["training.batch_size"] == "--set training.batch_size=7"
    assert origins["training.seed"] == "environment"
    assert origins["training.learning_rate"] == str(file)
    assert origins["loss.mae_weight"] in ("default", "preset demo")


def test_yaml_exponent_without_a_dot_is_a_number():
    assert load_config(overrides=["training.learning_rate=1e-4"], environment={}).config.training.learning_rate == 1e-4


def test_every_mistake_is_named_at_once_with_the_nearest_key():
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=["training.bach_size=4", "data.input_frames=0", "modle.patch=2"], environment={})
    text = str(caught.value)
    assert "training.bach_size is not a known key (nearest: training.batch_size)" in text
    assert "data.input_frames" in text and "got 0" in text
    assert "modle is not a known key (nearest: model)" in text


@pytest.mark.parametrize("text", ["training.batch_size", "=3"])
def test_set_without_a_path_or_value_is_refused(text):
    with pytest.raises(ConfigError, match=r"expected dotted\.path=value"):
        load_config(overrides=[text], environment={})


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError, match="presets: .*demo"):
        load_config("dmeo", environment={})


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_survives_a_round_trip(name, tmp_path):
    config = load_config(name, environment={}).config
    write_config(config, tmp_path / "config.yaml")
    assert config_from_dict(yaml.safe_load((tmp_path / "config.yaml").read_text())) == config


def test_balanced_loss_needs_one_more_weight_than_thresholds():
    with pytest.raises(ConfigError, match="4 thresholds need 5 weights"):
        load_config(overrides=["loss.weights=[1, 2]"], environment={})
