"""One writer at a time: a lock beside an archive, which the system gives back however its holder ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

from nowcast.data.archive_store import cannot_write
from nowcast.errors import DataError


def lock_archive(path: Path) -> Any:
    """The writer's lock, given back by the system when its process ends.

    Raises:
        DataError: Somebody else holds it, or the folder cannot be written.
    """
    path = path.absolute()
    file = path.parent / f".{path.name}.lock"
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = open(file, "w")  # noqa: SIM115 - lives as long as the writer
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.close()
            raise DataError(f"{path} is being written by another process", "wait until it has finished") from error
        # Whoever held it may have removed the file after it was opened here: what is locked then nobody else will meet.
        if _is_the_file(handle, file):
            return handle
        handle.close()


def _is_the_file(handle: Any, path: Path) -> bool:
    """Whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
