"""MeteoNet: pickles are refused, dates are taken out of them without running anything, frames are streamed."""

from __future__ import annotations

import datetime
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.readers.meteonet_npz import convert_meteonet
from data_prep.readers.options import ReadOptions
from data_prep.readers.pickled_dates import dates_of_npy
from data_prep.readers.registry import detect_format, read_frames
from nowcast.errors import ConfigError, DataError

DATES = [datetime.datetime(2016, 8, 21, 0, 10), datetime.datetime(2016, 8, 21, 0, 15)]


def write(folder: Path, *, data: np.ndarray | None = None, dates: Any = None) -> Path:
    if data is None:
        data = np.array([[[0, 1, 5], [25, -1, 100]]] * 2, dtype=np.int16)
    latitude, longitude = np.meshgrid([50.02, 50.01], [-5.0, -4.99, -4.98], indexing="ij")
    np.savez(folder / "radar_coords_NW.npz", lats=latitude, lons=longitude)
    path = folder / "rainfall_NW_2016_08.3.npz"
    dates = np.array(DATES, dtype=object) if dates is None else dates
    np.savez_compressed(path, data=data, dates=dates, miss_dates=dates)
    return path


def read_all(path: Path, **options: Any) -> list[Any]:
    return list(read_frames(path, options=ReadOptions(**options)))


def test_pickled_dates_are_refused_by_default(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert detect_format(path) == "meteonet_npz"
    with pytest.raises(DataError, match="'dates' are pickled objects, and a pickle can run any code.*convert_meteonet"):
        read_all(path)


def test_dates_are_read_through_the_unpickler_that_admits_only_them(tmp_path: Path) -> None:
    frames = read_all(write(tmp_path), pickled_dates=True)
    np.testing.assert_array_equal(frames[0].rain_rate, np.float32([[0, 0.12, 0.6], [3, np.nan, 12]]))
    assert [frame.valid_time for frame in frames] == [np.datetime64(date, "s") for date in DATES]
    assert frames[0].interval_minutes == 5.0
    np.testing.assert_allclose(frames[0].grid.x, [-5.0, -4.99, -4.98])


def test_a_converted_file_needs_no_pickle(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    source = write(tmp_path)
    (tmp_path / "made/radar_coords_NW.npz").write_bytes((tmp_path / "radar_coords_NW.npz").read_bytes())
    target = tmp_path / "made/rainfall_NW_2016_08.3.npz"
    assert convert_meteonet(source, target) == 2
    with np.load(target, allow_pickle=False) as file:
        assert file["dates"].dtype == "datetime64[s]"
        np.testing.assert_array_equal(file["miss_dates"], file["dates"])
    before, after = read_all(source, pickled_dates=True), read_all(target)
    np.testing.assert_array_equal(before[1].rain_rate, after[1].rain_rate)
    assert before[1].valid_time == after[1].valid_time
    with pytest.raises(ConfigError, match="is there already"):
        convert_meteonet(source, target)


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    source = write(tmp_path)
    content = bytearray(source.read_bytes())
    with zipfile.ZipFile(source) as archive:
        start = archive.getinfo("data.npy").header_offset
    content[start + 60 : start + 80] = bytes(20)
    source.write_bytes(content)
    with pytest.raises(DataError, match="damaged, or not a file of MeteoNet"):
        convert_meteonet(source, tmp_path / "plain.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["radar_coords_NW.npz", source.name]


def test_the_file_of_coordinates_is_told_from_the_data(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match="radar_coords_NW.npz: coordinates and no rain"):
        read_all(tmp_path / "radar_coords_NW.npz")


class _Evil:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(self.marker),))


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_a_pickle_that_would_run_code_does_not(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "ran"
    member = npy_of_pickle(np.array([_Evil(str(marker)), 1], dtype=object), protocol)
    with pytest.raises(ValueError, match=r"it asks for .*, which is no date"):
        dates_of_npy(member)
    assert not marker.exists()


@pytest.mark.parametrize("module", ["os.system", "builtins.eval", "numpy.load", "datetime.timezone"])
def test_no_other_name_is_looked_up(module: str) -> None:
    package, name = module.rsplit(".", 1)
    pickled = f"c{package}\n{name}\n(S'1'\ntR.".encode()
    with pytest.raises(ValueError, match=f"asks for {module}"):
        dates_of_npy(header(2) + pickled)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_dates_of_every_protocol(protocol: int) -> None:
    found = dates_of_npy(npy_of_pickle(np.array(DATES, dtype=object), protocol))
    np.testing.assert_array_equal(found, np.array(DATES, dtype="datetime64[s]"))


def test_what_is_no_date_is_refused() -> None:
    with pytest.raises(ValueError, match="an entry of the pickled dates is a str"):
        dates_of_npy(npy_of_pickle(np.array(["2016-08-21", None], dtype=object), 3))
    with pytest.raises(ValueError, match="not an array of 2 dates"):
        dates_of_npy(header(2) + pickle.dumps(DATES[0]))
    with pytest.raises(ValueError, match="wanted pickled objects"):
        dates_of_npy(header(2).replace(b"'|O'", b"'<i8'"))


def header(count: int) -> bytes:
    text = f"{{'descr': '|O', 'fortran_order': False, 'shape': ({count},), }}"
    text += " " * (117 - len(text)) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def npy_of_pickle(array: np.ndarray, protocol: int) -> bytes:
    return header(array.size) + pickle.dumps(array, protocol=protocol)


def test_the_grid_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path)
    moved = (tmp_path / "radar_coords_NW.npz").rename(tmp_path / "elsewhere.npz")
    with pytest.raises(DataError, match="file of coordinates that is not beside it"):
        read_all(path, pickled_dates=True)
    assert len(read_all(path, pickled_dates=True, coordinates=moved)) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((3, 2, 3), dtype=np.int16), r"data are \(3, 2, 3\).*wanted \(2, 2, 3\)"),
        (np.zeros((2, 2, 3), dtype=np.float32), "of float32"),
        (np.full((2, 2, 3), -7, dtype=np.int16), "holds -7, wanted depths or -1"),
    ],
)
def test_data_that_do_not_fit_are_refused(tmp_path: Path, data: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_all(write(tmp_path, data=data), pickled_dates=True)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError):
        read_all(path, pickled_dates=True)


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, data=np.random.default_rng(0).integers(0, 9, (2, 2, 3)).astype(np.int16))
    plain = tmp_path / "plain_NW_.npz"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(plain, "w") as stored:
        for name in archive.namelist():
            stored.writestr(name, archive.read(name))
    contents = bytearray(plain.read_bytes())
    with zipfile.ZipFile(plain) as archive:
        info = archive.getinfo("data.npy")
    contents[info.header_offset + 30 + len("data.npy") + info.file_size - 2] ^= 1
    plain.write_bytes(contents)
    # Not even the first frame, which is undamaged, is given.
    with pytest.raises(DataError, match="Bad CRC-32"):
        next(read_frames(plain, options=ReadOptions(pickled_dates=True)))
