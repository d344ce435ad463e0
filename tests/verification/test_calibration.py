"""Decision levels and calibrated probabilities: known distortions are undone, and a fit keeps its promises."""

from __future__ import annotations

import numpy as np
import pytest

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


def test_events_at_the_levels_give_the_counts_that_the_fit_promised():
    o = rain((3, 100, 100))
    f = (o * 0.4 + np.roll(o, 1, axis=-1) * 0.3).astype(np.float32)
    fit = c.fit_levels(c.rate_level_sums(f, o, THRESHOLDS), default=THRESHOLDS, regimes="pooled")
    missing = np.isnan(f) | np.isnan(o)
    raw = csi(count_events(f.reshape(1, 300, 100), o.reshape(1, 300, 100), THRESHOLDS))[0]
    for k, level in enumerate(fit.levels.astype(np.float32)):
        said, seen = np.where(missing, np.nan, f >= level), np.where(missing, np.nan, o >= np.float32(THRESHOLDS[k]))
        counts = count_events(said.reshape(1, 300, 100), seen.reshape(1, 300, 100), [1.0])
        assert csi(counts).item() == pytest.approx(fit.score[k], rel=1e-12)
        assert frequency_bias(counts).item() == pytest.approx(fit.frequency_bias[k], rel=1e-12)
        assert fit.score[k] >= raw[k] - 1e-3
    assert fit.score[3] > raw[3] + 0.1


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


def test_a_threshold_with_too_few_events_keeps_its_own_level():
    o = np.clip(rain((1, 100, 100)), 0, 4.9)
    fit = c.fit_levels(c.rate_level_sums(o / 2, o, THRESHOLDS), default=THRESHOLDS)
    assert fit.fitted.tolist() == [True, True, True, False]
    assert fit.levels[3] == 5.0 and np.isnan(fit.score[3]) and np.isnan(fit.frequency_bias[3])


def test_levels_of_probabilities_are_found_per_threshold():
    rng = np.random.default_rng(3)
    p = rng.random((1, 2, 200, 200)) ** 2
    o = np.where(rng.random((1, 200, 200)) < p[:, 1], 9.0, np.where(rng.random((1, 200, 200)) < p[:, 0], 2.0, 0.0))
    sums = c.probability_level_sums(p, o, [1.0, 5.0])
    fit = c.fit_levels(sums, default=[0.5, 0.5])
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
    with pytest.raises(ValueError, match="pooled sums"):
        c.fit_probabilities(probability_sums(np.zeros((2, 1, 3, 3)), np.zeros((2, 3, 3)), [1.0]))
