"""Make the pretrained model of the package: synthetic rain in, `nowcast/models/pretrained` out.

    python -m tests.benchmarks.pretrain -o FOLDER [--into PATH]

Goes on where it stopped. The rain is drawn by `data_prep.synthetic_rain` from seeds alone: nobody's data is in it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from data_prep.synthetic_rain import PRESETS, write_synthetic_archive
from nowcast.models.bundle import PRETRAINED_FOLDER, load_bundle

FRAMES, SHAPE, SEEDS = 48, (320, 320), (101, 102)
STEPS = 200
CARD = "MODEL_CARD.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--into", type=Path, default=PRETRAINED_FOLDER)
    arguments = parser.parse_args()
    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    archives = []
    for preset in sorted(PRESETS):
        for seed in SEEDS:
            archives.append(folder / f"{preset}-{seed}.zarr")
            if not archives[-1].exists():
                write_synthetic_archive(archives[-1], FRAMES, SHAPE, seed=seed, preset=preset)
    run = folder / "run"
    command = [sys.executable, "-m", "cli.main", "train", *map(str, archives), "-c", "radar_small", "-o", str(run)]
    command += ["--cache", str(folder / "cache"), "--set", f"training.max_steps={STEPS}"]
    subprocess.run([*command, *(["--resume"] if run.exists() else [])], check=True)
    bundle = load_bundle(run)
    learnt = {"name": "pretrained", "archives": [{"name": path.name} for path in archives]}
    # Half precision keeps it small; where the run lay on this machine is nobody's business.
    kept = {key: value for key, value in bundle.provenance.items() if key not in ("command", "git", "host")}
    replace(bundle, provenance=kept | learnt).save(folder / "model", dtype=torch.float16)
    arguments.into.mkdir(parents=True, exist_ok=True)
    for path in (folder / "model").iterdir():
        (arguments.into / path.name).write_bytes(path.read_bytes())


if __name__ == "__main__":
    main()
