"""Ranges of a file's frames: read one after the other, or the other way round, they are the whole file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.readers.options import ManyFramesError, ReadOptions
from data_prep.readers.registry import read_frames
from tests.data_prep.radar_files import at, field, write_frames
from tests.data_prep.readers import test_meteonet_npz, test_sevir_h5


def of_netcdf(folder: Path) -> tuple[Path, ReadOptions]:
    return write_frames(folder / "a.nc", [at(n) for n in range(7)], [field(n) for n in range(7)]), ReadOptions()


def of_meteonet(folder: Path) -> tuple[Path, ReadOptions]:
    dates = np.datetime64("2020-06-01", "s") + np.arange(7) * np.timedelta64(300, "s")
    data = np.random.default_rng(2).integers(-1, 99, (7, 2, 3)).astype(np.int16)
    return test_meteonet_npz.write(folder, data=data, dates=dates), ReadOptions()


def of_sevir(folder: Path) -> tuple[Path, ReadOptions]:
    path = test_sevir_h5.write(folder)
    return path, ReadOptions(vil_rain_rate=(2.0, 1.5), catalog=path.with_name("CATALOG.csv"))


@pytest.mark.parametrize("write", [of_netcdf, of_meteonet, of_sevir])
@pytest.mark.parametrize("backwards", [False, True])
def test_ranges_of_frames_are_the_whole_file(tmp_path: Path, write: object, backwards: bool) -> None:
    path, options = write(tmp_path)  # type: ignore[operator]
    whole = list(read_frames(path, options=options))
    number = count_frames(path, options)
    assert number == len(whole) >= 4
    ranges = [(start, start + 3) for start in range(0, number, 3)]
    found = {
        wanted: list(read_frames(path, options=replace(options, frame_range=wanted)))
        for wanted in (reversed(ranges) if backwards else ranges)
    }
    shares = [frame for wanted in ranges for frame in found[wanted]]
    assert [frame.valid_time for frame in shares] == [frame.valid_time for frame in whole]
    for share, frame in zip(shares, whole, strict=True):
        np.testing.assert_array_equal(share.rain_rate, frame.rain_rate)


def count_frames(path: Path, options: ReadOptions) -> int:
    with pytest.raises(ManyFramesError) as caught:
        next(read_frames(path, options=replace(options, max_frames=1)))
    return caught.value.count


def test_no_more_frames_than_are_allowed_are_read_at_once(tmp_path: Path) -> None:
    path, options = of_netcdf(tmp_path)
    assert len(list(read_frames(path, options=replace(options, max_frames=7)))) == 7
    with pytest.raises(ManyFramesError, match="holds 7 frames"):
        next(read_frames(path, options=replace(options, max_frames=6)))


def test_one_event_is_counted_alone(tmp_path: Path) -> None:
    path, options = of_sevir(tmp_path)
    assert count_frames(path, replace(options, event="S2")) == 2
