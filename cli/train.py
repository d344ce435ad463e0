"""`nowcast train`: archives to a trained model, through a packed cache."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from cli.config import set_option, source_option
from cli.options import clear_output, output_option, overwrite_option
from cli.processes import is_first_process, sbatch_script, write_environment

ORIGIN = "training.json"


@click.command(name="train")
@click.argument("archives", nargs=-1, type=click.Path(path_type=Path))
@source_option
@set_option
@output_option("The run folder.", required=False)
@click.option(
    "--validation",
    "validation",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Validate on this whole archive instead of on a share of the others.",
)
@click.option("--resume", type=click.Path(path_type=Path), help="Continue this run folder where it stopped.")
@click.option("--init-from", type=click.Path(path_type=Path), help="Start from the weights of this model.")
@click.option("--resample", is_flag=True, help="Bring archives of another pixel size to that of the first.")
@click.option("--cache", type=click.Path(path_type=Path), help="Where packed archives are kept.")
@click.option("--devices", type=int, help="GPUs to use on each node (processes, on a CPU); all unless given.")
@click.option("--nodes", type=int, help="Machines to use, each started by torchrun or SLURM.")
@click.option("--print-sbatch", is_flag=True, help="Print a SLURM script that runs this command, and stop.")
@click.option("--dry-run", is_flag=True, help="Say what would be trained on, and stop.")
@overwrite_option
def command(
    archives: tuple[Path, ...],
    source: str | None,
    overrides: tuple[str, ...],
    output: Path | None,
    validation: tuple[Path, ...],
    resume: Path | None,
    init_from: Path | None,
    resample: bool,
    cache: Path | None,
    devices: int | None,
    nodes: int | None,
    print_sbatch: bool,
    dry_run: bool,
    overwrite: bool,
) -> None:
    """Train a forecaster on ARCHIVE... and leave it in a run folder.

    A run stopped by Ctrl-C or a kill continues with --resume RUN; archives and configuration are remembered there.
    """
    from nowcast.config import config_from_dict, load_config
    from nowcast.errors import ConfigError

    processes = {name: value for name, value in (("devices", devices), ("nodes", nodes)) if value is not None}
    if resume is not None:
        if archives or validation or output or source or overrides or init_from or resample or cache:
            raise ConfigError(
                "--resume takes archives and configuration from the run folder", "give --resume RUN alone"
            )
        remembered = _remembered(resume)
        archives = tuple(Path(path) for path in remembered["archives"])
        validation = tuple(Path(path) for path in remembered["validation"])
        cache = Path(remembered["cache"])
        values = remembered["config"]
        config, run = config_from_dict({**values, "training": {**values["training"], **processes}}), resume
    else:
        if not archives:
            raise ConfigError("no archive given", "nowcast train ARCHIVE... -o RUN, or --resume RUN")
        if output is None and not dry_run:
            raise ConfigError("no run folder given", "add -o RUN")
        extra = ["data.resample=true"] if resample else []
        extra += [f"training.{name}={value}" for name, value in processes.items()]
        config = load_config(source or "radar", overrides=[*overrides, *extra]).config
        run = output or Path("run")
    if print_sbatch:
        click.echo(sbatch_script(sys.argv[1:], nodes=config.training.nodes, devices=devices or 1))
        return
    data, cache = training_data(archives, validation, config, cache)
    samples = data.provenance
    first = is_first_process()
    if first:
        _say(samples, config, run)
    if dry_run:
        click.echo(config.model_dump_json(indent=2))
        return
    if resume is None and first:
        clear_output(run, overwrite=overwrite)
        start_run(run, archives, validation, cache, config, data)
    train(data, config, run, resume=resume is not None, init_from=init_from)


def _say(samples: dict[str, Any], config: Any, run: Path) -> None:
    click.echo(
        f"{samples['training_samples']} training and {samples['validation_samples']} validation samples, "
        f"{config.data.input_frames} frames in, {config.data.output_frames} out, at {run}",
        err=True,
    )


def train(data: Any, config: Any, run: Path, *, resume: bool = False, init_from: Path | None = None) -> Any:
    """fit with validation CSI and the exit codes of a stop; prints where the model is."""
    from cli.main import EXIT_INTERRUPTED, EXIT_TERMINATED, version
    from nowcast.training.fit import Interrupted, fit
    from nowcast.verification.counts import count_events

    # Two models of one architecture are told apart by the folders that they were trained in.
    name = run.absolute().name or config.model.name
    provenance = {"command": shlex.join(["nowcast", *sys.argv[1:]]), "nowcast": version(), "name": name}
    try:
        result = fit(
            data, config, run, resume=resume, init_from=init_from, count_events=count_events, provenance=provenance
        )
    except Interrupted as stop:
        import signal

        if is_first_process():
            click.echo(f"Stopped; nothing is lost. Continue with: nowcast train --resume {run}", err=True)
        sys.exit(EXIT_INTERRUPTED if stop.signum == signal.SIGINT else EXIT_TERMINATED)
    if is_first_process():
        skipped = f", {result.skipped} skipped for a gradient that was not finite" if result.skipped else ""
        click.echo(f"model: {result.bundle} ({result.steps} steps, {result.minutes:.1f} min{skipped})")
    return result


def training_data(
    archives: tuple[Path, ...], validation: tuple[Path, ...], config: Any, cache: Path | None
) -> tuple[Any, Path]:
    from nowcast.data.archive import open_archive
    from nowcast.data.normalize import Normalizer
    from nowcast.training.dataset import DESCRIPTION, default_cache, open_packed, pack_archive, rain_training_data

    cache = cache or default_cache()

    def packed(path: Path, pixel_size_km: tuple[float, float] | None) -> Any:
        if (path / DESCRIPTION).is_file():
            return open_packed(path)
        return pack_archive(open_archive(path), cache, pixel_size_km=pixel_size_km)

    first = packed(archives[0], None)
    size = first.grid.pixel_size_km if config.data.resample else None
    normalizer = Normalizer(config.normalizer.kind, config.normalizer.minimum_mm_h, config.normalizer.maximum_mm_h)
    data = rain_training_data(
        [first, *(packed(path, size) for path in archives[1:])],
        config.data,
        normalizer,
        validation_archives=[packed(path, size) for path in validation],
        seed=config.training.seed,
    )
    return data, cache


def start_run(
    run: Path, archives: tuple[Path, ...], validation: tuple[Path, ...], cache: Path, config: Any, data: Any
) -> None:
    """Make the run folder, with all that a resume and a reader need."""
    run.mkdir(parents=True, exist_ok=True)
    values = {
        "archives": [str(path.resolve()) for path in archives],
        "validation": [str(path.resolve()) for path in validation],
        "cache": str(cache.resolve()),
        "config": config.model_dump(mode="json"),
        "command": shlex.join(["nowcast", *sys.argv[1:]]),
    }
    (run / ORIGIN).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    write_environment(run, data.provenance)


def _remembered(run: Path) -> dict[str, Any]:
    from nowcast.errors import DataError

    try:
        values: dict[str, Any] = json.loads((run / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(
            f"{run} is not a run folder: {error}", "give the folder that `nowcast train -o` made"
        ) from error
    return values
