"""Leave one event out: train on real radar events, score on one that training never saw, beside the baselines.

    python -m tests.benchmarks.real_events -o FOLDER [--data FOLDER] [--held-out mch16,...] [--seeds 0,1] [--set a.b=1]

Goes on where it stopped: what is in FOLDER already is not made again. Prints one Markdown table; the counts, scores
and reports stay in FOLDER. Each event is one storm, so the table describes and does not rank.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from nowcast.verification.counts import ContingencyCounts
from nowcast.verification.scores import csi, frequency_bias, pool

EVENTS = {
    "mch15": "radar/mch/20150515",
    "mch16": "radar/mch/20160711",
    "fmi": "radar/fmi/pgm/20160928",
    "knmi": "radar/KNMI/2010/08",
}
THRESHOLDS = "0.1,0.5,1,5,10"
BASELINES = "persistence,extrapolation,scale-decay,pysteps-lk,pysteps-sprog"
EVERY = "15min"


def nowcast(*words: object) -> None:
    """Run a command, after showing it."""
    command = [sys.executable, "-m", "cli.main", *(str(word) for word in words)]
    print("$ nowcast", *command[3:], flush=True)
    done = subprocess.run(command, check=False)
    # 5: finished, but the last issue times have no observed future.
    if done.returncode not in (0, 5):
        raise SystemExit(f"the command above left with {done.returncode}")


def run_event(held_out: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Train without the event, forecast it, score it; the folder of its scores."""
    folder: Path = arguments.output
    archives = {name: folder / f"{name}.zarr" for name in EVENTS}
    for name, source in EVENTS.items():
        if not archives[name].exists():
            nowcast("ingest", Path(arguments.data) / source, "-o", archives[name])
    tag = f"{held_out}-seed{seed}"
    run, forecasts, skill = (folder / f"{tag}-{kind}" for kind in ("run", "forecasts", "skill"))
    if not (run / "model").exists():
        others = [path for name, path in archives.items() if name != held_out]
        settings = [part for setting in arguments.set for part in ("--set", setting)]
        cache = ["--cache", folder / "cache", "--overwrite"]
        nowcast(
            "train", *others, "-c", arguments.preset, "-o", run, "--set", f"training.seed={seed}", *settings, *cache
        )
    if not skill.exists():
        nowcast("predict", run, archives[held_out], "--every", EVERY, "-o", forecasts, "--resume")
        against = ["--against", archives[held_out], "--threshold", THRESHOLDS, "--baseline", arguments.baselines]
        nowcast("evaluate", f"net={forecasts}", *against, "-o", skill)
        nowcast("report", skill, "-o", folder / f"{tag}.html", "--overwrite")
    return skill


def table(skills: dict[str, Path]) -> list[str]:
    """Mean CSI over lead times and pooled frequency bias, a row for each event and model."""
    lines = [
        "| event | model | cases | " + " | ".join(f"CSI {t} mm/h" for t in THRESHOLDS.split(",")) + " | bias, same |"
    ]
    lines.append("|---" * (4 + len(THRESHOLDS.split(","))) + "|")
    for name, skill in skills.items():
        counts = ContingencyCounts.load(skill / "counts.nc")
        scores = csi(pool(counts, ("case",))).mean(axis=1)  # CSI of each lead time, then the mean over lead times
        bias = frequency_bias(pool(counts, ("case", "lead_time")))
        for row, model in enumerate(counts.models):
            cells = " | ".join(f"{value:.3f}" for value in scores[row])
            biases = "/".join(f"{value:.2f}" for value in bias[row])
            lines.append(f"| {name} | {model} | {len(counts.cases)} | {cells} | {biases} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--data", default=os.environ.get("NOWCAST_TEST_DATA", "../shared/data"))
    parser.add_argument("--held-out", default=",".join(EVENTS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--preset", default="radar_small")
    parser.add_argument("--baselines", default=BASELINES)
    parser.add_argument("--set", action="append", default=[], metavar="a.b=VALUE")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    skills = {
        f"{event}, seed {seed}": run_event(event, int(seed), arguments)
        for seed in arguments.seeds.split(",")
        for event in arguments.held_out.split(",")
    }
    minutes = (time.monotonic() - began) / 60
    print(f"\nMean CSI over lead times of 5 to 60 min on the same pixels; {minutes:.1f} min")
    print("\n".join(table(skills)))


if __name__ == "__main__":
    main()
