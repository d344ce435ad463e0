"""The configuration says what it refuses, and where each value came from."""

from pathlib import Path

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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scores.thresholds_mm_h=[]"], "scores.thresholds_mm_h: no threshold is given"),
        (["model.thresholds_mm_h=[5, 1]"], r"model.thresholds_mm_h: thresholds must ascend, each once, got \[5, 1\]"),
        (["scores.thresholds_mm_h=[1, 1]"], "thresholds must ascend, each once"),
        (["scores.thresholds_mm_h=[-1, 2]"], "a rain rate threshold is a finite number that is not negative"),
        (["scores.thresholds_mm_h=[1, .inf]"], "a rain rate threshold is a finite number"),
        (["loss.weights=[-1, 2, 5, 10, 30]"], "loss.weights.0: .* greater than or equal to 0, got -1"),
        (["training.learning_rate=.inf"], "training.learning_rate: .*finite"),
        (["training.devices=0"], "training.devices.* greater than or equal to 1, got 0"),
        (["data.validation_share=0.6", "data.test_share=0.4"], "validation_share 0.6 and test_share 0.4 leave nothing"),
        (["moving_mnist.speed=[5, 3]"], r"moving_mnist: speed must be 0 <= low <= high, got \[5.0, 3.0\]"),
        (["moving_mnist.digits=[]"], r"moving_mnist: digits must be numbers of at least 1, got \[\]"),
        (["moving_mnist.digits=[0]"], r"digits must be numbers of at least 1, got \[0\]"),
    ],
)
def test_values_that_cannot_be_are_refused_with_what_was_wanted(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=overrides, environment={})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"preset: 3\n", "mine.yaml: preset is 3, expected a preset's name"),
        (b"preset: mine.yaml\n", "mine.yaml: preset 'mine.yaml' leads back to itself"),
        (b"preset: other.yaml\n", "other.yaml: preset 'mine.yaml' leads back to itself"),
        (b"training: {seed: \xff}\n", "'mine.yaml' cannot be read: 'utf-8' codec"),
    ],
)
def test_files_that_cannot_be_read_are_named_with_the_reason(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_bytes(content)
    (tmp_path / "other.yaml").write_text("preset: mine.yaml\n")
    with pytest.raises(ConfigError, match=message):
        load_config("mine.yaml", environment={})


def test_a_variable_that_is_not_yaml_is_named():
    with pytest.raises(ConfigError, match=r"NOWCAST_TRAINING__SEED: '\[1' is not a YAML value"):
        load_config(environment={"NOWCAST_TRAINING__SEED": "[1"})


def test_a_written_configuration_says_where_each_value_came_from_and_reads_back(tmp_path: Path) -> None:
    overrides = ["model.options={norm: group, kernels: [[1, 2], [3]]}", "training.learning_rate=1e-5"]
    loaded = load_config("demo", overrides=overrides, environment={})
    write_config(loaded.config, tmp_path / "config.yaml", loaded.origins)
    lines = (tmp_path / "config.yaml").read_text().splitlines()
    assert "  batch_size: 4  # preset demo" in lines and "  nodes: 1  # default" in lines
    assert f"    norm: group  # --set {overrides[0]}" in lines
    assert load_config(tmp_path / "config.yaml", environment={}).config == loaded.config
