"""The loader's share of a training step, and peak memory: `python -m tests.benchmarks.bench_loader [--tiny]`.

For the preset of the demo on its archive, and for `radar` on crops of 256x256 pixels of synthetic rain. Batches are
made in this process, as with no loading processes, and timed beside the steps that learn from them. Samples are met
twice: the first time their motion has to be estimated, which is kept. Judged is the mean over the preset's whole run,
by how many of its samples begin a window that none before them did. Each preset runs in a process of its own, whose
peak memory is that of the whole training. Exit code 1 where the share is above the wanted one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cli.demo import NUM_FRAMES, SEED, SHAPE, STEP_MINUTES
from cli.train import packed_archives, training_data
from data_prep.synthetic_rain import write_synthetic_archive
from nowcast.config import Config, load_config
from nowcast.models.heads import make_head
from nowcast.models.registry import build_forecaster
from nowcast.training.augment import augment
from nowcast.training.losses import make_loss, masked_mean
from nowcast.training.optimizers import make_optimizer
from nowcast.training.sampling import StepBatches

WANTED = 0.10
MOST_STEPS = 500
TINY_SETTINGS = ("model.hidden_channels=[8, 8]", "data.crop=32", "training.batch_size=2")
# Preset: frames, grid and minutes of its archive, settings, and the batch size on a CPU, where a step takes long.
CASES: dict[str, tuple[int, tuple[int, int], float, tuple[str, ...], int]] = {
    "demo": (NUM_FRAMES, SHAPE, STEP_MINUTES, (), 4),
    "radar": (240, (384, 384), 5.0, ("data.crop=256", "data.block_hours=4"), 2),
}


def measure(preset: str, folder: Path, *, steps: int, tiny: bool) -> dict[str, Any]:
    """Seconds a step of the loader, for samples met first and again, and of the learning; peak memory [MB]."""
    frames, shape, minutes, settings, batch_size = CASES[preset]
    device = torch.device("cuda" if torch.cuda.is_available() and not tiny else "cpu")
    settings += TINY_SETTINGS if tiny else (f"training.batch_size={batch_size}",) * (device.type == "cpu")
    config = load_config(preset, overrides=settings, environment={}).config
    archive = write_synthetic_archive(
        folder / "rain.zarr", 90 if tiny else frames, (48, 48) if tiny else shape, seed=SEED, step_minutes=minutes
    )
    data = training_data(packed_archives([archive], folder / "cache", resample=False), [], config)
    batches = StepBatches(
        len(data.train), config.training.batch_size, steps + 1, seed=config.training.seed, weights=data.train.weights
    )
    new = _share_of_new_windows(config, data.train)
    learn = _learner(config, data, device)
    chosen = list(batches)
    learn(data.train.__getitems__(chosen[0]))  # compiles and allocates
    first, again, learning = 0.0, 0.0, 0.0
    for samples in chosen[1:]:
        start = time.perf_counter()
        data.train.__getitems__(samples)
        middle = time.perf_counter()
        batch = data.train.__getitems__(samples)
        end = time.perf_counter()
        learn(batch)
        first, again = first + middle - start, again + end - middle
        learning += time.perf_counter() - end
    return {
        "preset": preset,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu ({platform.machine()})",
        "batch_size": config.training.batch_size,
        "crop": [data.train.height, data.train.width],  # type: ignore[attr-defined]
        "steps": steps,
        "first_s": first / steps,
        "again_s": again / steps,
        "run_s": (new * first + (1 - new) * again) / steps,
        "learning_s": learning / steps,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "gpu_memory_mb": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None,
    }


def _share_of_new_windows(config: Config, samples: Any) -> float:
    """Which share of the samples of a whole run begins a window that no sample before it did."""
    training = config.training
    whole = StepBatches(
        len(samples), training.batch_size, training.max_steps, seed=training.seed, weights=samples.weights
    )
    # Few windows are new after so many steps.
    drawn = np.concatenate([whole.samples(step) for step in range(min(training.max_steps, MOST_STEPS))])
    windows = np.unique(np.stack([samples.archive[drawn], samples.start[drawn]]), axis=1).shape[1]
    return float(windows / (training.max_steps * training.batch_size))


def _learner(config: Config, data: Any, device: torch.device) -> Any:
    """A function that learns from one batch and waits until it has."""
    torch.manual_seed(config.training.seed)
    net = build_forecaster(config, data.in_channels).to(device)
    loss = make_loss(config.loss, data.normalizer, make_head(config.model, data.normalizer))
    optimizer = make_optimizer(net, config.training)

    def learn(batch: Any) -> float:
        batch = augment(batch.to(device), config.augment)
        logits = net.forward_logits(batch.inputs, batch.targets.shape[1])  # type: ignore[operator]
        value = masked_mean(loss(logits, batch.targets), batch.valid)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), config.training.gradient_clip)
        optimizer.step()
        return float(value.detach())

    return learn


def share(row: dict[str, Any], loading: str) -> float:
    """The loader's share of a step of loading and learning."""
    return float(row[loading] / (row[loading] + row["learning_s"]))


def report(rows: Sequence[dict[str, Any]]) -> bool:
    """Print a line for each preset; whether all shares are as wanted, over the whole run."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), Python {platform.python_version()}")
    print(
        "| preset | crop | batch | steps | learning s | loading, first | again | share, first | again | run | peak MB |"
    )
    print("|---" * 11 + "|")
    for row in rows:
        memory = f"{row['memory_mb']:.0f}" + (
            "" if row["gpu_memory_mb"] is None else f", GPU {row['gpu_memory_mb']:.0f}"
        )
        print(
            f"| {row['preset']}, {row['device']} | {row['crop'][0]}x{row['crop'][1]} | {row['batch_size']} | "
            f"{row['steps']} | {row['learning_s']:.3f} | {row['first_s']:.3f} | {row['again_s']:.3f} | "
            f"{share(row, 'first_s'):.1%} | {share(row, 'again_s'):.1%} | {share(row, 'run_s'):.1%} | {memory} |"
        )
    return all(share(row, "run_s") <= WANTED for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, for CI; the share is not judged")
    parser.add_argument("--preset", choices=list(CASES), action="append", help="this one alone; may be repeated")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--as-json", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = options.preset or list(CASES)
    steps = 1 if options.tiny else options.steps
    if options.as_json or options.tiny:
        rows = []
        for preset in chosen:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(preset, Path(folder), steps=steps, tiny=options.tiny))
        if options.as_json:
            print(json.dumps(rows))
            return 0
        report(rows)
        return 0
    rows = []
    for preset in chosen:
        command = [sys.executable, "-m", "tests.benchmarks.bench_loader", "--as-json", "--preset", preset]
        done = subprocess.run(
            [*command, "--steps", str(steps)], check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        rows += json.loads(done.stdout.strip().splitlines()[-1])
    kept = report(rows)
    print(f"the loader takes at most {WANTED:.0%} of a step: {'kept' if kept else 'BROKEN'}")
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
