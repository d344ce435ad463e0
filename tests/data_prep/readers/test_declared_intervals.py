"""What a file declares of its interval stands: `accumulation_minutes` is for files that do not say it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import read_frames
from nowcast.errors import DataError
from tests.data_prep.readers.reader_files import gif_bytes, radolan_bytes, write_knmi, write_odim
from tests.data_prep.readers.test_bom_and_saf import write_bom


def gif(path: Path) -> Path:
    path.write_bytes(gif_bytes(np.zeros((640, 710), dtype=np.uint8)))
    return path


def radolan(path: Path) -> Path:
    path.write_bytes(radolan_bytes(np.zeros((900, 900), dtype=np.uint16)))
    return path


def odim(path: Path) -> Path:
    ends = {"startdate": "20240501", "starttime": "120000", "enddate": "20240501", "endtime": "120500"}
    return write_odim(path, np.ones((3, 4)), quantity="ACRR", dataset=ends)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "knmi_h5": lambda path: write_knmi(path, np.ones((3, 4), dtype=np.uint16)),
    "odim_h5": odim,
    "radolan": radolan,
    "mch_gif": gif,
    "bom_netcdf": lambda path: write_bom(path, np.ones((3, 4), dtype=np.int16)),
}


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_another_interval_than_the_declared_one_is_refused(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / "file")
    declared = next(read_frames(path)).interval_minutes
    assert declared is not None
    (same,) = read_frames(path, options=ReadOptions(accumulation_minutes=declared))
    assert same.interval_minutes == declared
    message = f"declares accumulations over {declared:g} min, but accumulation_minutes is {4 * declared:g}"
    with pytest.raises(DataError, match=message) as caught:
        list(read_frames(path, options=ReadOptions(accumulation_minutes=4 * declared)))
    assert "--accumulation-minutes" in str(caught.value.hint)
