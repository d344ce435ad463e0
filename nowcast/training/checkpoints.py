"""Checkpoints of a run: their names, and the last one that can be read. They hold plain data alone."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path

import torch

from nowcast.errors import DataError

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
NAME = re.compile(r"step-(\d+)\.ckpt")


def step_name(step: int | str) -> str:
    """File name, without its ending, of the checkpoint after a step."""
    return f"step-{step}"


def step_of(checkpoint: Path) -> int:
    """Steps that were done when a checkpoint was written, by its name."""
    match = NAME.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint.name} is not the name of a checkpoint after a step")
    return int(match[1])


def last_readable(folder: Path, *, before: int | None = None) -> Path | None:
    """The newest checkpoint that can be read; a damaged one is passed over with a warning.

    None where none was written yet.

    Args:
        before: Prefer those of fewer steps than this, if there are any.

    Raises:
        DataError: All that are there are damaged.
    """
    found = sorted(
        ((int(match[1]), path) for path in folder.glob("*.ckpt") if (match := NAME.fullmatch(path.name))), reverse=True
    )
    if not found:
        return None
    if before is not None:
        found = [entry for entry in found if entry[0] < before] or found
    for step, path in found:
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            log.warning("the checkpoint of step %d cannot be read (%s); the one before is used", step, error)
        else:
            return path
    raise DataError(
        f"{folder.parent} holds no readable checkpoint to resume from ({len(found)} found)",
        "start it anew without --resume",
    )
