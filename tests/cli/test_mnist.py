"""`nowcast mnist`: train, resume, evaluate with anchors and a gate, sample."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli.main import group
from nowcast.errors import ConfigError, DataError, MismatchError

SMALL = [
    "training.max_steps=3",
    "training.validate_every=2",
    "training.checkpoint_every=1",
    "training.batch_size=2",
    "model.hidden_channels=[4]",
    "moving_mnist.validation_sequences=4",
    "moving_mnist.test_sequences=6",
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "digits"
    values = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    path.write_bytes(struct.pack(">IIII", 0x803, *values.shape) + values.tobytes())
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    folder = tmp_path_factory.mktemp("mnist") / "run"
    settings = [part for text in SMALL for part in ("--set", text)]
    result = mnist("train", *settings, "-o", str(folder), "--digits", str(digits))
    assert result.exit_code == 0, result.output
    assert "6 sequences" in result.output and f"nowcast mnist evaluate {folder}" in result.output
    return folder


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def mnist(*arguments: str) -> Result:
    return CliRunner().invoke(group, ["mnist", *arguments])


def test_evaluate_prints_the_model_beside_its_anchors(run, digits):
    result = mnist("evaluate", str(run), "--digits", str(digits))
    assert result.exit_code == 0, result.output
    first_words = [line.split("  ")[0] for line in result.output.splitlines()]
    assert first_words[1:6] == ["model", "perfect", "constant mean", "copy last", "zeros"]
    assert "comparable, not equal, to published ones" in result.output
    assert "three digits, out of domain" in result.output


def test_a_model_is_scored_on_as_many_leads_as_it_was_trained_for(run, digits, tmp_path):
    assert mnist("evaluate", str(run), "--digits", str(digits)).exit_code == 0  # leaves a set of 20 frames
    frames = ["--set", "data.input_frames=3", "--set", "data.output_frames=4"]
    settings = [part for text in SMALL for part in ("--set", text)]
    trained = mnist("train", *settings, *frames, "-o", str(tmp_path / "short"), "--digits", str(digits))
    assert trained.exit_code == 0, trained.output
    result = mnist("evaluate", str(tmp_path / "short"), "--digits", str(digits), "--json")
    assert result.exit_code == 0, result.output
    assert np.load(json.loads(result.stdout)["test_set"]["file"]).shape[0] == 7


def test_digits_that_do_not_fit_are_refused_with_what_to_set(digits, tmp_path):
    wrong = ["--set", "moving_mnist.size=20", "--set", "moving_mnist.digit_size=28"]
    result = mnist("train", *wrong, "-o", str(tmp_path / "run"), "--digits", str(digits))
    assert isinstance(result.exception, DataError)
    assert "28x28 pixels do not fit a square of 20" in str(result.exception)


def test_the_same_set_is_scored_the_same_from_its_file(run, digits, tmp_path):
    settings = ["--set", "moving_mnist.test_sequences=6", "--digits", str(digits)]
    sampled = mnist("sample", *settings, "-o", str(tmp_path / "set.npy"))
    assert sampled.exit_code == 0, sampled.output
    own = json.loads(mnist("evaluate", str(run), "--digits", str(digits), "--json").stdout)
    given = json.loads(mnist("evaluate", str(run), "--test", str(tmp_path / "set.npy"), "--json").stdout)
    assert own["test_set"]["sha256"] == given["test_set"]["sha256"] in sampled.output
    assert own["model"] == given["model"] and own["anchors"] == given["anchors"]
    assert own["three_digits"]["cross_entropy"] > 0 and "three_digits" not in given


def test_the_run_folder_says_how_it_was_made(run, digits):
    environment = json.loads((run / "environment.json").read_text())
    assert environment["data"]["digits_source"] == "digits, halved" and environment["data"]["training_samples"] == 6


def test_gate_leaves_with_code_10_and_says_which_score(run, digits):
    arguments = ["evaluate", str(run), "--digits", str(digits)]
    assert mnist(*arguments, "--fail-above", "mse=1e9").exit_code == 0
    missed = mnist(*arguments, "--fail-above", "cross_entropy=1,mse=1e9")
    assert missed.exit_code == 10 and "is above 1" in missed.stderr and "mse" not in missed.stderr
    assert isinstance(mnist(*arguments, "--fail-above", "msee=3").exception, ConfigError)


def test_pictures_are_written(run, digits, tmp_path):
    from PIL import Image

    mnist("evaluate", str(run), "--digits", str(digits), "--figure", str(tmp_path / "forecasts.png"))
    mnist("sample", "--digits", str(digits), "-o", str(tmp_path / "frames.gif"))
    # 4 sequences of three rows of ten 32-pixel frames, with gaps of two pixels, at twice the size.
    assert Image.open(tmp_path / "forecasts.png").size == (2 * (10 * 34 - 2), 2 * (12 * 34 - 2))
    assert Image.open(tmp_path / "frames.gif").n_frames == 20


def test_a_finished_run_resumes_to_the_same_end(run, digits):
    result = mnist("train", "--resume", str(run))
    assert result.exit_code == 0, result.output
    assert "6 sequences" in result.output
    assert isinstance(mnist("train", "--resume", str(run), "--set", "training.seed=1").exception, ConfigError)


def test_what_does_not_fit_is_refused(run, digits, tmp_path):
    assert isinstance(mnist("train").exception, ConfigError)
    assert isinstance(mnist("train", "-o", str(run), "--digits", str(digits)).exception, ConfigError)
    assert isinstance(mnist("train", "--resume", str(tmp_path)).exception, DataError)
    assert isinstance(mnist("evaluate", str(tmp_path)).exception, DataError)
    assert isinstance(mnist("sample", "-o", str(tmp_path / "frames.mp4")).exception, ConfigError)


def test_a_wall_clock_budget_trains_scores_and_leaves_half_precision_weights(digits, tmp_path):
    from nowcast.models.bundle import load_bundle

    settings = [part for text in SMALL if "max_steps" not in text for part in ("--set", text)]
    folder = tmp_path / "run"
    result = mnist("train", *settings, "--minutes", "0.02", "-o", str(folder), "--digits", str(digits))
    assert result.exit_code == 0, result.output
    bundle = load_bundle(folder)
    assert 1 <= bundle.provenance["steps"] <= bundle.config.training.max_steps == 120
    assert {"curves.png", "forecasts.png", "scores.json"} <= {path.name for path in folder.iterdir()}
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["model"]["cross_entropy"] > 0 and scores["three_digits"]["cross_entropy"] > 0
    assert scores["max_minutes"] == 0.02 and scores["test_set"]["seed"] == 2015 and scores["device"].startswith("cpu")
    again = json.loads(mnist("evaluate", str(folder / "half"), "--digits", str(digits), "--json").stdout)
    assert again["model"]["cross_entropy"] == pytest.approx(scores["model"]["cross_entropy"], rel=1e-3)
    assert "three digits, out of domain" in result.output and "half-precision weights" in result.output


def test_the_weights_of_the_net_of_2015_fit_into_16_megabytes_at_half_precision(tmp_path):
    import torch

    from nowcast.config import load_config
    from nowcast.models.bundle import Bundle
    from nowcast.models.registry import build_forecaster
    from nowcast.training.moving_mnist import IMAGE_SCALE

    config = load_config("moving_mnist", environment={}).config
    net = build_forecaster(config, 1)
    assert sum(parameter.numel() for parameter in net.parameters()) == 7_585_296
    half = Bundle(net, config, IMAGE_SCALE, 1, None, None).save(tmp_path / "half", dtype=torch.float16)
    assert sum(path.stat().st_size for path in half.iterdir()) <= 16e6


def test_a_rain_model_is_sent_elsewhere(run, tmp_path):
    import shutil

    shutil.copytree(run / "model", tmp_path / "rain")
    description = json.loads((tmp_path / "rain" / "bundle.json").read_text())
    description |= {"step_seconds": 300.0}
    (tmp_path / "rain" / "bundle.json").write_text(json.dumps(description))
    assert isinstance(mnist("evaluate", str(tmp_path / "rain")).exception, MismatchError)
