"""Small versions of the fault commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kill_ingest import kill_ingest


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_an_ingest_killed_at_random_moments_ends_like_one_that_was_not(tmp_path: Path) -> None:
    tally = kill_ingest(tmp_path, kills=8, frames=50, seed=1)
    assert tally.kills == 8 and tally.frames_checked > 20
