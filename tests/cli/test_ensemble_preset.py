"""The preset `radar_ensemble` on an archive: trained, calibrated, and forecasting members and probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.synthetic_rain import write_synthetic_archive
from nowcast.config import load_config
from nowcast.data.forecast import load_forecast
from nowcast.models.bundle import load_bundle
from tests.cli.conftest import Run

SMALL = [
    "model.hidden_channels=[4, 4]",
    "data.crop=32",
    "data.output_frames=3",
    "training.max_steps=4",
    "training.batch_size=2",
    "training.ensemble_size=2",
    "training.validate_every=2",
    "training.validation_batches=2",
    "training.checkpoint_every=2",
]


@pytest.fixture(scope="module")
def ensemble(nowcast: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The run folder and its archive."""
    folder = tmp_path_factory.mktemp("ensemble")
    archive = write_synthetic_archive(folder / "rain.zarr", 240, (40, 48), seed=4)
    settings = [part for setting in SMALL for part in ("--set", setting)]
    preset = ["-c", "radar_ensemble", "--cache", folder / "cache"]
    nowcast("train", archive, *preset, "-o", folder / "run", *settings)
    return folder / "run", archive


def test_the_preset_trains_on_an_archive_by_its_crps(ensemble: tuple[Path, Path]) -> None:
    bundle = load_bundle(ensemble[0])
    assert bundle.provenance["steps"] == 4 and bundle.draws_members and bundle.config.loss.name == "crps"
    assert bundle.provenance["validation_loss"] > 0
    assert load_config("radar_ensemble", environment={}).config.model.base


def test_predict_writes_members_and_the_share_that_reaches_each_threshold(
    ensemble: tuple[Path, Path], nowcast: Run, tmp_path: Path
) -> None:
    run, archive = ensemble
    nowcast("predict", run, archive, "--members", "5", "--probabilities", "-o", tmp_path / "f.nc")
    forecast = load_forecast(tmp_path / "f.nc")
    assert forecast.rain_rate.shape[:3] == (5, 1, 3) and forecast.thresholds == (0.1, 0.5, 1.0, 5.0, 10.0)
    known = ~np.isnan(forecast.rain_rate).any(axis=0)[0]
    assert forecast.chances is not None and known.sum() > 1000
    for k, threshold in enumerate(forecast.thresholds):
        share = (forecast.rain_rate[:, 0] >= threshold).mean(axis=0)
        np.testing.assert_allclose(forecast.chances[0, :, k][known], share[known], atol=1e-6)
    assert np.isnan(forecast.chances[0, :, 0][~known]).all()


def test_a_store_holds_members_and_probabilities_too(ensemble: tuple[Path, Path], nowcast: Run, tmp_path: Path) -> None:
    run, archive = ensemble
    options = ["--members", "2", "--probabilities", "--every", "4h", "-o", tmp_path / "f.zarr"]
    nowcast("predict", run, archive, *options)
    forecast = load_forecast(tmp_path / "f.zarr")
    assert forecast.chances is not None and forecast.chances.shape[2] == 5 and forecast.rain_rate.shape[0] == 2
