"""Contingency counts against copying and three packages: `python tests/benchmarks/bench_counts.py [--tiny]`.

Synthetic rain by case and lead time, about 20 % wet, with 14 % of the pixels missing, from a fixed seed; the forecast
is the rain of the step before. The share of copy bandwidth is bytes read by counting (both fields) a second over bytes
moved by copying one field (read and written) a second, on the same number of threads. The other packages are timed on
a part of the fields and scaled by pixels. Exit code 1 when a wanted ratio is missed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import xarray as xr

from data_prep.synthetic_rain import synthetic_rain
from nowcast.verification.counting import count_events, count_events_numpy
from nowcast.verification.counts import CONTINGENCY

SIX = [0.1, 0.5, 1.0, 5.0, 10.0, 30.0]
MANY = np.geomspace(0.1, 60.0, 24).round(4).tolist()


def rain(cases: int, leads: int, side: int, seed: int) -> np.ndarray:
    """(case, lead_time, y, x) float32 [mm/h]; missing beyond a circle."""
    field = np.nan_to_num(synthetic_rain(leads, (side, side), seed=seed))
    away = np.hypot(*np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j])
    field[:, away > np.quantile(away, 0.86)] = np.nan
    return np.stack([np.roll(field, shift, axis=0) for shift in range(cases)])


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def copier(source: np.ndarray, target: np.ndarray, threads: int) -> Callable[[], object]:
    if threads == 1:
        return lambda: np.copyto(target, source)
    pool = ThreadPoolExecutor(threads)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    return lambda: list(pool.map(lambda pair: np.copyto(*pair), parts))


def by_scores(forecast: xr.DataArray, observed: xr.DataArray) -> np.ndarray:
    from scores.categorical import ThresholdEventOperator

    keys = ("tp_count", "fp_count", "fn_count", "tn_count")
    tables = []
    for threshold in SIX:
        manager = ThresholdEventOperator().make_contingency_manager(forecast, observed, event_threshold=threshold)
        counts = manager.transform(preserve_dims=["case", "lead"]).get_counts()
        tables.append(np.stack([counts[key].values for key in keys], axis=-1))
    return np.stack(tables, axis=-2).astype(np.int64)


def by_xskillscore(forecast: xr.DataArray, observed: xr.DataArray) -> None:
    from xskillscore import Contingency

    for threshold in SIX:
        edges = np.array([-np.inf, threshold, np.inf])
        table = Contingency(observed, forecast, edges, edges, dim=["y", "x"])
        for name in CONTINGENCY:
            getattr(table, name)()


def by_pysteps(forecast: np.ndarray, observed: np.ndarray) -> None:
    from pysteps.verification.detcatscores import det_cat_fct_accum, det_cat_fct_init

    for index in np.ndindex(*forecast.shape[:2]):
        for threshold in SIX:
            det_cat_fct_accum(det_cat_fct_init(threshold), forecast[index], observed[index])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, for CI; only the values are judged")
    parser.add_argument("--alone", action="store_true", help="without the other packages, whose import takes longer")
    options = parser.parse_args(arguments)
    tiny = options.tiny
    warnings.simplefilter("ignore")
    import numba

    cases, leads, side, repeats = (2, 2, 96, 1) if tiny else (10, 20, 480, 7)
    part = (1, 2)
    o = rain(cases, leads, side, 1)
    f = np.roll(o, 1, axis=1)
    valid = ~np.isnan(f)
    threads = numba.get_num_threads()
    dims = ("case", "lead", "y", "x")
    small = f[: part[0], : part[1]].copy(), o[: part[0], : part[1]].copy()
    small_xr = tuple(xr.DataArray(field, dims=dims) for field in small)

    count_events(f[:1], o[:1], SIX)
    before = peak_mb()
    counted = count_events(f, o, SIX).table()
    beyond = peak_mb() - before
    exact = bool(np.array_equal(counted[:1], count_events_numpy(f[:1], o[:1], SIX).table()))
    exact &= bool(
        np.array_equal(count_events(f[:1], o[:1], MANY).table(), count_events_numpy(f[:1], o[:1], MANY).table())
    )
    same = options.alone or bool(np.array_equal(by_scores(*small_xr), count_events(*small, SIX).table()))

    copy = copier(f, np.empty_like(f), threads)
    copy()
    runs: dict[str, tuple[Callable[[], object], int, int]] = {
        "copy of one field": (copy, f.size, repeats),
        "nowcast, 6 thresholds": (lambda: count_events(f, o, SIX), f.size, repeats),
        "nowcast, 24 thresholds": (lambda: count_events(f, o, MANY), f.size, repeats),
        "nowcast, plain numpy": (lambda: count_events_numpy(f[:1], o[:1], SIX), f[:1].size, repeats),
    }
    others: dict[str, Callable[[], object]] = {
        "xskillscore": lambda: by_xskillscore(*small_xr),
        "pySTEPS": lambda: by_pysteps(*small),
        "scores": lambda: by_scores(*small_xr),
    }
    if not options.alone:
        runs |= {name: (run, small[0].size, min(repeats, 2)) for name, run in others.items()}
    best: dict[str, float] = {}
    for repeat in range(repeats):
        for name, (run, pixels, wanted_repeats) in runs.items():
            if repeat < wanted_repeats:
                best[name] = min(best.get(name, np.inf), seconds(run) / pixels)
    mine = best["nowcast, 6 thresholds"]
    wet, missing = np.mean(f[valid] >= 0.1), 1 - valid.mean()
    print(f"({cases}, {leads}, {side}, {side}) float32 pairs, {wet:.0%} wet, {missing:.0%} missing")
    print(f"CPU, {threads} threads, best of {repeats} interleaved runs after one warm-up, seed 1")
    for name, value in best.items():
        print(f"{name:24} {value * 1e9:9.3f} ns a pixel, {best['copy of one field'] / value:7.4f} of copy bandwidth")
    checks = {
        "six thresholds, share of copy bandwidth": (best["copy of one field"] / mine, 0.30, True),
        "24 thresholds, times the time of six": (best["nowcast, 24 thresholds"] / mine, 1.5, False),
        "numpy path, share of copy bandwidth": (best["copy of one field"] / best["nowcast, plain numpy"], 0.06, True),
        "MB beyond the arrays": (beyond, 64.0, False),
    }
    for name, wanted in (("scores", 200.0), ("pySTEPS", 20.0), ("xskillscore", 10.0)):
        if name in best:
            checks[f"times as fast as {name}"] = (best[name] / mine, wanted, True)
    missed = 0
    for name, (value, wanted, at_least) in checks.items():
        kept = value >= wanted if at_least else value <= wanted
        missed += not kept
        print(f"{name:42} {value:9.3f} (wanted {'>=' if at_least else '<='} {wanted:g}){'' if kept else '  MISSED'}")
    print(f"equal to plain numpy: {exact}; equal to scores: {'left out' if options.alone else same}")
    return int(not (exact and same) or (not tiny and missed > 0))


if __name__ == "__main__":
    sys.exit(main())
