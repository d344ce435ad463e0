"""A forecast of ours against one of pySTEPS, in CPU time: `python tests/benchmarks/bench_forecast.py [--quick]`.

The pretrained model, scale-decay and extrapolation beside pySTEPS' S-PROG and Lucas-Kanade extrapolation: the same
frames in, 12 leads out, one thread each, in turns, after one warm-up each. CPU time, as it does not see what else the
machine does; the ratio of each pair is the median over the turns. Real frames are sought in NOWCAST_TEST_DATA (default
../shared/data); `--quick` takes synthetic ones, small and few, and judges nothing. Exit code 1 where one of ours is
slower than its rival.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from nowcast.errors import MissingPackageError
from nowcast.prediction.extrapolation import Extrapolation
from nowcast.prediction.nowcaster import Nowcaster
from nowcast.prediction.predict import FramesForecaster
from nowcast.prediction.pysteps_adapters import PystepsLucasKanade, PystepsSprog
from nowcast.prediction.scale_decay import ScaleDecay

LEADS = 12
EVENTS = {"mch 2016": "radar/mch/20160711", "fmi 2016": "radar/fmi/pgm/20160928"}
# The frame of an event from which its forecast is made.
ISSUE = 20
# What must be faster than what.
JUDGED = {
    "pretrained": ("pysteps-sprog",),
    "scale-decay": ("pysteps-sprog", "pysteps-lk"),
    "extrapolation": ("pysteps-lk",),
}


def real_frames(number: int, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The name and the frames (T, H, W) [mm/h] of each of the events that is there."""
    from data_prep.readers.registry import read_frames

    folder = Path(os.environ.get("NOWCAST_TEST_DATA", "../shared/data"))
    for name in names:
        files = sorted(path for path in (folder / EVENTS[name]).rglob("*") if path.is_file())[ISSUE - number : ISSUE]
        if files:
            yield name, np.stack([frame.rain_rate for path in files for frame in read_frames(path)])


def synthetic_frames(number: int) -> Iterator[tuple[str, np.ndarray]]:
    from data_prep.synthetic_rain import synthetic_rain

    yield "synthetic", synthetic_rain(number, (96, 128), seed=1, preset="stratiform")


def methods(*, alone: bool) -> dict[str, FramesForecaster]:
    """Ours, and those of pySTEPS that can be made here."""
    found: dict[str, FramesForecaster] = {
        "pretrained": Nowcaster.load("pretrained", device="cpu"),
        "scale-decay": ScaleDecay(),
        "extrapolation": Extrapolation(),
    }
    for kind in () if alone else (PystepsSprog, PystepsLucasKanade):
        try:
            found[kind.name] = kind()
        except MissingPackageError as error:
            print(f"left out: {error}")
    return found


def one_thread() -> None:
    torch.set_num_threads(1)
    if importlib.util.find_spec("cv2") is not None:
        import cv2

        cv2.setNumThreads(1)


def measure(frames: np.ndarray, forecasters: dict[str, FramesForecaster], turns: int) -> dict[str, np.ndarray]:
    """CPU seconds (turns,) of each forecaster."""
    seconds: dict[str, list[float]] = {name: [] for name in forecasters}
    for turn in range(turns + 1):
        for name, forecaster in forecasters.items():
            start = time.process_time()
            forecast = forecaster.forecast_frames(frames, LEADS)
            spent = time.process_time() - start
            if forecast.shape != (LEADS, *frames.shape[1:]) or not np.nanmax(forecast) > 0:
                raise ValueError(f"{name} forecast no rain")
            if turn > 0:  # the first turn compiles and plans
                seconds[name].append(spent)
    return {name: np.array(values) for name, values in seconds.items()}


def report(seconds: dict[str, np.ndarray]) -> bool:
    """Print medians and ratios; whether each of ours was faster than the rivals that were there."""
    rivals = [name for name in seconds if name not in JUDGED]
    print(f"  {'':16s}{'CPU seconds':>12s}" + "".join(f"{'against ' + rival:>24s}" for rival in rivals))
    kept = True
    for name, spent in seconds.items():
        ratios = {rival: float(np.median(seconds[rival] / spent)) for rival in rivals if name in JUDGED}
        shown = "".join(f"{f'{ratio:.2f} times as fast':>24s}" for ratio in ratios.values())
        print(f"  {name:16s}{np.median(spent):12.2f}{shown}")
        kept = kept and all(ratios.get(rival, np.inf) > 1 for rival in JUDGED.get(name, ()))
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a run of seconds on synthetic rain, for CI")
    parser.add_argument("--alone", action="store_true", help="without the other packages, whose import takes longer")
    parser.add_argument("--turns", type=int, default=3, help="timed forecasts of each method")
    parser.add_argument("--event", choices=EVENTS, help="this one alone")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    one_thread()
    forecasters = methods(alone=options.alone)
    number = max(forecaster.input_frames for forecaster in forecasters.values())
    kept, judged = True, False
    names = [options.event] if options.event else list(EVENTS)
    for name, frames in synthetic_frames(number) if options.quick else real_frames(number, names):
        missing = np.isnan(frames[-1]).mean()
        print(f"{name}: {frames.shape[1]}x{frames.shape[2]} pixels, {missing:.0%} missing, {LEADS} leads, one thread")
        seconds = measure(frames, forecasters, 1 if options.quick else options.turns)
        faster = report(seconds)
        kept, judged = kept and (faster or options.quick), judged or not options.quick
    if not judged:
        print("nothing was judged" + ("" if options.quick else ": no real radar files; set NOWCAST_TEST_DATA"))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
