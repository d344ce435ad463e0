"""Decision levels and calibrated probabilities: known distortions are undone, and the maps keep their promises."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nowcast.verification import calibration as c
from nowcast.verification.counting import count_events
from nowcast.verification.probabilistic import brier_score, probability_sums
from nowcast.verification.scores import csi, frequency_bias

THRESHOLDS = np.array([0.1, 0.5, 1.0, 5.0])


def rain(shape: tuple[int, ...], seed: int = 0, missing: float = 0.05) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = np.where(rng.random(shape) < 0.4, rng.gamma(0.6, 4.0, shape), 0.0).astype(np.float32)
    field[rng.random(shape) < missing] = np.nan
    return field


def test_counts_by_level_equal_counting_the_field_at_the_level():
    f, o = rain((2, 40, 40), 1), rain((2, 40, 40), 2)
    levels = np.array([0.05, 0.3, 2.0, 9.0])
    sums = c.rate_level_sums(f, o, THRESHOLDS, levels=levels)
    counts = c.counts_by_level(sums)
    for k, threshold in enumerate(THRESHOLDS):
        for j, level in enumerate(levels):
            said, seen = (f >= np.float32(level)).astype(float), (o >= np.float32(threshold)).astype(float)
            said[np.isnan(f)], seen[np.isnan(o)] = np.nan, np.nan
            assert np.array_equal(counts.table()[:, k, j], count_events(said, seen, [1.0]).table()[:, 0])
    assert np.array_equal(sums.pool().pixels, (sums[:1] + sums[1:]).pool().pixels)


def test_a_forecast_that_halves_the_rain_gets_half_the_threshold_as_level():
    o = rain((1, 300, 300))
    fit = c.fit_levels(c.rate_level_sums(o / 2, o, THRESHOLDS), default=THRESHOLDS)
    # The candidates stand 6 % apart.
    np.testing.assert_allclose(fit.levels, THRESHOLDS / 2, rtol=0.06)
    assert fit.fitted.all() and np.all(fit.score > 0.97)
    np.testing.assert_allclose(fit.frequency_bias, 1.0, atol=0.03)


def test_mapping_at_the_levels_gives_the_counts_that_the_fit_promised():
    o = rain((3, 100, 100))
    f = (o * 0.4 + np.roll(o, 1, axis=-1) * 0.3).astype(np.float32)
    fit = c.fit_levels(c.rate_level_sums(f, o, THRESHOLDS), default=THRESHOLDS, regimes="pooled")
    mapped = c.RateMap(fit.levels, THRESHOLDS)(f)
    counts = count_events(mapped.reshape(1, 300, 100), o.reshape(1, 300, 100), THRESHOLDS)
    np.testing.assert_allclose(csi(counts)[0], fit.score, rtol=1e-12)
    np.testing.assert_allclose(frequency_bias(counts)[0], fit.frequency_bias, rtol=1e-12)
    raw = count_events(f.reshape(1, 300, 100), o.reshape(1, 300, 100), THRESHOLDS)
    assert np.all(csi(counts) >= csi(raw) - 1e-3) and csi(counts)[0, 3] > csi(raw)[0, 3] + 0.1


def test_the_worst_regime_decides_where_asked_and_the_heavy_one_where_pooled():
    heavy, light = rain((200, 200), 1, 0) * 4, rain((50, 50), 2, 0)
    forecast = [heavy * 1.0, light * 0.25]
    sums = c.LevelSums.concatenate(
        [c.rate_level_sums(f[None], o[None], [1.0]) for f, o in zip(forecast, (heavy, light), strict=True)]
    )
    level = {rule: c.fit_levels(sums, default=[1.0], regimes=rule).levels[0] for rule in ("pooled", "mean", "worst")}
    assert level["pooled"] == pytest.approx(1.0, rel=0.06)
    assert level["worst"] < 0.6

    def worst(rule: str) -> float:
        table = c.counts_by_level(sums)
        return csi(table)[:, 0, np.flatnonzero(sums.levels == level[rule])[0]].min()

    assert worst("worst") > worst("pooled") + 0.1
    assert worst("worst") >= worst("mean")


def test_the_bias_stays_in_its_range_in_every_regime_where_a_level_allows_it():
    rng = np.random.default_rng(5)
    o = rain((2, 150, 150), 3, 0)
    f = np.abs(o * 0.5 + rng.normal(0, 0.6, o.shape)).astype(np.float32)
    sums = c.rate_level_sums(f, o, THRESHOLDS)
    free = c.fit_levels(sums, default=THRESHOLDS)
    held = c.fit_levels(sums, default=THRESHOLDS, bias_range=(0.9, 1.1))
    assert np.any(np.abs(np.log(free.frequency_bias)) > np.log(1.1))
    assert np.all((held.frequency_bias >= 0.9) & (held.frequency_bias <= 1.1))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_rising_levels_are_the_best_among_all(seed):
    value = np.random.default_rng(seed).normal(size=(3, 7))
    chosen = c._best_rising(value)
    best = max(itertools.combinations(range(7), 3), key=lambda js: sum(value[k, j] for k, j in enumerate(js)))
    assert tuple(chosen) == best


def test_levels_rise_even_where_the_best_of_each_threshold_do_not():
    o = rain((1, 100, 100))
    f = np.where(o >= 5, 0.3, np.where(o >= 1, 0.6, o))  # heavy rain is forecast as drizzle
    fit = c.fit_levels(c.rate_level_sums(f, o, [1.0, 5.0]), default=[1.0, 5.0])
    assert fit.levels[0] < fit.levels[1]
    c.RateMap(fit.levels, np.array([1.0, 5.0]))


def test_a_threshold_with_too_few_events_keeps_about_its_own_level():
    o = np.clip(rain((1, 100, 100)), 0, 4.9)
    fit = c.fit_levels(c.rate_level_sums(o / 2, o, THRESHOLDS), default=THRESHOLDS)
    assert fit.fitted.tolist() == [True, True, True, False]
    assert fit.levels[3] == pytest.approx(5.0, rel=0.06) and np.isnan(fit.score[3]) and np.isnan(fit.frequency_bias[3])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(0.01, 50.0), min_size=4, max_size=4),
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.integers(0, 2**32 - 1),
)
def test_the_map_is_monotone_and_exceeds_exactly_where_the_forecast_reaches_the_level(levels, dtype, seed):
    levels = np.sort(levels)
    rng = np.random.default_rng(seed)
    around = np.concatenate([levels.astype(dtype), np.nextafter(levels.astype(dtype), dtype(0)), [0, 200]])
    field = np.sort(np.concatenate([around, rng.gamma(0.5, 5.0, 200)])).astype(dtype)
    mapped = c.RateMap(levels, THRESHOLDS)(field)
    assert mapped.dtype == dtype and np.all(np.diff(mapped) >= 0) and mapped[0] == 0
    for level, threshold in zip(levels, THRESHOLDS, strict=True):
        assert np.array_equal(mapped >= dtype(threshold), field >= dtype(level))


def test_the_map_keeps_missing_pixels_and_is_the_identity_at_its_own_thresholds():
    field = np.array([np.nan, 0.0, 0.05, 0.3, 4.0, 50.0])
    mapped = c.RateMap(THRESHOLDS, THRESHOLDS)(field)
    np.testing.assert_allclose(mapped, field, rtol=1e-12)


def test_the_map_survives_json_even_with_a_level_that_is_never_reached():
    one = c.RateMap(np.array([0.2, 0.2, 3.0, np.inf]), THRESHOLDS)
    two = c.RateMap.from_dict(json.loads(json.dumps(one.to_dict())))
    field = np.array([0.0, 0.1, 0.2, 1.0, 3.0, 1e6])
    assert np.array_equal(one(field), two(field))
    assert one(field)[2] >= 0.5 and 1.0 <= one(field)[-1] < 5.0


@pytest.mark.parametrize("levels", [[0.0, 1, 2, 3], [2.0, 1, 3, 4], [np.nan, 1, 2, 3], [1.0, 2]])
def test_levels_that_make_no_map_are_refused(levels):
    with pytest.raises(ValueError, match="positive and not fall"):
        c.RateMap(np.array(levels), THRESHOLDS)


def test_matched_areas_are_those_of_the_moved_last_frame():
    forecast, reference = rain((2, 3, 60, 60), 1) * 0.3, rain((2, 3, 60, 60), 2)
    mapped = c.match_areas(forecast, reference, THRESHOLDS)
    valid = ~np.isnan(forecast) & ~np.isnan(reference)
    for threshold in THRESHOLDS.astype(np.float32):
        ours = ((mapped >= threshold) & valid).sum(axis=(-2, -1))
        wanted = np.minimum(
            ((reference >= threshold) & valid).sum(axis=(-2, -1)), ((forecast > 0) & valid).sum((-2, -1))
        )
        assert np.array_equal(ours, wanted)
    assert np.array_equal(np.isnan(mapped), np.isnan(forecast)) and mapped.dtype == np.float32


def test_matching_to_a_dry_frame_leaves_no_event_and_makes_no_rain_from_nothing():
    wet = rain((30, 30), 1)
    assert np.nanmax(c.match_areas(wet, np.zeros((30, 30)), THRESHOLDS)) < 0.1
    assert np.nanmax(c.match_areas(np.zeros((30, 30)), wet, THRESHOLDS)) == 0.0


def exceedance(seed: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).random((4, 30, 30)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_field_says_each_event_exactly_where_all_lower_ones_are_said(dtype):
    probabilities, levels = exceedance(1, dtype), np.array([0.2, 0.3, 0.25, 0.5])
    field = c.rate_from_exceedance(probabilities, THRESHOLDS, levels)
    said = np.logical_and.accumulate(probabilities >= levels.astype(dtype).reshape(-1, 1, 1), axis=0)
    for k, threshold in enumerate(THRESHOLDS.astype(dtype)):
        assert np.array_equal(field >= threshold, said[k])
    assert field.dtype == dtype


def test_the_field_rises_with_every_probability():
    low = exceedance(2)
    high = np.clip(low + 0.1, 0, 1)
    levels = np.array([0.2, 0.3, 0.25, 0.5])
    assert np.all(c.rate_from_exceedance(high, THRESHOLDS, levels) >= c.rate_from_exceedance(low, THRESHOLDS, levels))
    missing = low.copy()
    missing[2, 0, 0] = np.nan
    assert np.isnan(c.rate_from_exceedance(missing, THRESHOLDS, levels)[0, 0])
    sure = c.rate_from_exceedance(np.ones((4, 1, 1)), THRESHOLDS, levels)
    assert sure.item() == 10.0
    assert c.rate_from_exceedance(np.zeros((4, 1, 1)), THRESHOLDS, levels).item() == 0.0


def test_levels_of_probabilities_are_found_per_threshold():
    rng = np.random.default_rng(3)
    p = rng.random((1, 2, 200, 200)) ** 2
    o = np.where(rng.random((1, 200, 200)) < p[:, 1], 9.0, np.where(rng.random((1, 200, 200)) < p[:, 0], 2.0, 0.0))
    sums = c.probability_level_sums(p, o, [1.0, 5.0])
    fit = c.fit_levels(sums, default=[0.5, 0.5], nested=False)
    for k, threshold in enumerate([1.0, 5.0]):
        scores = [csi(count_events((p[0, k] >= q) * 1.0, (o[0] >= threshold) * 1.0, [1.0])).item() for q in sums.levels]
        assert fit.levels[k] == sums.levels[np.argmax(scores)]
        assert fit.score[k] == pytest.approx(max(scores))


def test_isotonic_calibration_undoes_a_known_distortion():
    rng = np.random.default_rng(4)
    true = rng.random((1, 400, 400)) ** 2
    observed = (rng.random((400, 400)) < true[0]) * 1.0
    overconfident = np.sqrt(true)
    edges = np.linspace(0, 1, 101)
    fitted = c.fit_probabilities(probability_sums(overconfident, observed, [1.0], bin_edges=edges))
    assert np.all(np.diff(fitted.calibrated[0]) >= 0)
    # 1,600 pixels a bin: a standard error of at most .0125, less where violators are pooled.
    calibrated = np.interp(overconfident, fitted.forecast[0], fitted.calibrated[0])
    np.testing.assert_allclose(calibrated, true, atol=0.06)
    fresh = (rng.random((400, 400)) < true[0]) * 1.0
    before, after = (brier_score(probability_sums(p, fresh, [1.0])) for p in (overconfident, calibrated))
    assert after < before - 0.02
    assert after == pytest.approx(float(np.mean(true * (1 - true))), abs=0.002)


def test_frequencies_never_fall_and_too_rare_events_are_left_alone():
    rng = np.random.default_rng(6)
    p = np.sort(rng.random((3, 60, 60)), axis=0)[::-1].astype(np.float32)
    observed = np.where(rng.random((60, 60)) < 0.5, 1.5, 0.2)
    fitted = c.fit_probabilities(probability_sums(p, observed, [0.1, 1.0, 50.0]))
    assert np.allclose(fitted.calibrated[0], 1.0)
    # The forecast knows nothing of who is wet: half of them, whatever it says.
    assert np.all(np.diff(fitted.forecast[1]) > 0) and np.all(np.diff(fitted.calibrated[1]) >= 0)
    assert np.average(fitted.calibrated[1]) == pytest.approx(0.5, abs=0.1)
    assert fitted.forecast[2].size == fitted.calibrated[2].size == 0


def test_what_cannot_be_fitted_is_refused():
    sums = c.rate_level_sums(np.zeros((2, 3, 5, 5)), np.zeros((2, 3, 5, 5)), [1.0])
    with pytest.raises(ValueError, match=r"one axis of regimes, got leading axes \(2, 3\)"):
        c.fit_levels(sums, default=[1.0])
    with pytest.raises(ValueError, match="'pooled', 'mean' or 'worst'"):
        c.fit_levels(sums.pool(1), default=[1.0], regimes="median")
    with pytest.raises(ValueError, match="rise from above 0"):
        c.fit_levels(sums.pool(1), default=[1.0], bias_range=(1.2, 0.8))
    with pytest.raises(ValueError, match="too few for 2 nested"):
        few = c.rate_level_sums(np.zeros((1, 5, 5)), np.zeros((1, 5, 5)), [1.0, 2.0], levels=np.array([1.0]))
        c.fit_levels(few, default=[1.0, 2.0])
    with pytest.raises(ValueError, match="pooled sums"):
        c.fit_probabilities(probability_sums(np.zeros((2, 1, 3, 3)), np.zeros((2, 3, 3)), [1.0]))
    with pytest.raises(ValueError, match=r"lie in \(0, 1\]"):
        c.rate_from_exceedance(np.zeros((1, 3, 3)), [1.0], [0.0])
