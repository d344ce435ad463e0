"""`nowcast demo`: the whole pipeline on synthetic rain, from nothing to a skill report, command by command."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import click

from cli.options import output_option, overwrite_option

# What is generated: enough rain for blocks to train on, to validate with, and to test on.
NUM_FRAMES, SHAPE, STEP_MINUTES, PRESET, SEED = 420, (128, 128), 10.0, "mixed", 7
BASELINES = ("persistence", "extrapolation")
# The model must beat persistence here, or the demo fails: CSI at 1 mm/h over leads of 30 to 60 min.
GATE_MM_H, GATE_MINUTES = 1.0, (30.0, 60.0)
EXIT_GATE = 10
CONTENTS = {
    "report.html": "the skill report, one offline page",
    "view.html": "a player over lead times: observed, forecast, difference",
    "rain.zarr": "the archive: CF Zarr, opens with any xarray",
    "convlstm/": "the training run: configuration, log, checkpoints, model bundle",
    "forecasts/": "CF netCDF forecasts, one file an issue time",
    "skill/": "integer counts, scores.csv, provenance",
    "figures/": "pictures: observed beside forecast, an animation, skill",
}


@click.command(name="demo")
@output_option("The folder for everything it makes.", default="demo")
@overwrite_option
def command(output: Path, overwrite: bool) -> None:
    """Generate rain, train a small ConvLSTM, predict, evaluate, report. Everything in it is synthetic.

    Runs the commands that you would run, and shows them. Exit code 10 when the model does not beat persistence at
    1 mm/h over 30 to 60 min.
    """
    from nowcast.data.outputs import DEMO_MARK, replacing, require_free

    began = time.monotonic()
    require_free(output, "demo", overwrite=overwrite)
    with replacing(output, keep=lambda folder: (folder / "convlstm" / "model").is_dir()):
        output.mkdir(parents=True, exist_ok=True)
        (output / DEMO_MARK).write_text("{}\n", encoding="utf-8")
        skill = _make(output)
    click.echo("\nSYNTHETIC RAIN: the scores above say that the pipeline works, and nothing about weather.")
    click.echo(f"Everything is in {output} (made in {time.monotonic() - began:.0f} s):")
    for name, what in CONTENTS.items():
        click.echo(f"  {output / name!s:<24} {what}")
    sys.exit(_gate(skill))


def _make(output: Path) -> Path:
    """Every command in turn; the folder of the evaluation."""
    archive, run, forecasts, skill = (output / name for name in ("rain.zarr", "convlstm", "forecasts", "skill"))
    figures = output / "figures"
    _generate(archive)
    _nowcast("train", archive, "-c", "demo", "-o", run, "--cache", output / "cache")
    first, last = _held_out(archive, run)
    _nowcast("predict", run, archive, "--from", first, "--to", last, "--every", "30min", "-o", forecasts)
    _nowcast("evaluate", forecasts, "--against", archive, "--baseline", ",".join(BASELINES), "-o", skill)
    _nowcast("report", skill, "--title", "Skill on synthetic rain", "-o", output / "report.html")
    example = _wettest(archive, forecasts)
    extrapolated = output / "extrapolation.nc"
    _nowcast("predict", "extrapolation", archive, "--at", _issue_time(example), "--minutes", "60", "-o", extrapolated)
    _nowcast("plot", "sequence", example, extrapolated, "--against", archive, "-o", figures / "sequence.png")
    _nowcast("plot", "animate", example, "--against", archive, "-o", figures / "forecast.gif")
    _nowcast("plot", "skill", skill, "-o", figures / "skill.png")
    _nowcast("view", example, archive, "-o", output / "view.html")
    return skill


def _nowcast(*arguments: object) -> None:
    """Run a command as the shell would, after showing it; one that fails ends the demo with its own error."""
    from cli.main import group

    words = [str(part) for part in arguments]
    click.echo(f"\n$ nowcast {shlex.join(words)}")
    group.main(args=words, prog_name="nowcast", standalone_mode=False)


def _generate(path: Path) -> None:
    from data_prep.synthetic_rain import write_synthetic_archive

    hours = NUM_FRAMES * STEP_MINUTES / 60
    click.echo(f"generating {hours:.0f} hours of synthetic rain: {path}")
    write_synthetic_archive(path, NUM_FRAMES, SHAPE, seed=SEED, preset=PRESET, step_minutes=STEP_MINUTES)


def _held_out(archive: Path, run: Path) -> tuple[str, str]:
    """First and last issue time of the test split, which neither training nor validation saw."""
    from nowcast.data.archive import open_archive
    from nowcast.models.bundle import load_bundle
    from nowcast.training.dataset import held_out_windows

    source, config = open_archive(archive), load_bundle(run).config.data
    issues = source.times[held_out_windows(source, config) + config.input_frames - 1]
    return str(issues[0]), str(issues[-1])


def _wettest(archive: Path, forecasts: Path) -> Path:
    """The forecast of the issue time with most rain: the one to look at."""
    import numpy as np

    from nowcast.data.archive import open_archive
    from nowcast.data.forecast import load_forecast

    source = open_archive(archive)
    return max(
        sorted(forecasts.glob("*.nc")),
        key=lambda path: float(np.nanmean(source.frame(load_forecast(path).issue_times[0]))),
    )


def _issue_time(forecast: Path) -> str:
    from nowcast.data.forecast import load_forecast

    return str(load_forecast(forecast).issue_times[0])


def _gate(skill: Path) -> int:
    """0 when the model beats persistence, else 10 and a sentence."""
    from nowcast.verification.counts import CONTINGENCY, ContingencyCounts, EventCounts
    from nowcast.verification.scores import csi, pool

    counts = ContingencyCounts.load(skill / "counts.nc")
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
