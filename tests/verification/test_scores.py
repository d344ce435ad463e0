"""Scores of contingency tables: published tables, properties, undefined cells and named aggregations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nowcast.verification import scores
from nowcast.verification.counts import Case, ContingencyCounts, EventCounts

# Finley's tornado forecasts of 1884, as in Murphy 1996, https://doi.org/10.1175/1520-0434(1996)011<0003:TFAASE>2.0.CO;2
FINLEY = {
    "pod": 0.5490196,
    "far": 0.72,
    "pofd": 0.0261628,
    "csi": 0.2276423,
    "frequency_bias": 1.9607843,
    "hss": 0.3553249,
    "ets": 0.2160456,
    "pss": 0.5228568,
    "sedi": 0.7528042,
    "f1": 0.3708609,
    "mcc": 0.3767637,
}
# The rain table of https://jwgfvr.github.io/forecastverification
WWRP = {
    "frequency_bias": 1.1428571,
    "pod": 0.7809524,
    "far": 0.316667,
    "pofd": 0.146154,
    "csi": 0.573426,
    "hss": 0.608871,
    "pss": 0.6348,
    "ets": 0.437682,
    "sedi": 0.789308,
    "mcc": 0.611707,
    "f1": 0.728889,
}


def table(hits: int, false_alarms: int, misses: int, correct_negatives: int) -> EventCounts:
    return EventCounts(*(np.array(value) for value in (hits, false_alarms, misses, correct_negatives)))


@pytest.mark.parametrize("name", FINLEY)
def test_finley_1884(name: str) -> None:
    assert scores.SCORES[name](table(28, 72, 23, 2680)) == pytest.approx(FINLEY[name], abs=6e-8)


@pytest.mark.parametrize("name", WWRP)
def test_the_wwrp_table(name: str) -> None:
    # Published with six digits, PSS with four.
    assert scores.SCORES[name](table(82, 38, 23, 222)) == pytest.approx(WWRP[name], abs=6e-7 if name != "pss" else 3e-6)


def test_the_oracle_tables_tell_false_alarms_from_misses() -> None:
    finley = table(28, 72, 23, 2680)
    assert scores.far(finley) == pytest.approx(72 / 100)
    assert scores.success_ratio(finley) == pytest.approx(28 / 100)
    assert scores.base_rate(finley) == pytest.approx(51 / 2803)


counts_strategy = st.integers(0, 3_000_000_000)


@given(counts_strategy, counts_strategy, counts_strategy, counts_strategy)
@settings(max_examples=200, deadline=None)
def test_swapping_forecast_and_observation(a: int, b: int, c: int, d: int) -> None:
    one, other = table(a, b, c, d), table(a, c, b, d)
    np.testing.assert_array_equal(scores.pod(one), scores.success_ratio(other))
    for symmetric in (scores.csi, scores.ets, scores.hss, scores.f1, scores.mcc):
        np.testing.assert_allclose(symmetric(one), symmetric(other), rtol=1e-9, atol=1e-12)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(scores.frequency_bias(one), 1 / scores.frequency_bias(other), rtol=1e-12)


@given(counts_strategy, counts_strategy, counts_strategy, counts_strategy)
@settings(max_examples=200, deadline=None)
def test_scores_agree_with_exact_arithmetic(a: int, b: int, c: int, d: int) -> None:
    """Python's integers know no overflow; ad is past 2^63 here."""
    n = a + b + c + d
    numerator = a * d - b * c
    for score, bottom, factor in (
        (scores.ets, numerator + n * (b + c), 1),
        (scores.hss, (a + c) * (c + d) + (a + b) * (b + d), 2),
    ):
        value = float(score(table(a, b, c, d)))
        if bottom == 0:
            assert np.isnan(value)
        else:
            # ad - bc cancels: what is lost is relative to the products, not to the difference.
            scale = (a * d + b * c + n * (b + c)) / abs(bottom)
            assert value == pytest.approx(factor * numerator / bottom, abs=1e-14 * max(1.0, scale) * 4)


@pytest.mark.parametrize(
    ("counts", "undefined"),
    [
        ((0, 0, 0, 50), {"pod", "far", "success_ratio", "csi", "frequency_bias", "ets", "hss", "pss", "f1", "mcc"}),
        ((50, 0, 0, 0), {"pofd", "ets", "hss", "pss", "mcc"}),
        ((0, 0, 7, 43), {"far", "success_ratio", "mcc"}),
        ((0, 7, 0, 43), {"pod", "pss", "mcc"}),
        ((10, 0, 0, 40), set()),
    ],
)
def test_zero_by_zero_is_undefined_and_nothing_else_is(counts: tuple[int, ...], undefined: set[str]) -> None:
    found = {name for name, score in scores.SCORES.items() if np.isnan(score(table(*counts)))} - {"sedi"}
    assert found == undefined


def test_a_perfect_forecast_has_perfect_scores() -> None:
    perfect = table(10, 0, 0, 40)
    ones = ("pod", "csi", "success_ratio", "frequency_bias", "ets", "hss", "pss", "f1", "mcc")
    assert {name: float(scores.SCORES[name](perfect)) for name in ones} == dict.fromkeys(ones, 1.0)
    assert scores.far(perfect) == 0 and scores.pofd(perfect) == 0


def test_bias_of_forecasts_without_observed_events_is_infinite() -> None:
    assert scores.frequency_bias(table(0, 5, 0, 5)) == np.inf


def test_undefined_cells_say_why() -> None:
    counts = EventCounts(*(np.array(v) for v in ([0, 0, 3, 0], [0, 0, 0, 4], [0, 0, 0, 0], [9, 0, 6, 5])))
    assert scores.undefined_reason(scores.csi, counts).tolist() == [
        "undefined (0 observed, 0 forecast)",
        "undefined (no valid pixels)",
        "",
        "",
    ]
    assert scores.undefined_reason(scores.pod, counts)[3] == "undefined (0 observed, 4 forecast)"


def cube(hits: np.ndarray, false_alarms: np.ndarray, misses: np.ndarray, pixels: int) -> ContingencyCounts:
    """Counts of one model and one threshold from (case, lead_time) arrays."""
    a, b, c = (np.asarray(v)[None, :, :, None] for v in (hits, false_alarms, misses))
    cases, leads = a.shape[1:3]
    return ContingencyCounts(
        ("net",),
        tuple(Case("mch", np.datetime64("2016-07-11T00:00") + np.timedelta64(k, "h")) for k in range(cases)),
        np.arange(1, leads + 1) * np.timedelta64(300, "s"),
        np.array([5.0]),
        a,
        b,
        c,
        pixels - a - b - c,
        pixels=np.full((cases, leads), pixels),
        mask_digest=np.zeros((cases, leads), dtype=np.uint64),
    )


def test_the_named_aggregations_differ_and_are_what_they_say() -> None:
    counts = cube([[8, 1], [0, 0]], [[2, 3], [0, 4]], [[0, 4], [0, 0]], 100)
    pooled = scores.aggregate(scores.csi, counts)
    assert pooled.value.item() == pytest.approx(9 / 22)
    by_lead = scores.aggregate(scores.csi, counts, "mean_over_leads")
    assert by_lead.value.item() == pytest.approx((8 / 10 + 1 / 12) / 2)
    by_case = scores.aggregate(scores.csi, counts, "mean_over_cases")
    assert by_case.value.item() == pytest.approx((9 / 18 + 0 / 4) / 2)
    per_lead = scores.aggregate(scores.csi, counts, "mean_over_cases", over=("case",))
    np.testing.assert_allclose(per_lead.value.ravel(), [8 / 10, (1 / 8 + 0 / 4) / 2])
    assert per_lead.parts.ravel().tolist() == [1, 2]
    assert per_lead.counts.hits.ravel().tolist() == [8, 1]


def test_one_undefined_lead_makes_the_mean_over_leads_undefined() -> None:
    counts = cube([[8, 0]], [[2, 0]], [[0, 0]], 100)
    result = scores.aggregate(scores.csi, counts, "mean_over_leads")
    assert np.isnan(result.value.item()) and result.reason.item() == "undefined at 1 of 2 lead times"
    assert scores.aggregate(scores.csi, counts).value.item() == pytest.approx(0.8)


def test_pooling_over_nothing_known_is_refused() -> None:
    with pytest.raises(ValueError, match="not day"):
        scores.pool(cube([[1]], [[0]], [[0]], 4), ("day",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no aggregation over case"):
        scores.aggregate(scores.csi, cube([[1]], [[0]], [[0]], 4), "mean_over_leads", over=("case",))
