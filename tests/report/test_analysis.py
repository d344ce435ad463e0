"""The analysis: blocks that are independent, decisions that come from tests, nothing ranked on too little."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nowcast.errors import ConfigError
from nowcast.report.analysis import HOUR, analyse, group_cases, independent_blocks
from nowcast.report.decisions import Settings
from nowcast.report.provenance import provenance_rows
from nowcast.report.verdict import lead_ranges, opening, remarks, verdicts
from nowcast.verification.bootstrap import MIN_BLOCKS
from nowcast.verification.counts import CONTINGENCY, ContingencyCounts
from nowcast.verification.evaluation import Evaluation
from nowcast.verification.scores import csi, pool
from tests.report.small_skill import small_evaluation

FAST = Settings(replicates=500)


def changed(evaluation: Evaluation, **arrays: np.ndarray) -> Evaluation:
    counts = evaluation.counts
    kept = {name: arrays.get(name, getattr(counts, name)) for name in CONTINGENCY}
    made = ContingencyCounts(
        counts.models, counts.cases, counts.lead_times, counts.thresholds, **kept,
        pixels=counts.pixels, mask_digest=counts.mask_digest,
    )  # fmt: skip
    return Evaluation(made, evaluation.sums, evaluation.provenance, evaluation.examples)


def test_a_clear_difference_is_called_and_the_other_way_round_too() -> None:
    analysis = analyse(small_evaluation(), FAST)
    assert analysis.candidates == ("net",) and analysis.references == ("persistence", "extrapolation")
    assert all((comparison.decision == "better").all() for comparison in analysis.comparisons)
    behind = analyse(small_evaluation(skill={"net": 0.3, "persistence": 0.5, "extrapolation": 0.5}), FAST)
    assert all((comparison.decision == "worse").all() for comparison in behind.comparisons)
    assert verdicts(behind)[0].text.startswith("At ≥ 0.1 mm/h net is behind persistence at 15–60 min (60 rain episodes")


def test_equal_models_are_not_ranked_above_each_other() -> None:
    analysis = analyse(small_evaluation(skill={"net": 0.5, "persistence": 0.5, "extrapolation": 0.5}), FAST)
    assert all(set(comparison.decision.ravel()) == {"none"} for comparison in analysis.comparisons)
    assert "shows no detectable difference from persistence at 15–60 min" in verdicts(analysis)[0].text


def test_values_are_those_of_the_pooled_counts() -> None:
    evaluation = small_evaluation(models=("persistence", "net"))
    analysis = analyse(evaluation, FAST)
    assert analysis.models == ("net", "persistence")
    by_lead = csi(pool(evaluation.counts, ("case",)))
    overall = csi(pool(evaluation.counts, ("case", "lead_time")))
    np.testing.assert_array_equal(analysis.scores["csi"].value[:, :-1], by_lead[::-1])
    np.testing.assert_array_equal(analysis.scores["csi"].value[:, -1], overall[::-1])
    (comparison,) = analysis.comparisons
    np.testing.assert_array_equal(comparison.difference[:-1], by_lead[1] - by_lead[0])
    inside = (analysis.scores["csi"].low <= analysis.scores["csi"].value) & (
        analysis.scores["csi"].value <= analysis.scores["csi"].high
    )
    assert inside.all()


def test_one_event_is_described_and_nothing_ranked_however_many_cases_it_has() -> None:
    analysis = analyse(small_evaluation(cases=100, hours_apart=0.1), FAST)
    assert analysis.total_blocks == 1 and analysis.n_tests == 0
    assert all((comparison.decision == "few").all() for comparison in analysis.comparisons)
    assert np.isnan(analysis.scores["csi"].low).all()
    assert "single event is described here, and nothing is ranked" in opening(analysis)
    found = verdicts(analysis)
    assert [verdict.ranked for verdict in found] == [False] * 3
    assert "described, not ranked (1 rain episode with events, 20 are needed)" in found[0].text
    assert "beats" not in " ".join(verdict.text for verdict in found)


@pytest.mark.parametrize(("cases", "ranked"), [(MIN_BLOCKS - 1, False), (MIN_BLOCKS, True)])
def test_ranking_begins_at_the_minimum_number_of_blocks(cases: int, ranked: bool) -> None:
    analysis = analyse(small_evaluation(cases=cases), FAST)
    assert any(verdict.ranked for verdict in verdicts(analysis)) is ranked
    assert (analysis.n_tests > 0) is ranked
    assert not np.isnan(analysis.scores["csi"].low).any(), "a rough interval is shown from five blocks on"


def test_blocks_without_an_event_do_not_count_for_that_threshold() -> None:
    evaluation = small_evaluation(cases=30)
    counts = evaluation.counts
    cleared = {name: np.array(getattr(counts, name)) for name in CONTINGENCY}
    cleared["correct_negatives"][:, 10:, :, 2] = counts.total[:, 10:, :, 2]
    for name in ("hits", "false_alarms", "misses"):
        cleared[name][:, 10:, :, 2] = 0
    analysis = analyse(changed(evaluation, **cleared), FAST)
    assert analysis.n_blocks[:, 2].tolist() == [10] * 5 and analysis.n_blocks[:, 0].tolist() == [30] * 5
    assert (analysis.comparisons[0].decision[:, 2] == "few").all()
    assert (analysis.comparisons[0].decision[:, 0] == "better").all()


def test_no_event_at_all_is_undefined_and_makes_no_statement() -> None:
    evaluation = small_evaluation(cases=25)
    zero = np.zeros_like(evaluation.counts.hits)
    empty = changed(
        evaluation, hits=zero, false_alarms=zero, misses=zero, correct_negatives=evaluation.counts.total
    )  # fmt: skip
    analysis = analyse(empty, FAST)
    assert np.isnan(analysis.scores["csi"].value).all()
    assert {verdict.mark for verdict in verdicts(analysis)} == {"few"}
    assert "no event was observed, nor forecast by any model: no statement" in verdicts(analysis)[0].text


def test_an_episode_ends_at_a_gap_and_is_cut_after_a_day() -> None:
    counts = small_evaluation(cases=40, hours_apart=1.0).counts
    blocks = independent_blocks(counts, "episode", gap=2 * HOUR)
    assert blocks.tolist() == [0] * 24 + [1] * 16, "40 hours of rain are two blocks, not forty"
    apart = independent_blocks(small_evaluation(cases=5, hours_apart=3.0).counts, "episode", gap=2 * HOUR)
    assert apart.tolist() == [0, 1, 2, 3, 4]
    midnight = small_evaluation(cases=4, hours_apart=1.0, start="2024-05-01T22:30").counts
    assert independent_blocks(midnight, "episode", gap=2 * HOUR).tolist() == [0, 0, 0, 0]
    assert independent_blocks(midnight, "day", gap=2 * HOUR).tolist() == [0, 0, 1, 1]


def test_the_report_says_which_blocks_share_frames() -> None:
    def said(cases: int, **settings: Any) -> str:
        analysis = analyse(small_evaluation(cases=cases, hours_apart=1.0), replace(FAST, **settings))
        return dict(provenance_rows(analysis))["independent blocks"]

    assert "share frames at the cuts" in said(40) and "share frames" not in said(20)
    assert "share frames at midnight" in said(40, blocks="day")


def test_dry_cases_part_episodes_and_join_the_one_before() -> None:
    evaluation = small_evaluation(cases=8, hours_apart=1.0)
    dry = {name: np.array(getattr(evaluation.counts, name)) for name in CONTINGENCY}
    dry["correct_negatives"][:, 2:6] = evaluation.counts.total[:, 2:6]
    for name in ("hits", "false_alarms", "misses"):
        dry[name][:, 2:6] = 0
    blocks = independent_blocks(changed(evaluation, **dry).counts, "episode", gap=3 * HOUR)
    assert blocks.tolist() == [0, 0, 0, 0, 0, 0, 1, 1]


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    evaluation = small_evaluation(cases=25)
    one, two, other = (analyse(evaluation, Settings(replicates=300, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.scores["csi"].low, two.scores["csi"].low)
    assert (one.scores["csi"].low != other.scores["csi"].low).any()


def test_references_may_be_named_and_baselines_alone_are_compared_with_persistence() -> None:
    evaluation = small_evaluation(cases=25)
    named = analyse(evaluation, Settings(replicates=200, references=("net",)))
    assert [(c.model, c.reference) for c in named.comparisons[:2]] == [("persistence", "net"), ("extrapolation", "net")]
    alone = analyse(small_evaluation(cases=25, models=("persistence", "extrapolation")), FAST)
    assert alone.candidates == ("extrapolation",) and alone.references == ("persistence",)
    with pytest.raises(ConfigError, match="no model 'unet' to compare with"):
        analyse(evaluation, Settings(references=("unet",)))
    with pytest.raises(ConfigError, match="level must lie between 0 and 1, got 95"):
        analyse(evaluation, Settings(level=95))
    single = analyse(small_evaluation(cases=25, models=("net",)), FAST)
    assert single.comparisons == ()
    assert [verdict.text[:65] for verdict in verdicts(single)][2] == (
        "At ≥ 10 mm/h: no model to compare with (25 rain episodes with eve"
    )
    both = analyse(small_evaluation(cases=25, models=("net", "unet"), skill={"net": 0.7, "unet": 0.4}), FAST)
    assert verdicts(both)[0].text.startswith("At ≥ 0.1 mm/h net beats unet at 15–60 min")


def test_a_wrong_number_of_forecast_events_is_remarked() -> None:
    analysis = analyse(small_evaluation(cases=25, skill={"net": 0.2}), FAST)
    assert any("net forecasts rain too rarely: frequency bias 0." in remark for remark in remarks(analysis))
    assert not remarks(analyse(small_evaluation(cases=25, skill={"net": 0.9}), FAST))


def test_runs_of_lead_times_in_words() -> None:
    minutes = np.arange(5, 45, 5)
    assert lead_ranges(minutes, np.array([1, 1, 1, 0, 0, 1, 0, 1], dtype=bool)) == "5–15, 30 and 40 min"
    assert lead_ranges(minutes, np.ones(8, dtype=bool)) == "5–40 min"


def test_groups_by_season_and_hour_cover_every_case_once() -> None:
    counts = small_evaluation(cases=60, hours_apart=31.0).counts
    groups = group_cases(counts)
    assert list(groups) == ["season", "hour of issue"]
    for masks in groups.values():
        np.testing.assert_array_equal(np.sum(list(masks.values()), axis=0), np.ones(60))
    assert groups["season"]["Mar–May"][0] and groups["season"]["Jun–Aug"][-1]
    assert group_cases(small_evaluation(cases=3, hours_apart=0.5).counts) == {}
