"""Contingency counts: equal to brute force whatever comes in, and mergeable without loss."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nowcast.errors import ConfigError, DataError
from nowcast.verification.counting import count_events, count_events_numpy, mask_digest
from nowcast.verification.counts import CONTINGENCY, Case, ContingencyCounts, EventCounts, merge_counts

START = np.datetime64("2016-07-11T21:00", "s")
HOUR = np.timedelta64(3600, "s")


def brute_force(forecast: np.ndarray, observed: np.ndarray, thresholds: Any) -> np.ndarray:
    """(threshold, 4) counts of one field, pixel by pixel in the plainest Python."""
    table = np.zeros((len(thresholds), 4), dtype=np.int64)
    for f, o in zip(forecast.ravel(), observed.ravel(), strict=True):
        if f != f or o != o:
            continue
        for k, threshold in enumerate(thresholds):
            # The threshold in the value's own dtype; whole numbers compare exactly with a float.
            f_event = f >= (f.dtype.type(threshold) if f.dtype.kind == "f" else threshold)
            o_event = o >= (o.dtype.type(threshold) if o.dtype.kind == "f" else threshold)
            table[k, 0 if f_event and o_event else 1 if f_event else 2 if o_event else 3] += 1
    return table


def rain(shape: tuple[int, ...], seed: int, *, wet: float = 0.3, missing: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(shape) < wet, rng.gamma(0.5, 6.0, shape), 0.0).astype(np.float32)
    values[rng.random(shape) < missing] = np.nan
    return values


@pytest.mark.parametrize("counter", [count_events, count_events_numpy])
def test_counts_by_hand(counter: Any) -> None:
    forecast = np.array([[1.0, 2.0, 0.0, 0.0, np.nan, 5.0]])
    observed = np.array([[1.0, 0.0, 2.0, 0.0, 5.0, np.nan]])
    events = counter(forecast, observed, [1.0])
    assert [getattr(events, name).item() for name in CONTINGENCY] == [1, 1, 1, 1]
    assert events.observed.item() == 2 and events.forecast.item() == 2 and events.total.item() == 4


TRICKY = st.sampled_from([0.0, -0.0, 0.1, 0.5, 1.0, 5.0, np.inf, -np.inf, np.nan, 1e-30, 0.09999])


@st.composite
def field_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[float]]:
    shape = draw(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 40)))
    fields = []
    for _ in range(2):
        kind = draw(st.sampled_from(["f2", "f4", "f8", ">f4", "u1", "i2", "i8", "?"]))
        if np.dtype(kind).kind == "f":
            values = draw(hnp.arrays(np.float64, shape, elements=TRICKY, fill=TRICKY))
            fields.append(values.astype(kind))
        else:
            high = 1 if kind == "?" else 7
            fields.append(draw(hnp.arrays(np.int64, shape, elements=st.integers(0, high))).astype(kind))
    levels = draw(st.sets(st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.5, 5.0, 300.0]), min_size=1))
    return fields[0], fields[1], sorted(levels)


@given(field_pairs())
@settings(max_examples=300, deadline=None)
def test_any_dtype_with_nan_infinity_and_ties_equals_brute_force(case: Any) -> None:
    forecast, observed, thresholds = case
    for counter in (count_events, count_events_numpy):
        found = counter(forecast, observed, thresholds).table()
        assert found.shape == (forecast.shape[0], len(thresholds), 4)
        for row in range(forecast.shape[0]):
            np.testing.assert_array_equal(found[row], brute_force(forecast[row], observed[row], thresholds))


@pytest.mark.slow
def test_ten_thousand_random_cases_equal_brute_force_bit_for_bit() -> None:
    """Random sizes around the kernel's blocks of 4 x 16 pixels, dtypes, shares of rain and of missing pixels."""
    rng = np.random.default_rng(1884)
    pool = np.array([0, 0, 0, 0.1, 0.1, 0.5, 1, 1, 5, 10, 30, np.inf, np.nan, np.nan])
    for _ in range(10_000):
        shape = (int(rng.integers(0, 4)), int(rng.integers(1, 90)))
        thresholds = np.sort(rng.choice([0.0, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 40.0], rng.integers(1, 7), replace=False))
        fields = []
        for kind in rng.choice(["f2", "f4", "f8", "u1"], 2):
            values = rng.choice(pool, shape)
            fields.append((np.nan_to_num(values, posinf=255) if kind == "u1" else values).astype(kind))
        with np.errstate(invalid="ignore"):
            wanted = vectorised_brute_force(fields[0], fields[1], thresholds)
        np.testing.assert_array_equal(count_events(fields[0], fields[1], thresholds).table(), wanted)


def vectorised_brute_force(forecast: np.ndarray, observed: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The definition with one boolean array a cell; nothing of the code under test."""
    both = ~(np.isnan(forecast.astype(float)) | np.isnan(observed.astype(float)))
    rows = []
    for threshold in thresholds:
        f = forecast >= (forecast.dtype.type(threshold) if forecast.dtype.kind == "f" else threshold)
        o = observed >= (observed.dtype.type(threshold) if observed.dtype.kind == "f" else threshold)
        rows.append([np.sum(cell & both) for cell in (f & o, f & ~o, ~f & o, ~f & ~o)])
    return np.array(rows, dtype=np.int64)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 511, 512, 513, 10_000])
def test_blocks_of_the_kernel_have_no_seams(size: int) -> None:
    forecast, observed = rain((2, 1, size), 1), rain((2, 1, size), 2)
    # Rain above the highest threshold beside a block that does not reach the lowest.
    forecast[..., size // 2 :] = 0
    levels = [0.0, 0.1, 1.0, 30.0]
    np.testing.assert_array_equal(
        count_events(forecast, observed, levels).table(), count_events_numpy(forecast, observed, levels).table()
    )


@pytest.mark.parametrize("height", [1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("width", [1, 15, 16, 17, 65, 130])
def test_rows_of_blocks_have_no_seams(height: int, width: int) -> None:
    forecast, observed = rain((2, height, width), 13), rain((2, height, width), 14)
    forecast[:, height // 2 :, width // 2 :] = 0
    levels = [0.0, 0.1, 1.0, 30.0]
    np.testing.assert_array_equal(
        count_events(forecast, observed, levels).table(), count_events_numpy(forecast, observed, levels).table()
    )


def test_sums_of_blocks_do_not_run_over() -> None:
    """Every pixel a hit, in more blocks than the shared sums hold, along a band and down the field."""
    for shape in ((4, 16 * 300), (4 * 300, 16), (4 * 3, 16 * 255)):
        wet = np.ones(shape, dtype=np.float32)
        assert count_events(wet, wet, [0.0, 1.0]).table().tolist() == [[wet.size, 0, 0, 0]] * 2


def test_a_value_on_the_threshold_is_an_event_in_its_own_dtype() -> None:
    for kind in ("f2", "f4", "f8"):
        tenth = np.full((1, 1), 0.1, dtype=kind)
        assert count_events(tenth, tenth, [0.1]).hits.item() == 1
        above = count_events(tenth, tenth, [0.1], comparison=">")
        assert above.hits.item() == 0 and above.correct_negatives.item() == 1


def test_comparison_above_is_at_or_above_the_next_value() -> None:
    whole = np.array([[0, 1, 2]], dtype=np.uint8)
    assert count_events(whole, whole, [0.0, 1.0, 1.5], comparison=">").hits.tolist() == [2, 1, 1]
    assert count_events(whole, whole, [0.0, 1.0, 1.5]).hits.tolist() == [3, 2, 1]


def test_threshold_zero_makes_every_valid_pixel_an_event() -> None:
    forecast, observed = rain((30, 40), 3), rain((30, 40), 4)
    events = count_events(forecast, observed, [0.0])
    assert events.hits.item() == np.sum(~np.isnan(forecast) & ~np.isnan(observed))
    assert events.false_alarms.item() == events.misses.item() == events.correct_negatives.item() == 0


def test_thresholds_that_a_dtype_cannot_hold() -> None:
    small = np.full((1, 3), 255, dtype=np.uint8)
    assert count_events(small, small, [255.0, 300.0]).hits.tolist() == [3, 0]
    half = np.array([[65504.0, np.inf]], dtype=np.float16)
    assert count_events(half, half, [1e5]).hits.item() == 1  # infinity only
    for counter in (count_events, count_events_numpy):
        above = counter(half, half, [1.0, 1e5], comparison=">")
        assert above.hits.tolist() == [2, 0] and above.correct_negatives.tolist() == [0, 2]
    for kind in (np.int64, np.uint64):
        edge = np.array([[2**53 - 1, 2**53, 2**53 + 1, np.iinfo(kind).max]], dtype=kind)
        assert count_events(edge, edge, [2.0**53]).hits.item() == 3
        with pytest.raises(ConfigError, match="1e\\+30 is beyond"):
            count_events(edge, edge, [1e30])


def test_a_nan_pixel_equals_a_deleted_pixel() -> None:
    forecast, observed = rain((1, 500), 5), rain((1, 500), 6)
    kept = ~(np.isnan(forecast) | np.isnan(observed))
    assert 0 < kept.sum() < 500
    levels = [0.0, 0.1, 1.0, 10.0]
    np.testing.assert_array_equal(
        count_events(forecast, observed, levels).table(),
        count_events(forecast[kept][None], observed[kept][None], levels).table(),
    )


def test_swapping_the_fields_swaps_false_alarms_and_misses() -> None:
    forecast, observed = rain((40, 40), 7), rain((40, 40), 8)
    one, other = count_events(forecast, observed, [0.1, 2.0]), count_events(observed, forecast, [0.1, 2.0])
    np.testing.assert_array_equal(one.false_alarms, other.misses)
    np.testing.assert_array_equal(one.hits, other.hits)
    assert one.false_alarms.tolist() != one.misses.tolist()


@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_counts_sum_to_the_valid_pairs_and_events_fall_with_the_threshold(
    seed: int, wet: float, missing: float
) -> None:
    forecast = rain((3, 20, 20), seed, wet=wet, missing=missing)
    observed = rain((3, 20, 20), seed + 1, wet=wet, missing=missing)
    events = count_events(forecast, observed, [0.0, 0.1, 0.5, 5.0, 50.0])
    valid = np.sum(~np.isnan(forecast) & ~np.isnan(observed), axis=(1, 2))
    assert (events.total == valid[:, None]).all()
    assert (np.diff(events.forecast) <= 0).all() and (np.diff(events.observed) <= 0).all()


def test_permuting_and_rechunking_change_nothing() -> None:
    forecast, observed = rain((6, 32, 48), 9), rain((6, 32, 48), 10)
    levels = [0.1, 1.0, 5.0]
    whole = count_events(forecast, observed, levels).table()
    order = np.random.default_rng(0).permutation(32 * 48)
    shuffled = [field.reshape(6, -1)[:, order].reshape(6, 48, 32) for field in (forecast, observed)]
    np.testing.assert_array_equal(count_events(*shuffled, levels).table(), whole)
    parts = [count_events(forecast[:, a : a + 5], observed[:, a : a + 5], levels).table() for a in range(0, 32, 5)]
    np.testing.assert_array_equal(np.sum(parts, axis=0), whole)
    strided = count_events(forecast[:, ::-1, ::-1], observed[:, ::-1, ::-1], levels).table()
    np.testing.assert_array_equal(strided, whole)


def test_large_fields_on_several_threads_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    forecast, observed = rain((5, 600, 700), 11), rain((5, 600, 700), 12)
    wanted = count_events_numpy(forecast, observed, [0.1, 5.0]).table()
    monkeypatch.setattr(numba, "get_num_threads", lambda: 3)
    np.testing.assert_array_equal(count_events(forecast, observed, [0.1, 5.0]).table(), wanted)


@pytest.mark.slow
def test_more_pixels_than_32_bits_can_count() -> None:
    """2^31 + 2^21 pixels that take no memory: one row seen again and again."""
    row = np.array([[1, 0, 1, 0]], dtype=np.uint8).repeat(1 << 19, axis=1)
    forecast = np.broadcast_to(row, (1025, row.shape[1]))
    assert forecast.size > 2**31
    events = count_events(forecast, forecast, [0.0, 1.0])
    assert events.hits.tolist() == [forecast.size, forecast.size // 2]
    assert events.total.tolist() == [forecast.size] * 2


def test_bad_input_is_refused_with_a_reason() -> None:
    field = np.zeros((4, 4), dtype=np.float32)
    with pytest.raises(ValueError, match=r"forecast has shape \(4, 4\), observed \(4, 3\)"):
        count_events(field, field[:, :3], [1.0])
    with pytest.raises(TypeError, match="observed is a masked array"):
        count_events(field, np.ma.masked_equal(field, 0), [1.0])
    with pytest.raises(TypeError, match="dtype complex64"):
        count_events(field.astype(np.complex64), field, [1.0])
    for thresholds, message in (
        ([], "no threshold"),
        ([-1.0, 1.0], ">= 0"),
        ([2.0, 1.0], "ascend"),
        ([1, 1], "ascend"),
    ):
        with pytest.raises(ConfigError, match=message):
            count_events(field, field, thresholds)


def test_the_mask_digest_tells_masks_apart() -> None:
    mask = np.zeros((8, 16), dtype=bool)
    other = mask.copy()
    other[3, 5] = True
    digests = {int(mask_digest(m)) for m in (mask, other, mask.reshape(16, 8), mask[:, :15])}
    assert len(digests) == 4 and mask_digest(mask.copy()) == mask_digest(mask)


def counted(
    models: tuple[str, ...] = ("net", "persistence"),
    hours: tuple[int, ...] = (0, 1, 2),
    source: str = "mch",
    **changes: Any,
) -> ContingencyCounts:
    """Counts of small random fields: a function of model, source and hour alone."""
    thresholds = changes.pop("thresholds", np.array([0.1, 1.0]))
    leads = np.arange(1, 4) * np.timedelta64(300, "s")
    shape = (3, 12, 10)
    tables, digests = [], []
    for hour in hours:
        observed = rain(shape, 1000 + hour + len(source))
        masks = ~np.isnan(observed)
        fields = [rain(shape, 17 * hour + len(model) + len(source), missing=0) for model in models]
        tables.append([count_events(field, observed, thresholds).table() for field in fields])
        digests.append([mask_digest(mask) for mask in masks])
    table = np.array(tables).swapaxes(0, 1)
    values: dict[str, Any] = {
        "pixels": np.full((len(hours), 3), 120),
        "mask_digest": np.array(digests, dtype=np.uint64),
        **changes,
    }
    cases = tuple(Case(source, START + hour * HOUR) for hour in hours)
    return ContingencyCounts(models, cases, leads, thresholds, *np.moveaxis(table, -1, 0), **values)


def test_merging_parts_equals_counting_all_at_once() -> None:
    whole = counted(hours=(0, 1, 2, 3))
    shards = [counted(hours=(2,)), counted(hours=(0, 3)), counted(hours=(1,))]
    for order in itertools.permutations(shards):
        assert merge_counts(order).equals(whole)


def test_merging_is_associative_and_leaves_its_arguments_alone() -> None:
    a, b, c = counted(hours=(0,)), counted(hours=(1,)), counted(hours=(2, 3))
    before = [part.hits.copy() for part in (a, b, c)]
    assert a.merge(b).merge(c).equals(a.merge(b.merge(c)))
    for part, hits in zip((a, b, c), before, strict=True):
        np.testing.assert_array_equal(part.hits, hits)
        with pytest.raises(ValueError, match="read-only"):
            part.hits[:] = 0


def test_merging_along_models_and_twice_the_same_baseline() -> None:
    left, right = counted(("net", "persistence")), counted(("unet2", "persistence"))
    both = left.merge(right)
    assert both.models == ("net", "persistence", "unet2")
    assert both.equals(merge_counts([left, right, left]))
    np.testing.assert_array_equal(both.hits[2], right.hits[0])


def test_archives_with_equal_issue_times_stay_apart() -> None:
    both = counted(source="mch").merge(counted(source="fmi_pgm"))
    assert len(both.cases) == 6 and both.sources == ("fmi_pgm",) * 3 + ("mch",) * 3
    assert str(both.cases[-1]) == "mch 2016-07-11T23:00Z"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (counted(thresholds=np.array([0.1, 2.0])), "a.nc has the thresholds 0.1, 1, b.nc has 0.1, 2"),
        (counted(comparison=">"), "a.nc counts events by '>=', b.nc by '>'"),
        (counted(units="dBZ"), "a.nc are in mm h-1, those of b.nc in dBZ"),
        (
            counted(("other",), mask_digest=np.ones((3, 3), dtype=np.uint64)),
            "a.nc and b.nc score the case mch 2016-07-11T21:00Z at 5 min on different pixels",
        ),
        (counted(("other",), hours=(0, 1)), "other has no counts for the case mch 2016-07-11T23:00Z of a.nc"),
        (
            ContingencyCounts(
                ("net",),
                counted().cases,
                counted().lead_times,
                counted().thresholds,
                *(getattr(counted(), name)[1:] for name in CONTINGENCY),
                pixels=counted().pixels,
                mask_digest=counted().mask_digest,
            ),
            "a.nc and b.nc have different counts of net",
        ),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(other: ContingencyCounts, message: str) -> None:
    with pytest.raises(DataError, match=message):
        merge_counts([counted(), other], ["a.nc", "b.nc"])


def test_other_lead_times_are_refused() -> None:
    part = counted(hours=(3,))
    other = ContingencyCounts(
        part.models,
        part.cases,
        part.lead_times * 2,
        part.thresholds,
        *(getattr(part, name) for name in CONTINGENCY),
        pixels=part.pixels,
        mask_digest=part.mask_digest,
    )
    with pytest.raises(DataError, match="lead times 5, 10, 15 min, part 2 has 10, 20, 30 min"):
        counted().merge(other)


def test_counts_that_contradict_themselves_are_refused() -> None:
    good = counted()
    hits = good.hits.copy()
    hits[1, 0, 0, 0] += 1
    rest = [getattr(good, name) for name in CONTINGENCY[1:]]
    axes = (good.models, good.cases, good.lead_times, good.thresholds)
    masks = {"pixels": good.pixels, "mask_digest": good.mask_digest}
    with pytest.raises(DataError, match="not counted on the same pixels"):
        ContingencyCounts(*axes, hits, *rest, **masks)
    with pytest.raises(DataError, match="more valid pixels than pixels"):
        ContingencyCounts(*axes, good.hits, *rest, pixels=good.pixels * 0, mask_digest=good.mask_digest)
    with pytest.raises(DataError, match="hits has dtype float64"):
        ContingencyCounts(*axes, good.hits * 1.0, *rest, **masks)
    with pytest.raises(DataError, match="hits holds -1"):
        ContingencyCounts(*axes, good.hits * 0 - 1, *rest, **masks)


def test_a_file_holds_everything_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    counts = counted().merge(counted(source="fmi_pgm"))
    path = counts.save(tmp_path / "a" / "counts.nc")
    assert ContingencyCounts.load(path).equals(counts)
    shards = [counted(source="fmi_pgm"), counted(hours=(2,)), counted(hours=(0, 1))]
    assert merge_counts(shards).save(tmp_path / "b.nc").read_bytes() == path.read_bytes()
    assert [entry.name for entry in path.parent.iterdir()] == ["counts.nc"]


def test_the_file_reads_as_cf_with_named_axes(tmp_path: Path) -> None:
    with netCDF4.Dataset(counted().save(tmp_path / "counts.nc")) as file:
        assert file["counts"].dimensions == ("model", "case", "lead_time", "threshold", "contingency")
        assert file["counts"].dtype == np.int64
        assert file["lead_time"][:].tolist() == [5, 10, 15] and file["lead_time"].units == "minutes"
        assert file["contingency"][:].tolist() == list(CONTINGENCY)
        assert file["threshold"].units == "mm h-1" and file.comparison == ">="


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no counts file"):
        ContingencyCounts.load(tmp_path / "none.nc")
    (tmp_path / "text.nc").write_text("not netCDF")
    with pytest.raises(DataError, match="cannot be read as a counts file"):
        ContingencyCounts.load(tmp_path / "text.nc")
    with netCDF4.Dataset(tmp_path / "other.nc", "w") as file:
        file.title = "something else"
    with pytest.raises(DataError, match="holds no contingency counts"):
        ContingencyCounts.load(tmp_path / "other.nc")


def test_masked_share_and_selection() -> None:
    counts = counted()
    share = counts.masked_share()
    assert share.shape == (3,) and (share > 0.02).all() and (share < 0.25).all()
    part = counts.select(models=["persistence"], cases=np.array([False, True, True]))
    assert part.models == ("persistence",) and part.cases == counts.cases[1:]
    np.testing.assert_array_equal(part.hits, counts.hits[1:, 1:])
    with pytest.raises(DataError, match="no counts of unet; there are net, persistence"):
        counts.select(models=["unet"])


def test_event_counts_stack_in_the_stated_order() -> None:
    events = EventCounts(*(np.array([value]) for value in (1, 2, 3, 4)))
    assert events.table().tolist() == [[1, 2, 3, 4]]
