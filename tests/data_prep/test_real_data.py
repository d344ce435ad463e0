"""Real folders end as archives with the figures that are known of them; the largest grids are left to the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_prep.real_data_table import FOLDERS, Known, differences, measure

LARGE = {"fmi geotiff", "opera cirrus", "mrms", "opera 2018"}


@pytest.mark.slow
@pytest.mark.parametrize("known", [known for known in FOLDERS if known.name not in LARGE], ids=lambda known: known.name)
def test_a_folder_of_real_files_has_the_known_figures(known: Known, radar_data: Path, tmp_path: Path) -> None:
    found = measure(known, radar_data, tmp_path)
    assert differences(known, found) == [] and found.skipped == 0
