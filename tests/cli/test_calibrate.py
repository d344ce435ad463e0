"""`nowcast calibrate` finds the levels that its data ask for, and keeps them in the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.synthetic_rain import write_synthetic_archive
from nowcast.data.forecast import load_forecast
from nowcast.models.bundle import load_bundle
from tests.cli.conftest import TINY, Run

THRESHOLDS = "[0.5, 2]"


@pytest.fixture(scope="module")
def chances_run(nowcast: Run, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chances") / "run"
    settings = ["model.head=exceedance", f"model.thresholds_mm_h={THRESHOLDS}", "loss.name=exceedance"]
    options = [part for setting in settings for part in ("--set", setting)]
    nowcast("train", archive, "-o", folder, "--cache", folder.parent / "cache", *TINY, *options)
    return folder


def test_levels_for_every_lead_go_into_the_bundle_and_bring_the_bias_near_one(
    nowcast: Run, chances_run: Path, archive: Path
) -> None:
    # An untrained net says the climatology everywhere: at a level of 0.5 it would forecast nothing at all.
    said = nowcast("calibrate", chances_run, archive, "--every", "15min").stdout
    levels = np.array(load_bundle(chances_run).decision_levels)
    assert levels.shape == (4, 2) and "decision levels by lead time" in said
    assert (levels < 0.5).all() and (levels[:, 1] < levels[:, 0]).all()


def test_the_probabilities_of_the_file_are_nested_and_between_zero_and_one(
    nowcast: Run, chances_run: Path, archive: Path, tmp_path: Path
) -> None:
    nowcast("predict", chances_run, archive, "--probabilities", "-o", tmp_path / "f.nc")
    forecast = load_forecast(tmp_path / "f.nc")
    assert forecast.thresholds == (0.5, 2.0) and forecast.chances is not None
    known = forecast.chances[..., ~np.isnan(forecast.rain_rate[0, 0, 0])]
    assert (known >= 0).all() and (known <= 1).all() and (known[:, :, 1] <= known[:, :, 0]).all()


def test_the_area_rule_replaces_levels(nowcast: Run, chances_run: Path, archive: Path) -> None:
    nowcast("calibrate", chances_run, archive, "--rule", "area")
    bundle = load_bundle(chances_run)
    assert bundle.decision == "area" and bundle.decision_levels is None


@pytest.mark.parametrize("rule", ["area", "expected-csi"])
def test_a_rule_that_reads_no_archive_asks_for_none(nowcast: Run, chances_run: Path, archive: Path, rule: str) -> None:
    nowcast("calibrate", chances_run, "--rule", rule, "--no-probabilities")
    assert load_bundle(chances_run).decision == rule.replace("-", "_")
    for ignored in ([archive], ["--every", "1h"]):
        command = ("calibrate", chances_run, *ignored, "--rule", rule, "--no-probabilities")
        message = str(nowcast(*command, expect=2).exception)
        assert "reads no archive" in message and f"{ignored[0]} would be ignored" in message


@pytest.mark.parametrize("options", [(), ("--rule", "area"), ("--rule", "keep")])
def test_what_is_fitted_asks_for_an_archive(nowcast: Run, chances_run: Path, options: tuple[str, ...]) -> None:
    message = str(nowcast("calibrate", chances_run, *options, expect=2).exception)
    assert "fitted on forecasts of an archive, and none is given" in message


def test_a_mean_head_has_nothing_to_decide(nowcast: Run, run_folder: Path, archive: Path, tmp_path: Path) -> None:
    assert "mean head" in str(nowcast("calibrate", run_folder, archive, expect=2).exception)
    result = nowcast("predict", run_folder, archive, "--probabilities", "-o", tmp_path / "f.nc", expect=2)
    assert "no probabilities" in str(result.exception)


def test_an_archive_without_a_future_is_said_to_have_none(nowcast: Run, chances_run: Path, tmp_path: Path) -> None:
    short = write_synthetic_archive(tmp_path / "short.zarr", 5, (32, 40), seed=1)
    message = str(nowcast("calibrate", chances_run, short, expect=3).exception)
    assert "no issue time with 3 frames before it and 4 after it" in message
