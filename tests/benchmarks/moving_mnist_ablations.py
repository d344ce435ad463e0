"""What each part of the Moving MNIST recipe is worth: `python -m tests.benchmarks.moving_mnist_ablations -o FOLDER`.

Each variant is one recipe with something changed, trained on one thread on the same number of sequences and scored on
the same fixed test set; `preset` is `moving_mnist_small` as it ships. Prints one Markdown table. What is in FOLDER
already is not made again, and a run that was stopped goes on; only its CPU time is then unknown.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data_prep.moving_mnist import digits_for, fixed_sequences
from nowcast.config import Config, config_from_dict, load_config
from nowcast.models.bundle import Bundle, load_bundle
from nowcast.models.registry import build_forecaster
from nowcast.training.dataset import TrainingData
from nowcast.training.fit import fit
from nowcast.training.moving_mnist import FixedSequences, generator, load_sequences, moving_mnist_training_data
from nowcast.training.moving_mnist_scores import anchor_scores, cross_entropy_skill, net_scores
from nowcast.training.packed import default_cache

PRESET = "moving_mnist_small"
# What the others change: the plain recipe of the study, whatever the preset has become since.
REFERENCE = (
    "training.learning_rate=4e-3",
    "training.schedule=cosine",
    "training.batch_size=8",
    "training.warmup_steps=50",
    "model.options.norm=none",
)
GROUP_NORM, FASTER, ONE_CYCLE = "model.options.norm=group", "training.learning_rate=8e-3", "training.schedule=one_cycle"
# `bias_start=false` is no setting of a run: see `train`.
CHANGES: dict[str, tuple[str, ...]] = {
    "reference": (),
    "no bias start": ("bias_start=false",),
    "group norm": (GROUP_NORM,),
    "rate 8e-3": (FASTER,),
    "one-cycle": (ONE_CYCLE,),
    "batch 4": ("training.batch_size=4",),
    "group norm, rate 8e-3": (GROUP_NORM, FASTER),
    "group norm, rate 8e-3, one-cycle": (GROUP_NORM, FASTER, ONE_CYCLE),
    "group norm, rate 8e-3, one-cycle, batch 4": (GROUP_NORM, FASTER, ONE_CYCLE, "training.batch_size=4"),
    "constant": ("training.schedule=constant",),
    "step": ("training.schedule=step",),
    "batch 16": ("training.batch_size=16",),
    "rate 2e-3": ("training.learning_rate=2e-3",),
    "rate 16e-3": ("training.learning_rate=16e-3",),
    "averaged .99": ("training.ema=0.99",),
    "forget bias 1": ("model.options.forget_bias=1",),
    "no peepholes": ("model.peephole=none",),
    "mirrored": ("model.decoder_order=mirrored",),
}
VARIANTS = {name: (*REFERENCE, *changes) for name, changes in CHANGES.items()} | {"preset": ()}
SMALL = ("model.hidden_channels=[4]", "moving_mnist.test_sequences=8", "moving_mnist.validation_sequences=8")


def config_of(changes: Sequence[str], sequences: int, seed: int) -> Config:
    """The recipe with these changes, for so many training sequences."""
    settings = [change for change in changes if not change.startswith("bias_start")]
    batch_size = load_config(PRESET, overrides=settings, environment={}).config.training.batch_size
    settings += [f"training.max_steps={sequences // batch_size}", f"training.seed={seed}", "training.max_minutes=null"]
    return load_config(PRESET, overrides=settings, environment={}).config


def train(data: TrainingData, config: Config, run: Path, *, bias_start: bool) -> float | None:
    """Train into `run`, or go on there; the CPU time [s], unknown of a run that was stopped."""
    unbroken, start = not run.exists(), time.process_time()
    untrained = None
    if not bias_start:
        # Weights that are given are taken as they are: the same fresh ones, without the climatology in the bias.
        torch.manual_seed(config.training.seed)
        net = build_forecaster(config, data.in_channels)
        fresh = Bundle(net, config, data.normalizer, data.in_channels, None, None)
        untrained = fresh.save(run.with_name(f"{run.name}-untrained"))
    fit(data, config, run, resume=True, init_from=untrained)
    return time.process_time() - start if unbroken else None


def measured(name: str, changes: Sequence[str], sequences: int, seed: int, folder: Path) -> dict[str, Any]:
    """Scores of one variant on the fixed test set, made unless they are there."""
    key = f"{sequences}-{name.replace(' ', '_').replace(',', '')}-seed{seed}"
    scored = folder / f"{key}.json"
    config = config_of(changes, sequences, seed)
    asked = config.model_dump(mode="json")
    if scored.is_file():
        found: dict[str, Any] = json.loads(scored.read_text(encoding="utf-8"))
        if config_from_dict(found["config"]) != config:  # keys that came since then stand at their defaults
            raise SystemExit(f"{scored} was made with another configuration; give another -o or remove it")
        return found
    settings = config.moving_mnist
    digits = digits_for(digit_size=settings.digit_size)
    data = moving_mnist_training_data(digits.train, config)
    seconds = train(data, config, folder / key, bias_start="bias_start=false" not in changes)
    test = generator(digits.test, config, "test", settings.test_sequences, seed=settings.test_seed)
    path, digest = fixed_sequences(test, default_cache() / "moving_mnist")
    fixed = FixedSequences(load_sequences(path))
    net = load_bundle(folder / key).net
    scores = net_scores(net, fixed, device=torch.device("cpu"))
    scores["skill"] = cross_entropy_skill(scores["cross_entropy"], anchor_scores(fixed))
    values = {
        "variant": name,
        "seed": seed,
        "sequences": sequences,
        "cpu_seconds": seconds,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "scores": scores,
        "test_set_sha256": digest,
        "config": asked,
    }
    scored.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return values


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A Markdown row for each variant and seed."""
    lines = ["| variant | seed | sequences | CE | CE skill | MSE | MAE | SSIM | CPU-s |", "|---" * 9 + "|"]
    for row in rows:
        s, seconds = row["scores"], "" if row["cpu_seconds"] is None else f"{row['cpu_seconds']:.0f}"
        cells = f"{s['cross_entropy']:.0f} | {s['skill']:.3f} | {s['mse']:.2f} | {s['mae']:.1f} | {s['ssim']:.3f}"
        lines.append(f"| {row['variant']} | {row['seed']} | {row['sequences']} | {cells} | {seconds} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="runs and scores are kept here")
    parser.add_argument("--sequences", type=int, default=4000, help="training sequences of each variant")
    parser.add_argument("--seeds", default="0", help="for example 0,1")
    parser.add_argument("--variants", help=f"some of: {'; '.join(VARIANTS)}; separated by semicolons")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=a.b=1", help="a further variant")
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, for the tests; its scores mean nothing")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    variants = dict(VARIANTS)
    for text in options.set:
        name, _, change = text.partition("=")
        variants[name] = (*variants.get(name, ()), change)
    chosen = list(variants) if options.variants is None else [name.strip() for name in options.variants.split(";")]
    if unknown := [name for name in chosen if name not in variants]:
        parser.error(f"no variant is named {', '.join(unknown)}; there are {'; '.join(variants)}")
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in map(int, options.seeds.split(",")):
        for name in chosen:
            changes = (*variants[name], *(SMALL if options.tiny else ()))
            rows.append(measured(name, changes, options.sequences, seed, options.output))
            print(table(rows[-1:])[-1], flush=True)
    print(f"\nPreset {PRESET}, one thread, CPU ({platform.machine()}), torch {torch.__version__}.")
    print(f"Test set: sha256 {rows[0]['test_set_sha256']}\n")
    print("\n".join(table(rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
