"""Small versions of the fault commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.damage import run
from tests.faults.kill_ingest import kill_ingest


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_an_ingest_killed_at_random_moments_ends_like_one_that_was_not(tmp_path: Path) -> None:
    tally = kill_ingest(tmp_path, kills=8, frames=50, seed=1)
    assert tally.kills == 8 and tally.frames_checked > 20


@pytest.mark.slow
def test_damaged_real_files_end_skipped_or_the_same_and_never_crash(radar_data: Path) -> None:
    """A sample of the corpus: small formats, each mutation on each."""
    found = []
    for name in ("mch_gif", "fmi_pgm", "bom_netcdf", "knmi_h5", "radolan_yw"):
        verdicts = run(radar_data, number=150, seed=3, workers=1, only=name)
        assert len(verdicts) >= 15
        found += verdicts
    bad = [verdict for verdict in found if verdict.kind in ("crash", "hang")]
    assert not bad, bad
    assert all(verdict.detail for verdict in found if verdict.kind == "skipped")
    # Where nothing guards the numbers, a flipped bit is a number like another: formats without any checksum alone.
    unseen = [verdict for verdict in found if verdict.kind in ("undetectable", "silent")]
    assert {verdict.sample for verdict in unseen} <= {"mch_gif", "fmi_pgm before gzip", "radolan_yw before gzip"}
    assert sum(verdict.kind == "silent" for verdict in unseen) <= 2, unseen
