"""Diebold-Mariano beside the bootstrap: the same side for clear cases, another where blocks weigh otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from nowcast.report.analysis import analyse
from nowcast.report.cross_check import compared, disagrees
from nowcast.report.decisions import Settings
from nowcast.verification.bootstrap import MIN_BLOCKS
from nowcast.verification.counts import CONTINGENCY
from nowcast.verification.significance import diebold_mariano
from tests.report.small_skill import small_evaluation
from tests.report.test_analysis import changed

FAST = Settings(replicates=500)


def test_clear_differences_are_found_by_both_and_equal_models_by_neither() -> None:
    for skill, wanted in ((0.7, "better"), (0.2, "worse")):
        analysis = analyse(small_evaluation(skill={"net": skill, "persistence": 0.4, "extrapolation": 0.4}), FAST)
        for comparison, check in zip(analysis.comparisons, analysis.cross_checks, strict=True):
            assert (check.model, check.reference) == (comparison.model, comparison.reference)
            assert (check.decision == wanted).all() and not disagrees(comparison, check).any()
            assert compared(comparison, check).all()
    equal = analyse(small_evaluation(skill={"net": 0.5, "persistence": 0.5, "extrapolation": 0.5}), FAST)
    assert all((check.decision == "none").all() for check in equal.cross_checks)


def test_the_numbers_are_those_of_the_test_on_the_losses_of_the_blocks() -> None:
    evaluation = small_evaluation(cases=30)
    check = analyse(evaluation, FAST).cross_checks[0]
    counts = evaluation.counts
    events = counts.hits + counts.false_alarms + counts.misses
    loss = 1 - counts.hits / events  # a case is a block here
    wanted = diebold_mariano(loss[0, :, 2, 1], loss[1, :, 2, 1], horizon=2)
    assert check.statistic[2, 1] == pytest.approx(wanted.statistic) and check.p_value[2, 1] == wanted.p_value
    assert check.loss_difference[2, 1] == pytest.approx(wanted.mean_difference) and check.n_blocks[2, 1] == 30


def test_one_huge_block_rules_the_bootstrap_and_not_the_other_test() -> None:
    evaluation = small_evaluation(cases=40, leads=1, models=("net", "persistence"), thresholds=(1.0,))
    table = {name: np.array(getattr(evaluation.counts, name)) for name in CONTINGENCY}
    rng = np.random.default_rng(0)
    total = evaluation.counts.total[0, :, 0, 0]
    for m, share in enumerate((0.6, 0.5)):
        observed = np.full(40, 20)
        observed[7] = 5000
        hits = np.rint(observed * np.clip(share + rng.normal(0, 0.02, 40), 0, 1)).astype(int)
        hits[7] = (1500, 2500)[m]
        table["hits"][m, :, 0, 0], table["misses"][m, :, 0, 0] = hits, observed - hits
        table["false_alarms"][m, :, 0, 0] = 0
        table["correct_negatives"][m, :, 0, 0] = total - observed
    analysis = analyse(changed(evaluation, **table), FAST)
    (comparison,), (check,) = analysis.comparisons, analysis.cross_checks
    assert check.decision[0, 0] == "better" and comparison.decision[0, 0] != "better"
    assert comparison.difference[0, 0] < 0 and disagrees(comparison, check)[0, 0]


def test_blocks_where_the_csi_is_undefined_do_not_count_and_too_few_make_no_test() -> None:
    evaluation = small_evaluation(cases=MIN_BLOCKS + 5)
    cleared = {name: np.array(getattr(evaluation.counts, name)) for name in CONTINGENCY}
    for name in ("hits", "false_alarms", "misses"):
        cleared[name][:2, :6, :, 2] = 0
    cleared["correct_negatives"][:2, :6, :, 2] = evaluation.counts.total[:2, :6, :, 2]
    cleared["correct_negatives"][2] = evaluation.counts.correct_negatives[2]
    analysis = analyse(changed(evaluation, **cleared), FAST)
    check = analysis.cross_checks[0]
    assert check.n_blocks[:, 2].tolist() == [MIN_BLOCKS - 1] * 5 and (check.decision[:, 2] == "few").all()
    assert np.isnan(check.p_value[:, 2]).all() and not compared(analysis.comparisons[0], check)[:, 2].any()
