"""Motion kept beside a packed archive: that of the whole frame, whatever the crop, the process, or what was kept."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.synthetic_rain import synthetic_rain
from nowcast.data.grid import Grid
from nowcast.data.motion import ESTIMATOR_VERSION, estimate_motion
from nowcast.errors import DataError
from nowcast.training import motions
from nowcast.training.motions import Motions
from nowcast.training.packed import PackedArchive

FRAMES, SHAPE = 6, (75, 90)


@pytest.fixture
def archive(tmp_path: Path) -> PackedArchive:
    rain = synthetic_rain(FRAMES, SHAPE, seed=4)
    grid = Grid.from_corner(0.0, 0.0, 1000.0, 1000.0, SHAPE, "EPSG:3035")
    return PackedArchive(
        "rain", rain, np.ones(FRAMES, bool), np.datetime64("2020-01-01", "s"), 300.0, grid, "f", True, tmp_path
    )


def kept_name() -> str:
    return f"motion-v{ESTIMATOR_VERSION}-3f-4px.npy"


def test_a_crop_is_moved_as_the_whole_frame_is(archive: PackedArchive) -> None:
    whole = estimate_motion(archive.rain_rate[1:4])
    rows, columns = slice(20, 60), slice(33, 90)
    seen = Motions(archive, 3).crop(1, rows, columns)
    assert seen.shape == (2, 40, 57) and seen.dtype == np.float32
    away = np.abs(seen - whole[:, rows, columns])
    assert away.mean() < 0.02 and away.max() < 0.1
    assert np.abs(whole).max() > 0.5  # or the tolerance would say nothing


def test_what_is_kept_is_what_was_estimated(archive: PackedArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns = slice(0, 40), slice(0, 40)
    first = Motions(archive, 3).crop(2, rows, columns)
    monkeypatch.setattr("nowcast.training.motions.estimate_motion", lambda frames: pytest.fail("estimated again"))
    np.testing.assert_array_equal(Motions(archive, 3).crop(2, rows, columns), first)
    assert [path.name for path in archive.folder.iterdir()] == [kept_name()]


def test_what_another_estimator_kept_is_not_taken_for_its_own(
    archive: PackedArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    crop = 2, slice(0, 40), slice(0, 40)
    Motions(archive, 3).crop(*crop)
    monkeypatch.setattr("nowcast.training.motions.ESTIMATOR_VERSION", ESTIMATOR_VERSION + 1)
    monkeypatch.setattr("nowcast.training.motions.estimate_motion", lambda frames: np.full((2, *SHAPE), 7.0))
    np.testing.assert_array_equal(Motions(archive, 3).crop(*crop), 7.0)
    assert kept_name() in [path.name for path in archive.folder.iterdir()]


def test_still_air_is_kept_too(archive: PackedArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.rain_rate[:] = 0.0
    assert np.abs(Motions(archive, 3).crop(0, slice(0, 75), slice(0, 90))).max() < 1e-5
    monkeypatch.setattr("nowcast.training.motions.estimate_motion", lambda frames: pytest.fail("estimated again"))
    Motions(archive, 3).crop(0, slice(0, 8), slice(0, 8))


@pytest.mark.parametrize("damage", ["header", "cut", "shape", "empty"])
def test_a_file_that_cannot_be_is_made_anew(
    archive: PackedArchive, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Motions(archive, 3).crop(0, slice(0, 8), slice(0, 8))
    kept = archive.folder / kept_name()
    if damage == "shape":
        np.save(kept, np.ones((1, 2, 3, 3), dtype=np.float16))
    else:
        kept.write_bytes(kept.read_bytes()[: {"header": 90, "cut": 500, "empty": 0}[damage]])
    np.testing.assert_array_equal(Motions(archive, 3).crop(0, slice(0, 8), slice(0, 8)), fresh)
    monkeypatch.setattr("nowcast.training.motions.estimate_motion", lambda frames: pytest.fail("estimated again"))
    np.testing.assert_array_equal(Motions(archive, 3).crop(0, slice(0, 8), slice(0, 8)), fresh)


def test_where_nothing_can_be_kept_it_is_estimated(archive: PackedArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Motions(archive, 3).crop(0, slice(0, 8), slice(0, 8))
    (archive.folder / kept_name()).unlink()

    def full(path: Path, shape: tuple[int, ...]) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("nowcast.training.motions._make", full)
    np.testing.assert_array_equal(Motions(archive, 3).crop(0, slice(0, 8), slice(0, 8)), fresh)
    assert not list(archive.folder.iterdir())


def test_the_room_is_taken_before_anything_is_written(archive: PackedArchive) -> None:
    Motions(archive, 3).prepare()
    found = (archive.folder / kept_name()).stat()
    assert found.st_blocks * 512 >= found.st_size


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room is taken by writing there")
def test_a_full_disk_is_said_in_a_sentence(archive: PackedArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, begin: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"has no room for motion-v\d+-3f-4px.npy, an array of 0 MB: No space") as found:
        Motions(archive, 3).prepare()
    assert str(archive.folder) in found.value.message and "--cache" in str(found.value.hint)
    assert not list(archive.folder.iterdir())


def test_room_is_taken_where_the_system_cannot_reserve_it(
    archive: PackedArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    Motions(archive, 3).prepare()
    found = (archive.folder / kept_name()).stat()
    assert found.st_blocks * 512 >= found.st_size and not np.load(archive.folder / kept_name()).any()


def test_two_processes_that_begin_together_fill_one_file(
    archive: PackedArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Motions(archive, 3), Motions(archive, 3)
    make, begun = motions.make_array, []

    def meanwhile(*arguments: Any, **named: Any) -> Any:
        made = make(*arguments, **named)
        if not begun:
            begun.append(second)
            second.prepare()
        return made

    monkeypatch.setattr(motions, "make_array", meanwhile)
    first.prepare()
    crop = 2, slice(0, 40), slice(0, 40)
    seen = first.crop(*crop)
    monkeypatch.setattr(motions, "estimate_motion", lambda frames: pytest.fail("estimated again"))
    for one in (second, Motions(archive, 3)):
        np.testing.assert_array_equal(one.crop(*crop), seen)


@pytest.mark.parametrize("before", ["nothing", "damage"])
def test_a_file_system_without_links_will_do(
    archive: PackedArchive, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*names: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if before == "damage":
        (archive.folder / kept_name()).write_bytes(b"half")
    monkeypatch.setattr(os, "link", no_links)
    crop = 2, slice(0, 40), slice(0, 40)
    seen = Motions(archive, 3).crop(*crop)
    monkeypatch.setattr(motions, "estimate_motion", lambda frames: pytest.fail("estimated again"))
    np.testing.assert_array_equal(Motions(archive, 3).crop(*crop), seen)


def test_it_travels_to_a_worker_without_its_open_file(archive: PackedArchive) -> None:
    motions = Motions(archive, 3)
    motions.crop(0, slice(0, 8), slice(0, 8))
    assert "_kept" in vars(motions) and "_kept" not in vars(pickle.loads(pickle.dumps(motions)))
