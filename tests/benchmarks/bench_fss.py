"""Fractions skill score for five windows against pySTEPS, in one run: `python tests/benchmarks/bench_fss.py [--tiny]`.

Fields with 20 % wet pixels in smooth patches, drawn from a fixed seed; pySTEPS cannot leave out missing pixels, so the
race is run without them, and our time with 14 % missing is printed beside it. Exit code 1 below the wanted ratio.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter

from nowcast.verification.fss import fractions_skill_score, fss_sums

THRESHOLDS = [0.1, 0.5, 1.0, 2.0, 5.0, 10.0]
WINDOWS = [5, 11, 21, 41, 81]
WANTED = 8.0


def smooth_rain(frames: int, side: int, seed: int) -> np.ndarray:
    """(frame, y, x) float32 [mm/h], a fifth of it wet."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(frames, side, side)), (0, 6, 6))
    noise /= noise.std()
    return np.where(noise > 0.84, np.exp(2.2 * (noise - 0.84)) - 0.95, 0.0).astype(np.float32)


def best_seconds(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def plain_fss(forecast: np.ndarray, observed: np.ndarray, threshold: float, window: int) -> float:
    """The definition with scipy, outside of the field dry: what stands in for pySTEPS without it."""
    p, q = (uniform_filter((x >= threshold).astype(float), window, mode="constant") for x in (forecast, observed))
    return float(1 - np.sum((p - q) ** 2) / (np.sum(p**2) + np.sum(q**2)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, for CI; only the values are judged")
    parser.add_argument("--alone", action="store_true", help="without the other packages, whose import takes longer")
    options = parser.parse_args(arguments)
    tiny = options.tiny
    warnings.simplefilter("ignore")
    fss: Callable[..., float] = plain_fss
    if not options.alone:
        from pysteps.verification.spatialscores import fss
    rival = "plain scipy" if options.alone else "pySTEPS"

    frames, side, repeats = (1, 120, 1) if tiny else (2, 480, 5)
    f, o = smooth_rain(frames, side, 1), smooth_rain(frames, side, 2)

    def theirs() -> np.ndarray:
        return np.array([[[fss(a, b, t, w) for w in WINDOWS] for t in THRESHOLDS] for a, b in zip(f, o, strict=True)])

    def ours() -> np.ndarray:
        return fractions_skill_score(fss_sums(f, o, THRESHOLDS, WINDOWS, edges="zero"))

    difference = float(np.max(np.abs(ours() - theirs())))
    gaps = gaussian_filter(np.random.default_rng(3).normal(size=f.shape), (0, 20, 20))
    holes = np.where(gaps > np.quantile(gaps, 0.86), np.nan, f)
    fss_sums(holes, o, THRESHOLDS, WINDOWS)
    pairs = [(best_seconds(ours, 1), best_seconds(theirs, 1)) for _ in range(repeats)]
    mine, other = np.min(pairs, axis=0)
    masked = best_seconds(lambda: fss_sums(holes, o, THRESHOLDS, WINDOWS), repeats)
    print(f"{frames} frames of {side} x {side} float32, {np.mean(o > 0):.0%} wet")
    print(f"thresholds {THRESHOLDS} mm/h, windows {WINDOWS} pixels")
    print(f"CPU, best of {repeats} interleaved runs after one warm-up, seeds 1 and 2")
    print(f"nowcast {mine * 1e3:.1f} ms, {rival} {other * 1e3:.1f} ms: {other / mine:.1f} x (wanted {WANTED:.0f} x)")
    print(f"nowcast with {np.mean(np.isnan(holes)):.0%} missing {masked * 1e3:.1f} ms")
    print(f"largest difference of the scores {difference:.1e}")
    return int(difference > 1e-9 or (not tiny and other < WANTED * mine))


if __name__ == "__main__":
    sys.exit(main())
