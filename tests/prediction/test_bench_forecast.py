"""The benchmark of forecasts still runs, on small frames, and tells a slow method; nothing is timed here."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks import bench_forecast


def test_a_quick_run_forecasts_with_each_method_and_judges_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_forecast, "one_thread", lambda: None)  # it would hold for the tests that follow
    assert bench_forecast.main(["--quick", "--alone"]) == 0
    said = capsys.readouterr().out
    assert "synthetic: 96x128 pixels" in said and "nothing was judged" in said
    assert all(name in said for name in ("pretrained", "scale-decay", "extrapolation"))


def test_a_method_that_is_slower_than_its_rival_is_not_passed(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = {"pretrained": np.full(3, 2.0), "extrapolation": np.full(3, 0.5), "pysteps-sprog": np.full(3, 6.0)}
    assert bench_forecast.report(seconds)
    assert "3.00 times as fast" in capsys.readouterr().out
    assert not bench_forecast.report(seconds | {"pysteps-lk": np.full(3, 0.4)})
