"""`nowcast calibrate`: decision levels and probabilities of a model, from its forecasts and what was then observed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cli.options import DURATION_TYPE, echo_json, json_option

# Frequency biases that calibration keeps in every archive, as far as any level does.
BIAS_RANGE = (0.8, 1.25)
# What a map of probabilities needs of a lead time and threshold: pixels with the event, and issue times with some.
MINIMUM_EVENTS, MINIMUM_CASES = 500, 5
# Probabilities are binned by steps of a quarter in their logit, so that small ones are told apart.
LOGIT_EDGES = (-9.0, 9.0, 73)
# Rules for events that need no observation, and what they say of the area of an event.
LABEL_FREE = {
    "area": "as many pixels as in the last frame",
    "expected-csi": "about as many pixels as in the last frame, so that the expected CSI is highest",
}
# More digits than any fit knows.
DIGITS = 6
# Of an ensemble, unless told otherwise.
MEMBERS = 10
EVERY = "30min"


@click.command(name="calibrate")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("archives", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--rule",
    type=click.Choice(["levels", *LABEL_FREE, "keep"]),
    help="Events of an exceedance head. levels (the usual one): fitted here. area: as many as in the last frame. "
    "expected-csi: near that number, where the expected CSI is highest. keep: as they are.",
)
@click.option(
    "--probabilities/--no-probabilities",
    default=True,
    show_default=True,
    help="Also fit what its probabilities are worth, on all archives together.",
)
@click.option("--members", type=click.IntRange(2), help=f"Of a model that draws them; {MEMBERS} unless given.")
@click.option("--every", type=DURATION_TYPE, help=f"Distance of issue times; {EVERY} unless given.")
@click.option(
    "--score", type=click.Choice(["csi", "ets", "hss"]), help="What decision levels are best by; csi unless given."
)
@json_option
def command(
    model: Path,
    archives: tuple[Path, ...],
    rule: str | None,
    probabilities: bool,
    members: int | None,
    every: Any,
    score: str | None,
    as_json: bool,
) -> None:
    """Fit MODEL's decision levels and probabilities to ARCHIVE..., and store both in its bundle.

    For decision levels each archive counts as one rain regime, and each regime alike: levels tuned on one storm fail
    in the next. Use archives that training did not see. The rules area and expected-csi need none of their own: with
    --no-probabilities there is nothing to read.
    """
    from dataclasses import replace

    from nowcast.errors import ConfigError
    from nowcast.models.bundle import PRETRAINED_FOLDER, find_bundle, load_bundle

    folder = find_bundle(model)
    if folder == PRETRAINED_FOLDER:
        raise ConfigError(
            "the pretrained model belongs to the package", f"copy {folder} to a folder of yours and calibrate that"
        )
    bundle = load_bundle(folder)
    rule = rule or ("levels" if bundle.config.model.head == "exceedance" else "keep")
    _require_something_to_do(bundle, folder, rule, probabilities)
    reads = rule == "levels" or probabilities
    _require_archives_to_fit(archives, every, members, rule, reads=reads)
    if score is not None and rule != "levels":
        raise ConfigError(f"--score chooses decision levels, and --rule {rule} fits none", "leave --score out")
    if members is not None and not bundle.draws_members:
        raise ConfigError(f"{folder} forecasts one field and draws no members", "leave --members out")
    config, levels, chance_map = bundle.config, bundle.decision_levels, bundle.chance_map
    report: dict[str, Any] = {"model": str(folder), "thresholds_mm_h": list(bundle.thresholds_mm_h)}
    if rule in LABEL_FREE:
        chosen = config.model.model_copy(update={"decision": rule.replace("-", "_")})
        config, levels = config.model_copy(update={"model": chosen}), None
    parts = []
    if reads:
        distance = DURATION_TYPE.convert(EVERY, None, None) if every is None else every
        parts = [calibration_sums(model, archive, distance, members or MEMBERS) for archive in archives]
    if rule == "levels":
        fits = fit_decision_levels([part.levels for part in parts], score or "csi")
        levels = tuple(tuple(float(level) for level in fit.levels) for fit in fits)
        report["leads"] = _listed([vars(fit) for fit in fits])
    if probabilities:
        chance_map = fit_chance_map(parts, bundle.thresholds_mm_h)
        fitted = None if chance_map is None else chance_map.fitted.tolist()
        report["probabilities"] = {"fitted": fitted, "issue_times": sum(part.issue_times for part in parts)}
    replace(bundle, config=config, decision_levels=levels, chance_map=chance_map).save(folder)
    if as_json:
        echo_json(report)
        return
    if rule in LABEL_FREE:
        click.echo(f"{folder}: each event covers {LABEL_FREE[rule]}")
    if rule == "levels":
        _print_levels(folder, report)
    if probabilities:
        _print_probabilities(folder, report)


def _require_something_to_do(bundle: Any, folder: Path, rule: str, probabilities: bool) -> None:
    from nowcast.errors import ConfigError

    if not bundle.thresholds_mm_h:
        raise ConfigError(
            f"{folder} has a mean head, which decides nothing and says no probability",
            "train with model.head=exceedance",
        )
    if bundle.config.model.head != "exceedance" and rule != "keep":
        raise ConfigError(f"{folder} draws members, whose rain needs no decision levels", "leave --rule out")
    if rule == "keep" and not probabilities:
        raise ConfigError("--rule keep --no-probabilities leaves nothing to do", "leave one of them out")


def _require_archives_to_fit(
    archives: tuple[Path, ...], every: Any, members: int | None, rule: str, *, reads: bool
) -> None:
    """Refuse what would be fitted on nothing, and archives or options of archives that nothing would read."""
    from nowcast.errors import ConfigError

    if reads and not archives:
        what = "decision levels" if rule == "levels" else "probabilities"
        other = "" if rule == "keep" else ", or pass --no-probabilities with --rule area or expected-csi"
        raise ConfigError(f"{what} are fitted on forecasts of an archive, and none is given", f"give ARCHIVE...{other}")
    if not reads:
        given = [*map(str, archives), *(["--every"] if every is not None else []), *(["--members"] if members else [])]
        if given:
            raise ConfigError(
                f"--rule {rule} --no-probabilities reads no archive: {', '.join(given)} would be ignored",
                "leave it out, or leave --no-probabilities out",
            )


@dataclass(frozen=True, eq=False)
class CalibrationSums:
    """What is fitted on, of one archive.

    Attributes:
        levels: `LevelSums` (lead_time, threshold, ...).
        chances: `ProbabilitySums` (lead_time, threshold, bin).
        cases: (lead_time, threshold) issue times with the event anywhere.
        issue_times: How many there were.
    """

    levels: Any
    chances: Any
    cases: Any
    issue_times: int

    def __add__(self, other: CalibrationSums) -> CalibrationSums:
        return CalibrationSums(
            self.levels + other.levels,
            self.chances + other.chances,
            self.cases + other.cases,
            self.issue_times + other.issue_times,
        )


def calibration_sums(model: Path, archive: Path, every: Any, members: int) -> CalibrationSums:
    """Sums of what a model says, uncalibrated, over all issue times of one archive whose future is there."""
    from dataclasses import replace

    from tqdm import tqdm

    from nowcast.data.archive import open_archive
    from nowcast.errors import DataError
    from nowcast.prediction.nowcaster import Nowcaster
    from nowcast.prediction.predict import choose_issue_times, forecast_at

    nowcaster = Nowcaster.load(model)
    nowcaster = replace(nowcaster, bundle=replace(nowcaster.bundle, chance_map=None))
    source, num_leads = open_archive(archive), nowcaster.output_frames
    drawn = members if nowcaster.draws_members else None
    total: CalibrationSums | None = None
    times = choose_issue_times(source, nowcaster.input_frames, every=every)
    for issue in tqdm(times, desc=archive.name, disable=None):
        start = source.index_of(issue) + 1
        if start + num_leads > source.times.size or not source.present[start : start + num_leads].all():
            continue
        forecast = forecast_at(nowcaster, source, issue, num_leads, chances=True, members=drawn)
        assert forecast.chances is not None
        observed = source.rain_rate(start, start + num_leads)
        sums = _sums_of(forecast.chances[0], observed, forecast.thresholds)
        total = sums if total is None else total + sums
    if total is None:
        raise DataError(
            f"{archive} has no issue time with {nowcaster.input_frames} frames before it and {num_leads} after it",
            "give a longer archive",
        )
    return total


def _sums_of(chances: Any, observed: Any, thresholds: tuple[float, ...]) -> CalibrationSums:
    import numpy as np

    from nowcast.verification.calibration import probability_level_sums
    from nowcast.verification.probabilistic import probability_sums

    low, high, number = LOGIT_EDGES
    edges = np.concatenate([[0.0], 1.0 / (1.0 + np.exp(-np.linspace(low, high, number))), [1.0]])
    by_bin = probability_sums(chances, observed, thresholds, bin_edges=edges)
    happened = (by_bin.events.sum(axis=-1) > 0).astype(np.int64)
    return CalibrationSums(probability_level_sums(chances, observed, thresholds), by_bin, happened, 1)


def fit_decision_levels(parts: list[Any], score: str) -> list[Any]:
    """`DecisionLevels` of every lead time, of the `LevelSums` of each archive; each is a regime."""
    import numpy as np

    from nowcast.verification.calibration import LevelSums, fit_levels
    from nowcast.verification.scores import SCORES

    fits = []
    for lead in range(parts[0].pixels.shape[0]):
        pixels = np.stack([part.pixels[lead] for part in parts])
        sums = LevelSums(pixels, parts[0].thresholds, parts[0].levels)
        fits.append(
            fit_levels(
                sums,
                default=[0.5] * parts[0].thresholds.size,
                objective=SCORES[score],
                bias_range=BIAS_RANGE,
                regimes="mean",
            )
        )
    return fits


def fit_chance_map(parts: list[CalibrationSums], thresholds_mm_h: tuple[float, ...]) -> Any:
    """The `ChanceMap` of all archives together; None where no lead time and threshold has events enough."""
    import numpy as np

    from nowcast.models.chances import ChanceMap
    from nowcast.verification.calibration import fit_probabilities

    total = parts[0]
    for part in parts[1:]:
        total = total + part
    said, happened = [], []
    for lead in range(total.cases.shape[0]):
        fit = fit_probabilities(total.chances[lead], min_events=MINIMUM_EVENTS)
        enough = total.cases[lead] >= MINIMUM_CASES
        rows = [
            _few_knots(knots, values) if several else ((), ())
            for knots, values, several in zip(fit.forecast, fit.calibrated, enough, strict=True)
        ]
        said.append(tuple(row[0] for row in rows))
        happened.append(tuple(row[1] for row in rows))
    found = ChanceMap(thresholds_mm_h, tuple(said), tuple(happened))
    return found if np.any(found.fitted) else None


def _few_knots(said: Any, happened: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The same map with the fewest knots: those inside a level stretch say nothing."""
    import numpy as np

    said, happened = np.round(said, DIGITS), np.round(np.clip(happened, 0.0, 1.0), DIGITS)
    rising = np.append(True, np.diff(said) > 0) if said.size else np.zeros(0, bool)
    said, happened = said[rising], happened[rising]
    level = np.zeros(said.size, bool)
    level[1:-1] = (happened[1:-1] == happened[:-2]) & (happened[1:-1] == happened[2:])
    return tuple(said[~level].tolist()), tuple(happened[~level].tolist())


def _print_levels(folder: Path, report: dict[str, Any]) -> None:
    click.echo(f"{folder}: decision levels by lead time (rows) and threshold (columns); * too few events, left at 0.5")
    click.echo("      " + " ".join(f"{threshold:>7g}" for threshold in report["thresholds_mm_h"]) + "  mm/h")
    for lead, fit in enumerate(report["leads"], start=1):
        pairs = zip(fit["levels"], fit["fitted"], strict=True)
        click.echo(f"{lead:>5} " + " ".join(f"{level:6.3f}{' ' if fitted else '*'}" for level, fitted in pairs))


def _print_probabilities(folder: Path, report: dict[str, Any]) -> None:
    found, thresholds = report["probabilities"], report["thresholds_mm_h"]
    wanted = f"{MINIMUM_EVENTS} pixels and {MINIMUM_CASES} issue times with the event"
    if found["fitted"] is None:
        click.echo(f"{folder}: no probability is calibrated, nothing has {wanted}")
        return
    cells = [
        f"{threshold:g} mm/h at {sum(column)} of {len(column)} lead times"
        for threshold, column in zip(thresholds, zip(*found["fitted"], strict=True), strict=True)
    ]
    click.echo(f"{folder}: probabilities calibrated on {found['issue_times']} issue times: {', '.join(cells)}")
    click.echo(f"The others are left as they are: they have not {wanted}.")


def _listed(value: Any) -> Any:
    if isinstance(value, list):
        return [_listed(part) for part in value]
    if isinstance(value, dict):
        return {key: _listed(part) for key, part in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value
