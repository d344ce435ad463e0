"""A head's map from chances to rain: one field, monotone, with events exactly where the decision levels say."""

import numpy as np
import pytest
import torch

from nowcast.config import ModelConfig
from nowcast.data.normalize import Normalizer
from nowcast.errors import ConfigError
from nowcast.models.heads import BoundedMean, Exceedance, make_head, output_channels, smallest_logits

THRESHOLDS = (0.1, 0.5, 1.0, 5.0, 10.0)
NORMALIZER = Normalizer()


def logits_of(chances: np.ndarray) -> torch.Tensor:
    return torch.logit(torch.as_tensor(chances, dtype=torch.float64))


def nested_chances(seed: int, *shape: int) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(0.001, 0.999, (*shape[:-2], len(THRESHOLDS), *shape[-2:]))
    return -np.sort(-values, axis=-3)


def test_the_mean_head_inverts_the_normaliser():
    rain = np.array([[[0.0, 0.2, 3.0, 80.0]]], dtype=np.float32)
    logits = torch.logit(torch.from_numpy(NORMALIZER.transform(rain))[:, None].clamp(1e-7, 1 - 1e-7))
    np.testing.assert_allclose(BoundedMean(NORMALIZER).rain_rate(logits), rain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("levels", [None, ((0.2, 0.3, 0.4, 0.25, 0.6),)])
def test_a_threshold_is_reached_exactly_where_its_chance_and_those_below_reach_their_levels(levels):
    chances = nested_chances(0, 3, 20, 20)
    rain = Exceedance(NORMALIZER, THRESHOLDS, levels).rain_rate(logits_of(chances))
    assert rain.shape == (3, 20, 20) and rain.dtype == np.float32
    level = np.array(levels[0] if levels else [0.5] * 5)[:, None, None]
    reached = np.logical_and.accumulate(chances >= level, axis=-3)
    for number, threshold in enumerate(THRESHOLDS):
        np.testing.assert_array_equal(rain.astype(np.float64) >= threshold, reached[:, number])


def test_every_class_occurs_and_rates_stay_in_the_normalisers_range():
    rain = Exceedance(NORMALIZER, THRESHOLDS).rain_rate(logits_of(nested_chances(1, 1, 60, 60)))
    assert set(np.digitize(rain, THRESHOLDS).ravel()) == set(range(6))
    assert rain.min() >= 0 and rain.max() <= NORMALIZER.largest_mm_h


def test_rain_rises_with_every_chance():
    head = Exceedance(NORMALIZER, THRESHOLDS, ((0.6, 0.2, 0.5, 0.3, 0.4),))
    rng = np.random.default_rng(2)
    lower = nested_chances(2, 1, 50, 50)
    upper = lower + (0.9999 - lower) * rng.uniform(0, 1, lower.shape) * (rng.random(lower.shape) < 0.5)
    assert (head.rain_rate(logits_of(upper)) >= head.rain_rate(logits_of(lower))).all()


def test_lower_levels_give_more_rain_everywhere():
    chances = logits_of(nested_chances(3, 1, 50, 50))
    low = Exceedance(NORMALIZER, THRESHOLDS, ((0.2, 0.2, 0.2, 0.2, 0.2),)).rain_rate(chances)
    high = Exceedance(NORMALIZER, THRESHOLDS, ((0.6, 0.5, 0.4, 0.7, 0.3),)).rain_rate(chances)
    assert (low >= high).all() and (low > high).any()


def test_rain_is_continuous_between_two_thresholds():
    head = Exceedance(NORMALIZER, (1.0, 10.0))
    chances = np.stack([np.full(4, 0.8), np.array([0.0, 0.25, 0.4999999, 0.5])])[None, :, None]
    np.testing.assert_allclose(head.rain_rate(logits_of(chances))[0, 0], [1.0, 10**0.5, 10.0, 10.0], rtol=1e-5)


def test_certain_drought_is_zero_and_certain_downpour_is_the_largest_rate():
    logits = torch.full((1, 5, 1, 2), 1e4)
    logits[..., 0] = -1e4
    np.testing.assert_array_equal(
        Exceedance(NORMALIZER, THRESHOLDS).rain_rate(logits)[0, 0], [0.0, NORMALIZER.largest_mm_h]
    )


def test_levels_belong_to_lead_times_and_the_last_serves_those_beyond():
    chances = np.full((3, 1, 1, 1), 0.3)
    rain = Exceedance(NORMALIZER, (1.0,), ((0.2,), (0.4,))).rain_rate(logits_of(chances))
    assert (rain[:, 0, 0] >= 1.0).tolist() == [True, False, False]


def test_targets_at_a_threshold_are_events():
    rain = np.array([0.0, 0.1, 0.4999, 0.5, 1.0, 9.99, 10.0, 200.0, 0.09], dtype=np.float32)
    targets = torch.from_numpy(NORMALIZER.transform(rain)).view(1, 1, 1, 1, -1)
    encoded = Exceedance(NORMALIZER, THRESHOLDS).encode(targets)
    assert encoded.shape == (1, 1, 5, 1, 9)
    np.testing.assert_array_equal(encoded[0, 0, :, 0].sum(dim=0), [0, 1, 1, 2, 3, 4, 5, 5, 0])


def test_configuration_names_the_head():
    assert output_channels(ModelConfig()) == 1
    assert isinstance(make_head(ModelConfig(), NORMALIZER), BoundedMean)
    config = ModelConfig(head="exceedance", thresholds_mm_h=(0.5, 2.0))
    head = make_head(config, NORMALIZER, [[0.3, 0.4]])
    assert head.channels == output_channels(config) == 2
    assert head == Exceedance(NORMALIZER, (0.5, 2.0), ((0.3, 0.4),))


@pytest.mark.parametrize(
    ("thresholds", "levels", "message"),
    [
        ((), None, "positive and ascend"),
        ((1.0, 0.5), None, "positive and ascend"),
        ((0.0, 0.5), None, "positive and ascend"),
        ((0.5, 100.0), None, "saturates at 100 mm/h"),
        ((0.5, 1.0), ((0.5,),), "as many decision levels"),
        ((0.5,), ((1.0,),), r"in \(0, 1\)"),
    ],
)
def test_thresholds_and_levels_that_cannot_be_are_refused(thresholds, levels, message):
    with pytest.raises(ConfigError, match=message):
        Exceedance(NORMALIZER, thresholds, levels)


def test_levels_for_a_mean_head_are_refused():
    with pytest.raises(ConfigError, match="mean head"):
        make_head(ModelConfig(), NORMALIZER, [[0.5]])


def plain_rates(head: Exceedance, logits: np.ndarray) -> np.ndarray:
    """The map from logits (K, H, W) to rates, written down a second time, threshold after threshold."""
    chances = torch.sigmoid(torch.from_numpy(logits).double()).numpy()
    lower = [0.0, *head.thresholds_mm_h]
    upper = [*head.thresholds_mm_h, head.normalizer.largest_mm_h]
    levels = head.levels_at(0)
    rates, open_still = np.zeros(logits.shape[1:]), np.ones(logits.shape[1:], dtype=bool)
    for chance, level, low, high in zip(chances, levels, lower[:-1], upper[:-1], strict=True):
        along = np.minimum(chance / level, 1)
        rates = np.where(open_still, high * along if low == 0 else low * (high / low) ** along, rates)
        open_still &= chance >= level
    beyond = np.clip((chances[-1] - levels[-1]) / (1 - levels[-1]), 0, 1)
    return np.where(open_still, lower[-1] * (upper[-1] / lower[-1]) ** beyond, rates)


def test_rates_are_those_of_a_plain_reading_and_missing_stays_missing():
    rng = np.random.default_rng(5)
    logits = np.sort(rng.normal(0, 4, (len(THRESHOLDS), 30, 40)), axis=0)[::-1].astype(np.float32)
    logits[:, :3, :4] = -np.inf
    logits[:, 5] = np.nan
    head = Exceedance(NORMALIZER, THRESHOLDS, ((0.3, 0.2, 0.5, 0.1, 0.7),))
    rates = head.rain_rate(torch.from_numpy(logits)[None])[0]
    assert np.isnan(rates[5]).all() and np.isnan(rates).sum() == 40
    known = ~np.isnan(rates)
    np.testing.assert_allclose(rates[known], plain_rates(head, logits)[known], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("level", [1e-6, 0.1, 0.25, 0.5, 0.9, 1 - 1e-6])
def test_a_logit_reaches_its_border_where_its_chance_reaches_the_level(level):
    (border,) = smallest_logits(np.array([level]))
    # Nearer, two ways to take a sigmoid differ.
    around = border + np.array([-1e-3, -1e-9, 1e-9, 1e-3])
    np.testing.assert_array_equal(1 / (1 + np.exp(-around)) >= level, around >= border)
    assert border == pytest.approx(np.log(level / (1 - level)), abs=1e-9)
