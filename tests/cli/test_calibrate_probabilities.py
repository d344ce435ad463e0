"""`nowcast calibrate` makes probabilities reliable on rain that it has not seen, and touches no rain rate."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data_prep.synthetic_rain import write_synthetic_archive
from nowcast.config import Config, load_config
from nowcast.data.archive import open_archive
from nowcast.data.forecast import load_forecast
from nowcast.data.normalize import Normalizer
from nowcast.models.bundle import Bundle, load_bundle
from nowcast.models.noise import WithNoise
from nowcast.models.registry import register_forecaster
from nowcast.prediction.nowcaster import Nowcaster
from nowcast.prediction.predict import choose_issue_times, forecast_at
from nowcast.verification.probabilistic import brier_parts, brier_score, probability_sums
from tests.cli.conftest import Run

THRESHOLDS = (0.1, 0.5, 20.0)
LEADS = 3


class TooSure(nn.Module):
    """Says that rain stays where it is, with a chance near one, or near zero elsewhere."""

    def __init__(self, borders: list[float]) -> None:
        super().__init__()
        self.register_buffer("borders", torch.tensor(borders))

    def forward_logits(self, frames: Tensor, num_frames: int) -> Tensor:
        logits = 40.0 * (frames[:, -1, :1] - self.borders.view(-1, 1, 1))  # type: ignore[operator]
        return logits.unsqueeze(1).expand(-1, num_frames, -1, -1, -1)

    def set_output_bias(self, mean: object) -> None:
        """It has none."""


class Shifted(nn.Module):
    """Members that differ by one shift of the whole field: far too alike in space."""

    def forward_logits(self, frames: Tensor, num_frames: int) -> Tensor:
        logits = torch.logit(frames[:, -1, :1].clamp(1e-4, 1 - 1e-4)) + 0.2 * frames[:, -1, 2:3].mean()
        return logits.unsqueeze(1).expand(-1, num_frames, -1, -1, -1)

    def set_output_bias(self, mean: object) -> None:
        """It has none."""


def too_sure(config: Config, in_channels: int) -> nn.Module:
    borders = Normalizer().transform(np.array(config.model.thresholds_mm_h))
    return TooSure([float(border) for border in borders])


register_forecaster("too_sure_for_tests", too_sure)
register_forecaster("shifted_for_tests", lambda config, in_channels: Shifted())


def write_model(folder: Path, *settings: str) -> Path:
    common = ["data.input_frames=2", f"data.output_frames={LEADS}", "scores.thresholds_mm_h=[0.1, 0.5, 20]"]
    config = load_config(overrides=[*common, *settings], environment={}).config
    name = config.model.name
    net = too_sure(config, 2) if name == "too_sure_for_tests" else WithNoise(Shifted(), config.model.noise_channels)
    return Bundle(net, config, Normalizer(mean=0.1), 2, 300.0, (1.0, 1.0), {"name": "untaught"}).save(folder)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One to calibrate on, one of other rain to judge by."""
    folder = tmp_path_factory.mktemp("archives")
    first, second = (write_synthetic_archive(folder / f"{seed}.zarr", 70, (40, 48), seed=seed) for seed in (5, 6))
    return first, second


@pytest.fixture(scope="module")
def models(nowcast: Run, archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The model as it was made, and calibrated."""
    folder = tmp_path_factory.mktemp("models")
    head = ["model.head=exceedance", "model.thresholds_mm_h=[0.1, 0.5, 20]", "loss.name=exceedance"]
    raw = write_model(folder / "raw", "model.name=too_sure_for_tests", *head)
    shutil.copytree(raw, folder / "calibrated")
    said = nowcast("calibrate", folder / "calibrated", archives[0], "--every", "10min", "--rule", "keep").stdout
    assert "0.5 mm/h at 3 of 3 lead times, 20 mm/h at 0 of 3 lead times" in said
    return raw, folder / "calibrated"


def sums_on(model: Path, archive: Path, members: int | None = None):  # type: ignore[no-untyped-def]
    source, nowcaster, total = open_archive(archive), Nowcaster.load(model, device="cpu"), None
    for issue in choose_issue_times(source, 2, every=np.timedelta64(900, "s")):
        start = source.index_of(issue) + 1
        if start + LEADS <= source.times.size:
            forecast = forecast_at(nowcaster, source, issue, LEADS, chances=True, members=members)
            assert forecast.chances is not None
            observed = source.rain_rate(start, start + LEADS)
            sums = probability_sums(forecast.chances[0], observed, forecast.thresholds)
            total = sums if total is None else total + sums
    return total


def test_probabilities_of_rain_never_seen_become_more_reliable(
    models: tuple[Path, Path], archives: tuple[Path, Path]
) -> None:
    before, after = (sums_on(model, archives[1]) for model in models)
    fitted = np.array(load_bundle(models[1]).chance_map.fitted)  # type: ignore[union-attr]
    assert fitted[:, :2].all() and not fitted[:, 2].any()  # 20 mm/h is too rare here to learn from
    worse, better = brier_parts(before).reliability[:, :2], brier_parts(after).reliability[:, :2]
    assert (better < 0.5 * worse).all()
    assert (brier_score(after)[:, :2] < brier_score(before)[:, :2]).all()


def test_calibrated_probabilities_rise_with_the_raw_ones_and_are_nested(
    models: tuple[Path, Path], archives: tuple[Path, Path], nowcast: Run, tmp_path: Path
) -> None:
    files = []
    for model, name in zip(models, ("raw.nc", "calibrated.nc"), strict=True):
        nowcast("predict", model, archives[1], "--probabilities", "-o", tmp_path / name)
        files.append(load_forecast(tmp_path / name))
    raw, calibrated = files
    np.testing.assert_array_equal(raw.rain_rate, calibrated.rain_rate)
    assert raw.attributes["calibrated_probabilities"] == "false"
    assert calibrated.attributes["calibrated_probabilities"] == "true"
    assert raw.chances is not None and calibrated.chances is not None
    known = ~np.isnan(raw.rain_rate[0, 0, 0])
    said, now = raw.chances[0][..., known], calibrated.chances[0][..., known]
    assert (now[:, 1:] <= now[:, :-1]).all() and np.isnan(calibrated.chances[..., ~known]).all()
    for lead in range(LEADS):  # of the lowest threshold, which no other can lower
        assert (np.diff(now[lead, 0][np.argsort(said[lead, 0])]) >= 0).all()
    assert not np.array_equal(said, now)


def test_decision_levels_and_probabilities_do_not_touch_one_another(
    models: tuple[Path, Path], archives: tuple[Path, Path], nowcast: Run, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(models[1], model)
    was = load_bundle(model)
    nowcast("calibrate", model, archives[0], "--every", "10min", "--no-probabilities")
    levels = load_bundle(model)
    assert levels.chance_map == was.chance_map and levels.decision_levels is not None
    # Fitted on what the net says, not on what the map makes of it: a second time changes nothing.
    nowcast("calibrate", model, archives[0], "--every", "10min")
    assert load_bundle(model).chance_map == was.chance_map
    assert load_bundle(model).decision_levels == levels.decision_levels


def test_shares_of_members_are_calibrated_too(archives: tuple[Path, Path], nowcast: Run, tmp_path: Path) -> None:
    settings = ["model.name=shifted_for_tests", "model.noise_channels=1", "loss.name=crps"]
    raw = write_model(tmp_path / "raw", *settings)
    shutil.copytree(raw, tmp_path / "calibrated")
    refused = nowcast("calibrate", raw, archives[0], "--rule", "levels", expect=2)
    assert "needs no decision levels" in str(refused.exception)
    nowcast("calibrate", tmp_path / "calibrated", archives[0], "--every", "10min", "--members", 5)
    before, after = (sums_on(tmp_path / name, archives[1], members=5) for name in ("raw", "calibrated"))
    assert (brier_parts(after).reliability[:, :2] < 0.5 * brier_parts(before).reliability[:, :2]).all()
    assert (brier_score(after)[:, :2] < brier_score(before)[:, :2]).all()


def test_too_few_events_leave_the_probabilities_alone(models: tuple[Path, Path], nowcast: Run, tmp_path: Path) -> None:
    short = write_synthetic_archive(tmp_path / "short.zarr", 9, (40, 48), seed=5)
    shutil.copytree(models[1], tmp_path / "model")
    said = nowcast("calibrate", tmp_path / "model", short, "--rule", "keep").stdout
    assert "no probability is calibrated, nothing has 500 pixels and 5 issue times" in said
    assert load_bundle(tmp_path / "model").chance_map is None


def test_nothing_to_do_is_said(models: tuple[Path, Path], archives: tuple[Path, Path], nowcast: Run) -> None:
    result = nowcast("calibrate", models[1], archives[0], "--rule", "keep", "--no-probabilities", expect=2)
    assert "leaves nothing to do" in str(result.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--members", 5], "draws no members"),
        (["--rule", "area", "--score", "ets"], "--rule area fits none"),
    ],
)
def test_an_option_that_would_say_nothing_is_refused(
    options: list[str | int], message: str, models: tuple[Path, Path], archives: tuple[Path, Path], nowcast: Run
) -> None:
    result = nowcast("calibrate", models[1], archives[0], *options, expect=2)
    assert message in str(result.exception) and "leave --" in str(result.exception.hint)
