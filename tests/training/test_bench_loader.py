"""The loader's benchmark runs, and its shares are what they are called."""

from __future__ import annotations

import pytest

from tests.benchmarks import bench_loader


def test_a_tiny_run_prints_a_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["bench_loader.py", "--tiny", "--preset", "demo"])
    assert bench_loader.main() == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| demo")]
    assert len(rows) == 1 and rows[0].count("%") == 3


def test_a_share_is_of_loading_and_learning_together() -> None:
    row = {"first_s": 3.0, "again_s": 0.5, "learning_s": 1.0}
    assert bench_loader.share(row, "first_s") == 0.75 and bench_loader.share(row, "again_s") == pytest.approx(1 / 3)
