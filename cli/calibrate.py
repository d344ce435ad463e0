"""`nowcast calibrate`: the decision levels of a model, from its own forecasts and what was then observed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import DURATION_TYPE, echo_json, json_option

# Frequency biases that calibration keeps in every archive, as far as any level does.
BIAS_RANGE = (0.8, 1.25)


@click.command(name="calibrate")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("archives", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--rule",
    type=click.Choice(["levels", "area"]),
    default="levels",
    show_default=True,
    help="levels: fitted here. area: as many events as in the last frame; needs no archive's future, fits nothing.",
)
@click.option("--every", type=DURATION_TYPE, default="30min", show_default=True, help="Distance of issue times.")
@click.option("--score", type=click.Choice(["csi", "ets", "hss"]), default="csi", show_default=True)
@json_option
def command(model: Path, archives: tuple[Path, ...], rule: str, every: Any, score: str, as_json: bool) -> None:
    """Find the decision levels of MODEL on ARCHIVE..., and store them in its bundle.

    Each archive counts as one rain regime, and each regime alike: levels tuned on one storm fail in the next. Use
    archives that training did not see.
    """
    from dataclasses import replace

    from nowcast.errors import ConfigError
    from nowcast.models.bundle import find_bundle, load_bundle

    folder = find_bundle(model)
    bundle = load_bundle(folder)
    if bundle.config.model.head != "exceedance":
        raise ConfigError(f"{folder} has a mean head, which decides nothing", "train with model.head=exceedance")
    if rule == "area":
        chosen = bundle.config.model.model_copy(update={"decision": "area"})
        config = bundle.config.model_copy(update={"model": chosen})
        replace(bundle, config=config, decision_levels=None).save(folder)
        click.echo(f"{folder}: each event covers as many pixels as in the last frame")
        return
    fits = fit_decision_levels(model, archives, every, score)
    levels = tuple(tuple(float(level) for level in fit.levels) for fit in fits)
    replace(bundle, decision_levels=levels).save(folder)
    thresholds = bundle.config.model.thresholds_mm_h
    if as_json:
        values = [vars(fit) for fit in fits]
        echo_json({"model": str(folder), "thresholds_mm_h": list(thresholds), "leads": _listed(values)})
        return
    click.echo(f"{folder}: decision levels by lead time (rows) and threshold (columns); * too few events, left at 0.5")
    click.echo("      " + " ".join(f"{threshold:>7g}" for threshold in thresholds) + "  mm/h")
    for lead, fit in enumerate(fits, start=1):
        cells = [f"{level:6.3f}{' ' if fitted else '*'}" for level, fitted in zip(fit.levels, fit.fitted, strict=True)]
        click.echo(f"{lead:>5} " + " ".join(cells))


def fit_decision_levels(model: Path, archives: tuple[Path, ...], every: Any, score: str) -> list[Any]:
    """`DecisionLevels` of every lead time; each archive is a regime."""
    import numpy as np

    from nowcast.prediction.nowcaster import Nowcaster
    from nowcast.verification.calibration import LevelSums, fit_levels
    from nowcast.verification.scores import SCORES

    nowcaster = Nowcaster.load(model)
    parts = [_sums_of(nowcaster, archive, every) for archive in archives]
    fits = []
    for lead in range(nowcaster.output_frames):
        pixels = np.stack([part.pixels[lead] for part in parts])
        sums = LevelSums(pixels, parts[0].thresholds, parts[0].levels)
        fits.append(
            fit_levels(
                sums,
                default=[0.5] * parts[0].thresholds.size,
                objective=SCORES[score],
                nested=False,
                bias_range=BIAS_RANGE,
                regimes="mean",
            )
        )
    return fits


def _sums_of(nowcaster: Any, path: Path, every: Any) -> Any:
    """`LevelSums` (lead_time, threshold, ...) of all issue times of one archive whose future is there."""
    from tqdm import tqdm

    from nowcast.data.archive import open_archive
    from nowcast.errors import DataError
    from nowcast.prediction.predict import choose_issue_times, forecast_at
    from nowcast.verification.calibration import probability_level_sums

    source = open_archive(path)
    num_leads = nowcaster.output_frames
    total: Any = None
    for issue in tqdm(choose_issue_times(source, nowcaster.input_frames, every=every), desc=path.name, disable=None):
        start = source.index_of(issue) + 1
        if start + num_leads > source.times.size or not source.present[start : start + num_leads].all():
            continue
        forecast = forecast_at(nowcaster, source, issue, num_leads, chances=True)
        assert forecast.chances is not None
        observed = source.rain_rate(start, start + num_leads)
        sums = probability_level_sums(forecast.chances[0], observed, forecast.thresholds)
        total = sums if total is None else total + sums
    if total is None:
        raise DataError(
            f"{path} has no issue time with {nowcaster.input_frames} frames before it and {num_leads} after it",
            "give a longer archive",
        )
    return total


def _listed(value: Any) -> Any:
    if isinstance(value, list):
        return [_listed(part) for part in value]
    if isinstance(value, dict):
        return {key: _listed(part) for key, part in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value
