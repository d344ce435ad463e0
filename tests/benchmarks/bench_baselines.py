"""Our baselines against pySTEPS on real events, in one run: `python tests/benchmarks/bench_baselines.py [--tiny]`.

Critical success index, pooled over issue times and the pixels that every method and the radar know, mean over leads of
5-60 min. Three frames in. Files are sought in NOWCAST_TEST_DATA (default ../shared/data); `--tiny` takes synthetic
rain and judges nothing. pySTEPS runs on its own Lucas-Kanade motion where OpenCV is installed, and on our motion
as well, which tells the motion from the rest. Exit code 1 where a bound is broken; what cannot be judged is said.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nowcast.data.motion import estimate_motion
from nowcast.errors import MissingPackageError
from nowcast.prediction.extrapolation import Extrapolation
from nowcast.prediction.persistence import Persistence
from nowcast.prediction.predict import FramesForecaster
from nowcast.prediction.pysteps_adapters import PystepsLucasKanade, PystepsSprog
from nowcast.prediction.scale_decay import ScaleDecay

THRESHOLDS = (0.1, 0.5, 1.0, 5.0, 10.0)
# The thresholds that are judged, and how far below pySTEPS each of ours may be.
JUDGED = 3
BOUNDS = {("extrapolation", "pysteps-lk"): 0.02, ("scale-decay", "pysteps-sprog"): 0.01}
INPUT_FRAMES, LEADS = 3, 12
EVENTS = {"mch 2015": "radar/mch/20150515", "mch 2016": "radar/mch/20160711", "fmi 2016": "radar/fmi/pgm/20160928"}


def real_events() -> Iterator[tuple[str, np.ndarray]]:
    """The name and the frames (T, H, W) [mm/h] of each event that is there."""
    from data_prep.readers.registry import read_frames

    folder = Path(os.environ.get("NOWCAST_TEST_DATA", "../shared/data"))
    for name, part in EVENTS.items():
        files = sorted(path for path in (folder / part).rglob("*") if path.is_file())
        frames = [frame for path in files for frame in read_frames(path)]
        if frames:
            yield name, np.stack([f.rain_rate for f in sorted(frames, key=lambda frame: frame.valid_time)])


def methods(*, alone: bool = False) -> dict[str, FramesForecaster]:
    """Ours, and those of pySTEPS that can be made here."""
    found: dict[str, FramesForecaster] = {f.name: f for f in (Persistence(), Extrapolation(), ScaleDecay())}
    for kind in () if alone else (PystepsLucasKanade, PystepsSprog):
        try:
            found[kind.name + ", our motion"] = kind(estimate_motion)
            found[kind.name] = kind()
        except MissingPackageError as error:
            print(f"left out: {error}")
    return found


def measure(frames: np.ndarray, forecasters: dict[str, FramesForecaster], every: int) -> tuple[np.ndarray, np.ndarray]:
    """Contingency counts (method, lead, threshold, [hits, forecast, observed]) and seconds a forecast (method,)."""
    counts = np.zeros((len(forecasters), LEADS, len(THRESHOLDS), 3), dtype=np.int64)
    seconds = np.zeros(len(forecasters))
    issues = range(INPUT_FRAMES - 1, len(frames) - LEADS, every)
    for issue in issues:
        forecasts = []
        for number, forecaster in enumerate(forecasters.values()):
            start = time.perf_counter()
            forecasts.append(forecaster.forecast_frames(frames[issue - INPUT_FRAMES + 1 : issue + 1], LEADS))
            seconds[number] += time.perf_counter() - start
        for lead in range(LEADS):
            observed = frames[issue + 1 + lead]
            known = ~np.isnan(observed) & np.all([~np.isnan(forecast[lead]) for forecast in forecasts], axis=0)
            for number, forecast in enumerate(forecasts):
                for column, threshold in enumerate(THRESHOLDS):
                    event, wanted = forecast[lead][known] >= threshold, observed[known] >= threshold
                    counts[number, lead, column] += [(event & wanted).sum(), event.sum(), wanted.sum()]
    return counts, seconds / len(issues)


def critical_success_index(counts: np.ndarray) -> np.ndarray:
    hits, forecast, observed = np.moveaxis(counts, -1, 0)
    return hits / np.maximum(forecast + observed - hits, 1)


def judge(mean: dict[str, np.ndarray], seconds: dict[str, float]) -> bool:
    """Whether each of our methods keeps its bounds against what there is to compare with."""
    kept = True
    for (ours, theirs), bound in BOUNDS.items():
        for rival in (theirs, theirs + ", our motion"):
            if rival not in mean:
                print(f"  {ours} against {rival}: NOT JUDGED, a package is missing")
                continue
            gap = float(np.min((mean[ours] - mean[rival])[:JUDGED]))
            ratio = seconds[rival] / seconds[ours]
            good = gap >= -bound and ratio > 1
            kept = kept and good
            verdict = "kept" if good else "BROKEN"
            print(f"  {ours} against {rival}: worst difference {gap:+.3f}, {ratio:.1f} times as fast: {verdict}")
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds on synthetic rain, for CI")
    parser.add_argument("--every", type=int, default=2, help="distance of issue times [frames]")
    parser.add_argument("--alone", action="store_true", help="without the other packages, whose import takes longer")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    forecasters = methods(alone=options.alone)
    if options.tiny:
        from data_prep.synthetic_rain import synthetic_rain

        events = iter([("synthetic", synthetic_rain(20, (96, 96), seed=1, preset="stratiform"))])
    else:
        events = real_events()
    kept, judged = True, 0
    for name, frames in events:
        # The first forecasts compile and plan; they are not timed.
        for forecaster in forecasters.values():
            forecaster.forecast_frames(frames[:INPUT_FRAMES], LEADS)
        counts, spent = measure(frames, forecasters, options.every)
        index = critical_success_index(counts)
        issues = len(range(INPUT_FRAMES - 1, len(frames) - LEADS, options.every))
        print(f"{name}: {frames.shape[1]}x{frames.shape[2]} pixels, {issues} issue times, CPU, one warm-up")
        print(f"  observed events over all leads: {', '.join(f'{n:,}' for n in counts[0, :, :, 2].sum(axis=0))}")
        print(f"  {'mean CSI over 5-60 min at [mm/h]':32s}" + "".join(f"{t:>7g}" for t in THRESHOLDS) + "   seconds")
        for method, scores, seconds in zip(forecasters, index.mean(axis=1), spent, strict=True):
            print(f"  {method:32s}" + "".join(f"{score:7.3f}" for score in scores) + f"{seconds:10.2f}")
        if not options.tiny:
            mean = dict(zip(forecasters, index.mean(axis=1), strict=True))
            kept = judge(mean, dict(zip(forecasters, spent, strict=True))) and kept
            judged += 1
    if judged == 0:
        print("nothing was judged" + ("" if options.tiny else ": no real radar files; set NOWCAST_TEST_DATA"))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
