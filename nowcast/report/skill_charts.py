"""Which charts a skill report has, and the numbers on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from nowcast.report.analysis import BOUNDS, Analysis
from nowcast.report.chart import OBSERVED, Axis, Chart, Line, step_range
from nowcast.verification.ensembles import RankSums, SpreadSums, ensemble_mean_error, rank_histogram, spread
from nowcast.verification.fss import FssSums, useful_skill
from nowcast.verification.probabilistic import ProbabilitySums, bin_probabilities, reliability_curve, roc_curve
from nowcast.verification.scores import base_rate
from nowcast.verification.spectra import SpectrumSums, spectrum
from nowcast.verification.sums import Sums

S = TypeVar("S", bound=Sums)

TITLES = {
    "csi": "CSI",
    "pod": "probability of detection",
    "far": "false alarm ratio",
    "frequency_bias": "frequency bias",
}
SHORT = {"csi": "CSI", "pod": "POD", "far": "FAR", "frequency_bias": "bias"}
CANDIDATE_STYLES, REFERENCE_STYLES = (0, 3, 4, 5), (1, 2, 5, 4, 3)


def styles(analysis: Analysis) -> dict[str, int]:
    """Line style by model: the references are dashed, but for the last where there are five; six are told apart."""
    found = {name: CANDIDATE_STYLES[k % len(CANDIDATE_STYLES)] for k, name in enumerate(analysis.candidates)}
    free = [style for style in REFERENCE_STYLES if style not in found.values()]
    return found | {name: free[k % len(free)] for k, name in enumerate(analysis.references)}


def lead_axis(analysis: Analysis) -> Axis:
    minutes = analysis.lead_minutes
    return Axis("lead time [min]", 0.0, float(minutes[-1]) * 1.02)


def score_charts(analysis: Analysis, name: str) -> list[Chart]:
    """A score against lead time with its intervals, one chart a threshold."""
    estimate, minutes, style = analysis.scores[name], analysis.lead_minutes, styles(analysis)
    charts = []
    for t, threshold in enumerate(analysis.thresholds):
        value, low, high = (part[:, :-1, t] for part in (estimate.value, estimate.low, estimate.high))
        if name == "frequency_bias":
            top = min(max(step_range([value])[1], 2.0), 4.0)
            axis, guides = Axis(SHORT[name], 0.0, top), [_level(1.0, minutes)]
        else:
            top = step_range([value], least=0.2)[1] if name == "csi" else 1.0
            axis, guides = Axis(SHORT[name], 0.0, min(top, 1.0)), []
        low, high = _drawable(low, high, BOUNDS[name])
        lines = [
            Line(model, minutes, value[m], style[model], low[m], high[m]) for m, model in enumerate(analysis.models)
        ]
        title = f"{TITLES[name]} at {analysis.sign} {threshold:g} mm/h"
        charts.append(Chart(title, lead_axis(analysis), axis, [*guides, *lines], f"{title} against lead time"))
    return charts


def performance_charts(analysis: Analysis) -> list[Chart]:
    """POD against success ratio, a track over lead times, with CSI curves and bias lines; one chart a threshold.

    Source: Roebber 2009, doi:10.1175/2008WAF2222159.1.
    """
    minutes, style = analysis.lead_minutes, styles(analysis)
    marked = {0, minutes.size // 2, minutes.size - 1}
    charts = []
    for t, threshold in enumerate(analysis.thresholds):
        lines = performance_guides()
        for m, model in enumerate(analysis.models):
            success = 1.0 - analysis.scores["far"].value[m, :-1, t]
            detection = analysis.scores["pod"].value[m, :-1, t]
            words = tuple(f"{minutes[k]:g}" if k in marked and m == 0 else "" for k in range(minutes.size))
            lines.append(Line(model, success, detection, style[model], notes=words))
        ticks = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
        charts.append(
            Chart(
                f"{analysis.sign} {threshold:g} mm/h",
                Axis("success ratio (1 − FAR)", 0.0, 1.0, ticks=ticks),
                Axis("probability of detection", 0.0, 1.0, ticks=ticks),
                lines,
                f"performance diagram at {threshold:g} mm/h",
            )
        )
    return charts


def performance_guides() -> list[Line]:
    """Curves of equal CSI and lines of equal frequency bias."""
    guides = []
    for csi in (0.1, 0.3, 0.5, 0.7, 0.9):
        # Denser where the curve is steep.
        success = np.geomspace(csi, 1.0, 40)
        # 1 / CSI = 1 / POD + 1 / SR - 1
        detection = 1.0 / (1.0 / csi - 1.0 / success + 1.0)
        notes = [""] * 40
        notes[-1] = f"CSI {csi:g}" if csi == 0.1 else f"{csi:g}"
        guides.append(Line("", success, detection, notes=tuple(notes)))
    for bias in (0.5, 1.0, 2.0):
        end = min(1.0, 1.0 / bias)
        place = 0.84 * end
        success = np.array([0.0, place, end])
        guides.append(
            Line("", success, bias * success, notes=("", f"bias {bias:g}" if bias == 2.0 else f"{bias:g}", ""))
        )
    return guides


def sample_charts(analysis: Analysis) -> list[Chart]:
    """Base rate by threshold, and the share of pixels left out, against lead time."""
    minutes = analysis.lead_minutes
    rates = 100.0 * base_rate(analysis.counts)[0, :-1]
    lines = []
    for t, threshold in enumerate(analysis.thresholds):
        # Names stand at different lead times: neighbouring lines may touch.
        named = (t + 1) * (minutes.size - 1) // analysis.thresholds.size
        notes = tuple(f"{threshold:g}" if lead == named else "" for lead in range(minutes.size))
        lines.append(Line(f"{analysis.sign} {threshold:g} mm/h", minutes, rates[:, t], notes=notes))
    positive = rates[rates > 0]
    low = 10.0 ** np.floor(np.log10(positive.min())) if positive.size else 0.01
    high = 10.0 ** np.ceil(np.log10(positive.max() * 1.0001)) if positive.size else 1.0
    masked = 100.0 * analysis.case_counts.masked_share()
    return [
        Chart(
            "Base rate by threshold [mm/h]",
            lead_axis(analysis),
            Axis("observed events [% of pixels]", low, high, log=True),
            lines,
            "observed share of pixels with an event of each threshold, by lead time",
        ),
        Chart(
            "Pixels not scored",
            lead_axis(analysis),
            Axis("masked [%]", 0.0, step_range([masked], least=5.0)[1]),
            [Line("masked", minutes, masked, OBSERVED)],
            "share of pixels outside the common mask, by lead time",
        ),
    ]


def fss_charts(analysis: Analysis, leads: Sequence[int]) -> list[Chart]:
    """Fractions skill score against scale with the useful-skill line, a chart for each threshold and lead."""
    style, pixel_km = styles(analysis), float(analysis.evaluation.provenance["pixel_km"])
    pooled = pooled_sums(analysis, "fss", FssSums)
    if not pooled:
        return []
    held = analysis.sum_scores["fss"]
    charts = []
    for t, threshold in enumerate(analysis.thresholds):
        for lead in leads:
            lines: list[Line] = []
            for model, sums in pooled.items():
                km = sums.windows * pixel_km
                if not lines:
                    useful = useful_skill(sums)[lead, t]
                    lines.append(Line("", km, useful, notes=("useful", *[""] * (km.size - 1))))
                at = slice(t * km.size, (t + 1) * km.size)
                m = held.models.index(model)
                low, high = (bound[m, lead, at] for bound in (held.estimate.low, held.estimate.high))
                low, high = _drawable(low, high, held.score.bounds)
                lines.append(Line(model, km, held.estimate.value[m, lead, at], style[model], low, high))
            km = lines[0].x
            charts.append(
                Chart(
                    f"{analysis.sign} {threshold:g} mm/h, {analysis.lead_minutes[lead]:g} min",
                    Axis(
                        "width of the window [km]", float(km[0]) * 0.9, float(km[-1]) * 1.1, log=True, ticks=tuple(km)
                    ),
                    Axis("FSS", 0.0, 1.0, ticks=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
                    lines,
                    f"fractions skill score by scale at {threshold:g} mm/h, {analysis.lead_minutes[lead]:g} min",
                )
            )
    return charts


def spectrum_charts(analysis: Analysis, leads: Sequence[int]) -> list[Chart]:
    """Power of dBR against wavelength, models beside the observation; then the share of the observed that is kept."""
    style, pixel_km = styles(analysis), float(analysis.evaluation.provenance["pixel_km"])
    pooled = pooled_sums(analysis, "spectrum", SpectrumSums)
    spectra: list[Chart] = []
    kept: list[Chart] = []
    for lead in leads:
        lines: list[Line] = []
        shares: list[Line] = []
        for model, sums in pooled.items():
            power = spectrum(sums[lead], pixel_km=pixel_km)
            km = power.wavelength_km
            if not lines:
                lines.append(_thinned(Line("observed", km, _positive(power.observed), OBSERVED)))
                shares.append(Line("", km[[0, -1]], np.full(2, 100.0)))
            lines.append(_thinned(Line(model, km, _positive(power.forecast), style[model])))
            share = 100.0 * lines[-1].y / lines[0].y
            shares.append(Line(model, lines[-1].x, share, style[model]))
        values = np.concatenate([line.y for line in lines]) if lines else np.zeros(0)
        values = values[np.isfinite(values)]
        if values.size == 0:
            continue
        low, high = 10.0 ** np.floor(np.log10(values.min())), 10.0 ** np.ceil(np.log10(values.max()))
        km, minutes = lines[0].x, f"{analysis.lead_minutes[lead]:g} min"
        # Large scales on the left, as spectra are drawn.
        x = Axis("wavelength [km]", float(km.max()) * 1.05, float(km.min()) * 0.95, log=True, ticks=_octaves(km))
        power_axis = Axis("power of dBR [dB²]", low, high if high > low else 10 * low, log=True)
        spectra.append(Chart(f"power at {minutes}", x, power_axis, lines, f"power spectra at {minutes}"))
        top = min(step_range([line.y for line in shares], least=120.0)[1], 300.0)
        share_axis = Axis("power kept [%]", 0.0, top)
        kept.append(Chart(f"share of the observed at {minutes}", x, share_axis, shares, f"power kept at {minutes}"))
    return spectra + kept


def ensemble_charts(analysis: Analysis) -> list[tuple[str, list[Chart]]]:
    """Reliability and ROC by threshold, rank histogram, spread against error; leads pooled. Empty without ensembles."""
    style = styles(analysis)
    groups: list[tuple[str, list[Chart]]] = []
    probability = pooled_sums(analysis, "probability", ProbabilitySums, leads=True)
    percent = (0.0, 20.0, 40.0, 60.0, 80.0, 100.0)
    if probability:
        reliability, used, roc = [], [], []
        for t, threshold in enumerate(analysis.thresholds):
            title = f"{analysis.sign} {threshold:g} mm/h"
            diagonal = Line("", np.array([0.0, 100.0]), np.array([0.0, 100.0]))
            curves, tracks = [diagonal], [diagonal]
            bars: list[Line] = []
            for model, sums in probability.items():
                made, operating = reliability_curve(sums), roc_curve(sums)
                curves.append(
                    Line(model, 100 * made.forecast_probability[t], 100 * made.observed_frequency[t], style[model])
                )
                share = 100.0 * made.n[t] / max(int(made.n[t].sum()), 1)
                at = 100.0 * bin_probabilities(sums)
                bars.append(Line(model, at, _positive(share), style[model], bars=len(probability) == 1))
                tracks.append(
                    Line(model, 100 * operating.false_alarm_rate[t], 100 * operating.detection_rate[t], style[model])
                )
            forecast = Axis("forecast probability [%]", 0.0, 100.0, ticks=percent)
            observed = Axis("observed frequency [%]", 0.0, 100.0, ticks=percent)
            wide = Axis("forecast probability [%]", -8.0, 108.0, ticks=percent)
            how_often = Axis("pixels [%]", 0.001, 100.0, log=True)
            used.append(Chart(title, wide, how_often, bars, f"how often each probability was forecast at {title}"))
            reliability.append(Chart(title, forecast, observed, curves, f"reliability at {title}"))
            false_rate = Axis("false alarm rate [%]", 0.0, 100.0, ticks=percent)
            detected = Axis("probability of detection [%]", 0.0, 100.0, ticks=percent)
            roc.append(Chart(title, false_rate, detected, tracks, f"ROC at {title}"))
        groups += [
            ("Reliability", reliability),
            ("How often each probability was forecast", used),
            ("ROC", roc),
        ]
    ranks = pooled_sums(analysis, "rank", RankSums, leads=True)
    if ranks:
        groups.append(("Rank histogram", [_rank_chart(model, sums, style[model]) for model, sums in ranks.items()]))
    spreads = pooled_sums(analysis, "spread", SpreadSums, leads=True)
    if spreads:
        lines = [Line(model, spread(sums), ensemble_mean_error(sums), style[model]) for model, sums in spreads.items()]
        top = step_range([part for line in lines for part in (line.x, line.y)])[1]
        diagonal = Line("", np.array([0.0, top]), np.array([0.0, top]))
        axes = Axis("spread [mm/h]", 0.0, top), Axis("error of the mean [mm/h]", 0.0, top)
        chart = Chart("spread and error", *axes, [diagonal, *lines], "error of the ensemble mean against spread")
        groups.append(("Spread and error", [chart]))
    return groups


def _rank_chart(model: str, sums: RankSums, style: int) -> Chart:
    histogram = rank_histogram(sums, skip_all_tied=True)
    total = histogram.sum()
    share = 100.0 * histogram / total if total > 0 else np.full(histogram.shape, np.nan)
    ranks = np.arange(share.size, dtype=np.float64)
    flat = Line("", ranks[[0, -1]] + np.array([-0.5, 0.5]), np.full(2, 100.0 / share.size))
    top = step_range([share], least=200.0 / share.size)[1]
    axes = Axis("members below the observation", -0.6, float(ranks[-1]) + 0.6), Axis("pixels [%]", 0.0, top)
    bars = Line(model, ranks, share, style, bars=True)
    return Chart(model, *axes, [flat, bars], f"rank histogram of {model}")


def chosen_leads(analysis: Analysis, number: int) -> list[int]:
    """Positions of a few lead times, evenly spread, the last among them."""
    size = analysis.lead_minutes.size
    return sorted({round((k + 1) * size / number) - 1 for k in range(number) if round((k + 1) * size / number) >= 1})


def pooled_sums(analysis: Analysis, kind: str, of: type[S], *, leads: bool = False) -> dict[str, S]:
    """Sums of one kind by model, pooled over cases, and over leads where wanted; in the order of the models."""
    held = analysis.evaluation.sums.get(kind, {})
    found = {model: held[model] for model in analysis.models if model in held}
    return {model: sums.pool() if leads else sums.pool(0) for model, sums in found.items() if isinstance(sums, of)}


def _drawable(low: np.ndarray, high: np.ndarray, bounds: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of ribbons; NaN for an interval over the whole range, which says nothing and would hide the others."""
    blank = (low <= bounds[0]) & (high >= bounds[1])
    return np.where(blank, np.nan, low), np.where(blank, np.nan, high)


def _level(value: float, minutes: np.ndarray) -> Line:
    return Line("", np.array([0.0, float(minutes[-1])]), np.full(2, value))


def _positive(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.where(values > 0, values, np.nan))


def _octaves(wavelengths: np.ndarray) -> tuple[float, ...]:
    return tuple(2.0**k for k in range(13) if wavelengths.min() * 0.95 <= 2.0**k <= wavelengths.max() * 1.05)


def _thinned(line: Line, points: int = 24) -> Line:
    """About evenly spaced on a logarithmic axis, means of what lies between; a spectrum has hundreds of rings."""
    edges = np.geomspace(line.x.min() * 0.999, line.x.max() * 1.001, points + 1)
    group = np.searchsorted(edges, line.x, side="right")
    order = np.unique(group)
    x = np.array([np.exp(np.log(line.x[group == g]).mean()) for g in order])
    y = np.array([_geometric_mean(line.y[group == g]) for g in order])
    return Line(line.label, x, y, line.style)


def _geometric_mean(values: np.ndarray) -> float:
    kept = values[np.isfinite(values)]
    return float(np.exp(np.log(kept).mean())) if kept.size else float("nan")
