"""What a file declares stands: no option overrides it, and none is ignored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.readers.options import ReadOptions
from data_prep.readers.registry import read_frames
from nowcast.data.units import ZRelation
from nowcast.errors import DataError
from tests.data_prep.radar_files import write_frames
from tests.data_prep.readers.reader_files import gif_bytes, radolan_bytes, write_knmi, write_odim
from tests.data_prep.readers.test_bom_and_saf import write_bom
from tests.data_prep.readers.test_meteonet_npz import DATES
from tests.data_prep.readers.test_meteonet_npz import write as write_meteonet


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
    "meteonet_npz": lambda path: write_meteonet(path.parent, dates=np.array(DATES, dtype="datetime64[s]")),
}
ACCUMULATIONS = {name: WRITERS[name] for name in ("knmi_h5", "odim_h5", "radolan", "bom_netcdf")}
RATES: dict[str, Callable[[Path], Path]] = {
    "odim_h5": lambda path: write_odim(path, np.ones((3, 4)), quantity="RATE"),
    "odim_h5 of reflectivity": lambda path: write_odim(path, np.ones((3, 4)), quantity="DBZH"),
    "cf_netcdf": lambda path: write_frames(path, [np.datetime64("2024-05-01T12:00", "s")], [np.ones((10, 12), "f4")]),
}


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_another_interval_than_the_declared_one_is_refused(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / "file")
    declared = next(read_frames(path)).interval_minutes
    assert declared is not None
    same, *_ = read_frames(path, options=ReadOptions(accumulation_minutes=declared))
    assert same.interval_minutes == declared
    message = f"declares accumulations over {declared:g} min, but accumulation_minutes is {4 * declared:g}"
    with pytest.raises(DataError, match=message) as caught:
        list(read_frames(path, options=ReadOptions(accumulation_minutes=4 * declared)))
    assert "--accumulation-minutes" in str(caught.value.hint)


@pytest.mark.parametrize("name", sorted(ACCUMULATIONS))
def test_a_z_relation_for_an_accumulation_is_refused(tmp_path: Path, name: str) -> None:
    path = ACCUMULATIONS[name](tmp_path / "file")
    with pytest.raises(DataError, match="holds accumulation, which --z-relation says nothing of") as caught:
        list(read_frames(path, options=ReadOptions(z_relation=ZRelation(200, 1.6))))
    assert caught.value.hint == "leave --z-relation out: it is for reflectivity"


@pytest.mark.parametrize("name", sorted(RATES))
def test_an_interval_for_what_is_no_accumulation_is_refused(tmp_path: Path, name: str) -> None:
    path = RATES[name](tmp_path / "file")
    with pytest.raises(DataError, match=r"holds (rain rate|reflectivity), which --accumulation-minutes"):
        list(read_frames(path, options=ReadOptions(accumulation_minutes=5.0)))
