"""`nowcast train`: archives to a trained model, through a packed cache."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cli.config import set_option, source_option
from cli.options import output_option, overwrite_option
from cli.processes import has_checkpoint, is_first_process, sbatch_script, write_environment
from cli.run_log import run_log, saying_how_to_go_on

log = logging.getLogger(__name__)

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
    from nowcast.data.outputs import replacing, require_free
    from nowcast.errors import ConfigError
    from nowcast.training.packed import default_cache

    remembered: dict[str, Any] = {}
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
        init_from = None if remembered.get("init_from") is None else Path(remembered["init_from"])
        values = remembered["config"]
        config, run = config_from_dict({**values, "training": {**values["training"], **processes}}), resume
        origins = remembered.get("origins", {}) | {f"training.{name}": "--resume" for name in processes}
    else:
        if not archives:
            raise ConfigError("no archive given", "nowcast train ARCHIVE... -o RUN, or --resume RUN")
        if output is None and not dry_run:
            raise ConfigError("no run folder given", "add -o RUN")
        extra = ["data.resample=true"] if resample else []
        extra += [f"training.{name}={value}" for name, value in processes.items()]
        loaded = load_config(source or "radar", overrides=[*overrides, *extra])
        config, origins, run = loaded.config, dict(loaded.origins), output or Path("run")
    if print_sbatch:
        click.echo(sbatch_script(sys.argv[1:], nodes=config.training.nodes, devices=devices or 1))
        return
    first = is_first_process()
    if resume is None and first and not dry_run:
        inputs = [path for path in (*archives, *validation, init_from, cache) if path is not None]
        require_free(run, "run", overwrite=overwrite, inputs=inputs)
    cache = cache or default_cache()
    packs = packed_archives([*archives, *validation], cache, resample=config.data.resample, were=remembered)
    data = training_data(packs[: len(archives)], packs[len(archives) :], config)
    if dry_run:
        _say(data, config, run)
        click.echo(config.model_dump_json(indent=2))
        return
    if resume is not None or not first:
        with run_log(run), saying_how_to_go_on(f"nowcast train --resume {run}"):
            _say(data, config, run)
            train(data, config, run, resume=resume is not None, init_from=init_from, origins=origins)
        return
    with replacing(run, keep=has_checkpoint):
        start_run(run, archives, validation, cache, config, data, packs=packs, init_from=init_from, origins=origins)
        # What was overwritten comes back where nothing was learned yet: then there is nothing to go on with.
        with run_log(run), saying_how_to_go_on(None if overwrite else f"nowcast train --resume {run}"):
            _say(data, config, run)
            train(data, config, run, init_from=init_from, origins=origins)


def _say(data: Any, config: Any, run: Path) -> None:
    if not is_first_process():
        return
    samples = data.provenance
    log.info(
        "%d training and %d validation samples of %dx%d pixels, %d frames in, %d out, at %s",
        samples["training_samples"],
        samples["validation_samples"],
        data.train.height,
        data.train.width,
        config.data.input_frames,
        config.data.output_frames,
        run,
    )


def train(
    data: Any,
    config: Any,
    run: Path,
    *,
    resume: bool = False,
    init_from: Path | None = None,
    origins: Mapping[str, str] | None = None,
) -> Any:
    """fit with validation CSI, curves and the exit codes of a stop; prints where the model is."""
    from cli.main import EXIT_INTERRUPTED, EXIT_TERMINATED, version
    from nowcast.training.curves import draw_curves
    from nowcast.training.fit import Interrupted, fit
    from nowcast.verification.counting import count_events

    # Two models of one architecture are told apart by the folders that they were trained in.
    name = run.absolute().name or config.model.name
    provenance = {"command": shlex.join(["nowcast", *sys.argv[1:]]), "nowcast": version(), "name": name}
    try:
        result = fit(
            data,
            config,
            run,
            resume=resume,
            init_from=init_from,
            count_events=count_events,
            provenance=provenance,
            origins=origins or {},
            draw=draw_curves,
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


def packed_archives(
    paths: Sequence[Path], cache: Path, *, resample: bool, were: Mapping[str, Any] | None = None
) -> list[Any]:
    """The packed copy of every archive; with `resample` at the pixel size of the first.

    `were` is what a run remembers of them: a copy serves where its archive is gone, and an archive that has changed
    since is refused.
    """
    known = (were or {}).get("packed") or [None] * len(paths)
    packs: list[Any] = []
    for path, was in zip(paths, known, strict=True):
        packs.append(_packed(path, cache, packs[0].grid.pixel_size_km if resample and packs else None, was))
    return packs


def _packed(path: Path, cache: Path, pixel_size_km: tuple[float, float] | None, was: Mapping[str, str] | None) -> Any:
    from nowcast.data.archive import open_archive
    from nowcast.errors import MismatchError
    from nowcast.training.packed import DESCRIPTION, open_packed, pack_archive

    if was is not None and not path.exists() and (Path(was["folder"]) / DESCRIPTION).is_file():
        pack = open_packed(Path(was["folder"]))
    elif (path / DESCRIPTION).is_file():
        pack = open_packed(path)
    else:
        pack = pack_archive(open_archive(path), cache, pixel_size_km=pixel_size_km)
    if was is not None and pack.fingerprint != was["fingerprint"]:
        raise MismatchError(
            f"{path} is not the archive that this run was trained on: its fingerprint is {pack.fingerprint[:12]}, "
            f"the run remembers {was['fingerprint'][:12]}",
            "bring the archive back as it was, or train anew on this one, perhaps with --init-from",
        )
    return pack


def training_data(archives: Sequence[Any], validation: Sequence[Any], config: Any) -> Any:
    """Windows of packed archives, as the configuration wants them."""
    from nowcast.data.normalize import Normalizer
    from nowcast.training.dataset import rain_training_data

    normalizer = Normalizer(config.normalizer.kind, config.normalizer.minimum_mm_h, config.normalizer.maximum_mm_h)
    return rain_training_data(
        archives, config.data, normalizer, validation_archives=validation, seed=config.training.seed
    )


def start_run(
    run: Path,
    archives: tuple[Path, ...],
    validation: tuple[Path, ...],
    cache: Path,
    config: Any,
    data: Any,
    *,
    packs: Sequence[Any],
    init_from: Path | None,
    origins: Mapping[str, str] | None = None,
) -> None:
    """Make the run folder, with all that a resume and a reader need."""
    run.mkdir(parents=True, exist_ok=True)
    values = {
        "archives": [str(path.resolve()) for path in archives],
        "validation": [str(path.resolve()) for path in validation],
        "cache": str(cache.resolve()),
        "packed": [{"folder": str(pack.folder.resolve()), "fingerprint": pack.fingerprint} for pack in packs],
        "init_from": None if init_from is None else str(init_from.resolve()),
        "config": config.model_dump(mode="json"),
        "origins": dict(origins or {}),
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
