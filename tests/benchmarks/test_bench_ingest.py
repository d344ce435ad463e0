"""The benchmark of ingest runs, on small files: it asserts that both sides of each ratio gave the same frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import bench_ingest


def test_an_ingest_is_timed_against_the_decoding_of_the_same_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = bench_ingest.small_files(tmp_path / "in", 6)
    bench_ingest.run(tmp_path, ["bare", "growing"], {"fmi small": files}, repeats=1, grown=(10, (8, 8)))
    told = capsys.readouterr().out
    assert "6 frames)" in told and "10 frames" in told


def test_both_sides_of_a_ratio_must_have_the_same_frames(tmp_path: Path) -> None:
    files = bench_ingest.small_files(tmp_path / "in", 4)
    *_, archive = bench_ingest.fresh_ingest(files, tmp_path)
    assert bench_ingest.require_same(files, archive) == 4
    with pytest.raises(AssertionError, match="4 frames of 3 files"):
        bench_ingest.require_same(files[1:], archive)


@pytest.mark.slow
def test_all_quick_parts_run(capsys: pytest.CaptureFixture[str]) -> None:
    bench_ingest.main(["--quick"])
    told = capsys.readouterr().out
    assert "2 workers / 1" in told and "300 slots" in told
