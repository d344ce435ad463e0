"""The fractions skill score against its definition, written out by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nowcast.verification.fss import FssSums, fractions_skill_score, fss_sums, useful_skill

THRESHOLDS = [0.0, 0.5, 2.0]
WINDOWS = [1, 3, 7, 21]


def rain(shape: tuple[int, ...], seed: int, missing: float = 0.15) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = np.where(rng.random(shape) < 0.3, rng.gamma(0.7, 4.0, shape), 0.0).astype(np.float32)
    field[rng.random(shape) < missing] = np.nan
    return field


def brute_force(f: np.ndarray, o: np.ndarray, threshold: float, window: int, edges: str) -> tuple[float, float, float]:
    valid = ~np.isnan(f) & ~np.isnan(o)
    half = window // 2
    totals = np.zeros(3)
    for i, j in zip(*np.nonzero(valid), strict=True):
        box = np.s_[max(i - half, 0) : i + half + 1, max(j - half, 0) : j + half + 1]
        inside = valid[box]
        n = inside.sum() + (window**2 - inside.size if edges == "zero" else 0)
        pf = (f[box][inside] >= np.float32(threshold)).sum() / n
        po = (o[box][inside] >= np.float32(threshold)).sum() / n
        totals += (pf - po) ** 2, pf**2, po**2
    return tuple(totals)


@pytest.mark.slow
def test_sums_of_large_windows_do_not_overflow():
    everywhere = np.ones((3000, 3000), dtype=np.float32)
    sums = fss_sums(everywhere, everywhere, [0.5], [2501])
    assert fractions_skill_score(sums).item() == 1.0
    # Every fraction is 1, so their squares add up to the number of windows.
    np.testing.assert_allclose(sums.forecast_squared, sums.n_windows, rtol=1e-12)
    np.testing.assert_allclose(sums.observed_squared, 3000**2, rtol=1e-12)


@pytest.mark.parametrize("edges", ["clip", "zero"])
@pytest.mark.parametrize("missing", [0.0, 0.15, 0.9])
def test_sums_equal_brute_force(edges, missing):
    f, o = rain((23, 31), 1, missing), rain((23, 31), 2, missing)
    sums = fss_sums(f, o, THRESHOLDS, WINDOWS, edges=edges)
    for t, threshold in enumerate(THRESHOLDS):
        for w, window in enumerate(WINDOWS):
            difference, ff, oo = brute_force(f, o, threshold, window, edges)
            np.testing.assert_allclose(sums.squared_difference[t, w], difference, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(sums.forecast_squared[t, w], ff, rtol=1e-12)
            np.testing.assert_allclose(fractions_skill_score(sums)[t, w], 1 - difference / (ff + oo), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["clip", "zero"]))
def test_flipping_and_transposing_change_no_bit(seed, edges):
    f, o = rain((17, 22), seed), rain((17, 22), seed + 1)
    ours = fss_sums(f, o, THRESHOLDS, WINDOWS, edges=edges)
    for turn in (np.flipud, np.fliplr, np.transpose, lambda a: np.rot90(a)):
        theirs = fss_sums(turn(f), turn(o), THRESHOLDS, WINDOWS, edges=edges)
        for name in FssSums.additive_fields():
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name


def test_a_margin_of_missing_pixels_changes_nothing():
    f, o = rain((20, 20), 1), rain((20, 20), 2)
    margin = {"pad_width": 6, "constant_values": np.nan}
    ours = fss_sums(f, o, THRESHOLDS, WINDOWS)
    padded = fss_sums(np.pad(f, **margin), np.pad(o, **margin), THRESHOLDS, WINDOWS)
    for name in FssSums.additive_fields():
        assert np.array_equal(getattr(ours, name), getattr(padded, name)), name


def test_swapping_forecast_and_observed_keeps_the_score():
    f, o = rain((20, 30), 1), rain((20, 30), 2)
    assert np.array_equal(
        fractions_skill_score(fss_sums(f, o, THRESHOLDS, WINDOWS)),
        fractions_skill_score(fss_sums(o, f, THRESHOLDS, WINDOWS)),
    )


def test_window_one_is_the_pixelwise_score():
    f, o = rain((40, 40), 1), rain((40, 40), 2)
    valid = ~np.isnan(f) & ~np.isnan(o)
    hits, misses = ((f >= 1) & (o >= 1) & valid).sum(), ((f < 1) & (o >= 1) & valid).sum()
    false_alarms = ((f >= 1) & (o < 1) & valid).sum()
    score = fractions_skill_score(fss_sums(f, o, [1.0], [1]))[0, 0]
    assert score == pytest.approx(2 * hits / (2 * hits + misses + false_alarms), abs=1e-14)


def test_a_window_over_everything_compares_the_areas_alone():
    f, o = np.zeros((9, 9)), np.zeros((9, 9))
    f[0, :6], o[8, :3] = 5.0, 5.0
    score = fractions_skill_score(fss_sums(f, o, [1.0], [17]))[0, 0]
    assert score == pytest.approx(2 * 6 * 3 / (6**2 + 3**2))


def test_a_displaced_line_reaches_useful_skill_at_about_twice_its_displacement():
    # Roberts and Lean 2008: a displacement d is useful from a window of about 2 d.
    f, o = np.zeros((101, 101)), np.zeros((101, 101))
    f[:, 45], o[:, 55] = 5.0, 5.0
    windows = np.arange(1, 61, 2)
    sums = fss_sums(f, o, [1.0], windows)
    first = windows[np.argmax(fractions_skill_score(sums)[0] >= useful_skill(sums)[0])]
    assert 19 <= first <= 23


def test_perfect_all_dry_and_all_missing():
    o = rain((20, 20), 1)
    assert np.all(fractions_skill_score(fss_sums(o, o, THRESHOLDS, WINDOWS)) == 1)
    dry = fss_sums(np.zeros((9, 9)), np.zeros((9, 9)), [1.0], [3])
    assert np.isnan(fractions_skill_score(dry)) and dry.n_windows == 81 and useful_skill(dry) == 0.5
    gone = fss_sums(np.full((9, 9), np.nan), np.zeros((9, 9)), [0.0], [3])
    assert np.isnan(fractions_skill_score(gone)) and np.isnan(useful_skill(gone))


def test_cases_pool_to_the_whole_and_labels_must_agree():
    f, o = rain((6, 2, 15, 15), 1), rain((6, 2, 15, 15), 2)
    whole = fss_sums(f, o, THRESHOLDS, WINDOWS)
    pieces = [fss_sums(f[cut], o[cut], THRESHOLDS, WINDOWS) for cut in (slice(0, 4), slice(4, 6))]
    parts = FssSums.concatenate(pieces)
    assert np.array_equal(fractions_skill_score(parts.pool()), fractions_skill_score(whole[::-1].pool()))
    assert whole.pool().squared_difference.shape == (3, 4)
    with pytest.raises(ValueError, match="windows"):
        whole + fss_sums(f, o, THRESHOLDS, [1, 3, 7, 9])
    with pytest.raises(ValueError, match="edges"):
        whole + fss_sums(f, o, THRESHOLDS, WINDOWS, edges="zero")


def test_a_value_on_the_threshold_is_an_event_in_its_own_type():
    for dtype in (np.float16, np.float32, np.float64):
        o = np.full((5, 5), 0.7, dtype=dtype)
        assert fss_sums(o, o, [0.7], [3]).observed_events[0, 0] == 25
    counts = np.ones((5, 5), dtype=np.uint8)
    assert fss_sums(counts, counts, [0.5, 1.0, 1.5], [3]).observed_events[:, 0].tolist() == [25, 25, 0]


@pytest.mark.parametrize("windows", [[2], [0], [-3], [3.5], []])
def test_windows_must_be_odd_and_positive(windows):
    with pytest.raises(ValueError, match="odd, positive"):
        fss_sums(np.zeros((5, 5)), np.zeros((5, 5)), [1.0], windows)


def test_thresholds_must_ascend():
    for wrong in ([2.0, 1.0], [np.nan], []):
        with pytest.raises(ValueError, match="strictly ascending"):
            fss_sums(np.zeros((5, 5)), np.zeros((5, 5)), wrong, [3])
    with pytest.raises(ValueError, match="'clip' or 'zero'"):
        fss_sums(np.zeros((5, 5)), np.zeros((5, 5)), [1.0], [3], edges="wrap")


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_pysteps_agrees_with_zero_edges_and_no_missing_pixel():
    spatial = pytest.importorskip("pysteps.verification.spatialscores")
    f, o = rain((50, 70), 1, 0), rain((50, 70), 2, 0)
    ours = fractions_skill_score(fss_sums(f, o, [0.5, 2.0], [1, 5, 11], edges="zero"))
    for t, threshold in enumerate([0.5, 2.0]):
        for w, window in enumerate([1, 5, 11]):
            # Its running float sums leave about 1e-13.
            assert ours[t, w] == pytest.approx(spatial.fss(f, o, threshold, window), abs=1e-10)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_where_scores_goes_wrong():
    spatial = pytest.importorskip("scores.spatial")
    import xarray as xr

    f, o = rain((24, 24), 1, 0), rain((24, 24), 2, 0)

    def theirs(a: np.ndarray, b: np.ndarray, **options) -> float:
        arrays = (xr.DataArray(v.astype(float), dims=("y", "x")) for v in (a, b))
        score = spatial.fss_2d(
            *arrays, event_threshold=1.0, window_size=(5, 5), spatial_dims=["y", "x"],
            threshold_operator=np.greater_equal, **options,
        )  # fmt: skip
        return float(score)

    # Zero padding evaluates a row and a column of windows too many, so a flip changes the score.
    assert theirs(f, o, zero_padding=True) != pytest.approx(theirs(f[::-1], o[::-1], zero_padding=True), abs=1e-6)

    def ours(a: np.ndarray, b: np.ndarray, edges: str = "clip") -> float:
        return fractions_skill_score(fss_sums(a, b, [1.0], [5], edges=edges)).item()

    assert ours(f, o, "zero") == ours(f[::-1], o[::-1], "zero")
    # A missing pixel is counted as one without an event: NaN and 0 mm/h give the same score.
    missing, dry = f.copy(), f.copy()
    missing[:8], dry[:8] = np.nan, 0.0
    assert theirs(missing, o) == theirs(dry, o)
    assert ours(missing, o) != pytest.approx(ours(dry, o), abs=1e-6)
    # No event anywhere is 0 there, undefined here.
    assert theirs(np.zeros((24, 24)), np.zeros((24, 24))) == 0.0
