"""Ensemble and probability scores against their definitions and published values."""

from __future__ import annotations

import numpy as np
import pytest

from nowcast.verification import ensembles as e
from nowcast.verification import probabilistic as p
from nowcast.verification.calibration import probability_level_sums
from nowcast.verification.pooled import pool_blocks, pooled_events


def ensemble(shape: tuple[int, ...], seed: int, missing: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Members and observation with many ties at 0, as in rain."""
    rng = np.random.default_rng(seed)
    everything = np.where(rng.random(shape) < 0.5, np.round(rng.gamma(0.7, 4.0, shape), 1), 0.0).astype(np.float32)
    everything[rng.random(shape) < missing] = np.nan
    return everything[1:], everything[0]


def pixels(values: list[list[float]]) -> np.ndarray:
    """(member, pixel) -> (member, 1, pixel)."""
    return np.asarray(values, dtype=float)[:, None, :]


def test_crps_of_ties_is_that_worked_by_hand():
    sums = e.crps_sums(pixels([[0], [1], [2]]), np.array([[1.0]]))
    assert e.crps(sums) == pytest.approx(2 / 9, abs=1e-15) and e.fair_crps(sums) == pytest.approx(0, abs=1e-15)
    sums = e.crps_sums(pixels([[0], [0], [0.5], [1]]), np.array([[0.0]]))
    assert e.crps(sums) == pytest.approx(0.15625, abs=1e-15) and e.fair_crps(sums) == pytest.approx(1 / 12, abs=1e-15)


def test_crps_equals_the_integral_of_the_squared_difference_of_the_distributions():
    members, observed = ensemble((6, 7, 9), 1)
    grid = np.linspace(-1, 40, 410_001)
    for i, j in [(0, 0), (3, 4), (6, 8), (2, 2)]:
        x, y = members[:, i, j].astype(float), float(observed[i, j])
        if np.isnan(x).any() or np.isnan(y):
            continue
        distribution = np.mean(x[:, None] <= grid, axis=0)
        integral = np.trapezoid((distribution - (y <= grid)) ** 2, grid)
        # A step function on a grid of 1e-4 is off by at most a cell at each of the steps.
        assert e.crps(e.crps_sums(x[:, None, None], np.array([[y]]))) == pytest.approx(integral, abs=7e-4)


def test_crps_of_one_member_is_the_mean_absolute_error_and_its_fair_form_undefined():
    members, observed = ensemble((2, 20, 20), 1)
    sums = e.crps_sums(members, observed)
    assert e.crps(sums) == pytest.approx(np.nanmean(np.abs(members[0].astype(float) - observed)), rel=1e-14)
    assert np.isnan(e.fair_crps(sums))


def test_order_of_members_changes_nothing_and_a_doubled_ensemble_keeps_its_crps():
    members, observed = ensemble((6, 20, 20), 1)
    score = e.crps(e.crps_sums(members, observed))
    assert e.crps(e.crps_sums(members[::-1], observed)) == pytest.approx(score, rel=1e-14)
    assert e.crps(e.crps_sums(np.concatenate([members, members]), observed)) == pytest.approx(score, rel=1e-13)


def test_fair_crps_does_not_depend_on_the_size_of_an_exchangeable_ensemble():
    rng = np.random.default_rng(5)
    observed = rng.normal(size=(300, 300))
    scores = {m: e.crps_sums(rng.normal(size=(m, 300, 300)), observed) for m in (2, 20)}
    # The standard error of either mean over 90,000 pixels is about 0.003.
    assert e.fair_crps(scores[2]) == pytest.approx(1 / np.sqrt(np.pi), abs=0.012)
    assert e.fair_crps(scores[20]) == pytest.approx(1 / np.sqrt(np.pi), abs=0.012)
    assert e.crps(scores[2]) > e.crps(scores[20]) + 0.1


def test_a_pixel_with_one_missing_member_counts_for_no_score():
    members, observed = ensemble((5, 12, 12), 3, missing=0)
    holed = members.copy()
    holed[2, :6] = np.nan
    kept = (members[:, 6:], observed[6:])
    for make in (e.crps_sums, e.rank_sums, e.spread_sums, lambda m, o: e.ensemble_probability_sums(m, o, [0.0, 1.0])):
        holes, rest = make(holed, observed), make(*kept)
        for name in holes.additive_fields():
            assert np.array_equal(getattr(holes, name), getattr(rest, name)), name


def brute_brier(members: np.ndarray, observed: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    valid = ~np.isnan(members).any(axis=0) & ~np.isnan(observed)
    share = (members >= np.float32(threshold)).mean(axis=0)[valid]
    return share, (observed >= np.float32(threshold))[valid]


def test_brier_and_its_parts_equal_the_definition():
    members, observed = ensemble((8, 40, 40), 1)
    thresholds = [0.0, 0.7, 3.0]
    sums = e.ensemble_probability_sums(members, observed, thresholds)
    parts = p.brier_parts(sums)
    for t, threshold in enumerate(thresholds):
        share, seen = brute_brier(members, observed, threshold)
        assert sums.n[t].sum() == share.size and sums.events[t].sum() == seen.sum()
        assert p.brier_score(sums)[t] == pytest.approx(np.mean((share - seen) ** 2), rel=1e-12, abs=1e-15)
        assert parts.within_bin_variance[t] == pytest.approx(0, abs=1e-12)
        whole = parts.reliability[t] - parts.resolution[t] + parts.uncertainty[t]
        assert whole == pytest.approx(p.brier_score(sums)[t], abs=1e-12)
        assert parts.uncertainty[t] == pytest.approx(seen.mean() * (1 - seen.mean()))


def test_the_five_parts_sum_to_the_brier_score_when_bins_hold_many_probabilities():
    rng = np.random.default_rng(7)
    probabilities = rng.random((3, 2, 30, 30))
    observed = rng.gamma(0.5, 3.0, (3, 30, 30))
    sums = p.probability_sums(probabilities, observed, [1.0, 3.0], bin_edges=[0, 0.3, 0.5, 1]).pool()
    q = p.brier_parts(sums)
    total = q.reliability - q.resolution + q.uncertainty + q.within_bin_variance - q.within_bin_covariance
    np.testing.assert_allclose(total, p.brier_score(sums), rtol=1e-12)
    assert np.all(q.within_bin_variance > 0.001)
    direct = np.mean((probabilities[:, 0] - (observed >= 1.0)) ** 2)
    assert p.brier_score(sums)[0] == pytest.approx(direct, rel=1e-12)


def test_probabilities_of_an_ensemble_give_the_sums_of_the_ensemble():
    members, observed = ensemble((5, 20, 20), 1)
    thresholds = [0.5, 2.0]
    ours = e.ensemble_probability_sums(members, observed, thresholds)
    with np.errstate(invalid="ignore"):
        share = np.stack([(members >= np.float32(t)).mean(axis=0) for t in thresholds])
    share[:, np.isnan(members).any(axis=0)] = np.nan
    theirs = p.probability_sums(share, observed, thresholds, bin_edges=ours.bin_edges)
    for name in ours.additive_fields():
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-13, err_msg=name)


def test_reliability_curve_of_calibrated_probabilities_is_the_diagonal():
    rng = np.random.default_rng(2)
    probabilities = rng.random((1, 400, 400))
    observed = (rng.random((400, 400)) < probabilities[0]).astype(float)
    curve = p.reliability_curve(p.probability_sums(probabilities, observed, [1.0]))
    # 16,000 pixels a bin: three standard errors are below 0.012.
    np.testing.assert_allclose(curve.observed_frequency, curve.forecast_probability, atol=0.012)
    assert curve.n.sum() == 160_000
    np.testing.assert_allclose(curve.forecast_probability[0], np.arange(0.05, 1, 0.1), atol=0.003)


def test_probability_one_and_bin_edges_fall_in_the_stated_bins():
    sums = p.probability_sums(np.array([[[0.0, 0.5, 1.0, np.nan]]]), np.zeros((1, 4)), [1.0], bin_edges=[0, 0.5, 1])
    assert sums.n.tolist() == [[1, 2]]


def test_roc_area_equals_the_share_of_rightly_ordered_pairs():
    members, observed = ensemble((7, 25, 25), 1)
    curve = p.roc_curve(e.ensemble_probability_sums(members, observed, [0.7]))
    share, seen = brute_brier(members, observed, 0.7)
    difference = share[seen][:, None] - share[~seen][None, :]
    assert curve.area[0] == pytest.approx(np.mean((difference > 0) + 0.5 * (difference == 0)), abs=1e-12)
    assert curve.detection_rate[0, 0] == curve.false_alarm_rate[0, 0] == 1
    assert curve.detection_rate[0, -1] == curve.false_alarm_rate[0, -1] == 0
    assert np.isnan(p.roc_curve(e.ensemble_probability_sums(members, observed, [500.0])).area[0])


def test_perfect_and_worthless_forecasts():
    observed = np.array([[0.0, 5.0, 0.0, 5.0]])
    perfect = e.ensemble_probability_sums(np.stack([observed] * 3), observed, [1.0])
    assert p.brier_score(perfect) == 0 and p.roc_curve(perfect).area == 1 and p.brier_skill_score(perfect) == 1
    climatology = e.ensemble_probability_sums(np.array([0.0, 5.0])[:, None, None] + observed * 0, observed, [1.0])
    assert p.brier_skill_score(climatology) == 0 and p.roc_curve(climatology).area == 0.5


def test_rank_histogram_shares_ties_equally():
    sums = e.rank_sums(pixels([[0, 0, 1], [0, 1, 2], [3, 2, 3]]), np.array([[0.0, 1.5, 9.0]]))
    # Tied with two of three: ranks 0, 1, 2; then between the second and third; then above all.
    np.testing.assert_allclose(e.rank_histogram(sums), [1 / 3, 1 / 3, 1 / 3 + 1, 1])
    dry = e.rank_sums(np.zeros((3, 2, 2)), np.zeros((2, 2)))
    assert e.rank_histogram(dry).tolist() == [1, 1, 1, 1]
    assert e.rank_histogram(dry, skip_all_tied=True).tolist() == [0, 0, 0, 0]


def test_rank_histogram_of_exchangeable_rain_is_flat_in_spite_of_ties():
    members, observed = ensemble((5, 300, 300), 1, missing=0)
    histogram = e.rank_histogram(e.rank_sums(members, observed))
    assert histogram.sum() == pytest.approx(90_000)
    np.testing.assert_allclose(histogram / 90_000, 0.2, atol=0.005)


def test_spread_equals_error_for_exchangeable_members_and_not_for_a_narrow_ensemble():
    rng = np.random.default_rng(1)
    members, observed = rng.gamma(2.0, 1.0, (5, 300, 300)), rng.gamma(2.0, 1.0, (300, 300))
    whole = e.spread_sums(members, observed, spread_edges=[0.0])
    assert e.spread(whole)[0] == pytest.approx(e.ensemble_mean_error(whole)[0], rel=0.02)
    narrow = e.spread_sums(members.mean() + 0.3 * (members - members.mean()), observed, spread_edges=[0.0])
    assert e.spread(narrow)[0] < 0.4 * e.ensemble_mean_error(narrow)[0]


def test_classes_of_spread_sum_to_the_whole():
    members, observed = ensemble((5, 30, 30), 1)
    classes, whole = e.spread_sums(members, observed), e.spread_sums(members, observed, spread_edges=[0.0])
    assert classes.n.sum() == whole.n.sum() and (classes.n > 0).sum() > 4
    np.testing.assert_allclose(classes.variance.sum(), whole.variance.sum(), rtol=1e-12)
    assert e.spread(classes)[-1] >= 10.0


def test_rechunked_cases_pool_to_the_same_bits():
    members, observed = ensemble((6, 7, 2, 12, 12), 1)
    for make in (e.crps_sums, e.rank_sums, e.spread_sums, lambda m, o: e.ensemble_probability_sums(m, o, [0.0, 1.0])):
        whole = make(members, observed)
        parts = type(whole).concatenate([make(members[:, :3], observed[:3]), make(members[:, 3:], observed[3:])])
        for name in whole.additive_fields():
            assert np.array_equal(getattr(whole.pool(), name), getattr(parts[::-1].pool(), name)), name


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        e.crps_sums(np.zeros((3, 4, 5)), np.zeros((5, 4)))
    with pytest.raises(ValueError, match=r"in \[0, 1\], found 0.5 to 1.5"):
        p.probability_sums(np.array([[[0.5, 1.5]]]), np.zeros((1, 2)), [1.0])
    with pytest.raises(ValueError, match="do not fit"):
        p.probability_sums(np.zeros((1, 2, 2)), np.zeros((2, 2)), [1.0, 2.0])
    with pytest.raises(ValueError, match="ascend from 0 to 1"):
        p.probability_sums(np.zeros((1, 2, 2)), np.zeros((2, 2)), [1.0], bin_edges=[0.1, 1])
    with pytest.raises(ValueError, match="one member is unknown"):
        e.spread_sums(np.zeros((1, 2, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="members 3 and 4"):
        e.crps_sums(np.zeros((3, 2, 2)), np.zeros((2, 2))) + e.crps_sums(np.zeros((4, 2, 2)), np.zeros((2, 2)))


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_xskillscore_agrees_on_crps_brier_and_spread():
    xs = pytest.importorskip("xskillscore")
    import xarray as xr

    members, observed = ensemble((6, 40, 40), 1, missing=0)
    f = xr.DataArray(members.astype(float), dims=("member", "y", "x"))
    o = xr.DataArray(observed.astype(float), dims=("y", "x"))
    assert e.crps(e.crps_sums(members, observed)) == pytest.approx(float(xs.crps_ensemble(o, f)), rel=1e-10)
    ours = p.brier_score(e.ensemble_probability_sums(members, observed, [0.95]))[0]
    theirs = xs.brier_score(o >= 0.95, (f >= 0.95).mean("member"))
    assert ours == pytest.approx(float(theirs), rel=1e-10)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_scores_agrees_on_crps_and_fair_crps():
    probability = pytest.importorskip("scores.probability")
    import xarray as xr

    members, observed = ensemble((6, 40, 40), 1, missing=0)
    f = xr.DataArray(members.astype(float), dims=("member", "y", "x"))
    o = xr.DataArray(observed.astype(float), dims=("y", "x"))
    sums = e.crps_sums(members, observed)
    for method, score in (("ecdf", e.crps), ("fair", e.fair_crps)):
        theirs = probability.crps_for_ensemble(f, o, "member", method=method)
        assert score(sums) == pytest.approx(float(theirs), rel=1e-10)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_where_pysteps_goes_wrong():
    crps = pytest.importorskip("pysteps.verification.probscores").CRPS
    members, observed = pixels([[0], [1], [2]]), np.array([[1.0]])
    assert crps(members, observed) == 0.0  # 2/9 is right: the observation equals a member
    assert e.crps(e.crps_sums(members, observed)) == pytest.approx(2 / 9)
    # Where nothing is tied the two agree.
    rng = np.random.default_rng(1)
    members, observed = rng.gamma(1.0, 2.0, (5, 20, 20)), rng.gamma(1.0, 2.0, (20, 20))
    assert e.crps(e.crps_sums(members, observed)) == pytest.approx(crps(members, observed), rel=1e-10)


@pytest.mark.parametrize(
    "sums",
    [
        lambda masked, o: e.crps_sums(masked, o),
        lambda masked, o: e.rank_sums(masked, o),
        lambda masked, o: e.spread_sums(masked, o),
        lambda masked, o: e.ensemble_probability_sums(masked, o, [0.5]),
        lambda masked, o: p.probability_sums(masked[:1], o, [0.5]),
        lambda masked, o: probability_level_sums(masked[:1], o, [0.5]),
        lambda masked, o: pooled_events(masked[0], o, [0.5], 4),
        lambda masked, o: pool_blocks(masked[0], 4, pooling="max"),
    ],
)
def test_a_mask_is_never_lost(sums):
    fields = np.random.default_rng(0).random((3, 8, 8))
    masked = np.ma.masked_less(fields[:2], 0.3)
    with pytest.raises(TypeError, match="would lose its mask"):
        sums(masked, fields[2])
