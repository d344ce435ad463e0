"""Scores by the conventions of published benchmarks, from the same counts, and counts in MET's line type.

None of them is how this package scores: they are here so that a published number can be set beside one's own under
its own rule. CONVENTIONS.md, beside this file, says how far the rules lie apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from nowcast.errors import ConfigError, DataError
from nowcast.verification import scores
from nowcast.verification.counts import ABOVE, AT_OR_ABOVE, Comparison, ContingencyCounts
from nowcast.verification.scores import Counts, pool

Rule = Callable[[Counts], np.ndarray]
SEVIR_EPSILON = 1e-6
EARTHFORMER_EPSILON = 1e-4
MET_VERSION = "V12.0.0"
# fmt: off
MET_HEADER = [
    "VERSION", "MODEL", "DESC", "FCST_LEAD", "FCST_VALID_BEG", "FCST_VALID_END", "OBS_LEAD", "OBS_VALID_BEG",
    "OBS_VALID_END", "FCST_VAR", "FCST_UNITS", "FCST_LEV", "OBS_VAR", "OBS_UNITS", "OBS_LEV", "OBTYPE", "VX_MASK",
    "INTERP_MTHD", "INTERP_PNTS", "FCST_THRESH", "OBS_THRESH", "COV_THRESH", "ALPHA", "LINE_TYPE",
    "TOTAL", "FY_OY", "FY_ON", "FN_OY", "FN_ON", "EC_VALUE",
]
# fmt: on


@dataclass(frozen=True)
class Convention:
    """How a benchmark turns counts into one number a threshold.

    Attributes:
        name: As in `--compat`.
        source: Where the rule is defined.
        comparison: What it counts as an event.
        metrics: Its scores, from counts pooled over the cases.
        by_lead: Whether the scores are made for each lead time and then averaged; else leads are pooled too.
        rule: In one line, printed beside the numbers.
    """

    name: str
    source: str
    comparison: Comparison
    metrics: Mapping[str, Rule]
    by_lead: bool
    rule: str


def _parts(counts: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    names = ("hits", "false_alarms", "misses", "correct_negatives")
    a, b, c, d = (np.asarray(getattr(counts, name), dtype=np.float64) for name in names)
    return a, b, c, d


def _sevir(bottom: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Rule:
    def score(counts: Counts) -> np.ndarray:
        a, b, c, _ = _parts(counts)
        return np.asarray((a + SEVIR_EPSILON) / (bottom(a, b, c) + SEVIR_EPSILON))

    return score


def _earthformer(bottom: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Rule:
    def score(counts: Counts) -> np.ndarray:
        a, b, c, _ = _parts(counts)
        return np.asarray(a / (bottom(a, b, c) + EARTHFORMER_EPSILON))

    return score


def _earthformer_bias(counts: Counts) -> np.ndarray:
    """(bias / ln 2)^2, meant to be a logarithm: 2.08 for a perfect forecast."""
    a, b, c, _ = _parts(counts)
    return np.asarray(((a + b) / (a + c + EARTHFORMER_EPSILON) / np.log(2.0)) ** 2)


def _zero_for_undefined(score: Rule) -> Rule:
    return lambda counts: np.nan_to_num(score(counts), nan=0.0, posinf=np.inf)


CONVENTIONS: Mapping[str, Convention] = MappingProxyType(
    {
        "hko7": Convention(
            "hko7",
            "Shi et al. 2017, https://arxiv.org/abs/1706.03458, section 5.1",
            AT_OR_ABOVE,
            {"csi": scores.csi, "hss": scores.hss, "pod": scores.pod, "far": scores.far},
            True,
            "counts pooled over samples for each lead, then the mean of the leads; 0/0 at one lead makes it undefined",
        ),
        "sevir": Convention(
            "sevir",
            "Veillette et al. 2020, NeurIPS, https://github.com/MIT-AI-Accelerator/neurips-2020-sevir",
            AT_OR_ABOVE,
            {
                "csi": _sevir(lambda a, b, c: a + b + c),
                "pod": _sevir(lambda a, b, c: a + c),
                "success_ratio": _sevir(lambda a, b, c: a + b),
            },
            True,
            "1e-6 above and below the line, so 0/0 is 1; pooled over samples for each lead, then the mean of the leads",
        ),
        "earthformer": Convention(
            "earthformer",
            "Gao et al. 2022, https://arxiv.org/abs/2207.05833, SEVIRSkillScore",
            AT_OR_ABOVE,
            {
                "csi": _earthformer(lambda a, b, c: a + b + c),
                "pod": _earthformer(lambda a, b, c: a + c),
                "success_ratio": _earthformer(lambda a, b, c: a + b),
                "bias": _earthformer_bias,
            },
            False,
            "pooled over samples and leads, 1e-4 in the denominator, so 0/0 is 0; bias is (bias / ln 2)^2",
        ),
        "diffcast": Convention(
            "diffcast",
            "Yu et al. 2024, https://arxiv.org/abs/2312.06734",
            AT_OR_ABOVE,
            {name: _zero_for_undefined(scores.SCORES[name]) for name in ("csi", "hss", "pod", "far")},
            True,
            "pooled over samples for each lead, 0/0 counts as 0, then the mean of the leads",
        ),
        "pysteps": Convention(
            "pysteps",
            "Pulkkinen et al. 2019, https://doi.org/10.5194/gmd-12-4185-2019, det_cat_fct_accum",
            ABOVE,
            {"csi": scores.csi, "pod": scores.pod, "far": scores.far, "bias": scores.frequency_bias, "hss": scores.hss},
            False,
            "an event is strictly above the threshold; pooled over samples and leads",
        ),
    }
)


def convention(name: str) -> Convention:
    """The convention of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in CONVENTIONS:
        raise ConfigError(f"no convention '{name}'; there are {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def compat_rows(counts: ContingencyCounts, name: str) -> Iterator[dict[str, Any]]:
    """One row a model, threshold and metric, by the rule of a benchmark: model, threshold, metric, value, rule.

    Raises:
        ConfigError: No such convention.
        DataError: The events were counted by another comparison than the convention's.
    """
    chosen = convention(name)
    if counts.comparison != chosen.comparison:
        raise DataError(
            f"the convention {name} counts events by '{chosen.comparison}', these were counted by "
            f"'{counts.comparison}'",
            f"evaluate again with --compat {name}",
        )
    by_lead = pool(counts, ("case",))
    together = pool(counts, ("case", "lead_time"))
    for metric, score in chosen.metrics.items():
        value = score(by_lead).mean(axis=1) if chosen.by_lead else score(together)
        for m, model in enumerate(counts.models):
            for t, threshold in enumerate(counts.thresholds.tolist()):
                yield {
                    "convention": name,
                    "model": model,
                    "threshold": threshold,
                    "units": counts.units,
                    "comparison": counts.comparison,
                    "metric": metric,
                    "value": float(value[m, t]),
                    "rule": chosen.rule,
                }


def met_ctc_lines(counts: ContingencyCounts) -> Iterator[str]:
    """The counts as lines of a MET .stat file, line type CTC, one a model, case, lead time and threshold.

    Lines of one file stand under each other in columns; fields that have no value here are NA. EC_VALUE, the expected
    fraction correct that MET's HSS_EC is measured against, is MET's default of 0.5.

    Source: MET User's Guide, Grid-Stat output, table of the CTC line type.
    """
    rows = [MET_HEADER, *(_met_fields(counts, at) for at in np.ndindex(*counts.shape))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(MET_HEADER))]
    for row in rows:
        yield " ".join(field.ljust(width) for field, width in zip(row, widths, strict=True)).rstrip()


def _met_fields(counts: ContingencyCounts, at: tuple[int, ...]) -> list[str]:
    model, case, lead, threshold = at
    ahead = counts.lead_times[lead]
    valid = _met_time(counts.cases[case].issue_time + ahead)
    seconds = int(ahead / np.timedelta64(1, "s"))
    length = f"{seconds // 3600:02d}{seconds % 3600 // 60:02d}{seconds % 60:02d}"
    level = f"{counts.comparison}{counts.thresholds[threshold]:g}"
    units = counts.units.replace(" ", "_")
    table = [int(getattr(counts, name)[at]) for name in ("hits", "false_alarms", "misses", "correct_negatives")]
    return [
        MET_VERSION,
        _met_word(counts.models[model]),
        _met_word(counts.cases[case].source),
        *(length, valid, valid),
        *("000000", valid, valid),
        *("rainfall_rate", units, "L0"),
        *("rainfall_rate", units, "L0"),
        *("RADAR", "COMMON", "NEAREST", "1"),
        *(level, level, "NA", "NA", "CTC"),
        *(str(number) for number in (sum(table), *table)),
        "0.5",
    ]


def _met_time(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, "s")).replace("-", "").replace(":", "").replace("T", "_")


def _met_word(text: str) -> str:
    """MET separates its columns by blanks."""
    return "_".join(text.split()) or "NA"
