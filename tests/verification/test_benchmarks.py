"""The benchmarks of verification still run, on tiny fields, and their sides agree; nothing is timed here."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from data_prep.synthetic_rain import synthetic_rain
from nowcast.prediction.extrapolation import Extrapolation
from nowcast.prediction.persistence import Persistence
from nowcast.verification.counting import count_events
from tests.benchmarks import bench_baselines, bench_bootstrap, bench_counts, bench_fss


@pytest.mark.parametrize(
    ("bench", "options", "agreement"),
    [
        (bench_counts, ["--alone"], "equal to plain numpy: True"),
        (bench_fss, ["--alone"], "largest difference of the scores "),
        (bench_bootstrap, [], "the same bytes again: True"),
        (bench_baselines, ["--alone", "--every", "6"], "nothing was judged"),
    ],
)
def test_a_tiny_run_agrees_with_its_other_side(
    bench: ModuleType, options: list[str], agreement: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["--tiny", *options]) == 0
    assert agreement in capsys.readouterr().out


def test_a_side_that_is_wrong_fails_its_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_counts, "count_events_numpy", lambda f, o, levels: count_events(o, f, levels))
    assert bench_counts.main(["--tiny", "--alone"]) == 1
    monkeypatch.setattr(bench_fss, "plain_fss", lambda f, o, threshold, window: 0.5)
    assert bench_fss.main(["--tiny", "--alone"]) == 1


def test_the_counts_of_the_baselines_are_those_of_verification() -> None:
    bench = bench_baselines
    frames = synthetic_rain(16, (48, 48), seed=1, preset="stratiform")
    counts, _ = bench.measure(frames, {"persistence": Persistence(), "extrapolation": Extrapolation()}, 2)
    wanted = np.zeros_like(counts)
    for issue in range(bench.INPUT_FRAMES - 1, len(frames) - bench.LEADS, 2):
        inputs, observed = (
            frames[issue - bench.INPUT_FRAMES + 1 : issue + 1],
            frames[issue + 1 : issue + 1 + bench.LEADS],
        )
        made = [kind.forecast_frames(inputs, bench.LEADS) for kind in (Persistence(), Extrapolation())]
        missing = np.isnan(np.stack([*made, observed])).any(axis=0)
        for number, forecast in enumerate(made):
            events = count_events(np.where(missing, np.nan, forecast), observed, bench.THRESHOLDS)
            wanted[number] += np.stack([events.hits, events.forecast, events.observed], axis=-1)
    np.testing.assert_array_equal(counts, wanted)
