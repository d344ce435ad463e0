"""Leave one event out: train on real radar events, score on one that training never saw, beside the baselines.

    python -m tests.benchmarks.real_events -o FOLDER [--data FOLDER] [--held-out mch16,...] [--seeds 0,1,2]
        [--variants net,base-only,...]

Goes on where it stopped: what is in FOLDER already is not made again, and several calls may share the work of one
folder if they hold out other events. Prints Markdown tables; forecasts, counts, scores and reports stay in FOLDER.
Each event is one storm, so the tables describe and do not rank.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from nowcast.data.archive import open_archive
from nowcast.verification.counts import ContingencyCounts
from nowcast.verification.scores import csi, frequency_bias, pool

EVENTS = {
    "mch15": "radar/mch/20150515",
    "mch16": "radar/mch/20160711",
    "fmi": "radar/fmi/pgm/20160928",
    "knmi": "radar/KNMI/2010/08",
}
# Events of another step or pixel size: brought to 5 min and to pixels of this many km, as what is trained on then is.
RESAMPLED = {"bom": ("radar/bom/prcp-cscn", 1.0), "opera": ("radar/OPERA/20180824", 2.0)}
THRESHOLDS = "0.1,0.5,1,5,10"
BASELINES = ("persistence", "extrapolation", "scale-decay", "pysteps-lk", "pysteps-sprog")
EVERY = "15min"
# The first issue time is that of this frame, so that every model has its inputs; the last has a whole future.
FIRST, LEADS = 5, 12
# OPERA's six frames hold a single such time.
FIRST_OF = {"opera": 3}
# What differs from the preset.
VARIANTS = {
    "net": (),
    "base-only": ("training.max_steps=1", "training.warmup_steps=0", "training.learning_rate=1e-9"),
    "no-base": ("model.base=false",),
    "fixed-frame": ("data.frame=fixed",),
    "area": ("model.decision=area",),
    "level": ("model.decision=level",),
    "unet": ("model.name=unet", "model.hidden_channels=[32, 48, 64]"),
}
# The model of the package: it has seen none of the events, and is not trained here.
SHIPPED = "pretrained"
# One window and octave for the table: FSS at 1 mm/h in windows of about 11 km, power about 8 km, both at 30 min.
FSS_PIXELS, FSS_THRESHOLD, OCTAVE_KM, MINUTES = 11, 1.0, 8.0, 30.0


def nowcast(*words: object) -> None:
    """Run a command, after showing it."""
    command = [sys.executable, "-m", "cli.main", *(str(word) for word in words)]
    print("$ nowcast", *command[3:], flush=True)
    done = subprocess.run(command, check=False)
    # 5: finished, but some issue times have no observed future.
    if done.returncode not in (0, 5):
        raise SystemExit(f"the command above left with {done.returncode}")


def predict(model: object, archive: Path, forecasts: Path) -> None:
    """Forecasts at the issue times of the comparison; a folder that is there is whole."""
    if forecasts.exists():
        return
    times = open_archive(archive).times
    ends = FIRST_OF.get(archive.stem, FIRST), len(times) - 1 - LEADS
    first, last = (str(times[index].astype("datetime64[s]")) for index in ends)
    draft = forecasts.with_name(forecasts.name + ".part")
    minutes = ("--minutes", 60)
    nowcast(
        "predict", model, archive, "--every", EVERY, "--from", first, "--to", last, *minutes, "-o", draft, "--resume"
    )
    draft.rename(forecasts)


def ingested(event: str, arguments: argparse.Namespace) -> Path:
    """The archive of an event, made when absent, on 5 min and on its pixels of the comparison."""
    archive: Path = arguments.output / f"{event}.zarr"
    if not archive.exists() and event in EVENTS:
        nowcast("ingest", Path(arguments.data) / EVENTS[event], "-o", archive)
    elif not archive.exists():
        source, pixel_km = RESAMPLED[event]
        native = arguments.output / f"{event}-native.zarr"
        nowcast("ingest", Path(arguments.data) / source, "-o", native)
        nowcast("resample", native, "-o", archive, "--step", "5min", "--pixel-km", pixel_km)
    return archive


def trained_on(held_out: str, arguments: argparse.Namespace) -> list[Path]:
    """The archives of the other events, on pixels of the size of those of the one that is held out."""
    archives = [ingested(event, arguments) for event in EVENTS if event != held_out]
    pixel_km = RESAMPLED[held_out][1] if held_out in RESAMPLED else 1.0
    if pixel_km == 1.0:
        return archives
    coarse = [archive.with_name(f"{archive.stem}-{pixel_km:g}km.zarr") for archive in archives]
    for archive, other in zip(archives, coarse, strict=True):
        if not other.exists():
            nowcast("resample", archive, "-o", other, "--pixel-km", pixel_km)
    return coarse


def run_event(held_out: str, variant: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Train without the event, forecast it, score it beside the baselines; the folder of its scores."""
    folder: Path = arguments.output
    archive = ingested(held_out, arguments)
    for name in BASELINES:
        predict(name, archive, folder / "baselines" / f"{held_out}-{name}")
    tag = f"{held_out}-{variant}-seed{seed}"
    run, forecasts, skill = (folder / f"{tag}-{kind}" for kind in ("run", "forecasts", "skill"))
    if variant != SHIPPED and not (run / "model").exists():
        others = trained_on(held_out, arguments)
        settings = (f"training.seed={seed}", *VARIANTS[variant])
        options = [part for setting in settings for part in ("--set", setting)]
        cache = ["--cache", folder / "cache", "--overwrite"]
        nowcast("train", *others, "-c", arguments.preset, "-o", run, *options, *cache)
    if not skill.exists():
        predict(SHIPPED if variant == SHIPPED else run, archive, forecasts)
        given = [f"net={forecasts}", *(f"{name}={folder / 'baselines' / f'{held_out}-{name}'}" for name in BASELINES)]
        told = ["--threshold", THRESHOLDS, "--baseline", "none", "--scale", f"1,{FSS_PIXELS}"]
        nowcast("evaluate", *given, "--against", archive, *told, "-o", skill)
        nowcast("report", skill, "-o", folder / f"{tag}.html", "--overwrite")
        shutil.rmtree(forecasts)
    return skill


def described(skill: Path) -> dict[str, tuple[np.ndarray, np.ndarray, float, float]]:
    """For each model: mean CSI over lead times, pooled bias, FSS, and the share of observed power that is left."""
    counts = ContingencyCounts.load(skill / "counts.nc")
    scores = csi(pool(counts, ("case",))).mean(axis=1)  # CSI of each lead time, then the mean over lead times
    bias = frequency_bias(pool(counts, ("case", "lead_time")))
    with (skill / "scores.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["lead_minutes"] and float(row["lead_minutes"]) == MINUTES]
    found = {}
    for index, model in enumerate(counts.models):
        own = [row for row in rows if row["model"] == model]
        fss = [r for r in own if r["metric"] == "fss" and float(r["threshold"]) == FSS_THRESHOLD]
        wide = max(fss, key=lambda row: float(row["scale_km"]))
        (power,) = (r for r in own if r["metric"] == "power_ratio" and float(r["scale_km"]) == OCTAVE_KM)
        found[model] = scores[index], bias[index], float(wide["value"]), float(power["value"] or "nan")
    return found


def table(skills: dict[tuple[str, str, int], Path]) -> list[str]:
    """A row for each event and model; of a net the mean over its seeds, with the smallest and largest CSI."""
    lines = [
        f"| event | model | {' | '.join(f'CSI {t}' for t in THRESHOLDS.split(','))} | bias, same | FSS | power |",
        "|---" * (5 + len(THRESHOLDS.split(","))) + "|",
    ]
    for event in dict.fromkeys(key[0] for key in skills):
        variants = dict.fromkeys(key[1] for key in skills if key[0] == event)
        for number, variant in enumerate(variants):
            runs = [described(skills[key]) for key in skills if key[:2] == (event, variant)]
            for model in runs[0]:
                if model != "net" and number:
                    continue
                parts = runs if model == "net" else runs[:1]
                scores = np.stack([part[model][0] for part in parts])
                cells = [
                    f"{low:.3f} ({least:.3f}-{most:.3f})" if len(parts) > 1 else f"{low:.3f}"
                    for low, least, most in zip(scores.mean(0), scores.min(0), scores.max(0), strict=True)
                ]
                bias = "/".join(f"{value:.2f}" for value in np.mean([part[model][1] for part in parts], axis=0))
                fss, power = (np.mean([part[model][index] for part in parts]) for index in (2, 3))
                kept = "undefined" if np.isnan(power) else f"{power:.2f}"  # too few frames that are measured whole
                said = f"{variant}, {len(parts)} seed{'s' * (len(parts) > 1)}" if model == "net" else model
                lines.append(f"| {event} | {said} | {' | '.join(cells)} | {bias} | {fss:.3f} | {kept} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--data", default=os.environ.get("NOWCAST_TEST_DATA", "../shared/data"))
    parser.add_argument("--held-out", default=",".join(EVENTS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--variants", default="net", help=f"of {', '.join([*VARIANTS, SHIPPED])}")
    parser.add_argument("--preset", default="radar_small")
    parser.add_argument("--table-only", action="store_true", help="of what is in the folder")
    arguments = parser.parse_args()
    (arguments.output / "baselines").mkdir(parents=True, exist_ok=True)
    skills = {}
    for seed in map(int, arguments.seeds.split(",")):
        for variant in arguments.variants.split(","):
            for event in arguments.held_out.split(","):
                skill = arguments.output / f"{event}-{variant}-seed{seed}-skill"
                if not arguments.table_only:
                    skill = run_event(event, variant, seed, arguments)
                if skill.exists():
                    skills[event, variant, seed] = skill
    skills = dict(sorted(skills.items(), key=lambda item: [*EVENTS, *RESAMPLED].index(item[0][0])))
    print("\nMean CSI over lead times of 5 to 60 min and pooled frequency bias on the same pixels;")
    print(f"FSS at {FSS_THRESHOLD:g} mm/h in windows of {FSS_PIXELS} pixels, and power as a share of the observed")
    print(f"in the octave about {OCTAVE_KM:g} km, both at {MINUTES:g} min")
    print("\n".join(table(skills)))


if __name__ == "__main__":
    main()
