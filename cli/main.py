"""The `nowcast` command: a group that imports a command's module only when that command runs."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib import metadata
from types import FrameType
from typing import Any, NoReturn

import click

# One line of help each, so that `nowcast --help` imports no command.
COMMANDS = {
    "demo": "The whole pipeline on synthetic rain: generate, train, predict, evaluate, report.",
    "ingest": "Radar files of any format into one CF Zarr archive.",
    "resample": "An archive of another cadence or pixel size from one.",
    "inspect": "What an archive, a model, a run or a forecast holds.",
    "train": "Train a forecaster on one or several archives.",
    "predict": "Forecast from an archive with a model, persistence or extrapolation.",
    "live": "Forecast from each radar file that arrives in a folder.",
    "calibrate": "Fit a model's decision levels and probabilities, and store both in its bundle.",
    "evaluate": "Score forecasts against an archive, all under one mask.",
    "report": "Scores as Markdown and one offline HTML page.",
    "view": "One offline page that plays a forecast over its lead times.",
    "plot": "Pictures: a frame, a sequence, an animation, skill against lead time.",
    "export": "A model's net as one file that runs without this package.",
    "mnist": "Moving MNIST sanity runs: train, evaluate, sample.",
    "config": "Show, start, check a configuration, or print its schema.",
    "doctor": "What is installed, and whether it works.",
}

# How a command goes on after Ctrl-C; the others start anew. `train` and `mnist` say it themselves, with their run.
GOES_ON = {
    "evaluate": "The cases scored so far are kept; the same command with --resume goes on from them.",
    "ingest": "What was finished is kept; the same command continues it.",
    "live": "The forecasts made so far are kept; the same command continues them.",
    "predict": "The same command with --resume keeps the forecasts that are there.",
    "resample": "What was finished is kept; the same command continues it.",
}

# Threads that wait for each other by spinning bring a shared machine to a stand: with two threads on two busy cores a
# training step took four times as long as with sleeping ones. Read by OpenMP when torch is imported, so set before.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
# An interrupted command ends after this time at the latest.
PATIENCE_S = 3.0


class LazyGroup(click.Group):
    """A group whose commands live in `cli/<name>.py` and are imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"cli.{name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"no command '{args[0]}'" + (f"; did you mean '{near[0]}'?" if near else ""))
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nowcast-pipeline", prog_name="nowcast")
@click.option("--debug", is_flag=True, help="Show the traceback of an error, and log more.")
@click.pass_context
def group(ctx: click.Context, debug: bool) -> None:
    """Precipitation nowcasting: from radar files to rain forecasts with known skill.

    \b
    Exit codes: 0 done; 1 unexpected; 2 usage or configuration; 3 unusable
    data; 4 an optional package is missing; 5 finished, but something was
    left out; 6 model and data do not match; 10 a gate was not passed;
    130 Ctrl-C; 143 SIGTERM.
    """
    ctx.obj = {"debug": debug}
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO, format="%(message)s", stream=sys.stderr, force=True
    )
    # Libraries talk too much at INFO; ours alone is wanted.
    logging.getLogger().setLevel(logging.WARNING)
    for name in ("nowcast", "data_prep", "cli"):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with the exit code of the interface: see `exit_code`."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = group.main(args=argv, prog_name="nowcast", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo(_interrupted(argv), err=True)
        if arguments is None:
            _end_within(PATIENCE_S, EXIT_INTERRUPTED)
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Exception as error:
        if "--debug" in argv:
            traceback.print_exc()
        _show(error)
        sys.exit(exit_code(error))


def _end_within(seconds: float, code: int) -> None:
    """See to it that this process ends: threads of workers that were cut off may wait for them forever."""
    end = threading.Timer(seconds, os._exit, (code,))
    end.daemon = True
    end.start()


def _interrupted(argv: Sequence[str]) -> str:
    """What to say after Ctrl-C: how to go on, where the command can."""
    name = next((part for part in argv if part in COMMANDS), None)
    return "Interrupted." + (f" {GOES_ON[name]}" if name in GOES_ON else "")


def exit_code(error: Exception) -> int:
    """1 unexpected, 2 usage or configuration, 3 data, 4 missing package, 6 model and data do not match."""
    from nowcast.errors import ConfigError, DataError, MismatchError, MissingPackageError

    codes = {ConfigError: 2, DataError: 3, MissingPackageError: 4, MismatchError: 6}
    return next((code for kind, code in codes.items() if isinstance(error, kind)), 1)


def _show(error: Exception) -> None:
    from nowcast.errors import NowcastError

    if isinstance(error, NowcastError):
        click.echo(f"Error: {error.message}", err=True)
        if error.hint:
            click.echo(f"Hint: {error.hint}", err=True)
        return
    click.echo(f"Error: unexpected {type(error).__name__}: {error}", err=True)
    click.echo("Hint: run the same command as `nowcast --debug ...` for the traceback", err=True)


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)


def version() -> str:
    """The installed version."""
    return metadata.version("nowcast-pipeline")


if __name__ == "__main__":
    main()
