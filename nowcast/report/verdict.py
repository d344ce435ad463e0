"""The verdict in sentences, from the tests of the analysis and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nowcast.report.analysis import Analysis
from nowcast.report.cross_check import compared, disagrees
from nowcast.report.decisions import Comparison
from nowcast.report.skill_charts import pooled_sums
from nowcast.verification.bootstrap import MIN_BLOCKS
from nowcast.verification.scores import frequency_bias
from nowcast.verification.spectra import SpectrumSums, band_power_ratio

# Outside this range the number of forecast events is worth a sentence.
BIAS_RANGE = (0.8, 1.25)
SMOOTH_BAND_KM = (8.0, 16.0)
SMOOTH_BELOW = 0.5
# In the order in which a sentence names them: what is said first, and what is said after something else.
SAYINGS = {
    "better": ("beats {reference}", "beats it"),
    "worse": ("is behind {reference}", "is behind it"),
    "none": ("shows no detectable difference from {reference}", "no detectable difference"),
    "few": ("cannot be compared with {reference} for want of {blocks}", "too few {blocks}"),
    "undefined": ("has no CSI to compare with {reference}", "CSI undefined"),
}


@dataclass(frozen=True)
class Verdict:
    """What is known at one threshold.

    Attributes:
        model, reference: The two that are compared; None where all are described together.
        ranked: Whether there are blocks enough at any lead time to call one of them better.
        mark: better, worse, mixed, none or few: the sum of the decisions over lead times.
    """

    threshold: float
    model: str | None
    reference: str | None
    text: str
    ranked: bool
    mark: str


def verdicts(analysis: Analysis) -> list[Verdict]:
    """Thresholds ascending: one for each comparison, or one for all where nothing can be ranked."""
    found = []
    for t in range(analysis.thresholds.size):
        if all(set(comparison.decision[:-1, t]) <= {"few", "undefined"} for comparison in analysis.comparisons):
            found.append(_described(analysis, t))
        else:
            found += [_verdict(analysis, comparison, t) for comparison in analysis.comparisons]
    return found


def opening(analysis: Analysis) -> str:
    """How much weight the rest can bear, in a sentence or two."""
    number, cases = analysis.total_blocks, len(analysis.case_counts.cases)
    held = f"{cases} case{_s(cases)} in {number} independent {block_words(analysis, number)}"
    if number == 1:
        return f"{held}: a single event is described here, and nothing is ranked."
    if number < MIN_BLOCKS:
        return f"{held}: at least {MIN_BLOCKS} are needed to call one model better, so this is described, not ranked."
    share = f"{100 * analysis.settings.level:g} %"
    rate = f"{100 * analysis.settings.false_discovery:g} %"
    return (
        f"{held}. “Beats” means: the {share} interval of the CSI difference excludes 0 after {analysis.n_tests} tests "
        f"with at most {rate} false discoveries."
    )


def remarks(analysis: Analysis) -> list[str]:
    """What a CSI hides: wrong frequency, lost small scales, blocks that are not independent."""
    return [*_bias_remarks(analysis), *_smoothness_remarks(analysis), *_dependence_remarks(analysis)]


def block_words(analysis: Analysis, number: int) -> str:
    """`rain episodes`, `day`."""
    return {"episode": "rain episode", "day": "day"}[analysis.settings.blocks] + _s(number)


def lead_ranges(minutes: np.ndarray, chosen: np.ndarray) -> str:
    """Runs of lead times in words: `5–60 and 90 min`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    runs = [(minutes[start], minutes[stop - 1]) for start, stop in edges.reshape(-1, 2)]
    words = [f"{low:g}" if low == high else f"{low:g}–{high:g}" for low, high in runs]
    return (", ".join(words[:-1]) + " and " if len(words) > 1 else "") + words[-1] + " min"


@dataclass(frozen=True)
class Agreement:
    """A run of lead times at which both tests say the same of one comparison and threshold.

    Attributes:
        bootstrap, diebold_mariano: Decisions.
        leads: In words.
        agrees: Whether they are the same.
    """

    threshold: float
    model: str
    reference: str
    leads: str
    bootstrap: str
    diebold_mariano: str
    agrees: bool


def agreements(analysis: Analysis) -> list[Agreement]:
    """Both tests side by side where both were made, by comparison, threshold and band of lead times."""
    found = []
    for comparison, check in zip(analysis.comparisons, analysis.cross_checks, strict=True):
        made = compared(comparison, check)[:-1]
        for t, threshold in enumerate(analysis.thresholds.tolist()):
            ours, theirs = comparison.decision[:-1, t], check.decision[:-1, t]
            for said in dict.fromkeys(zip(ours[made[:, t]], theirs[made[:, t]], strict=True)):
                chosen = made[:, t] & (ours == said[0]) & (theirs == said[1])
                leads = lead_ranges(analysis.lead_minutes, chosen)
                found.append(
                    Agreement(threshold, check.model, check.reference, leads, *said, agrees=said[0] == said[1])
                )
    return found


def cross_check_sentences(analysis: Analysis) -> list[str]:
    """How often the two tests agree, then each disagreement; nothing where nothing was tested."""
    pairs = list(zip(analysis.comparisons, analysis.cross_checks, strict=True))
    made = sum(int(compared(*pair)[:-1].sum()) for pair in pairs)
    if made == 0:
        return []
    against = sum(int(disagrees(*pair)[:-1].sum()) for pair in pairs)
    one = block_words(analysis, 1)
    sentences = [
        f"Cross-check: a Diebold-Mariano test, for which every {one} counts alike, decides as the bootstrap does in "
        f"{made - against} of {made} cells (comparison, threshold and lead time)."
    ]
    words = {"better": "better", "worse": "worse", "none": "no detectable difference"}
    for found in agreements(analysis):
        if not found.agrees:
            both = {found.bootstrap, found.diebold_mariano} == {"better", "worse"}
            end = ": the tests contradict each other, rely on neither" if both else ""
            sentences.append(
                f"{found.model} against {found.reference} at {analysis.sign} {found.threshold:g} mm/h, {found.leads}: "
                f"{words[found.bootstrap]} by the bootstrap, {words[found.diebold_mariano]} by Diebold-Mariano{end}."
            )
    if against:
        sentences.append("A difference that one test alone calls is a hint, not a verdict.")
    return sentences


def _verdict(analysis: Analysis, comparison: Comparison, t: int) -> Verdict:
    threshold, decision = float(analysis.thresholds[t]), comparison.decision[:-1, t]
    blocks = analysis.n_blocks[:-1, t]
    most = int(blocks.max())
    head = f"At {analysis.sign} {threshold:g} mm/h"
    found = set(decision)
    parts: list[str] = []
    for kind, sayings in SAYINGS.items():
        chosen = decision == kind
        if chosen.any():
            said = sayings[min(len(parts), 1)].format(reference=comparison.reference, blocks=block_words(analysis, 2))
            parts.append(f"{said} at {lead_ranges(analysis.lead_minutes, chosen)}")
    least = int(blocks[blocks >= MIN_BLOCKS].min())
    number = f"{least}" if least == most else f"{least}–{most}"
    text = f"{head} {comparison.model} {'; '.join(parts)} ({number} {block_words(analysis, most)} with events)."
    won = found & {"better", "worse"}
    mark = "mixed" if len(won) == 2 else won.pop() if won else "none" if "none" in found else "few"
    return Verdict(threshold, comparison.model, comparison.reference, text, True, mark)


def _described(analysis: Analysis, t: int) -> Verdict:
    threshold, blocks = float(analysis.thresholds[t]), int(analysis.n_blocks[:, t].max())
    head = f"At {analysis.sign} {threshold:g} mm/h"
    if blocks == 0:
        text = f"{head}: no event was observed, nor forecast by any model: no statement."
    else:
        values = zip(analysis.models, analysis.scores["csi"].value[:, -1, t], strict=True)
        listed = ", ".join(f"{name} {'undefined' if np.isnan(value) else f'{value:.3f}'}" for name, value in values)
        events = f"{blocks} {block_words(analysis, blocks)} with events"
        why = (
            f"described, not ranked ({events}, {MIN_BLOCKS} are needed)"
            if analysis.comparisons
            else f"no model to compare with ({events})"
        )
        text = f"{head}: {why}. CSI over all lead times: {listed}."
    return Verdict(threshold, None, None, text, False, "few")


def _bias_remarks(analysis: Analysis) -> list[str]:
    bias = frequency_bias(analysis.counts)[:, -1]
    found = []
    for model in analysis.candidates:
        values = bias[analysis.models.index(model)]
        for word, wrong in (("too often", values > BIAS_RANGE[1]), ("too rarely", values < BIAS_RANGE[0])):
            if wrong.any():
                listed = ", ".join(
                    f"{value:.2f} at {analysis.sign} {threshold:g} mm/h"
                    for value, threshold in zip(values[wrong], analysis.thresholds[wrong], strict=True)
                )
                found.append(f"{model} forecasts rain {word}: frequency bias {listed}, lead times pooled.")
    return found


def _smoothness_remarks(analysis: Analysis) -> list[str]:
    pixel_km = float(analysis.evaluation.provenance["pixel_km"])
    middle = analysis.lead_minutes.size // 2
    low, high = SMOOTH_BAND_KM
    if low < 2 * pixel_km:
        low, high = 4 * pixel_km, 8 * pixel_km
    kept = {
        model: float(band_power_ratio(sums[middle], pixel_km=pixel_km, bands_km=(low, high))[0])
        for model, sums in pooled_sums(analysis, "spectrum", SpectrumSums).items()
    }
    minutes = analysis.lead_minutes[middle]
    found = []
    for model in analysis.candidates:
        share = kept.get(model, np.nan)
        if share < SMOOTH_BELOW:
            others = ", ".join(f"{name} {100 * kept[name]:.0f} %" for name in analysis.references if name in kept)
            beside = f" ({others})" if others else ""
            found.append(
                f"{model} is smooth: at {minutes:g} min it keeps {100 * share:.0f} % of the observed power at "
                f"wavelengths of {low:g}–{high:g} km{beside}. Smoothing can raise a CSI and still lose the cores."
            )
    return found


def _dependence_remarks(analysis: Analysis) -> list[str]:
    number = analysis.total_blocks
    r = analysis.autocorrelation
    if number < MIN_BLOCKS or not r > 2.0 / np.sqrt(number):
        return []
    return [
        f"Neighbouring {block_words(analysis, 2)} still resemble each other (median autocorrelation {r:.2f}): the "
        "intervals may be too narrow."
    ]


def _s(number: int) -> str:
    return "" if number == 1 else "s"
