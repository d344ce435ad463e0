"""Block bootstrap: against resampling written out, scipy, and measured coverage."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from nowcast.verification import resampling as r
from nowcast.verification import scores
from nowcast.verification.blocks import block_totals, blocks_by_day, blocks_by_event
from nowcast.verification.bootstrap import MIN_BLOCKS, block_bootstrap, sum_bootstrap


def storms(models: int = 2, cases: int = 60, leads: int = 2, thresholds: int = 3, seed: int = 0) -> np.ndarray:
    """(model, case, lead_time, threshold, 4) counts of unequal cases."""
    rng = np.random.default_rng(seed)
    size = rng.gamma(0.8, 200.0, (1, cases, 1, 1, 1))
    share = np.array([0.5, 0.3, 0.2, 5.0]) * rng.gamma(3.0, 0.3, (models, cases, leads, thresholds, 4))
    return rng.poisson(size * share).astype(np.int64)


BLOCKS = np.repeat(np.arange(15), 4)


def test_block_totals_equal_a_loop_and_blocks_may_stand_anywhere():
    table = storms()
    shuffled = np.random.default_rng(1).permutation(BLOCKS)
    totals = block_totals(table, shuffled)
    for block in range(15):
        assert np.array_equal(totals[:, block], table[:, shuffled == block].sum(axis=1))
    assert totals.dtype == np.int64
    order = np.random.default_rng(2).permutation(60)
    assert np.array_equal(block_totals(table[:, order], shuffled[order]), totals)


def test_days_are_cut_at_the_chosen_hour_and_events_at_gaps():
    times = np.array(["2024-05-03T01:00", "2024-05-01T23:50", "2024-05-01T00:00", "2024-05-02T00:10"], "datetime64[s]")
    assert blocks_by_day(times).tolist() == [2, 0, 0, 1]
    assert blocks_by_day(times, utc_offset_hours=-12).tolist() == [2, 1, 0, 1]
    assert blocks_by_day(times, days=1000).tolist() == [0, 0, 0, 0]
    assert blocks_by_event(times, gap=np.timedelta64(6, "h")).tolist() == [2, 1, 0, 1]
    assert blocks_by_event(times, gap=np.timedelta64(21, "m")).tolist() == [2, 1, 0, 1]
    assert blocks_by_event(times, gap=np.timedelta64(20, "m")).tolist() == [3, 1, 0, 2]
    assert blocks_by_event(times[:1], gap=np.timedelta64(1, "h")).tolist() == [0]


def drawn_weights(blocks: int, replicates: int, seed: int) -> np.ndarray:
    return np.concatenate(list(r._weights(blocks, replicates, seed)))


def test_percentile_interval_equals_resampling_written_out():
    table = storms()
    found = block_bootstrap(table, BLOCKS, scores.csi, method="percentile", replicates=799, seed=4)
    weights = drawn_weights(15, 799, 4)
    resampled = []
    for w in weights:
        cases = np.concatenate([np.flatnonzero(i == BLOCKS) for i in range(15) for _ in range(int(w[i]))])
        counts = table[:, cases].sum(axis=1)
        resampled.append(counts[..., 0] / counts[..., :3].sum(axis=-1))
    ordered = np.sort(resampled, axis=0)
    # 800 * .025 = 20 and 800 * .975 = 780: order statistics, counted from 1.
    np.testing.assert_allclose(found.scores.low, ordered[19], rtol=1e-14)
    np.testing.assert_allclose(found.scores.high, ordered[779], rtol=1e-14)
    difference = np.sort(np.array(resampled)[:, 0] - np.array(resampled)[:, 1], axis=0)
    np.testing.assert_allclose(found.differences.low[0], difference[19], atol=1e-14)
    assert found.pairs == ((0, 1),)


@pytest.mark.parametrize("aggregation", ["pooled", "mean_over_leads"])
def test_studentised_interval_equals_its_definition(aggregation):
    table = storms(leads=2, thresholds=1)
    found = block_bootstrap(table, BLOCKS, scores.csi, aggregation=aggregation, replicates=399, seed=4)
    totals = block_totals(table, BLOCKS).astype(float)[:, :, :, 0]  # (model, block, lead, 4)

    def csi(counts: np.ndarray) -> np.ndarray:
        return counts[..., 0] / counts[..., :3].sum(axis=-1)

    def statistic(by_lead: np.ndarray) -> np.ndarray:
        """(model, lead) -> difference by lead, or of the means."""
        difference = by_lead[0] - by_lead[1]
        return difference.mean(keepdims=True) if aggregation == "mean_over_leads" else difference

    estimate = statistic(csi(totals.sum(axis=1)))
    left = np.array([statistic(csi(totals.sum(axis=1) - totals[:, i])) for i in range(15)])
    error = np.sqrt(14 / 15 * np.sum((left - left.mean(axis=0)) ** 2, axis=0))
    pivots = []
    for w in drawn_weights(15, 399, 4):
        sums = np.einsum("b,mblk->mlk", w, totals)
        s, n = csi(sums), sums[..., :3].sum(axis=-1)
        pull = (totals[..., 0] - s[:, None] * totals[..., :3].sum(axis=-1)) / n[:, None]  # (model, block, lead)
        both = pull[0] - pull[1]
        if aggregation == "mean_over_leads":
            both = both.mean(axis=1, keepdims=True)
        resampled = np.sqrt(15 / 14 * (w @ both**2))
        pivots.append(np.abs(statistic(s) - estimate) / resampled)
    reach = np.sort(pivots, axis=0)[379] * error  # 400 * .95 = 380
    shape = found.differences.low[0].reshape(-1)
    # Counts are rounded to a millionth of their total, and the slopes are numerical.
    np.testing.assert_allclose(shape, (estimate - reach).reshape(-1), rtol=1e-4)
    np.testing.assert_allclose(found.differences.standard_error[0].reshape(-1), error.reshape(-1), rtol=1e-12)


def test_bca_interval_agrees_with_scipy():
    table = storms(models=1, cases=40, leads=1, thresholds=1)
    found = block_bootstrap(table, np.arange(40), scores.csi, method="bca", replicates=9999, seed=1)
    a, n = table[0, :, 0, 0, 0], table[0, :, 0, 0, :3].sum(axis=-1)
    theirs = stats.bootstrap(
        (a, n), lambda x, y, axis: x.sum(axis) / y.sum(axis), paired=True, vectorized=True, n_resamples=9999,
        method="BCa", rng=np.random.default_rng(2),
    )  # fmt: skip
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    # Two sets of 9,999 resamples: an end of the interval varies by about 2 % of its width.
    assert found.scores.low.item() == pytest.approx(theirs.confidence_interval.low, abs=0.06 * width)
    assert found.scores.high.item() == pytest.approx(theirs.confidence_interval.high, abs=0.06 * width)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not():
    table = storms()
    one, two, other = (block_bootstrap(table, BLOCKS, scores.csi, replicates=700, seed=s) for s in (5, 5, 6))
    for name in ("low", "high", "p_value", "standard_error"):
        assert getattr(one.differences, name).tobytes() == getattr(two.differences, name).tobytes()
    assert one.scores.low.tobytes() != other.scores.low.tobytes()


def test_the_order_of_cases_within_blocks_changes_no_bit():
    table = storms()
    order = np.concatenate([4 * i + np.random.default_rng(i).permutation(4) for i in range(15)])
    one = block_bootstrap(table, BLOCKS, scores.csi, replicates=300)
    two = block_bootstrap(table[:, order], BLOCKS[order], scores.csi, replicates=300)
    assert one.scores.low.tobytes() == two.scores.low.tobytes()


def test_swapping_the_models_of_a_pair_negates_the_interval():
    table = storms()
    found = block_bootstrap(table, BLOCKS, scores.csi, pairs=[(0, 1), (1, 0)], replicates=300)
    low, high = found.differences.low, found.differences.high
    assert np.array_equal(low[0], -high[1]) and np.array_equal(
        found.differences.p_value[0], found.differences.p_value[1]
    )


@pytest.mark.parametrize("method", ["studentised", "bca", "percentile"])
def test_a_model_does_not_differ_from_itself(method):
    table = np.concatenate([storms(models=1)] * 2)
    found = block_bootstrap(table, BLOCKS, scores.csi, method=method, replicates=300).differences
    assert np.all(found.estimate == 0) and np.all(found.low == 0) and np.all(found.high == 0)
    assert np.all(found.p_value == 1)


def test_resamples_are_shared_so_that_alike_models_are_told_apart():
    table = storms(models=1, leads=1, thresholds=1)
    better = table.copy()
    moved = table[..., 2] // 10
    better[..., 2] -= moved
    better[..., 0] += moved
    found = block_bootstrap(np.concatenate([better, table]), BLOCKS, scores.csi, replicates=2000)
    assert found.differences.low.item() > 0 and found.differences.p_value.item() < 0.01
    overlap = found.scores.low[0].item() < found.scores.high[1].item()
    assert overlap, "each interval alone is far wider than that of the difference"


@pytest.mark.parametrize("name", sorted(scores.SCORES))
def test_every_score_has_an_interval_round_its_estimate(name):
    table = storms(cases=120)
    found = block_bootstrap(table, np.arange(120) // 3, scores.SCORES[name], replicates=500)
    assert np.all(found.scores.low < found.scores.estimate) and np.all(found.scores.estimate < found.scores.high)
    percentile = block_bootstrap(table, np.arange(120) // 3, scores.SCORES[name], replicates=500, method="percentile")
    ratio = (found.scores.high - found.scores.low) / (percentile.scores.high - percentile.scores.low)
    assert np.all((ratio > 0.9) & (ratio < 1.9)), ratio


def test_mean_over_leads_of_one_lead_is_the_pooled_score():
    table = storms(leads=1)
    one = block_bootstrap(table, BLOCKS, scores.csi, replicates=300)
    two = block_bootstrap(table, BLOCKS, scores.csi, aggregation="mean_over_leads", replicates=300)
    np.testing.assert_allclose(one.scores.high[:, 0], two.scores.high, rtol=1e-4)
    assert np.array_equal(one.n_blocks[0], two.n_blocks)


def test_too_few_blocks_with_events_give_no_interval_and_no_rank():
    table = storms(leads=1)
    table[:, :, :, 2, :3] = 0
    table[:, 7, :, 2, 0] = 50  # one block alone has events at the last threshold
    table[:, :, :, 1, :3] = 0  # and none at the second
    found = block_bootstrap(table, BLOCKS, scores.csi, replicates=200)
    assert found.n_blocks.tolist() == [[15, 0, 1]] and not found.rankable.any()
    assert np.isnan(found.scores.low[:, 0, 1:]).all() and np.isnan(found.differences.p_value[:, 0, 1:]).all()
    assert np.isfinite(found.scores.low[:, 0, 0]).all()
    assert found.effective_blocks[0, 2] == 1 and 1 < found.effective_blocks[0, 0] <= 15


def test_ranking_starts_at_the_stated_number_of_blocks():
    for blocks, rank in ((MIN_BLOCKS - 1, False), (MIN_BLOCKS, True)):
        table = np.maximum(storms(cases=blocks, leads=1), 1)
        assert np.all(block_bootstrap(table, np.arange(blocks), scores.csi, replicates=50).rankable == rank)


def test_resamples_without_events_widen_the_interval_to_the_bounds():
    table = np.zeros((1, 6, 1, 1, 4), dtype=np.int64)
    table[..., 3] = 100
    table[0, :2, 0, 0, :3] = [[30, 10, 20], [10, 40, 10]]
    found = block_bootstrap(table, np.arange(6), scores.csi, bounds=(0.0, 1.0), replicates=500)
    # (4/6)^6 = 9 % of the resamples hold no event, more than the 5 % outside the interval.
    assert (found.scores.low.item(), found.scores.high.item()) == (0.0, 1.0)


def test_a_perfect_model_has_an_interval_of_one_point():
    table = storms(models=1)
    table[..., 1:3] = 0
    found = block_bootstrap(table, BLOCKS, scores.csi, replicates=100).scores
    assert np.all(found.low == 1) and np.all(found.high == 1)


def test_intervals_of_blocks_are_far_wider_than_those_of_pixels():
    table = storms(models=1, leads=1, thresholds=1)
    found = block_bootstrap(table, BLOCKS, scores.csi, replicates=1000).scores
    p, n = found.estimate.item(), table[..., :3].sum()
    assert (found.high - found.low).item() > 3 * 2 * 1.96 * np.sqrt(p * (1 - p) / n)


def test_alike_neighbours_show_in_the_autocorrelation_of_the_blocks():
    rng = np.random.default_rng(3)
    smooth = np.cumsum(rng.normal(size=60))
    table = storms(cases=60, leads=1, thresholds=1)
    assert abs(block_bootstrap(table, np.arange(60), scores.csi, replicates=50).block_autocorrelation.item()) < 0.35
    hits = np.rint(1000 / (1 + np.exp(-smooth))).astype(int)
    table[0, :, 0, 0] = np.stack([hits, 0 * hits, 1000 - hits, 0 * hits], axis=-1)
    table[1, :, 0, 0] = [500, 0, 500, 0]
    assert block_bootstrap(table, np.arange(60), scores.csi, replicates=50).block_autocorrelation.item() > 0.6


def test_what_cannot_be_resampled_is_refused():
    table = storms()
    for wrong, message in (
        ((table[..., 0], BLOCKS), r"\(model, case"),
        ((table.astype(float), BLOCKS), "whole"),
        ((table, BLOCKS[:-1]), "do not fit 60 cases"),
        ((table, np.zeros(60, int)), "at least two"),
    ):
        with pytest.raises(ValueError, match=message):
            block_bootstrap(*wrong, scores.csi, replicates=10)
    with pytest.raises(ValueError, match="unknown method 'magic'"):
        block_bootstrap(table, BLOCKS, scores.csi, method="magic")
    with pytest.raises(ValueError, match="level 95"):
        block_bootstrap(table, BLOCKS, scores.csi, level=95)
    with pytest.raises(ValueError, match="gap between events"):
        blocks_by_event(np.array(["2024-01-01"], "datetime64[s]"), gap=np.timedelta64(0, "s"))
    with pytest.raises(ValueError, match="valid times"):
        blocks_by_day(np.array(["NaT"], "datetime64[s]"))


def csi_parts(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., 2) hits and events, and the events of all models as weights."""
    events = table[..., :3].sum(axis=-1)
    return np.stack([table[..., 0], events], axis=-1).astype(float), events.sum(axis=0).astype(float)


def test_intervals_of_sums_are_those_of_counts_where_the_sums_are_counts():
    table = storms()
    parts, weight = csi_parts(table)
    one = block_bootstrap(table, BLOCKS, scores.csi, replicates=500, seed=3)
    two = sum_bootstrap(parts, weight, BLOCKS, lambda x: x[..., 0] / x[..., 1], pairs=[(0, 1)], replicates=500, seed=3)
    # Second moments are rounded to 2^-20 of each total, and the totals differ.
    for name in ("estimate", "low", "high", "standard_error"):
        np.testing.assert_allclose(getattr(two.scores, name), getattr(one.scores, name), rtol=1e-4)
        np.testing.assert_allclose(getattr(two.differences, name), getattr(one.differences, name), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(two.differences.p_value, one.differences.p_value, atol=2 / 501)
    assert np.array_equal(one.n_blocks, two.n_blocks)
    np.testing.assert_allclose(one.effective_blocks, two.effective_blocks)


def test_units_and_the_order_of_cases_within_blocks_change_no_interval_of_sums():
    parts, weight = csi_parts(storms())
    tiny = sum_bootstrap(parts * 2.0**-40, weight, BLOCKS, lambda x: x[..., 0] / x[..., 1], replicates=300)
    plain = sum_bootstrap(parts, weight, BLOCKS, lambda x: x[..., 0] / x[..., 1], replicates=300)
    assert tiny.scores.low.tobytes() == plain.scores.low.tobytes()
    rough = parts * np.pi
    order = np.concatenate([4 * i + np.random.default_rng(i).permutation(4) for i in range(15)])
    one = sum_bootstrap(rough, weight, BLOCKS, lambda x: x[..., 0] / x[..., 1], replicates=300)
    two = sum_bootstrap(rough[:, order], weight[order], BLOCKS[order], lambda x: x[..., 0] / x[..., 1], replicates=300)
    np.testing.assert_allclose(two.scores.low, one.scores.low, rtol=1e-9)
    np.testing.assert_allclose(one.scores.low, plain.scores.low, rtol=1e-9)


def test_a_sum_that_is_no_number_loses_its_own_interval_alone():
    parts, weight = csi_parts(storms())
    parts[1, 3, 0, 2, 0] = np.inf
    with np.errstate(invalid="ignore"):
        found = sum_bootstrap(parts, weight, BLOCKS, lambda x: x[..., 0] / x[..., 1], pairs=[(0, 1)], replicates=200)
    lost = np.isnan(found.scores.low)
    assert lost[1, 0, 2] and lost.sum() == 1 and np.isnan(found.differences.p_value).sum() == 1


def test_on_the_logarithm_an_interval_stays_above_0_and_is_longer_upwards():
    parts, weight = csi_parts(storms(leads=1))
    parts[0, 0, 0, 2, 0] += 20 * parts[0, :, 0, 2, 0].sum()
    settings = {"score": lambda x: x[..., 0] / x[..., 1], "pairs": [(0, 1)], "replicates": 300, "seed": 2}
    plain, logged = (sum_bootstrap(parts, weight, BLOCKS, scale=scale, **settings) for scale in ("linear", "log"))
    one = logged.scores
    assert np.all(one.low > 0) and np.all(one.high - one.estimate > one.estimate - one.low)
    assert np.array_equal(one.estimate, plain.scores.estimate)
    # On the logarithm the bounds lie at equal ratios.
    np.testing.assert_allclose(one.high / one.estimate, one.estimate / one.low, rtol=1e-9)
    parts[1, ..., 0] = 0.0
    found = sum_bootstrap(parts, weight, BLOCKS, scale="log", **settings)
    assert np.all(found.scores.low[1] == 0) and np.all(found.scores.high[1] == 0)
    # There is no quotient of an error and none: their difference stays linear.
    linear = sum_bootstrap(parts, weight, BLOCKS, **settings).differences
    assert np.array_equal(found.differences.low, linear.low) and np.all(linear.low < found.differences.estimate)


def test_on_the_logarithm_a_difference_is_judged_by_the_quotient_at_the_size_of_the_errors():
    parts, weight = csi_parts(storms(leads=1))
    settings = {"pairs": [(0, 1), (1, 0), (0, 0)], "replicates": 300, "seed": 2}
    found = sum_bootstrap(parts, weight, BLOCKS, lambda x: x[..., 0] / x[..., 1], scale="log", **settings)
    quotients = sum_bootstrap(parts, weight, BLOCKS, lambda x: np.log(x[..., 0] / x[..., 1]), **settings).differences
    one, ratio = found.differences, found.scores.estimate[0] / found.scores.estimate[1]
    assert np.array_equal(one.p_value, quotients.p_value)
    assert np.array_equal(one.estimate[0], found.scores.estimate[0] - found.scores.estimate[1])
    size = one.estimate[0] / np.log(ratio)
    for name in ("low", "high", "standard_error"):
        np.testing.assert_allclose(getattr(one, name)[0], getattr(quotients, name)[0] * size, rtol=1e-9)
    np.testing.assert_allclose(one.low[1], -one.high[0], rtol=1e-9)
    assert not one.low[2].any() and not one.high[2].any() and np.all(one.p_value[2] == 1)


def test_an_error_in_one_block_alone_has_no_quotient_without_it():
    parts, weight = csi_parts(storms(leads=1, thresholds=1))
    parts[1, 1:, ..., 0] = 0.0
    settings = {"score": lambda x: x[..., 0] / x[..., 1], "pairs": [(0, 1)], "replicates": 300, "seed": 2}
    plain, logged = (sum_bootstrap(parts, weight, BLOCKS, scale=scale, **settings) for scale in ("linear", "log"))
    assert (
        np.array_equal(logged.differences.low, plain.differences.low) and np.isfinite(plain.differences.p_value).all()
    )
    assert np.array_equal(logged.scores.high[1], plain.scores.high[1])


def test_blocks_without_a_weight_do_not_count():
    parts, weight = csi_parts(storms(leads=1, thresholds=1))
    weight[BLOCKS >= 9] = 0.0
    found = sum_bootstrap(parts, weight, BLOCKS, lambda x: x[..., 0] / x[..., 1], replicates=50)
    assert found.n_blocks.tolist() == [[9]] and not found.rankable.any()
    with pytest.raises(ValueError, match="weights of"):
        sum_bootstrap(parts, weight[:5], BLOCKS, lambda x: x[..., 0] / x[..., 1])


def coverage_module() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "measure_coverage.py"
    spec = importlib.util.spec_from_file_location("measure_coverage", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_studentised_intervals_hold_the_truth_as_often_as_they_say_from_the_stated_number_of_blocks():
    simulation = coverage_module()
    for world in simulation.WORLDS[:3]:
        for blocks in (MIN_BLOCKS, 2 * MIN_BLOCKS):
            found = simulation.coverage(world, blocks, datasets=1000)
            # 1,000 sets leave a standard error of .007 about a true coverage of .93 to .97.
            assert 0.925 <= found.score <= 0.975, (world.name, blocks, found)
            assert 0.925 <= found.difference <= 0.975, (world.name, blocks, found)


@pytest.mark.slow
def test_what_decisions_on_sums_rest_on_holds_from_the_stated_number_of_blocks_where_a_few_storms_rule_all():
    simulation = coverage_module()
    for metric, found in simulation.coverage_of_sums(simulation.WORLDS[1], 2 * MIN_BLOCKS, datasets=500).items():
        # 500 sets leave a standard error of .010.
        assert 0.92 <= found.quotient <= 0.98, (metric, found)


@pytest.mark.slow
def test_percentile_intervals_hold_the_truth_too_seldom():
    simulation = coverage_module()
    found = simulation.coverage(simulation.WORLDS[0], 10, datasets=500, method="percentile")
    assert found.score < 0.9 and found.difference < 0.9


@pytest.mark.slow
def test_blocks_shorter_than_the_weather_are_shown_by_their_autocorrelation():
    simulation = coverage_module()
    short = simulation.coverage(simulation.WORLDS[3], 50, datasets=300)
    assert short.difference < 0.93 and short.autocorrelation > 0.1
