"""What a training run says of its processes and its machine: who is first, a SLURM script, the environment."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ENVIRONMENT = "environment.json"
PACKAGES = ("nowcast-pipeline", "torch", "lightning", "numpy", "zarr", "xarray")


def is_first_process() -> bool:
    """Whether this is the only process of a run or the first of several (torchrun, SLURM or Lightning started them)."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((int(rank) == 0 for rank in ranks if rank is not None), True)


def has_checkpoint(run: Path) -> bool:
    """Whether a run that failed can go on: then it is worth more than the run that it was to replace."""
    return any((run / "checkpoints").glob("*.ckpt"))


def sbatch_script(arguments: Sequence[str], *, nodes: int, devices: int) -> str:
    """A SLURM batch script that runs the given `nowcast` command on `nodes` machines of `devices` GPUs each."""
    command = shlex.join(["nowcast", *(part for part in arguments if part != "--print-sbatch")])
    return f"""#!/bin/bash
#SBATCH --job-name=nowcast
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={devices}
#SBATCH --gpus-per-node={devices}
#SBATCH --cpus-per-task=6
#SBATCH --time=12:00:00
# SIGTERM comes two minutes before the limit: the run then writes a checkpoint and leaves with 143.
#SBATCH --signal=TERM@120
# After a stop, submit again with: srun nowcast train --resume RUN
set -euo pipefail
srun {command}"""


def write_environment(run: Path, data: Mapping[str, Any]) -> None:
    """Leave in the run folder what a reader needs to repeat it: command, versions, machine, git state, data."""
    values = {
        "command": shlex.join(["nowcast", *sys.argv[1:]]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "git": _git_state(),
        "data": dict(data),
    }
    (run / ENVIRONMENT).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _git_state() -> dict[str, Any] | None:
    """Commit of the working folder and whether it was changed since; None outside a repository or without git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, check=True, text=True).stdout.strip()
