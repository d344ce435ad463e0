"""A model's forecast: rain rates in and out, missing where nobody knows, areas kept where that is asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nowcast.config import load_config
from nowcast.data.motion import advect, estimate_motion
from nowcast.data.normalize import Normalizer
from nowcast.errors import ConfigError
from nowcast.models.bundle import Bundle
from nowcast.models.heads import Exceedance
from nowcast.models.registry import build_forecaster
from nowcast.prediction.decisions import area_levels, expected_csi_levels
from nowcast.prediction.nowcaster import Nowcaster

THRESHOLDS = (0.5, 2.0, 8.0)


class LastFrame(nn.Module):
    """Logits that repeat the last frame's normalised value."""

    def forward_logits(self, frames: Tensor, num_frames: int) -> Tensor:
        return torch.logit(frames[:, -1:, :1].clamp(1e-6, 1 - 1e-6)).expand(-1, num_frames, -1, -1, -1)


class AboveThresholds(nn.Module):
    """Logits that rise with how far the last frame's normalised value is above each of THRESHOLDS."""

    def forward_logits(self, frames: Tensor, num_frames: int) -> Tensor:
        borders = torch.from_numpy(Normalizer().transform(np.array(THRESHOLDS))).view(-1, 1, 1)
        return (5 * (frames[:, -1:, :1] - borders) - 3).expand(-1, num_frames, -1, -1, -1)


def nowcaster(*overrides: str) -> Nowcaster:
    config = load_config(overrides=["data.input_frames=3", *overrides], environment={}).config
    return Nowcaster(Bundle(LastFrame(), config, Normalizer(), 2, 300.0, (1.0, 1.0)), torch.device("cpu"))


def rain(height: int = 40, width: int = 48) -> np.ndarray:
    """Blobs that move two pixels a step to the east, with a corner that is never measured."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    frames = [
        sum(10 * np.exp(-((y - row) ** 2 + (x - column - 2 * step) ** 2) / 18) for row, column in ((12, 10), (25, 20)))
        for step in range(3)
    ]
    field = np.stack(frames).astype(np.float32)
    field[field < 0.1] = 0
    field[:, :5, :5] = np.nan
    return field


def test_rain_rates_go_in_and_come_out() -> None:
    frames = rain()
    forecast = nowcaster().forecast_frames(frames, 2)
    np.testing.assert_allclose(forecast, np.stack([frames[-1]] * 2), rtol=1e-4, atol=1e-5)


def test_only_the_last_input_frames_count() -> None:
    frames = rain()
    longer = np.concatenate([np.full_like(frames[:2], 50.0), frames])
    np.testing.assert_array_equal(nowcaster().forecast_frames(longer, 2), nowcaster().forecast_frames(frames, 2))


def test_a_model_of_the_moving_frame_carries_its_forecast_along() -> None:
    frames = rain()
    forecast = nowcaster("data.frame=moving").forecast_frames(frames, 4)
    heaviest = [np.unravel_index(np.nanargmax(field), field.shape) for field in (frames[-1], forecast[-1])]
    moved = np.subtract(heaviest[1], heaviest[0])
    np.testing.assert_allclose(moved, (0, 8), atol=1)  # four steps of two pixels


def test_levels_for_areas_give_as_many_events_as_the_last_frame_has() -> None:
    rng = np.random.default_rng(0)
    last = rng.gamma(0.5, 3.0, (30, 30)).astype(np.float32)
    last[:4] = np.nan
    # Nested chances, all far below a half: fixed levels of 0.5 would forecast no event at all.
    chances = rng.uniform(0, 0.2, (5, 1, 30, 30)) * np.array([0.9, 0.5, 0.1]).reshape(3, 1, 1)
    logits = torch.logit(torch.from_numpy(chances)).float()
    moved = np.broadcast_to(last, (5, 30, 30))
    head = Exceedance(Normalizer(), THRESHOLDS, area_levels(logits.numpy(), moved, THRESHOLDS))
    fields = head.rain_rate(logits)
    for threshold in THRESHOLDS:
        wanted = np.count_nonzero(last >= threshold)
        said = np.count_nonzero((fields >= threshold) & ~np.isnan(last), axis=(1, 2))
        assert wanted > 5 and (said == wanted).all()
        assert np.count_nonzero(Exceedance(Normalizer(), THRESHOLDS).rain_rate(logits) >= threshold) == 0


def test_the_area_is_kept_where_the_rain_will_be() -> None:
    """Decided before it is carried on, sub-pixel motion would smooth small events away."""
    frames = rain()
    settings = ["data.input_frames=3", "data.frame=moving", "model.decision=area", "model.head=exceedance"]
    settings += [f"model.thresholds_mm_h={list(THRESHOLDS)}", "loss.name=exceedance"]
    config = load_config(overrides=settings, environment={}).config
    model = Nowcaster(Bundle(AboveThresholds(), config, Normalizer(), 2, 300.0, (1.0, 1.0)), torch.device("cpu"))
    forecast = model.forecast_frames(frames, 4)
    moved = advect(frames[-1], estimate_motion(frames), 4)
    assert np.array_equal(np.isnan(forecast), np.isnan(moved))
    for threshold in model.thresholds_mm_h:
        wanted = np.count_nonzero(moved >= threshold, axis=(1, 2))
        assert (np.count_nonzero(forecast >= threshold, axis=(1, 2)) == wanted).all() and wanted.max() > 0


def test_the_expected_csi_is_the_mean_over_what_may_happen() -> None:
    """All areas tried by hand: the best one lies where the formula of the expected CSI says, and within the slack."""
    rng = np.random.default_rng(2)
    chances = rng.beta(0.3, 1.0, (1, 1, 20, 20))
    logits = np.log(chances / (1 - chances)).astype(np.float32)
    chances = torch.sigmoid(torch.from_numpy(logits).double()).numpy()
    order = np.sort(chances.ravel())[::-1]
    happened = rng.random((4000, order.size)) < order
    hits = happened.cumsum(axis=1)
    number = np.arange(1, order.size + 1)
    # The ratio of the means: CSI pooled over many such cases.
    csi = hits.mean(axis=0) / (number + happened.sum(axis=1).mean() - hits.mean(axis=0))
    best = int(csi.argmax()) + 1
    moved = np.zeros((1, 20, 20), np.float32)
    moved.ravel()[:best] = 1.0
    ((level,),) = expected_csi_levels(logits, moved, (0.5,), areas=(0.5, 1.5))
    assert abs(int((chances >= level).sum()) - best) <= 3
    # Where the last frame had far more or less rain, the area stops at a bound.
    for area in (best // 2, 2 * best):
        moved = np.zeros((1, 20, 20), np.float32)
        moved.ravel()[:area] = 1.0
        ((level,),) = expected_csi_levels(logits, moved, (0.5,), areas=(0.9, 1.1))
        wanted = round(area * (1.1 if area < best else 0.9))
        assert int((chances >= level).sum()) == wanted


@pytest.mark.parametrize("areas", [(1.0, 1.0), (1.0, 1.1), (0.5, 1.5), (0.2, 40.0)])
def test_levels_are_those_of_a_full_sort(areas: tuple[float, float]) -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(-2, 2, (2, 2, 25, 30)).astype(np.float32)
    logits[:, 1] -= 1
    moved = rng.gamma(0.5, 2.0, (2, 25, 30)).astype(np.float32)
    moved[:, :4] = np.nan
    logits[:, :, :, :3] = np.nan
    found = expected_csi_levels(logits, moved, (0.5, 2.0), areas=areas)
    for lead, row in enumerate(found):
        known = ~np.isnan(moved[lead]) & ~np.isnan(logits[lead, 0])
        for k, threshold in enumerate((0.5, 2.0)):
            chances = np.sort(1 / (1 + np.exp(-logits[lead, k][known].astype(float))))[::-1]
            area = np.count_nonzero(moved[lead][known] >= threshold)
            number = np.arange(1, chances.size + 1)
            hits = chances.cumsum()
            csi = hits / (number + chances.sum() - hits)
            allowed = slice(round(area * areas[0]) - 1, min(round(area * areas[1]), chances.size))
            assert row[k] == pytest.approx(chances[allowed][csi[allowed].argmax()], rel=1e-11)


@pytest.mark.parametrize("rule", [area_levels, expected_csi_levels])
def test_a_dry_last_frame_gives_no_event(rule: Callable[..., tuple[tuple[float, ...], ...]]) -> None:
    logits = torch.zeros(2, 3, 8, 8)
    head = Exceedance(Normalizer(), THRESHOLDS, rule(logits.numpy(), np.zeros((2, 8, 8)), THRESHOLDS))
    assert head.rain_rate(logits).max() < THRESHOLDS[0]


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(Exception, match="the model needs 3 frames, got 2"):
        nowcaster().forecast_frames(rain()[:2], 2)


def ensemble() -> Nowcaster:
    settings = ["data.input_frames=3", "model.noise_channels=2", "model.hidden_channels=[8]"]
    config = load_config(overrides=settings, environment={}).config
    torch.manual_seed(1)
    net = build_forecaster(config, 2).eval()
    return Nowcaster(Bundle(net, config, Normalizer(), 2, 300.0, (1.0, 1.0)), torch.device("cpu"))


def test_members_are_a_function_of_the_seed_and_their_number() -> None:
    model, frames = ensemble(), rain()
    four, two = model.forecast_members(frames, 2, 4, 7), model.forecast_members(frames, 2, 2, 7)
    assert four.shape == (4, 2, 40, 48) and four.dtype == np.float32
    np.testing.assert_array_equal(four[:2], two)
    assert np.nanmax(np.abs(np.diff(four, axis=0)), axis=(1, 2, 3)).min() > 0
    assert not np.array_equal(model.forecast_members(frames, 2, 2, 8), two, equal_nan=True)
    assert np.isnan(four[:, :, :5, :5]).all()
    np.testing.assert_array_equal(model.forecast_frames(frames, 2), model.forecast_members(frames, 2, 1, 0)[0])


def test_a_model_of_one_field_has_no_members() -> None:
    with pytest.raises(ConfigError, match=r"forecasts one field and no members.*noise_channels"):
        nowcaster().forecast_members(rain(), 2, 3, 0)
