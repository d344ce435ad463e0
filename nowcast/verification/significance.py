"""Tests beside the bootstrap: Diebold-Mariano on series of losses, and control of many tests at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t


@dataclass(frozen=True)
class DieboldMariano:
    """Mean difference of two losses, its statistic (positive: the first loses more), two-sided p and sample size."""

    mean_difference: float
    statistic: float
    p_value: float
    n: int


def diebold_mariano(loss_a: np.ndarray, loss_b: np.ndarray, *, horizon: int = 1) -> DieboldMariano:
    """Test of equal mean loss of two forecasts, with the small-sample correction: a cross-check of the bootstrap.

    The variance of the mean takes in autocovariances up to lag `horizon` - 1, Bartlett-weighted so that it stays
    positive.

    Args:
        loss_a, loss_b: (case,) losses in the order of time, for example squared errors or 1 - CSI of blocks; a case
            with NaN in either is left out.
        horizon: Steps over which losses are correlated: lead time over the interval of issue times, rounded up.

    Raises:
        ValueError: Other shapes, or not more valid cases than `horizon`.

    Source: Diebold and Mariano 1995, doi:10.1080/07350015.1995.10524599; Harvey, Leybourne and Newbold 1997,
        doi:10.1016/S0169-2070(96)00719-4, equation 9; weights from Newey and West 1987, doi:10.2307/1913610.
    """
    a, b = np.asarray(loss_a, dtype=np.float64), np.asarray(loss_b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"losses must be two series of one length, got shapes {a.shape} and {b.shape}")
    if horizon < 1:
        raise ValueError(f"the horizon must be at least one step, got {horizon}")
    difference = (a - b)[~np.isnan(a) & ~np.isnan(b)]
    n = difference.size
    if n < 2 or n <= horizon:
        raise ValueError(f"{n} valid cases are too few for a horizon of {horizon}")
    mean = difference.mean()
    centred = difference - mean
    variance = centred @ centred / n
    for lag in range(1, horizon):
        variance += 2 * (1 - lag / horizon) * (centred[lag:] @ centred[:-lag]) / n
    if variance <= 0:
        # Every case differs alike: no difference at all, or one without doubt.
        return DieboldMariano(float(mean), float(np.sign(mean) * np.inf) if mean else 0.0, float(mean == 0), n)
    correction = max((n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n, 0.0)
    statistic = float(np.sqrt(correction) * mean / np.sqrt(variance / n))
    return DieboldMariano(float(mean), statistic, float(2 * student_t.sf(abs(statistic), n - 1)), n)


@dataclass(frozen=True, eq=False)
class FalseDiscovery:
    """Which tests stand at a false-discovery rate, the smallest rate at which each would, and how many were made."""

    rejected: np.ndarray
    q_value: np.ndarray
    tests: int


def benjamini_hochberg(p_values: np.ndarray, *, rate: float = 0.05) -> FalseDiscovery:
    """Tests that stand when among all that stand at most the share `rate` may be false.

    Holds for independent tests and for the positive dependence of neighbouring leads and thresholds.

    Args:
        p_values: Any shape; NaN is a test that was not made, and does not count.
        rate: False-discovery rate.

    Source: Benjamini and Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x; for fields of tests Wilks 2016,
        doi:10.1175/BAMS-D-15-00267.1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not 0 < rate < 1:
        raise ValueError(f"the false-discovery rate must lie between 0 and 1, got {rate}")
    q = np.full(p.shape, np.nan)
    made = ~np.isnan(p)
    values = p[made]
    if values.size and (values.min() < 0 or values.max() > 1):
        raise ValueError("p values must lie in [0, 1]")
    order = np.argsort(values, kind="stable")
    scaled = values[order] * values.size / np.arange(1, values.size + 1)
    adjusted = np.empty(values.size)
    adjusted[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    q[made] = np.minimum(adjusted, 1.0)
    return FalseDiscovery(rejected=made & (q <= rate), q_value=q, tests=int(values.size))
