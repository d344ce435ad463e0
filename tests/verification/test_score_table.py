"""Rows of scores.csv: every score of an evaluation once, equal to the function that defines it, with its n."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from nowcast.verification import ensembles
from nowcast.verification import probabilistic as p
from nowcast.verification.counts import EventCounts
from nowcast.verification.score_table import COLUMNS, score_rows
from nowcast.verification.scores import pod, pofd
from nowcast.verification.spectra import SpectrumSums, spectrum
from tests.report.small_skill import small_evaluation, with_fields

EVALUATION = with_fields(small_evaluation(cases=5, leads=2), members=3)
ROWS = list(score_rows(EVALUATION))
LEADS = (15.0, 30.0, "")


def found(metric: str, **wanted: Any) -> list[Mapping[str, Any]]:
    return [row for row in ROWS if row["metric"] == metric and all(row[key] == wanted[key] for key in wanted)]


def value(metric: str, **wanted: Any) -> float:
    (row,) = found(metric, **wanted)
    return float(row["value"])


def sums_of(kind: str, lead: Any) -> Any:
    sums = EVALUATION.sums[kind]["net"]
    return sums.pool() if lead == "" else sums.pool(0)[LEADS.index(lead)]


def test_no_row_stands_twice_and_no_value_lacks_its_n() -> None:
    keys = ("model", "lead_minutes", "threshold", "scale_km", "aggregation", "metric", "bin")
    counted = Counter(tuple(row[key] for key in keys) for row in ROWS)
    assert max(counted.values()) == 1
    assert all(tuple(row) == COLUMNS for row in ROWS)
    assert all(row["n_valid"] != "" for row in ROWS)
    assert all((row["value"] == "") == bool(row["undefined_reason"]) for row in ROWS)


@pytest.mark.parametrize("lead", LEADS)
def test_pooled_rows_are_scores_of_block_counts(lead: Any) -> None:
    sums = sums_of("pooled", lead)
    for place, (kind, side) in enumerate([("max", 4), ("max", 16), ("mean", 4), ("mean", 16)]):
        for t, threshold in enumerate(sums.thresholds):
            (row,) = found(
                f"csi_{kind}_pool", model="net", lead_minutes=lead, threshold=threshold, scale_km=float(side)
            )
            hits, misses, false_alarms = (int(getattr(sums, name)[place, t]) for name in
                                          ("hits", "misses", "false_alarms"))  # fmt: skip
            assert (row["hits"], row["misses"], row["false_alarms"]) == (hits, misses, false_alarms)
            if hits + misses + false_alarms:
                assert row["value"] == hits / (hits + misses + false_alarms)
            else:
                assert row["undefined_reason"] == "undefined (0 observed, 0 forecast)"
            frames = 5 * (2 if lead == "" else 1)
            assert row["n_valid"] == frames * (32 // side) ** 2


def test_power_ratio_rows_hold_the_octave_round_their_wavelength() -> None:
    sums = sums_of("spectrum", 30.0)
    assert isinstance(sums, SpectrumSums)
    power = spectrum(sums, pixel_km=1.0)
    rows = found("power_ratio", model="net", lead_minutes=30.0)
    assert [row["scale_km"] for row in rows] == [4.0, 8.0, 16.0]
    for row in rows:
        inside = (power.wavelength_km >= row["scale_km"] / 2**0.5) & (power.wavelength_km < row["scale_km"] * 2**0.5)
        weight = sums.coefficients[1 : power.wavelength_km.size + 1][inside]
        wanted = (power.forecast[inside] * weight).sum() / (power.observed[inside] * weight).sum()
        assert row["value"] == pytest.approx(wanted, rel=1e-12) and row["n_valid"] == 5


@pytest.mark.parametrize("lead", LEADS)
def test_probability_rows_are_the_curves(lead: Any) -> None:
    sums = sums_of("probability", lead)
    about = {"model": "net", "lead_minutes": lead, "threshold": 1.0}
    parts, roc, curve = p.brier_parts(sums), p.roc_curve(sums), p.reliability_curve(sums)
    assert value("brier_score", **about) == p.brier_score(sums)[1]
    assert value("brier_reliability", **about) - value("brier_resolution", **about) + parts.uncertainty[
        1
    ] == pytest.approx(value("brier_score", **about), rel=1e-12)
    assert value("roc_area", **about) == roc.area[1]
    shares = [0.0, round(1 / 3, 9), round(2 / 3, 9), 1.0]
    assert [row["bin"] for row in found("observed_frequency", **about)] == shares
    for k, share in enumerate(shares):
        (row,) = found("observed_frequency", bin=share, **about)
        assert row["value"] == curve.observed_frequency[1, k] and row["n_valid"] == sums.n[1, k]
        (point,) = found("roc_pod", bin=share, **about)
        table = EventCounts(*(np.array(point[name]) for name in
                              ("hits", "false_alarms", "misses", "correct_negatives")))  # fmt: skip
        assert point["value"] == pod(table) == roc.detection_rate[1, k]
        assert value("roc_pofd", bin=share, **about) == pofd(table) == roc.false_alarm_rate[1, k]
        assert point["hits"] + point["misses"] == sums.events[1].sum()


def test_rank_and_spread_rows_are_shares_and_roots() -> None:
    rows = found("rank_share", model="net", lead_minutes="")
    assert [row["bin"] for row in rows] == [0, 1, 2, 3]
    assert sum(row["value"] for row in rows) == pytest.approx(1.0, abs=1e-12)
    histogram = ensembles.rank_histogram(sums_of("rank", ""), skip_all_tied=True)
    assert [row["value"] for row in rows] == (histogram / histogram.sum()).tolist()
    sums = sums_of("spread", "")
    overall = value("ensemble_mean_rmse", model="net", lead_minutes="", bin="")
    assert overall == pytest.approx(np.sqrt(sums.squared_error.sum() / sums.n.sum()), rel=1e-14)
    # The error of the ensemble mean over all pixels is the RMSE of the continuous scores.
    assert overall == pytest.approx(value("rmse", model="net", lead_minutes=""), rel=1e-6)
    assert [row["bin"] for row in found("spread", model="net", lead_minutes="")][1:] == list(
        ensembles.SPREAD_EDGES_MM_H
    )


def test_models_of_one_member_have_no_rows_of_probabilities() -> None:
    assert {row["model"] for row in ROWS if row["metric"] in ("fair_crps", "roc_area", "rank_share", "spread")} == {
        "net"
    }
    assert {row["model"] for row in ROWS if row["metric"] == "csi_max_pool"} == set(EVALUATION.models)


def test_observation_and_forecast_of_one_kind_say_why_there_is_no_area() -> None:
    sums = ensembles.ensemble_probability_sums(np.ones((2, 4, 4)), np.ones((4, 4)), [0.5])
    counts = small_evaluation(cases=1, leads=1).counts
    grown = p.ProbabilitySums(
        **{**vars(sums), **{name: getattr(sums, name)[None, None] for name in sums.additive_fields()}}
    )
    made = type(EVALUATION)(counts, {"probability": {"net": grown}}, EVALUATION.provenance)
    (row,) = [row for row in score_rows(made) if row["metric"] == "roc_area" and row["lead_minutes"] == ""]
    assert row["value"] == "" and row["undefined_reason"] == "undefined (16 observed events in 16 pixels)"
    (empty,) = [row for row in score_rows(made) if row["metric"] == "observed_frequency" and row["bin"] == 0.5
                and row["lead_minutes"] == ""]  # fmt: skip
    assert empty["undefined_reason"] == "undefined (no pixel in the bin)"
