"""Counts and scores against scores, pySTEPS and xskillscore: equal where they are right, and where they are not, how.

Each disagreement is a test that fails on the day the other package changes, so that the statement stays true.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr

from nowcast.verification import scores as ours
from nowcast.verification.counting import count_events
from nowcast.verification.counts import EventCounts

pytestmark = pytest.mark.oracle
LEVEL = 1.0


def rain(seed: int, *, missing: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((60, 80)) < 0.3, rng.gamma(0.5, 6.0, (60, 80)), 0.0)
    values[rng.random((60, 80)) < missing] = np.nan
    return values


def one(events: EventCounts) -> EventCounts:
    return EventCounts(*(getattr(events, name)[0] for name in ("hits", "false_alarms", "misses", "correct_negatives")))


@pytest.fixture(scope="module")
def pysteps_verification() -> object:
    pytest.importorskip("pysteps")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pysteps.verification import detcatscores
    return detcatscores


@pytest.fixture(scope="module")
def scores_categorical() -> object:
    pytest.importorskip("scores")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import scores.categorical
    return scores.categorical


def test_pysteps_agrees_on_complete_fields_above_the_threshold(pysteps_verification) -> None:  # type: ignore[no-untyped-def]
    forecast, observed = rain(1), rain(2)
    counts = one(count_events(forecast, observed, [LEVEL], comparison=">"))
    theirs = pysteps_verification.det_cat_fct(forecast, observed, LEVEL)
    for name, score in (
        ("POD", ours.pod), ("FAR", ours.far), ("FA", ours.pofd), ("CSI", ours.csi), ("BIAS", ours.frequency_bias),
        ("HSS", ours.hss), ("HK", ours.pss), ("GSS", ours.ets), ("F1", ours.f1), ("MCC", ours.mcc), ("SEDI", ours.sedi),
    ):  # fmt: skip
        assert float(score(counts)) == pytest.approx(float(theirs[name]), rel=1e-9), name


def test_pysteps_counts_missing_pixels_as_no_rain(pysteps_verification) -> None:  # type: ignore[no-untyped-def]
    """Its documentation says that they are ignored."""
    forecast, observed = rain(1, missing=0.2), rain(2, missing=0.2)
    valid = ~(np.isnan(forecast) | np.isnan(observed))
    accumulated = pysteps_verification.det_cat_fct_init(LEVEL)
    pysteps_verification.det_cat_fct_accum(accumulated, forecast, observed)
    total = sum(np.sum(accumulated[key]) for key in ("hits", "false_alarms", "misses", "correct_negatives"))
    assert total == forecast.size > valid.sum()
    counts = one(count_events(forecast, observed, [LEVEL], comparison=">"))
    assert counts.total == valid.sum()
    theirs = pysteps_verification.det_cat_fct(forecast, observed, LEVEL)
    assert abs(float(theirs["POD"]) - float(ours.pod(counts))) > 0.02


def test_pysteps_does_not_count_a_value_on_the_threshold(pysteps_verification) -> None:  # type: ignore[no-untyped-def]
    field = np.array([[LEVEL, 2.0], [0.0, LEVEL]])
    accumulated = pysteps_verification.det_cat_fct_init(LEVEL)
    pysteps_verification.det_cat_fct_accum(accumulated, field, field)
    assert np.sum(accumulated["hits"]) == 1
    assert count_events(field, field, [LEVEL]).hits.item() == 3


def test_merging_in_pysteps_changes_its_first_argument(pysteps_verification) -> None:  # type: ignore[no-untyped-def]
    parts = [pysteps_verification.det_cat_fct_init(LEVEL) for _ in range(2)]
    for seed, part in enumerate(parts):
        pysteps_verification.det_cat_fct_accum(part, rain(seed), rain(seed + 10))
    before = np.sum(parts[0]["hits"])
    merged = pysteps_verification.det_cat_fct_merge(parts[0], parts[1])
    after = np.sum(parts[0]["hits"])
    # A copy or not, the sums are right; which of the two it is decides whether a third merge counts twice.
    assert np.sum(merged["hits"]) == before + np.sum(parts[1]["hits"])
    assert after != before


def test_scores_agrees_on_fields_with_missing_pixels(scores_categorical) -> None:  # type: ignore[no-untyped-def]
    forecast, observed = rain(3, missing=0.2), rain(4, missing=0.2)
    counts = one(count_events(forecast, observed, [LEVEL]))
    manager = scores_categorical.ThresholdEventOperator(default_event_threshold=LEVEL).make_contingency_manager(
        xr.DataArray(forecast), xr.DataArray(observed)
    )
    for name, score in (
        ("probability_of_detection", ours.pod), ("false_alarm_ratio", ours.far), ("success_ratio", ours.success_ratio),
        ("probability_of_false_detection", ours.pofd), ("critical_success_index", ours.csi),
        ("base_rate", ours.base_rate), ("frequency_bias", ours.frequency_bias),
        ("heidke_skill_score", ours.hss), ("peirce_skill_score", ours.pss),
        ("equitable_threat_score", ours.ets), ("f1_score", ours.f1),
        ("symmetric_extremal_dependence_index", ours.sedi),
    ):  # fmt: skip
        theirs = float(getattr(manager, name)())
        assert float(score(counts)) == pytest.approx(theirs, rel=1e-9), name


def test_scores_takes_threshold_zero_for_its_default(scores_categorical) -> None:  # type: ignore[no-untyped-def]
    """0.0 is false in Python: the default of 0.001 comes in its place, and dry pixels are no events."""
    field = xr.DataArray(np.array([[0.0, 0.0005, 2.0]]))
    operator = scores_categorical.ThresholdEventOperator()
    table = operator.make_contingency_manager(field, field, event_threshold=0.0).get_counts()
    assert float(table["tp_count"]) == 1
    assert count_events(field.values, field.values, [0.0]).hits.item() == 3


def test_xskillscore_agrees_on_complete_fields_and_shares_our_side_of_the_threshold() -> None:
    pytest.importorskip("xskillscore")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import xskillscore
    forecast, observed = rain(5), rain(6)
    counts = one(count_events(forecast, observed, [LEVEL]))
    edges = np.array([-np.inf, LEVEL, np.inf])
    table = xskillscore.Contingency(
        xr.DataArray(observed, dims=("y", "x")), xr.DataArray(forecast, dims=("y", "x")), edges, edges, dim=["y", "x"]
    )
    for name in ("hits", "false_alarms", "misses", "correct_negatives"):
        # xskillscore calls (observed, forecast) categories; ours are the same table.
        assert int(getattr(table, name)()) == int(getattr(counts, name)), name
    assert float(table.threat_score()) == pytest.approx(float(ours.csi(counts)), rel=1e-12)
    assert float(table.bias_score()) == pytest.approx(float(ours.frequency_bias(counts)), rel=1e-12)


def test_float32_counters_stop_at_two_to_the_24() -> None:
    """As in benchmarks that keep counts in float32; ours are integers."""
    stuck = np.float32(2**24)
    assert stuck + np.float32(1) == stuck
    events = EventCounts(*(np.array([value]) for value in (2**24, 1, 0, 0)))
    assert events.forecast.item() == 2**24 + 1
