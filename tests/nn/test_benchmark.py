"""The benchmark runs, and both of its sides compute the same."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "bench_nn.py"


def test_a_tiny_benchmark_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", [str(BENCHMARK), "--quick", "--threads", "1"])
    try:
        runpy.run_path(str(BENCHMARK), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "training" in printed and "inference" in printed
    difference = float(printed.split("largest difference ")[1].split()[0])
    assert difference < 1e-6
