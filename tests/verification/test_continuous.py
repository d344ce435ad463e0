"""Errors and correlations: known values, properties, and the sums that carry them."""

from __future__ import annotations

import numpy as np
import pytest

from nowcast.verification import continuous as c
from nowcast.verification.sums import exact_sum


def rain(shape: tuple[int, ...], seed: int = 0, missing: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = np.where(rng.random(shape) < 0.3, rng.gamma(0.7, 4.0, shape), 0.0).astype(np.float32)
    field[rng.random(shape) < missing] = np.nan
    return field


def test_errors_of_four_pixels_are_those_worked_by_hand():
    sums = c.continuous_sums(np.array([[1.0, 2.0], [3.0, np.nan]]), np.array([[0.0, 4.0], [3.0, 9.0]]))
    assert sums.n == 3 and sums.frames == 1
    assert c.mean_error(sums) == pytest.approx(-1 / 3)
    assert c.mean_absolute_error(sums) == pytest.approx(1.0)
    assert c.mean_squared_error(sums) == pytest.approx(5 / 3)
    assert c.root_mean_squared_error(sums) == pytest.approx(np.sqrt(5 / 3))
    assert c.uncentred_correlation(sums) == pytest.approx(17 / (np.sqrt(14) * 5))
    assert c.pearson_correlation(sums) == pytest.approx(np.corrcoef([1, 2, 3], [0, 4, 3])[0, 1])


def test_sums_equal_plain_numpy_over_the_common_mask():
    f, o = rain((3, 4, 20, 31)), rain((3, 4, 20, 31), seed=1)
    sums = c.continuous_sums(f, o)
    for index in np.ndindex(3, 4):
        ok = ~np.isnan(f[index]) & ~np.isnan(o[index])
        a, b = f[index][ok].astype(float), o[index][ok].astype(float)
        assert sums.n[index] == ok.sum()
        np.testing.assert_allclose(c.pearson_correlation(sums)[index], np.corrcoef(a, b)[0, 1], rtol=1e-12)
        np.testing.assert_allclose(c.mean_squared_error(sums)[index], np.mean((a - b) ** 2), rtol=1e-13)
        weight = np.select([b < 2, b < 5, b < 10, b < 30], [1, 2, 5, 10], 30)
        pixel = c.hko7_pixels(a) - c.hko7_pixels(b)
        np.testing.assert_allclose(c.balanced_mse(sums)[index], np.sum(weight * pixel**2), rtol=1e-12)
        np.testing.assert_allclose(c.balanced_mae(sums)[index], np.sum(weight * np.abs(pixel)), rtol=1e-12)


def test_missing_pixels_equal_deleted_pixels():
    f, o = rain((1, 300), missing=0), rain((1, 300), seed=1, missing=0)
    gone = np.random.default_rng(2).random((1, 300)) < 0.4
    holes_f, holes_o = np.where(gone, np.nan, f), np.where(~gone, o, 7.0)
    with_holes, without = c.continuous_sums(holes_f, holes_o), c.continuous_sums(f[~gone][None], o[~gone][None])
    for name in c.ContinuousSums.additive_fields():
        np.testing.assert_allclose(getattr(with_holes, name), getattr(without, name), rtol=1e-13, err_msg=name)


def test_rechunking_and_reordering_cases_change_no_bit_of_pooled_sums():
    f, o = rain((12, 2, 16, 16)), rain((12, 2, 16, 16), seed=1)
    whole = c.continuous_sums(f, o)
    order = np.random.default_rng(3).permutation(12)
    pieces = [c.continuous_sums(f[i : i + 5], o[i : i + 5]) for i in range(0, 12, 5)]
    joined = c.ContinuousSums.concatenate(pieces)
    for name in c.ContinuousSums.additive_fields():
        assert np.array_equal(getattr(joined, name), getattr(whole, name)), name
        assert np.array_equal(getattr(whole[order].pool(0), name), getattr(whole.pool(0), name)), name
        assert getattr(whole.pool(0), name).shape == (2,)


def test_parts_of_one_frame_add_to_the_frame_and_stay_unchanged():
    f, o = rain((40, 40)), rain((40, 40), seed=1)
    top, bottom = c.continuous_sums(f[:17], o[:17]), c.continuous_sums(f[17:], o[17:])
    before = top.error.copy()
    both, whole = top + bottom, c.continuous_sums(f, o)
    assert np.array_equal(top.error, before)
    assert both.n == whole.n
    # One addition in another order: a few units of the last place.
    np.testing.assert_allclose(both.squared_error, whole.squared_error, rtol=1e-14)


def test_swapping_the_fields_negates_the_bias_and_keeps_the_rest():
    f, o = rain((30, 30)), rain((30, 30), seed=1)
    ours, swapped = c.continuous_sums(f, o), c.continuous_sums(o, f)
    assert c.mean_error(ours) == -c.mean_error(swapped)
    for score in (c.mean_absolute_error, c.mean_squared_error, c.pearson_correlation, c.uncentred_correlation):
        assert score(ours) == pytest.approx(float(score(swapped)), rel=1e-14)


def test_scores_without_a_valid_pixel_or_without_variance_are_undefined():
    empty = c.continuous_sums(np.full((3, 3), np.nan), np.zeros((3, 3)))
    for score in (c.mean_error, c.root_mean_squared_error, c.pearson_correlation, c.balanced_mse):
        assert np.isnan(score(empty))
    constant = c.continuous_sums(np.full((50, 50), 0.1), rain((50, 50), missing=0))
    assert np.isnan(c.pearson_correlation(constant))
    dry = c.continuous_sums(np.zeros((3, 3)), np.zeros((3, 3)))
    assert np.isnan(c.uncentred_correlation(dry)) and c.mean_squared_error(dry) == 0


def test_an_infinite_forecast_is_not_hidden():
    sums = c.continuous_sums(np.array([[np.inf, 1.0]]), np.array([[1.0, 1.0]]))
    assert c.mean_squared_error(sums) == np.inf


def test_hko7_thresholds_have_the_published_pixels():
    pixels = c.hko7_pixels(np.array([0.5, 2, 5, 10, 30]))
    np.testing.assert_allclose(pixels, [0.328253, 0.462426, 0.551110, 0.618197, 0.724527], atol=1e-6)
    assert c.hko7_pixels(np.array([0.0]))[0] == 0.0 and c.hko7_pixels(np.array([1e9]))[0] == 1.0
    assert np.array_equal(c.hko7_weights(np.array([0, 1.9, 2, 5, 10, 30, 80])), [1, 1, 2, 5, 10, 30, 30])


def test_small_types_are_summed_in_double_precision():
    f = np.full((300, 300), 200, dtype=np.uint8)
    sums = c.continuous_sums(f, np.zeros((300, 300), dtype=np.float16))
    assert sums.squared_error == 90000 * 40000.0 and sums.forecast == 90000 * 200.0


def test_fields_of_other_shapes_are_refused_with_both_named():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        c.continuous_sums(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="complex128"):
        c.continuous_sums(np.zeros((2, 3), complex), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        c.continuous_sums(np.zeros(3), np.zeros(3))


def test_exact_sum_ignores_order_and_passes_nan_and_infinity():
    values = np.array([1e16, 1.0, -1e16])
    assert exact_sum(values, (0,)) == 1.0
    assert exact_sum(np.array([np.inf, 1.0]), (0,)) == np.inf
    assert np.isnan(exact_sum(np.array([np.nan, 1.0]), (0,)))
    assert np.isnan(exact_sum(np.array([np.inf, -np.inf]), (0,)))


def test_sums_of_other_leading_axes_do_not_add():
    one, two = (
        c.continuous_sums(np.zeros((2, 3, 3)), np.zeros((2, 3, 3))),
        c.continuous_sums(np.zeros((3, 3)), np.zeros((3, 3))),
    )
    with pytest.raises(ValueError, match="do not add"):
        one + two


@pytest.mark.oracle
def test_scores_and_pysteps_agree_on_continuous_errors():
    pytest.importorskip("scores")
    import xarray as xr
    from scores.continuous import mae, mse
    from scores.continuous.correlation import pearsonr

    f, o = rain((60, 60)), rain((60, 60), seed=1)
    sums = c.continuous_sums(f, o)
    a, b = (xr.DataArray(v.astype(float), dims=("y", "x")) for v in (f, o))
    assert float(mse(a, b)) == pytest.approx(float(c.mean_squared_error(sums)), rel=1e-12)
    assert float(mae(a, b)) == pytest.approx(float(c.mean_absolute_error(sums)), rel=1e-12)
    assert float(pearsonr(a, b)) == pytest.approx(float(c.pearson_correlation(sums)), rel=1e-10)
