"""Categorical scores of contingency counts, and the named ways to aggregate them.

Every score takes anything with `hits`, `false_alarms`, `misses` and `correct_negatives` and gives an array of the
same shape. 0/0 is undefined: NaN, never 0 or 1; `undefined_reason` says why. Products are made in float64.

Source of the definitions: WWRP/WGNE Joint Working Group on Forecast Verification Research,
https://jwgfvr.github.io/forecastverification
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np

from nowcast.verification.counts import CONTINGENCY, ContingencyCounts, EventCounts


class Counts(Protocol):
    """A contingency table at every point of some axes."""

    @property
    def hits(self) -> np.ndarray: ...

    @property
    def false_alarms(self) -> np.ndarray: ...

    @property
    def misses(self) -> np.ndarray: ...

    @property
    def correct_negatives(self) -> np.ndarray: ...


Score = Callable[[Counts], np.ndarray]
Axis = Literal["model", "case", "lead_time", "threshold"]
AXES: tuple[Axis, ...] = ("model", "case", "lead_time", "threshold")
Aggregation = Literal["pooled", "mean_over_leads", "mean_over_cases"]
AGGREGATIONS: tuple[Aggregation, ...] = ("pooled", "mean_over_leads", "mean_over_cases")


def pod(counts: Counts) -> np.ndarray:
    """Probability of detection a / (a + c): hits as a fraction of observed events.

    1 is perfect, range [0, 1]; NaN where nothing was observed. Forecasting rain everywhere makes it 1.
    """
    return _ratio(counts.hits, counts.hits + counts.misses)


def far(counts: Counts) -> np.ndarray:
    """False alarm ratio b / (a + b): false alarms as a fraction of forecast events.

    0 is perfect, range [0, 1]; NaN where nothing was forecast. Not the false alarm *rate* b / (b + d): see `pofd`.
    """
    return _ratio(counts.false_alarms, counts.hits + counts.false_alarms)


def success_ratio(counts: Counts) -> np.ndarray:
    """Hits as a fraction of forecast events, a / (a + b) = 1 - FAR. 1 is perfect; NaN where nothing was forecast."""
    return _ratio(counts.hits, counts.hits + counts.false_alarms)


def csi(counts: Counts) -> np.ndarray:
    """Critical success index a / (a + b + c), the threat score.

    1 is perfect, range [0, 1]; NaN where nothing was forecast or observed. It grows with the base rate: compare it
    on the same events only.
    """
    return _ratio(counts.hits, counts.hits + counts.false_alarms + counts.misses)


def frequency_bias(counts: Counts) -> np.ndarray:
    """Forecast events per observed event, (a + b) / (a + c). 1 is unbiased, range [0, inf]; NaN only for 0/0."""
    return _ratio(counts.hits + counts.false_alarms, counts.hits + counts.misses)


def pofd(counts: Counts) -> np.ndarray:
    """Probability of false detection b / (b + d), the false alarm *rate*. 0 is perfect; NaN without non-events."""
    return _ratio(counts.false_alarms, counts.false_alarms + counts.correct_negatives)


def base_rate(counts: Counts) -> np.ndarray:
    """Observed events as a fraction of the valid pixels, (a + c) / n. Not a score: what the others depend on."""
    return _ratio(counts.hits + counts.misses, _total(counts))


def ets(counts: Counts) -> np.ndarray:
    """Equitable threat score (a - ar) / (a + b + c - ar) with ar = (a + b)(a + c) / n hits by chance.

    1 is perfect, 0 no skill, range [-1/3, 1]. Both sides are multiplied by n, which leaves exact zeros exact.
    """
    a, b, c, d = _floats(counts)
    skill = a * d - b * c
    return _ratio(skill, skill + (a + b + c + d) * (b + c))


def hss(counts: Counts) -> np.ndarray:
    """Heidke skill score 2(ad - bc) / ((a + c)(c + d) + (a + b)(b + d)). 1 is perfect, 0 no skill."""
    a, b, c, d = _floats(counts)
    return _ratio(2 * (a * d - b * c), (a + c) * (c + d) + (a + b) * (b + d))


def pss(counts: Counts) -> np.ndarray:
    """Peirce skill score POD - POFD. 1 is perfect, 0 no skill; NaN where either is undefined."""
    return np.asarray(pod(counts) - pofd(counts))


def sedi(counts: Counts) -> np.ndarray:
    """Symmetric extremal dependence index (ln F - ln H + ln(1-H) - ln(1-F)) / (ln F + ln H + ln(1-H) + ln(1-F)).

    H is POD and F is POFD. 1 is perfect, 0 no skill, range [-1, 1]; NaN where H or F is 0 or 1, for there the
    logarithms have no value (a perfect forecast has none either).

    Source: Ferro and Stephenson 2011, https://doi.org/10.1175/WAF-D-10-05030.1, equation 2.
    """
    hit_rate, false_rate = pod(counts), pofd(counts)
    open_range = (hit_rate > 0) & (hit_rate < 1) & (false_rate > 0) & (false_rate < 1)
    h, f = np.where(open_range, hit_rate, np.nan), np.where(open_range, false_rate, np.nan)
    log_f, log_h, log_1f, log_1h = np.log(f), np.log(h), np.log1p(-f), np.log1p(-h)
    return _ratio(log_f - log_h + log_1h - log_1f, log_f + log_h + log_1h + log_1f)


def f1(counts: Counts) -> np.ndarray:
    """2a / (2a + b + c), the harmonic mean of POD and success ratio (Dice). 1 is perfect; NaN without any event."""
    return _ratio(2 * counts.hits, 2 * counts.hits + counts.false_alarms + counts.misses)


def mcc(counts: Counts) -> np.ndarray:
    """Matthews correlation (ad - bc) / sqrt((a+b)(a+c)(d+b)(d+c)), the phi coefficient. 1 is perfect, 0 no skill."""
    a, b, c, d = _floats(counts)
    return _ratio(a * d - b * c, np.sqrt((a + b) * (a + c)) * np.sqrt((d + b) * (d + c)))


SCORES: Mapping[str, Score] = MappingProxyType(
    {
        "csi": csi,
        "pod": pod,
        "far": far,
        "success_ratio": success_ratio,
        "frequency_bias": frequency_bias,
        "pofd": pofd,
        "ets": ets,
        "hss": hss,
        "pss": pss,
        "sedi": sedi,
        "f1": f1,
        "mcc": mcc,
        "base_rate": base_rate,
    }
)


def undefined_reason(score: Score, counts: Counts) -> np.ndarray:
    """Why a score is NaN, as strings: 'undefined (0 observed, 0 forecast)'; empty where it has a value."""
    values = np.atleast_1d(score(counts))
    observed, forecast = (np.atleast_1d(counts.hits + part) for part in (counts.misses, counts.false_alarms))
    valid = np.atleast_1d(_total(counts))
    reasons = np.full(values.shape, "", dtype=object)
    for index in zip(*np.nonzero(np.isnan(values)), strict=True):
        reasons[index] = (
            "undefined (no valid pixels)"
            if valid[index] == 0
            else f"undefined ({observed[index]} observed, {forecast[index]} forecast)"
        )
    return reasons.reshape(np.shape(score(counts)))


def pool(counts: ContingencyCounts, over: Sequence[Axis] = ("case",)) -> EventCounts:
    """Counts summed over the named axes; what is left keeps the order (model, case, lead_time, threshold)."""
    unknown = set(over) - set(AXES)
    if unknown:
        raise ValueError(f"counts have the axes {', '.join(AXES)}, not {', '.join(sorted(unknown))}")
    axes = tuple(AXES.index(axis) for axis in over)
    return EventCounts(*(getattr(counts, name).sum(axis=axes) for name in CONTINGENCY))


@dataclass(frozen=True, eq=False)
class Aggregate:
    """A score after aggregation.

    Attributes:
        value: NaN where undefined.
        counts: The pooled counts of the same pixels, of the shape of `value`.
        parts: How many parts the mean was made of (leads or cases with a defined score), int64; 1 for `pooled`.
        reason: Why a value is NaN; empty elsewhere.
    """

    value: np.ndarray
    counts: EventCounts
    parts: np.ndarray
    reason: np.ndarray


def aggregate(
    score: Score,
    counts: ContingencyCounts,
    aggregation: Aggregation = "pooled",
    *,
    over: Sequence[Axis] = ("case", "lead_time"),
) -> Aggregate:
    """One score over the axes `over`, by a named rule.

    pooled: the counts are summed, then divided. mean_over_leads: pooled over the rest, then the mean of the leads;
    undefined when one lead is (the HKO-7 rule). mean_over_cases: pooled over the rest, then the mean of the cases
    where it is defined, whose number is in `parts`: most cases of a dry archive have no event at all.
    """
    together = pool(counts, over)
    if aggregation == "pooled":
        value = score(together)
        return Aggregate(value, together, np.ones(value.shape, dtype=np.int64), undefined_reason(score, together))
    mean_axis: Axis = "lead_time" if aggregation == "mean_over_leads" else "case"
    if aggregation not in AGGREGATIONS or mean_axis not in over:
        raise ValueError(f"{aggregation} is no aggregation over {', '.join(over)}")
    kept = [axis for axis in AXES if axis not in over or axis == mean_axis]
    axis = kept.index(mean_axis)
    values = score(pool(counts, [name for name in over if name != mean_axis]))
    defined = np.sum(~np.isnan(values), axis=axis)
    size = values.shape[axis]
    whole = size if aggregation == "mean_over_leads" else 1
    total = np.nansum(values, axis=axis)
    value = np.where((defined >= whole) & (defined > 0), total / np.maximum(defined, 1), np.nan)
    names = "lead times" if mean_axis == "lead_time" else "cases"
    reason = np.full(value.shape, "", dtype=object)
    for index in zip(*np.nonzero(np.isnan(value)), strict=True):
        reason[index] = f"undefined at {size - defined[index]} of {size} {names}"
    return Aggregate(np.asarray(value), together, np.asarray(defined, dtype=np.int64), reason)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN for 0/0, infinity for x/0: no epsilon anywhere."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.true_divide(numerator, denominator))


def _floats(counts: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    a, b, c, d = (np.asarray(getattr(counts, name), dtype=np.float64) for name in CONTINGENCY)
    return a, b, c, d


def _total(counts: Counts) -> np.ndarray:
    return np.asarray(counts.hits + counts.false_alarms + counts.misses + counts.correct_negatives)
