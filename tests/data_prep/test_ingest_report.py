"""What an ingest tells of files that it cannot use: every kind of reason, none a hundred times."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from data_prep.ingest_report import ALIKE_LOGGED, FILES_LOGGED, IngestReport, group_reasons

UNKNOWN = "is of no known format (its first bytes are b'hello {0}'); known are: fmi_pgm"


def test_files_that_fail_alike_are_logged_a_few_times_and_all_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = IngestReport(tmp_path / "a.zarr")
    with caplog.at_level(logging.WARNING):
        for number in range(20):
            report.skip(f"notes{number}.txt", UNKNOWN.format(number))
        report.skip("late.pgm", "2020-01-01T00:05:00 is in the archive with other contents, from b.pgm")
    lines = caplog.messages
    assert [line.split(":")[0] for line in lines[:ALIKE_LOGGED]] == ["notes0.txt", "notes1.txt", "notes2.txt"]
    assert lines[ALIKE_LOGGED:] == [
        "notes3.txt: as notes0.txt; further ones like them stand in the manifest alone",
        "late.pgm: 2020-01-01T00:05:00 is in the archive with other contents, from b.pgm",
    ]
    assert len(report.skipped) == 21 and len(report.to_dict()["skipped"]) == 21


def test_no_more_than_so_many_files_are_logged_in_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report = IngestReport(tmp_path / "a.zarr")
    with caplog.at_level(logging.WARNING):
        for number in range(3 * FILES_LOGGED):
            report.skip(f"{number}.h5", "reason " + "abcdefgh"[number % 8] * (1 + number // 8))
    assert len(caplog.messages) == FILES_LOGGED + 1


def test_reasons_are_told_by_their_kind() -> None:
    skipped = [(f"{number}.txt", UNKNOWN.format(number)) for number in range(60)]
    assert group_reasons(skipped) == f"0.txt: {UNKNOWN.format(0)} (and 59 more like it)"
    others = [("a", "empty"), ("b", "it changed"), ("c", "it vanished"), ("d", "it vanished"), ("e", "empty")]
    assert group_reasons(others[:1]) == "a: empty"
    told = group_reasons([*skipped, *others])
    assert told.endswith("; a: empty (and 1 more like it); b: it changed; and 2 more")


def test_what_a_decoder_raised_tells_reasons_apart() -> None:
    skipped = [("a.nc", "damaged, or not a cf_netcdf file (KeyError: 'x')"), ("b.nc", "damaged (OSError: no object)")]
    assert "more like it" not in group_reasons(skipped)
