"""Real folders end as archives with the figures that are known of them; the largest grids are left to the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.decode import DecodeOptions, decode_file
from nowcast.data.plausibility import COMPARED, implausible_frames
from tests.data_prep.real_data_table import FOLDERS, Known, differences, measure

SMALL = (
    "radar/fmi/pgm/20160928",
    "radar/mch/20150515",
    "radar/mch/20160711",
    "radar/bom/prcp-cscn/2/2018/06/16",
    "radar/KNMI/2010/08",
    "saf/20180601/CRR",
    "radolan/yw",
    "radolan/rw",
)
LARGE = {"fmi geotiff", "opera cirrus", "mrms", "opera 2018"}


@pytest.mark.slow
@pytest.mark.parametrize("known", [known for known in FOLDERS if known.name not in LARGE], ids=lambda known: known.name)
def test_a_folder_of_real_files_has_the_known_figures(known: Known, radar_data: Path, tmp_path: Path) -> None:
    found = measure(known, radar_data, tmp_path)
    assert differences(known, found) == [] and found.skipped == 0


@pytest.mark.slow
@pytest.mark.parametrize("folder", SMALL)
def test_no_run_of_real_frames_is_called_implausible(folder: str, radar_data: Path) -> None:
    """An archive may end, or begin, anywhere: a frame that is whole is not accused."""
    frames = [decode_file(str(path), DecodeOptions()).frames[0] for path in sorted((radar_data / folder).iterdir())]
    numbers = [frame.encoded.series for frame in frames]
    series = {name: np.array([of_frame.get(name, np.nan) for of_frame in numbers]) for name in COMPARED}
    rows, columns = frames[0].grid.shape
    for end in range(1, len(frames) + 1):
        for run in (slice(0, end), slice(len(frames) - end, None)):
            part = {name: values[run] for name, values in series.items()}
            assert implausible_frames(part, np.ones(end, dtype=bool), pixels=rows * columns) == []
