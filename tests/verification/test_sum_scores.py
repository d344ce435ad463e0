"""Scores in parts: the same values as their own functions, and unchanged by the size of the sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nowcast.verification import continuous, ensembles, probabilistic
from nowcast.verification.counts import EventCounts
from nowcast.verification.fss import fractions_skill_score
from nowcast.verification.score_table import score_rows
from nowcast.verification.scores import csi
from nowcast.verification.sum_scores import SUM_SCORES, SumScore
from tests.report.small_skill import small_evaluation, with_fields

EVALUATION = with_fields(small_evaluation(cases=6, leads=2), members=4)


def pooled_csi(sums: Any, places: tuple[int, ...]) -> np.ndarray:
    counts = EventCounts(sums.hits, sums.false_alarms, sums.misses, sums.correct_negatives)
    return csi(counts)[..., places, :].reshape(*sums.shape, -1)


OWN: dict[str, Any] = {
    "mae": lambda sums: continuous.mean_absolute_error(sums)[..., None],
    "rmse": lambda sums: continuous.root_mean_squared_error(sums)[..., None],
    "mean_error": lambda sums: continuous.mean_error(sums)[..., None],
    "correlation": lambda sums: continuous.pearson_correlation(sums)[..., None],
    "fss": lambda sums: fractions_skill_score(sums).reshape(*sums.shape, -1),
    "csi_max_pool": lambda sums: pooled_csi(sums, (0, 1)),
    "csi_mean_pool": lambda sums: pooled_csi(sums, (2, 3)),
    "crps": lambda sums: ensembles.crps(sums)[..., None],
    "fair_crps": lambda sums: ensembles.fair_crps(sums)[..., None],
    "brier_score": probabilistic.brier_score,
}
by_metric = pytest.mark.parametrize("score", SUM_SCORES, ids=lambda score: score.metric)


@by_metric
def test_parts_give_the_value_of_the_scores_own_function(score: SumScore) -> None:
    sums = EVALUATION.sums[score.kind]["net"]
    np.testing.assert_allclose(score.of(sums), OWN[score.metric](sums), rtol=1e-13)
    parts = score.parts(sums)
    pooled = score.score(parts.sum(axis=(0, 1)))
    np.testing.assert_allclose(pooled, OWN[score.metric](sums.pool()), rtol=1e-12)
    assert len(score.cells(sums, 1.0)) == parts.shape[-2] == score.weight(sums).shape[-1]


@by_metric
def test_a_sample_twice_as_large_has_the_same_score(score: SumScore) -> None:
    parts = score.parts(EVALUATION.sums[score.kind]["net"].pool())
    np.testing.assert_allclose(score.score(1024.0 * parts), score.score(parts), rtol=1e-12)
    low, high = score.bounds
    values = score.score(parts)
    assert np.all(np.isnan(values) | ((values >= low) & (values <= high))) and not np.isnan(values).all()


@by_metric
def test_cells_stand_in_the_rows_of_the_score_table(score: SumScore) -> None:
    sums = EVALUATION.sums[score.kind]["net"]
    values = dict(zip(score.cells(sums, 1.0), score.of(sums.pool(0))[1].tolist(), strict=True))
    rows = [row for row in score_rows(EVALUATION) if row["metric"] == score.metric and row["model"] == "net"]
    found = {}
    for row in rows:
        if row["lead_minutes"] == 30.0:
            cell = tuple(None if row[key] == "" else row[key] for key in ("threshold", "scale_km"))
            found[cell] = np.nan if row["value"] == "" else row["value"]
    assert found == pytest.approx(values, rel=1e-12, nan_ok=True)


def test_a_single_forecast_is_an_ensemble_of_one() -> None:
    rng = np.random.default_rng(0)
    field, observed = (np.round(rng.gamma(0.5, 4.0, (3, 20, 20)), 1).astype(np.float32) for _ in range(2))
    crps, brier = (next(score for score in SUM_SCORES if score.metric == name) for name in ("crps", "brier_score"))
    assert crps.single is not None and brier.single is not None
    one = ensembles.crps(ensembles.crps_sums(field[None], observed))
    np.testing.assert_allclose(
        crps.score(crps.single[1](continuous.continuous_sums(field, observed)))[:, 0], one, rtol=1e-12
    )
    from nowcast.verification.counting import count_events

    levels = [0.5, 2.0]
    sums = ensembles.ensemble_probability_sums(field[None], observed, levels)
    ours = brier.score(brier.single[1](count_events(field, observed, levels)))
    np.testing.assert_allclose(ours, probabilistic.brier_score(sums), rtol=1e-14)


def test_single_forecasts_beside_ensembles_have_rows_and_alone_have_none() -> None:
    rows = [row for row in score_rows(EVALUATION) if row["metric"] in ("crps", "brier_score")]
    assert {row["model"] for row in rows} == set(EVALUATION.models)
    mae = {
        (row["model"], row["lead_minutes"]): row["value"] for row in score_rows(EVALUATION) if row["metric"] == "mae"
    }
    for row in rows:
        if row["metric"] == "crps" and row["model"] != "net":
            assert row["value"] == mae[row["model"], row["lead_minutes"]]
        if row["metric"] == "brier_score" and row["model"] != "net" and row["lead_minutes"] == "":
            counts = EVALUATION.counts
            at = (counts.models.index(row["model"]), ..., counts.thresholds.tolist().index(row["threshold"]))
            wrong = counts.false_alarms[at].sum() + counts.misses[at].sum()
            assert row["value"] == wrong / counts.total[at].sum() and row["n_valid"] == counts.total[at].sum()
    alone = with_fields(small_evaluation(cases=2, leads=1))
    assert not any(row["metric"] in ("crps", "brier_score") for row in score_rows(alone))
