"""The model of the package: it is found by its name, forecasts better than rain that only moves, and stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cli.main import group
from data_prep.synthetic_rain import synthetic_rain, write_synthetic_archive
from nowcast.data.archive import open_archive
from nowcast.models.bundle import PRETRAINED_FOLDER, find_bundle, load_bundle
from nowcast.prediction.extrapolation import Extrapolation
from nowcast.prediction.nowcaster import Nowcaster
from nowcast.prediction.persistence import Persistence
from nowcast.verification.counting import count_events

LEADS, SHAPE, SEEDS = 12, (160, 160), (7, 8, 9, 10)
THRESHOLDS = np.array([0.1, 1.0])


@pytest.mark.slow
def test_it_beats_rain_that_only_moves_on_synthetic_rain_it_never_saw() -> None:
    """CSI pooled over four sequences and an hour, on the same pixels; training saw seeds 101 and 102."""
    models = (Nowcaster.load("pretrained", device="cpu"), Extrapolation(), Persistence())
    counts = np.zeros((len(models), 2, THRESHOLDS.size))
    for seed in SEEDS:
        past, future = np.split(synthetic_rain(4 + LEADS, SHAPE, seed=seed, preset="mixed"), [4])
        forecasts = [model.forecast_frames(past, LEADS) for model in models]
        known = ~np.isnan([future, *forecasts]).any(axis=0)
        for number, forecast in enumerate(forecasts):
            events = count_events(np.where(known, forecast, np.float32(np.nan)), future, THRESHOLDS)
            hits = events.hits.sum(axis=0)
            counts[number] += hits, hits + events.false_alarms.sum(axis=0) + events.misses.sum(axis=0)
    pretrained, extrapolation, persistence = counts[:, 0] / counts[:, 1]
    assert (pretrained > extrapolation + 0.02).all() and (extrapolation > persistence + 0.1).all()


def test_its_provenance_says_that_it_saw_no_observation() -> None:
    bundle = load_bundle("pretrained")
    assert bundle.provenance["synthetic"] and bundle.name == "pyramid"
    assert "synthetic rain alone" in (PRETRAINED_FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in PRETRAINED_FOLDER.iterdir()) < 2**20


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_bundle("pretrained").save(tmp_path / "pretrained")
    monkeypatch.chdir(tmp_path)
    assert find_bundle("pretrained") == Path("pretrained")


def test_the_commands_know_it_and_calibrate_leaves_it_alone(tmp_path: Path) -> None:
    archive = write_synthetic_archive(tmp_path / "rain.zarr", 6, (64, 64), seed=3)
    before = {path.name: path.read_bytes() for path in PRETRAINED_FOLDER.iterdir()}
    made = CliRunner().invoke(group, ["predict", "pretrained", str(archive), "-o", str(tmp_path / "out.nc")])
    assert made.exit_code == 0, made.output
    assert open_archive(archive).times.size == 6 and (tmp_path / "out.nc").is_file()
    refused = CliRunner().invoke(group, ["calibrate", "pretrained", str(archive)])
    assert refused.exit_code != 0 and "belongs to the package" in str(refused.exception) + refused.output
    assert {path.name: path.read_bytes() for path in PRETRAINED_FOLDER.iterdir()} == before
