"""Fixtures that several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def radar_data() -> Path:
    """The folder of real radar files; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("NOWCAST_TEST_DATA", "../shared/data"))
    if not (folder / "radar").is_dir():
        pytest.skip("no real radar files here; set NOWCAST_TEST_DATA to their folder")
    return folder.resolve()
