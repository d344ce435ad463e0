"""Checkpoints of a run: written whole, their names, and the last one that can be read. They hold plain data alone."""

from __future__ import annotations

import logging
import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from nowcast.errors import DataError

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
NAME = re.compile(r"step-(\d+)\.ckpt")
# Beside a checkpoint while it is written.
DRAFT = ".{}.partial"


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all.

    Lightning writes them in the system's folder for temporary files and moves them, which between two file systems is
    a copy that a kill cuts short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(DRAFT.format(path.name))
        try:
            with draft.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)


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
    found = _newest_first(folder)
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


def remove_old(folder: Path, keep: int) -> None:
    """Remove all checkpoints after steps but the last `keep`, and what a kill left half-written.

    Each stop leaves a checkpoint that nobody counts.
    """
    drafts = list(folder.glob(DRAFT.format("*")))
    for path in [*(path for _, path in _newest_first(folder)[keep:]), *drafts]:
        path.unlink(missing_ok=True)


def _newest_first(folder: Path) -> list[tuple[int, Path]]:
    matches = ((NAME.fullmatch(path.name), path) for path in folder.glob("*.ckpt"))
    return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)
