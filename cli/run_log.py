"""The log of a run: what was said while it went, and the traceback of what ended it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from cli.processes import is_first_process

LOG = "log.txt"


@contextmanager
def run_log(run: Path) -> Iterator[None]:
    """Write all messages of the log into the run folder too, after those of before; of an error, the traceback."""
    if not is_first_process():
        yield
        return
    handler = logging.FileHandler(run / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    except Exception:
        # To the file alone: the terminal gets one sentence.
        handler.emit(logging.LogRecord(__name__, logging.ERROR, __file__, 0, "ended by:", None, sys.exc_info()))
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


@contextmanager
def saying_how_to_go_on(command: str | None) -> Iterator[None]:
    """After Ctrl-C outside of the steps of training: leave with 130 and say which command goes on, if one does."""
    from cli.main import EXIT_INTERRUPTED

    try:
        yield
    except KeyboardInterrupt:
        if is_first_process():
            click.echo("Interrupted." + ("" if command is None else f" Continue with: {command}"), err=True)
        sys.exit(EXIT_INTERRUPTED)
