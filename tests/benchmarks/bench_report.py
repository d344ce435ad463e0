"""A report from stored counts, and from stored counts and sums: `python tests/benchmarks/bench_report.py [--tiny]`.

200 cases in as many rain episodes, 3 models, 6 thresholds, 20 lead times. From counts alone the page is bound to
2 MB and 5 s of CPU, which with one thread is the time of a quiet machine. Beside it the same with the sums of an
8-member ensemble (FSS of five windows, block counts, CRPS, Brier, spectra) and with example fields. The same seed must
give the same bytes. Exit code 1 where a bound is broken.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nowcast.report.report import SkillReport
from nowcast.verification.evaluation import Evaluation
from nowcast.verification.measures import FieldRules, field_sums, stack_cases
from nowcast.verification.sums import Sums
from tests.report.small_skill import small_evaluation, with_fields

SECONDS, MEGABYTES = 5.0, 2.0
THRESHOLDS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0)
WINDOWS = (1, 5, 11, 21, 41)


def with_sums(evaluation: Evaluation, members: int, size: int) -> Evaluation:
    """Sums of a few random fields, drawn from anew with another weight for each case: only their shape matters here."""
    rng = np.random.default_rng(1)
    counts, rules = evaluation.counts, FieldRules(tuple(evaluation.counts.thresholds.tolist()), WINDOWS)
    shape = (counts.lead_times.size, size, size)
    sums: dict[str, dict[str, Sums]] = {}
    for m, model in enumerate(counts.models):
        patterns: list[dict[str, Sums]] = []
        for _ in range(5):
            observed = rng.gamma(0.3, 4.0, shape).astype(np.float32)
            noise = rng.gamma(0.3, 4.0, (members if m == 0 else 1, *shape)).astype(np.float32)
            field = 0.5 * observed + 0.5 * noise
            patterns.append(field_sums(field, field.mean(axis=0), observed, rules))
        for kind in patterns[0]:
            parts = [patterns[k % 5][kind] for k in range(len(counts.cases))]
            sums.setdefault(kind, {})[model] = stack_cases([_scaled(part, 1 + k % 7) for k, part in enumerate(parts)])
    examples = with_fields(small_evaluation(cases=2, leads=4), size=128).examples
    chosen = [replace(example, case=case) for example, case in zip(examples, counts.cases, strict=False)]
    return replace(evaluation, sums=sums, examples=tuple(chosen))


def _scaled(part: Sums, factor: int) -> Sums:
    return replace(part, **{name: getattr(part, name) * factor for name in part.additive_fields()})


def measured(folder: Path) -> tuple[float, float, dict[str, Any]]:
    """Seconds of the clock and of CPU to load, analyse and write the page, and every file's text."""
    clock, cpu = time.perf_counter(), time.process_time()
    report = SkillReport.of([Evaluation.load(folder)])
    page = report.to_html()
    seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
    texts = {"html": page, "json": report.to_json(), "csv": report.to_csv(), "md": report.to_markdown()}
    return seconds, cpu, texts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, for CI; no time is judged")
    tiny = parser.parse_args().tiny
    cases, leads = (25, 3) if tiny else (200, 20)
    counted = small_evaluation(cases=cases, leads=leads, thresholds=THRESHOLDS)
    print(f"{cases} cases in {cases} rain episodes, 3 models, {len(THRESHOLDS)} thresholds, {leads} leads; seed 0")
    broken = False
    with tempfile.TemporaryDirectory() as place:
        for name, evaluation in (
            ("counts", counted),
            ("counts and sums", with_sums(counted, 8, 48 if not tiny else 32)),
        ):
            folder = evaluation.save(Path(place) / name.replace(" ", "-"))
            if not tiny:
                measured(folder)  # a warm-up: imports and compiled kernels
            seconds, cpu, texts = measured(folder)
            again = measured(folder)[2]
            same = texts == again
            size = len(texts["html"].encode()) / 1e6
            others = ", ".join(
                f"{kind} {len(text.encode()) / 1e6:.2f}" for kind, text in texts.items() if kind != "html"
            )
            digest = hashlib.sha256(texts["html"].encode()).hexdigest()[:12]
            print(f"from {name}: {seconds:.2f} s ({cpu:.2f} of CPU), page {size:.2f} MB ({others} MB)")
            print(f"  other files [MB]: {others}; the same bytes again: {same} ({digest})")
            broken |= not same or size > MEGABYTES or (not tiny and name == "counts" and cpu > SECONDS)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
