"""Scores of sums in the report: the rules of CSI, the right way round, one family of tests a score."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from nowcast.report.analysis import Analysis, analyse
from nowcast.report.decisions import Settings
from nowcast.verification.bootstrap import MIN_BLOCKS
from nowcast.verification.evaluation import Evaluation
from nowcast.verification.sum_scores import SUM_SCORES
from tests.report.small_skill import small_evaluation, with_fields

FAST = Settings(replicates=300)


@lru_cache
def ensemble_evaluation(cases: int) -> Evaluation:
    """Three members of noise against single noise: their mean errs less, whatever the blocks."""
    return with_fields(small_evaluation(cases=cases, leads=2, models=("net", "persistence")), members=3, size=24)


@lru_cache
def analysis(cases: int = MIN_BLOCKS + 2, *, references: tuple[str, ...] | None = None) -> Analysis:
    return analyse(ensemble_evaluation(cases), replace(FAST, references=references))


def test_every_score_of_sums_is_there_with_an_interval_round_its_value() -> None:
    found = analysis().sum_scores
    assert set(found) == {score.metric for score in SUM_SCORES}
    for one in found.values():
        value, low, high = one.estimate.value, one.estimate.low, one.estimate.high
        assert value.shape == (len(one.models), 3, len(one.cells)) and one.n_blocks.shape == value.shape[1:]
        shown = ~np.isnan(low)
        assert shown.any() and np.all(low[shown] <= value[shown]) and np.all(value[shown] <= high[shown])


def test_a_smaller_error_is_better_and_so_is_a_larger_skill() -> None:
    found, behind = analysis().sum_scores, analysis(references=("net",)).sum_scores
    for metric in ("rmse", "mae", "crps"):
        (comparison,) = found[metric].comparisons
        assert (comparison.model, comparison.reference) == ("net", "persistence")
        assert comparison.difference[-1, 0] < 0 and comparison.decision[-1, 0] == "better", metric
        (other,) = behind[metric].comparisons
        assert other.difference[-1, 0] > 0 and other.decision[-1, 0] == "worse"
        np.testing.assert_allclose(other.p_value, comparison.p_value)
    # The counts of these evaluations are not those of their fields: here the single forecast errs less often.
    (brier,) = found["brier_score"].comparisons
    assert brier.difference[-1, 0] > 0 and brier.decision[-1, 0] == "worse"
    (fss,) = found["fss"].comparisons
    at = fss.difference > 0
    assert set(fss.decision[at]) <= {"better", "none", "few"} and set(fss.decision[~at]) <= {"worse", "none", "few"}


def test_no_model_is_ranked_by_its_mean_error_nor_by_a_score_that_it_alone_has() -> None:
    found = analysis().sum_scores
    assert found["mean_error"].comparisons == () and found["mean_error"].n_tests == 0
    assert found["fair_crps"].models == ("net",) and found["fair_crps"].comparisons == ()
    assert found["crps"].models == ("net", "persistence")


@pytest.mark.parametrize(("cases", "ranked"), [(MIN_BLOCKS - 1, False), (MIN_BLOCKS, True)])
def test_ranking_begins_at_the_minimum_number_of_blocks(cases: int, ranked: bool) -> None:
    found = analysis(cases).sum_scores
    for metric in ("rmse", "crps", "fss"):
        (comparison,) = found[metric].comparisons
        assert (comparison.decision[-1, 0] == "few") is not ranked and (found[metric].n_tests > 0) is ranked
        assert not np.isnan(comparison.low[-1, 0]), "a rough interval is shown from five blocks on"


def test_a_single_event_has_values_and_no_interval() -> None:
    lone = with_fields(small_evaluation(cases=4, leads=1, hours_apart=0.1), size=24)
    found = analyse(lone, FAST).sum_scores["mae"]
    assert not np.isnan(found.estimate.value).any() and np.isnan(found.estimate.low).all()


def test_blocks_without_rain_do_not_count() -> None:
    evaluation = ensemble_evaluation(MIN_BLOCKS)
    sums = evaluation.sums["continuous"]
    dry = {}
    for model, held in sums.items():
        arrays = {name: np.array(getattr(held, name)) for name in held.additive_fields()}
        for name, array in arrays.items():
            if name not in ("n", "frames"):
                array[:3] = 0
        dry[model] = replace(held, **arrays)
    found = analyse(replace(evaluation, sums={"continuous": dry}), FAST).sum_scores["mae"]
    assert found.n_blocks.tolist() == [[MIN_BLOCKS - 3]] * 3
    assert (found.comparisons[0].decision == "few").all()
