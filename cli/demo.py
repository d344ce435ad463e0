"""`nowcast demo`: the whole pipeline on synthetic rain, from nothing to a skill report."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

import click

from cli.options import clear_output, output_option, overwrite_option

log = logging.getLogger(__name__)

# What is generated: enough rain for blocks to train on, to validate with, and to test on.
NUM_FRAMES, SHAPE, STEP_MINUTES, PRESET, SEED = 420, (128, 128), 10.0, "convective", 7
THRESHOLDS = (0.1, 0.5, 1.0, 5.0, 10.0)
BASELINES = ("persistence", "extrapolation")
# The model must beat persistence here, or the demo fails: CSI at 1 mm/h over leads of 30 to 60 min.
GATE_MM_H, GATE_MINUTES = 1.0, (30.0, 60.0)
EXIT_GATE = 10


@click.command(name="demo")
@output_option("The folder for everything it makes.", default="demo")
@overwrite_option
def command(output: Path, overwrite: bool) -> None:
    """Generate rain, train a small ConvLSTM, predict, evaluate, report. Everything in it is synthetic.

    Leaves archive, model, forecasts, scores, figures and one HTML page in a folder. Exit code 10 when the model
    does not beat persistence at 1 mm/h over 30 to 60 min.
    """
    from cli.evaluate import score_table

    began = time.monotonic()
    clear_output(output, overwrite=overwrite)
    output.mkdir(parents=True, exist_ok=True)
    archive = _generate(output / "rain.zarr")
    model = _train(archive, output)
    forecasts = _predict(model, archive, output / "forecasts")
    evaluation = _evaluate(forecasts, archive, output / "skill")
    _report(output, archive, forecasts)
    click.echo("\nSYNTHETIC RAIN: these scores say that the pipeline works, and nothing about weather.")
    click.echo("\n".join(score_table(evaluation)))
    click.echo(f"\nEverything is in {output}: open {output / 'report.html'} (made in {time.monotonic() - began:.0f} s)")
    for name, what in CONTENTS.items():
        click.echo(f"  {name:<14} {what}")
    sys.exit(_gate(evaluation))


CONTENTS = {
    "rain.zarr": "the archive: CF Zarr, opens with any xarray",
    "run/": "the training run: configuration, log, checkpoints, model bundle",
    "forecasts/": "CF netCDF forecasts, one file an issue time",
    "skill/": "integer counts, scores.csv, provenance",
    "figures/": "pictures: a frame, a forecast beside what was observed, an animation, skill",
    "report.html": "the skill report, one offline page",
    "view.html": "a player over lead times: observed, forecast, difference",
}


def _generate(path: Path) -> Path:
    from data_prep.synthetic_rain import write_synthetic_archive

    log.info("generating %d frames of synthetic rain", NUM_FRAMES)
    return write_synthetic_archive(path, NUM_FRAMES, SHAPE, seed=SEED, preset=PRESET, step_minutes=STEP_MINUTES)


def _train(archive: Path, output: Path) -> Path:
    from cli.train import start_run, train, training_data
    from nowcast.config import load_config

    config = load_config("demo").config
    data, cache = training_data((archive,), (), config, output / "cache")
    run = output / "run"
    start_run(run, (archive,), (), cache, config, data)
    train(data, config, run)
    return run


def _predict(run: Path, archive: Path, folder: Path) -> Path:
    """Forecasts from the test split alone, which neither training nor validation saw."""
    from cli.options import load_forecaster
    from cli.predict import write_forecasts
    from nowcast.data.archive import open_archive
    from nowcast.training.dataset import held_out_windows

    forecaster, source = load_forecaster(str(run)), open_archive(archive)
    config = forecaster.bundle.config.data
    issues = source.times[held_out_windows(source, config) + config.input_frames - 1]
    write_forecasts(forecaster, source, issues[::3], config.output_frames, folder)
    return folder


def _evaluate(forecasts: Path, archive: Path, folder: Path) -> Any:
    from nowcast.prediction import baseline
    from nowcast.verification.evaluate import evaluate

    baselines = [found for name in BASELINES if (found := baseline(name)) is not None]
    evaluation = evaluate([forecasts], archive, thresholds=THRESHOLDS, baselines=baselines)
    evaluation.save(folder)
    return evaluation


def _gate(evaluation: Any) -> int:
    """0 when the model beats persistence, else 10 and a sentence."""
    from nowcast.verification.counts import CONTINGENCY, EventCounts
    from nowcast.verification.scores import csi, pool

    counts = evaluation.counts
    leads = (counts.lead_minutes >= GATE_MINUTES[0]) & (counts.lead_minutes <= GATE_MINUTES[1])
    threshold = counts.thresholds.tolist().index(GATE_MM_H)
    by_lead = pool(counts, ("case",))
    scores = csi(EventCounts(*(getattr(by_lead, name)[:, leads, threshold].sum(axis=1) for name in CONTINGENCY)))
    ours = next(i for i, name in enumerate(counts.models) if name not in BASELINES)
    persistence = counts.models.index("persistence")
    words = f"CSI at {GATE_MM_H:g} mm/h over {GATE_MINUTES[0]:g}-{GATE_MINUTES[1]:g} min: "
    words += f"{counts.models[ours]} {scores[ours]:.3f}, persistence {scores[persistence]:.3f}"
    if scores[ours] > scores[persistence]:
        click.echo(f"\n{words}. The model beats persistence.")
        return 0
    click.echo(f"\nError: the model does not beat persistence. {words}", err=True)
    click.echo("Hint: this is not expected of the demo; run nowcast doctor, and compare with the README", err=True)
    return EXIT_GATE
