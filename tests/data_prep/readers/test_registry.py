"""The registry: formats by contents, third parties' readers, and errors that name the file."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.readers import registry
from data_prep.readers.frame import RadarFrame
from data_prep.readers.options import BoundingBox, PixelWindow, ReadOptions
from data_prep.readers.registry import Reader, detect_format, read_frames, reader_names
from nowcast.data.grid import Grid
from nowcast.errors import ConfigError, DataError
from tests.data_prep.readers.reader_files import write_netcdf, write_odim, write_pgm


@pytest.mark.parametrize(
    ("contents", "found"),
    [
        (b"hello, this is text", "its first bytes are b'hello, this '"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "no known format"),
        (b"GIF89a" + bytes(40), "no known format"),
        (b"P5\n2 2\n255\nabcd", "no known format"),
        (b"PK\x03\x04" + bytes(60), "no known format"),
        (gzip.compress(b"text in gzip"), "its first bytes are b'text in gzip'"),
    ],
)
def test_foreign_files_are_named_with_what_they_begin_with(tmp_path: Path, contents: bytes, found: str) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(contents)
    with pytest.raises(DataError, match=r"a\.h5: .*" + found.replace("(", r"\(")):
        detect_format(path)
    with pytest.raises(DataError, match="known are: mch_gif, fmi_pgm"):
        list(read_frames(path))


def test_a_file_that_is_empty_absent_or_a_plain_folder(tmp_path: Path) -> None:
    (tmp_path / "empty.h5").touch()
    with pytest.raises(DataError, match=r"empty\.h5: the file is empty \(0 bytes\)"):
        detect_format(tmp_path / "empty.h5")
    with pytest.raises(DataError, match=r"absent\.h5: there is no such file"):
        detect_format(tmp_path / "absent.h5")
    with pytest.raises(DataError, match=r"is of no known format \(a folder\)"):
        detect_format(tmp_path)


@pytest.mark.parametrize("name", sorted(set(reader_names()) - {"cf_netcdf"}))
def test_every_reader_refuses_noise_by_name(tmp_path: Path, name: str) -> None:
    """Asked for by name, a reader meets bytes of anything; it answers with a DataError and nothing else."""
    path = tmp_path / "noise.bin"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    options = ReadOptions(time_pattern="%Y%m%d", vil_rain_rate=(1.0, 1.0), grid="hko7", pickled_dates=True)
    with pytest.raises(DataError, match=r"noise\.bin"):
        list(read_frames(path, format=name, options=options))


def test_an_unknown_name_is_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no reader 'odim'.*one of: auto, .*odim_h5"):
        list(read_frames(tmp_path / "a", format="odim"))


def test_one_name_for_three_formats(tmp_path: Path) -> None:
    """The name says nothing: each file is what its contents are."""
    for number, write in enumerate(
        (
            lambda path: write_netcdf(path, np.zeros((2, 3, 4), dtype=np.float32)),
            lambda path: write_odim(path, np.ones((2, 2))),
            lambda path: write_pgm(path, np.zeros((6, 4))),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder / "rain.dat")
    found = [detect_format(tmp_path / str(number) / "rain.dat") for number in range(3)]
    assert found == ["cf_netcdf", "odim_h5", "fmi_pgm"]


class _Point:
    name = "mine"

    def __init__(self, loaded: Any) -> None:
        self.loaded = loaded

    def load(self) -> Any:
        return self.loaded


@pytest.fixture
def entry_point(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(loaded: Any) -> None:
        monkeypatch.setattr(
            registry, "entry_points", lambda group: [_Point(loaded)] if group == "nowcast.readers" else []
        )
        registry._readers.cache_clear()

    yield install
    registry._readers.cache_clear()


def frames_of_mine(source: Any, options: ReadOptions) -> Iterator[RadarFrame]:
    grid = Grid.from_corner(0, 0, 1000, 1000, (2, 2), "EPSG:3035")
    yield RadarFrame(np.ones((2, 2)), np.datetime64("2020-01-01"), grid)


def test_a_third_party_adds_a_reader(tmp_path: Path, entry_point: Any) -> None:
    entry_point(Reader("mine", "a test", lambda source: source.head.startswith(b"MINE"), frames_of_mine))
    (tmp_path / "a").write_bytes(b"MINE and more")
    assert "mine" in reader_names()
    assert detect_format(tmp_path / "a") == "mine"
    assert len(list(read_frames(tmp_path / "a"))) == 1


def test_an_entry_point_must_give_a_new_reader(entry_point: Any) -> None:
    entry_point("not a reader")
    with pytest.raises(ConfigError, match="gives no Reader"):
        reader_names()
    entry_point(Reader("odim_h5", "again", lambda source: True, frames_of_mine))
    with pytest.raises(ConfigError, match="repeats the reader 'odim_h5'"):
        reader_names()


def test_an_error_of_a_frame_names_the_file(tmp_path: Path, entry_point: Any) -> None:
    def broken(source: Any, options: ReadOptions) -> Iterator[RadarFrame]:
        raise DataError("something is amiss", "mend it")
        yield

    entry_point(Reader("mine", "a test", lambda source: True, broken))
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(DataError, match=r"a\.bin: something is amiss \(mend it\)"):
        list(read_frames(tmp_path / "a.bin"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReadOptions(coarsen=0), "coarsen is a whole number"),
        (lambda: ReadOptions(accumulation_minutes=0.0), "accumulation_minutes must be positive"),
        (lambda: ReadOptions(max_pixels=0), "max_pixels must be positive"),
        (lambda: BoundingBox(50, 0, 40, 10), "south < north"),
        (lambda: BoundingBox(40, 10, 50, 10), "west < east"),
        (lambda: PixelWindow((0, 0), (0, 4)), "0 <= start < stop"),
    ],
)
def test_options_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_window_beyond_the_grid_is_refused(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a.h5", np.ones((4, 4)))
    with pytest.raises(DataError, match="reach beyond its grid of 4x4"):
        list(read_frames(path, options=ReadOptions(crop=PixelWindow((0, 9), (0, 4)))))
    with pytest.raises(DataError, match="leaves less than 2x2 pixels"):
        list(read_frames(path, options=ReadOptions(coarsen=3)))


@pytest.mark.skipif(
    not hasattr(__import__("os"), "geteuid") or __import__("os").geteuid() == 0, reason="root reads all"
)
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write_odim(tmp_path / "a.h5", np.ones((4, 4)))
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        list(read_frames(path))
