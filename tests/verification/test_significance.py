"""Diebold-Mariano and Benjamini-Hochberg against their definitions and other packages."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nowcast.verification.significance import benjamini_hochberg, diebold_mariano


def test_at_horizon_one_it_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    a, b = rng.gamma(2.0, size=40), rng.gamma(2.2, size=40)
    found, known = diebold_mariano(a, b), stats.ttest_rel(a, b)
    # Harvey's correction turns the variance by n into that by n - 1.
    assert found.statistic == pytest.approx(known.statistic, rel=1e-12)
    assert found.p_value == pytest.approx(known.pvalue, rel=1e-10)
    assert found.mean_difference == pytest.approx(np.mean(a - b)) and found.n == 40


def test_swapping_the_forecasts_negates_the_statistic():
    rng = np.random.default_rng(2)
    a, b = rng.gamma(2.0, size=60), rng.gamma(2.2, size=60)
    one, two = diebold_mariano(a, b, horizon=4), diebold_mariano(b, a, horizon=4)
    assert one.statistic == -two.statistic and one.p_value == two.p_value


def test_size_of_the_test_on_autocorrelated_losses():
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(2000, 203))
    losses = noise[:, :-3] + noise[:, 1:-2] + noise[:, 2:-1] + noise[:, 3:]
    naive = np.mean([diebold_mariano(x, 0 * x).p_value < 0.05 for x in losses])
    aware = np.mean([diebold_mariano(x, 0 * x, horizon=10).p_value < 0.05 for x in losses])
    assert naive > 0.25
    # Nominal .05; the Bartlett weights leave it a little liberal.
    assert 0.03 < aware < 0.11


def test_missing_cases_are_left_out_and_equal_losses_do_not_differ():
    a = np.array([1.0, np.nan, 3.0, 4.0, 6.0])
    assert diebold_mariano(a, np.array([1.0, 2.0, 2.0, np.nan, 5.0])).n == 3
    same = diebold_mariano(a, a)
    assert same.statistic == 0 and same.p_value == 1
    sure = diebold_mariano(np.full(9, 2.0), np.ones(9))
    assert sure.statistic == np.inf and sure.p_value == 0


def test_too_few_cases_or_other_shapes_are_refused():
    with pytest.raises(ValueError, match="3 valid cases are too few for a horizon of 3"):
        diebold_mariano(np.arange(3.0), np.zeros(3), horizon=3)
    with pytest.raises(ValueError, match="one length"):
        diebold_mariano(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="at least one step"):
        diebold_mariano(np.zeros(3), np.zeros(3), horizon=0)


def test_benjamini_and_hochbergs_own_example():
    # Table of the 1995 paper, section 3.2: four of fifteen hypotheses are rejected at .05.
    small = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    p = np.array([*small, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0])
    found = benjamini_hochberg(p[::-1].reshape(3, 5))
    assert found.rejected.sum() == 4 and found.rejected.reshape(-1)[::-1][:4].all() and found.tests == 15
    np.testing.assert_allclose(found.q_value.reshape(-1)[::-1], stats.false_discovery_control(p), rtol=1e-12)


def test_tests_that_were_not_made_do_not_count():
    found = benjamini_hochberg(np.array([0.01, np.nan, 0.04]))
    assert found.tests == 2 and found.rejected.tolist() == [True, False, True] and np.isnan(found.q_value[1])
    assert benjamini_hochberg(np.array([np.nan])).tests == 0


def test_the_share_of_false_discoveries_stays_below_the_rate():
    rng = np.random.default_rng(4)
    shares = []
    for _ in range(400):
        z = rng.normal(size=100)
        z[:20] += 3.0
        found = benjamini_hochberg(2 * stats.norm.sf(np.abs(z)), rate=0.1)
        shares.append(found.rejected[20:].sum() / max(found.rejected.sum(), 1))
    assert np.mean(shares) < 0.1


def test_impossible_p_values_and_rates_are_refused():
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        benjamini_hochberg(np.array([0.5, 1.5]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        benjamini_hochberg(np.array([0.5]), rate=5)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_scores_agrees_on_diebold_mariano():
    tests = pytest.importorskip("scores.stats.statistical_tests")
    import xarray as xr

    rng = np.random.default_rng(5)
    difference = rng.normal(0.2, 1.0, 50)
    series = xr.DataArray([difference], dims=("lead", "time"), coords={"lead": [1], "h": ("lead", [1])})
    theirs = tests.diebold_mariano(series, "lead", "h", method="HLN", confidence_level=0.95, statistic_distribution="t")
    ours = diebold_mariano(difference, np.zeros(50))
    assert ours.statistic == pytest.approx(float(theirs["dm_test_stat"][0]), rel=1e-10)
