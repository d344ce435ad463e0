"""Conventions of benchmarks: each differs where it should, and MET's lines hold the counts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from nowcast.data.units import ZRelation
from nowcast.errors import ConfigError
from nowcast.verification.compat import CONVENTIONS, MET_HEADER, compat_rows, convention, met_ctc_lines
from nowcast.verification.counting import count_events
from nowcast.verification.counts import Case, ContingencyCounts

LEADS = np.array([300, 600], dtype="timedelta64[s]")


def counts(hits: list[int], false_alarms: list[int], misses: list[int], *, comparison: str = ">=") -> ContingencyCounts:
    """One model, one case, two leads, one threshold of 5 mm/h, 100 pixels."""
    a, b, c = (np.array(values)[None, None, :, None] for values in (hits, false_alarms, misses))
    return ContingencyCounts(
        ("net 2",),
        (Case("mch", np.datetime64("2016-07-11T23:58")),),
        LEADS,
        np.array([5.0]),
        a,
        b,
        c,
        100 - a - b - c,
        pixels=np.full((1, 2), 120),
        mask_digest=np.zeros((1, 2), dtype=np.uint64),
        comparison=comparison,  # type: ignore[arg-type]
    )


def value(of: ContingencyCounts, name: str, metric: str = "csi") -> float:
    return next(row["value"] for row in compat_rows(of, name) if row["metric"] == metric)


def test_on_one_set_of_counts_the_conventions_disagree() -> None:
    """8 hits of 10 at the first lead, nothing at all at the second: 0/0 decides."""
    dry_end = counts([8, 0], [1, 0], [1, 0])
    assert np.isnan(value(dry_end, "hko7"))
    assert value(dry_end, "sevir") == pytest.approx((0.8 + 1.0) / 2)
    assert value(dry_end, "earthformer") == pytest.approx(0.8, abs=1e-4)
    assert value(dry_end, "diffcast") == pytest.approx((0.8 + 0.0) / 2)


def leaving_showers(comparison: str, *, cases: int = 8, leads: int = 12, side: int = 48) -> ContingencyCounts:
    """Synthetic showers that leave the field, forecast a little too fast and too weak, in steps of 0.5 mm/h, seed 1.

    Towards the end neither they nor their forecasts reach 5 mm/h anywhere: 0/0.
    """
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:side, :side]
    tables = []
    for _ in range(cases):
        row, column, size = rng.uniform(14, 34), rng.uniform(20, 30), rng.uniform(4, 7)
        speed, rate = rng.uniform(2.5, 4), rng.uniform(12, 20)

        def shower(lead: int, speed: float, rate: float, place: tuple[float, float, float]) -> np.ndarray:
            row, column, size = place
            field = rate * np.exp(-((y - row) ** 2 + (x - column - speed * lead) ** 2) / (2 * size**2))
            return (np.round(field * 2) / 2).astype(np.float32)

        place = row, column, size
        observed = np.stack([shower(lead, speed, rate, place) for lead in range(1, leads + 1)])
        forecast = np.stack([shower(lead, 1.15 * speed, 0.9 * rate, place) for lead in range(1, leads + 1)])
        tables.append(count_events(forecast, observed, [5.0], comparison=comparison).table())  # type: ignore[arg-type]
    table = np.array(tables)[None]
    return ContingencyCounts(
        ("net",),
        tuple(Case("showers", np.datetime64("2000-01-01") + day) for day in range(cases)),
        np.arange(1, leads + 1) * np.timedelta64(300, "s"),
        np.array([5.0]),
        *np.moveaxis(table, -1, 0),
        pixels=np.full((cases, leads), side * side),
        mask_digest=np.zeros((cases, leads), dtype=np.uint64),
        comparison=comparison,  # type: ignore[arg-type]
    )


def test_the_spread_that_the_page_quotes_is_that_of_these_fields() -> None:
    found = {name: value(leaving_showers(entry.comparison), name) for name, entry in CONVENTIONS.items()}
    shown = {name: "undefined" if np.isnan(csi) else f"{csi:.3f}" for name, csi in found.items()}
    quoted = dict(re.findall(r"^\| `(\w+)` \| (undefined|0\.\d{3}) \|$", page(), flags=re.MULTILINE))
    assert quoted == shown
    defined = sorted(float(csi) for csi in quoted.values() if csi != "undefined")
    assert f"from {defined[0]:.2f} to {defined[-1]:.2f}" in page()


def page() -> str:
    import nowcast.verification

    return (Path(nowcast.verification.__file__).parent / "CONVENTIONS.md").read_text(encoding="utf-8")


def test_each_convention_follows_its_own_arithmetic() -> None:
    table = counts([8, 1], [2, 3], [0, 4])
    assert value(table, "hko7") == pytest.approx((8 / 10 + 1 / 8) / 2)
    assert value(table, "hko7", "far") == pytest.approx((2 / 10 + 3 / 4) / 2)
    assert value(table, "sevir", "pod") == pytest.approx(((8 + 1e-6) / (8 + 1e-6) + (1 + 1e-6) / (5 + 1e-6)) / 2)
    assert value(table, "earthformer", "success_ratio") == pytest.approx(9 / (14 + 1e-4))
    assert value(table, "diffcast", "pod") == pytest.approx((1 + 1 / 5) / 2)


def test_the_bias_of_a_perfect_forecast_is_two_for_earthformer() -> None:
    assert value(counts([50, 50], [0, 0], [0, 0]), "earthformer", "bias") == pytest.approx(2.0814, abs=1e-4)


def test_the_thresholds_of_hko7_in_decibels() -> None:
    """Shi et al. 2017: dBZ = 70 pixel - 10."""
    decibels = ZRelation(58.53, 1.56).reflectivity(np.array([0.5, 2.0, 5.0, 10.0, 30.0]))
    np.testing.assert_allclose(decibels, [12.978, 22.370, 28.578, 33.274, 40.717], atol=6e-4)
    np.testing.assert_allclose((decibels + 10) / 70, [0.328253, 0.462426, 0.551110, 0.618197, 0.724527], atol=1e-6)


def test_pysteps_counts_strictly_above() -> None:
    assert convention("pysteps").comparison == ">"
    field = np.array([[5.0, 6.0, 4.0, 0.0]])
    assert count_events(field, field, [5.0], comparison=">").hits.item() == 1
    table = counts([8, 1], [2, 3], [0, 4], comparison=">")
    assert value(table, "pysteps") == pytest.approx(9 / 18) and value(table, "pysteps", "bias") == pytest.approx(
        14 / 13
    )


def test_an_unknown_convention_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no convention 'hko'; there are hko7, sevir"):
        list(compat_rows(counts([1, 1], [0, 0], [0, 0]), "hko"))


def test_the_page_explains_every_convention() -> None:
    for name, entry in CONVENTIONS.items():
        assert f"`{name}`" in page() and entry.source.split(",")[0] in page()


def test_met_lines_hold_header_and_counts() -> None:
    header, first, second = met_ctc_lines(counts([8, 1], [2, 3], [0, 4]))
    assert header.split() == MET_HEADER
    fields = dict(zip(MET_HEADER, first.split(), strict=True))
    assert fields["MODEL"] == "net_2" and fields["LINE_TYPE"] == "CTC" and fields["FCST_THRESH"] == ">=5"
    assert (fields["FCST_LEAD"], fields["FCST_VALID_BEG"]) == ("000500", "20160712_000300")
    names = ("TOTAL", "FY_OY", "FY_ON", "FN_OY", "FN_ON")
    assert [int(fields[name]) for name in names] == [100, 8, 2, 0, 90]
    assert dict(zip(MET_HEADER, second.split(), strict=True))["FN_OY"] == "4"
    # Columns stand under each other.
    assert header.index("LINE_TYPE") == first.index("CTC")


def test_a_million_pixels_keep_their_integers_in_met_lines() -> None:
    big = 3_000_000_000
    table = counts([1, 1], [0, 0], [0, 0])
    grown = ContingencyCounts(
        table.models,
        table.cases,
        table.lead_times,
        table.thresholds,
        table.hits * big,
        table.false_alarms,
        table.misses,
        table.correct_negatives,
        pixels=table.pixels * big,
        mask_digest=table.mask_digest,
    )
    assert f" {big} 0 " in " ".join(list(met_ctc_lines(grown))[1].split())
