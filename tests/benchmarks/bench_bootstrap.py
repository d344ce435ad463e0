"""Paired block bootstrap from stored counts: `python tests/benchmarks/bench_bootstrap.py [--tiny]`.

10,000 replicates over 6,053 cases x 20 leads x 6 thresholds x 3 models, within 5 s and 500 MB for the whole process
(the counts themselves are 70 MB). Beside it, in the same run, the plain way: for each replicate the cases of the drawn
blocks are gathered and summed, percentile interval only. Exit code 1 where a bound is broken.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence

import numpy as np

from nowcast.verification.bootstrap import block_bootstrap
from nowcast.verification.scores import csi

SECONDS, MEGABYTES = 5.0, 500.0


def plain_bootstrap(table: np.ndarray, blocks: np.ndarray, replicates: int, seed: int) -> np.ndarray:
    """(replicate, model, lead_time, threshold) CSI."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
    out = []
    for _ in range(replicates):
        cases = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        a, b, c, _ = np.moveaxis(table[:, cases].sum(axis=1), -1, 0)
        out.append(a / (a + b + c))
    return np.stack(out)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, for CI; no bound is judged")
    tiny = parser.parse_args(arguments).tiny
    cases, leads, replicates = (200, 3, 500) if tiny else (6053, 20, 10_000)
    rng = np.random.default_rng(0)
    table = np.empty((3, cases, leads, 6, 4), dtype=np.int64)
    for model in table:
        model[...] = rng.poisson(rng.gamma(0.5, 100.0, (cases, 1, 1, 1)), model.shape)
    days = np.sort(rng.integers(0, max(20, cases // 46), cases))
    block_bootstrap(table[:, :50], days[:50], csi, replicates=10)

    start, cpu_start = time.perf_counter(), time.process_time()
    found = block_bootstrap(table, days, csi, replicates=replicates, seed=1)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    few = 10
    start = time.perf_counter()
    plain_bootstrap(table, days, few, seed=1)
    plain = (time.perf_counter() - start) / few * replicates
    again = block_bootstrap(table, days, csi, replicates=replicates, seed=1)
    same = found.differences.low.tobytes() == again.differences.low.tobytes()
    number = np.unique(days).size
    print(f"{replicates} paired replicates, {cases} cases in {number} days, {leads} leads, 6 thresholds, 3 models")
    print("studentised intervals of all scores and of 3 differences, CPU, one warm-up, seed 1:")
    print(f"{seconds:.2f} s ({cpu:.2f} s of CPU), whole process {memory:.0f} MB")
    print(f"gathering cases, percentile only: {plain:.0f} s (from {few} replicates), {plain / seconds:.0f} x as long")
    print(f"the same bytes again: {same}")
    return int(not same or (not tiny and (seconds > SECONDS or memory > MEGABYTES)))


if __name__ == "__main__":
    sys.exit(main())
