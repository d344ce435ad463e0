"""Resampling: made frames lie where the rain was, taken ones are untouched, and what is unknown stays unknown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from data_prep.resample import between_frames, plan_slots, resample_archive
from nowcast.data.archive import RadarArchive, open_archive
from nowcast.data.archive_writer import write_archive
from nowcast.data.grid import Grid
from nowcast.errors import ConfigError, DataError

START = np.datetime64("2024-06-01T00:00:00", "s")
SHAPE = (64, 72)
GRID = Grid.from_corner(0.0, 32e3, 500.0, 500.0, SHAPE, "EPSG:3035")


def minutes(number: float) -> np.timedelta64:
    return np.timedelta64(round(60 * number), "s")


def blob(at_minutes: float) -> np.ndarray:
    """Rain that moves 1 pixel a minute to the east and half of one to the north."""
    rows, columns = np.indices(SHAPE)
    distance = (rows - 42 + 0.5 * at_minutes) ** 2 + (columns - 18 - at_minutes) ** 2
    field = 12.0 * np.exp(-distance / (2 * 4.0**2))
    return np.where(field < 0.1, 0.0, field).astype(np.float32)


def write(
    path: Path,
    fields: Sequence[np.ndarray],
    *,
    step: float = 6,
    first: np.datetime64 = START,
    missing: Sequence[int] = (),
    **more: object,
) -> Path:
    present = ~np.isin(np.arange(len(fields)), missing)
    return write_archive(
        path,
        np.array(fields, np.float32),
        first_time=first,
        step=minutes(step),
        grid=GRID,
        present=present,
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def six_minutes(tmp_path: Path) -> Path:
    attributes = {"synthetic": "true", "license": "CC0-1.0", "history": "made by hand", "grid_file": "a.h5"}
    return write(tmp_path / "six.zarr", [blob(6 * n) for n in range(6)], interval_minutes=6, attributes=attributes)


def offsets(archive: RadarArchive) -> list[int]:
    """Minutes from the start of the frames that are there."""
    return [int(value) for value in (archive.times[archive.present] - START) / minutes(1)]


def test_a_moving_blob_lies_where_it_was_at_each_new_slot(six_minutes: Path, tmp_path: Path) -> None:
    report = resample_archive(six_minutes, tmp_path / "five.zarr", step=minutes(5))
    source, made = open_archive(six_minutes), open_archive(tmp_path / "five.zarr")
    assert offsets(made) == [0, 5, 10, 15, 20, 25, 30] and made.step == minutes(5)
    assert (report.taken, report.made, report.absent, report.kept) == (2, 5, 0, 0)
    for minute in (5, 10, 15, 20, 25):
        before, rest = divmod(minute, 6)
        near, far = source.rain_rate(before, before + 2)
        blended = (1 - rest / 6) * near + rest / 6 * far
        truth = blob(minute)
        field = made.frame(START + minutes(minute))
        errors = [np.sqrt(np.nanmean((guess - truth) ** 2)) for guess in (field, blended)]
        # Seen: 0.06 at the worst, from looking up between pixels; a wrong sign or share is worse than blending.
        assert errors[0] < 0.1 * errors[1], minute
        # In two corners rain would come from outside the frame, whichever neighbour it is carried from.
        assert np.isnan(field).sum() < 12


def test_a_slot_at_a_source_frame_is_that_frame_bit_for_bit(six_minutes: Path, tmp_path: Path) -> None:
    noisy = [np.random.default_rng(n).gamma(0.3, 3.0, SHAPE).astype(np.float32) for n in range(6)]
    noisy[5][3:9] = np.nan
    path = write(tmp_path / "noisy.zarr", noisy)
    resample_archive(path, tmp_path / "five.zarr", step=minutes(5))
    made = open_archive(tmp_path / "five.zarr")
    for index, minute in ((0, 0), (5, 30)):
        assert made.frame(START + minutes(minute)).tobytes() == noisy[index].tobytes()


def test_a_longer_step_takes_frames_at_its_slots_without_a_mean(six_minutes: Path, tmp_path: Path) -> None:
    report = resample_archive(six_minutes, tmp_path / "twelve.zarr", step=minutes(12))
    made = open_archive(tmp_path / "twelve.zarr")
    assert (report.taken, report.made) == (3, 0) and offsets(made) == [0, 12, 24]
    np.testing.assert_array_equal(made.rain_rate(0, 3), [blob(0), blob(12), blob(24)])


def test_a_gap_is_not_bridged(tmp_path: Path) -> None:
    path = write(tmp_path / "gap.zarr", [blob(6 * n) for n in range(8)], missing=[3])
    report = resample_archive(path, tmp_path / "five.zarr", step=minutes(5))
    made = open_archive(tmp_path / "five.zarr")
    # The frame of 18 min is missing: 15 and 20 lie beside it; the period ends at 42.
    assert offsets(made) == [0, 5, 10, 25, 30, 35, 40]
    assert report.absent == 2 and np.isnan(made.frame(START + minutes(15))).all()


def test_no_slot_is_made_outside_the_period_and_the_axis_begins_with_a_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "late.zarr", [blob(n) for n in range(7)], first=START + minutes(8), missing=[0, 2, 6])
    # Frames at 14, 26, 32, 38: 15, 20 and 25 are beside a missing one.
    report = resample_archive(path, tmp_path / "five.zarr", step=minutes(5))
    made = open_archive(tmp_path / "five.zarr")
    assert offsets(made) == [30, 35] and made.times[0] == START + minutes(30) and report.absent == 3


@pytest.mark.parametrize(("first", "expected"), [(0, [0, 5, 10]), (1, [1, 6, 11]), (5, [5, 10, 15])])
def test_slots_are_round_times_unless_these_never_meet_the_source(
    tmp_path: Path, first: int, expected: list[int]
) -> None:
    path = write(tmp_path / "ten.zarr", [blob(0), blob(10)], step=10, first=START + minutes(first))
    slots = plan_slots(open_archive(path), minutes(5))
    assert [(time - START) / minutes(1) for time in slots.times] == expected
    np.testing.assert_array_equal(slots.share, [0.0, 0.5, 0.0])


def test_missing_stays_missing_and_dry_stays_dry() -> None:
    before, after = blob(0), blob(6)
    before[:, :6] = after[:, :6] = np.nan  # never measured
    before[:, 60:] = np.nan  # measured by the later frame alone
    motion = np.stack([np.full(SHAPE, -3.0, np.float32), np.full(SHAPE, 6.0, np.float32)])
    made = between_frames(before, after, motion, 0.5)
    assert np.isnan(made[:, :6]).all()
    # Rain from the west of there is known from the later frame alone, and dry is 0, not NaN.
    assert np.isfinite(made[4:, 6:68]).all() and (made[4:10, 8:40] == 0).all()
    np.testing.assert_allclose(made[20:50, 12:50], blob(3)[20:50, 12:50], atol=0.4)
    assert np.isnan(between_frames(before, np.full(SHAPE, np.nan, np.float32), motion, 0.5)[:, 64:]).all()


def test_where_one_side_alone_is_known_it_is_not_dimmed() -> None:
    rain, motion = np.full(SHAPE, 4.0, np.float32), np.zeros((2, *SHAPE), np.float32)
    motion[1] = 8.0
    half = rain.copy()
    half[:, 40:] = np.nan
    np.testing.assert_array_equal(between_frames(rain, half, motion, 0.25), rain)
    back = between_frames(half, rain, motion, 0.75)
    # The last two columns would come from the half that is missing, or from outside the frame.
    np.testing.assert_array_equal(back[:, :70], rain[:, :70])
    assert np.isnan(back[:, 70:]).all()


def test_the_nearer_frame_weighs_more() -> None:
    """Rain that stands still and grows from 4 to 8 mm/h."""
    still = np.zeros((2, *SHAPE), np.float32)
    made = between_frames(np.full(SHAPE, 4.0, np.float32), np.full(SHAPE, 8.0, np.float32), still, 0.25)
    np.testing.assert_array_equal(made, np.full(SHAPE, 5.0, np.float32))


def test_dry_frames_give_dry_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "dry.zarr", [np.zeros(SHAPE, np.float32)] * 3)
    resample_archive(path, tmp_path / "five.zarr", step=minutes(5))
    assert (open_archive(tmp_path / "five.zarr").rain_rate(0, 3) == 0).all()


def test_larger_pixels_keep_the_mean_and_come_before_the_motion(six_minutes: Path, tmp_path: Path) -> None:
    resample_archive(six_minutes, tmp_path / "coarse.zarr", pixel_km=1.0)
    coarse = open_archive(tmp_path / "coarse.zarr")
    assert coarse.grid.shape == (32, 36) and coarse.step == minutes(6)
    fields, source = coarse.rain_rate(0, 6), open_archive(six_minutes).rain_rate(0, 6)
    np.testing.assert_allclose(fields.mean(axis=(1, 2)), source.mean(axis=(1, 2)), rtol=1e-5)
    resample_archive(six_minutes, tmp_path / "both.zarr", step=minutes(5), pixel_km=1.0)
    resample_archive(tmp_path / "coarse.zarr", tmp_path / "after.zarr", step=minutes(5))
    both, after = (open_archive(tmp_path / name).rain_rate(0, 7) for name in ("both.zarr", "after.zarr"))
    np.testing.assert_array_equal(both, after)


def test_the_new_archive_says_what_it_is(six_minutes: Path, tmp_path: Path) -> None:
    resample_archive(six_minutes, tmp_path / "new.zarr", step=minutes(5), pixel_km=1.0)
    source, made = open_archive(six_minutes), open_archive(tmp_path / "new.zarr")
    assert made.is_synthetic and made.interval_minutes == 6 and made.attrs["license"] == "CC0-1.0"
    assert made.attrs["resampled_from_fingerprint"] == source.fingerprint
    assert made.attrs["resampled_from_step_seconds"] == 360 and "grid_file" not in made.attrs
    first, second = str(made.attrs["history"]).split("\n")
    assert "6 min to 5 min, pixels of 0.5 by 0.5 km to 1 by 1 km" in first and second == "made by hand"
    assert "writing" not in made.attrs


def stopping(after: int) -> object:
    def progress(slots: Sequence[int]) -> Iterable[int]:
        for number in slots:
            if number == after:
                raise KeyboardInterrupt
            yield number

    return progress


def test_what_was_stopped_goes_on_and_ends_the_same(six_minutes: Path, tmp_path: Path) -> None:
    output, whole = tmp_path / "out.zarr", tmp_path / "whole.zarr"
    with pytest.raises(KeyboardInterrupt):
        resample_archive(six_minutes, output, step=minutes(5), progress=stopping(3))  # type: ignore[arg-type]
    assert not output.exists()
    report = resample_archive(six_minutes, output, step=minutes(5))
    assert (report.kept, report.taken, report.made) == (3, 2, 5)
    resample_archive(six_minutes, whole, step=minutes(5))
    assert open_archive(output).fingerprint == open_archive(whole).fingerprint
    assert not (tmp_path / ".out.zarr.resample").exists()


def test_what_another_run_left_is_not_gone_on_with(six_minutes: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    with pytest.raises(KeyboardInterrupt):
        resample_archive(six_minutes, output, step=minutes(5), progress=stopping(3))  # type: ignore[arg-type]
    assert resample_archive(six_minutes, output, step=minutes(3)).kept == 0
    assert open_archive(output).step == minutes(3)


def test_an_old_archive_stands_until_the_new_one_is_whole(six_minutes: Path, tmp_path: Path) -> None:
    output = write(tmp_path / "old.zarr", [blob(0), blob(6)])
    old = open_archive(output).fingerprint
    with pytest.raises(ConfigError, match="exists"):
        resample_archive(six_minutes, output, step=minutes(5))
    with pytest.raises(KeyboardInterrupt):
        resample_archive(six_minutes, output, step=minutes(5), overwrite=True, progress=stopping(3))  # type: ignore[arg-type]
    assert open_archive(output).fingerprint == old
    resample_archive(six_minutes, output, step=minutes(5), overwrite=True)
    assert open_archive(output).times.size == 7


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"pixel_km": 0.25}, "nothing is gained by dividing them"),
        ({"pixel_km": 40.0}, "fewer than two pixels"),
        ({"pixel_km": float("nan")}, "a pixel size of nan km is none"),
        ({"pixel_km": 0.5}, "nothing would change"),
        ({"step": minutes(6)}, "nothing would change"),
        ({"step": minutes(0)}, "a second or more"),
        ({"step": minutes(-5)}, "a second or more"),
    ],
)
def test_what_makes_no_sense_is_refused(
    six_minutes: Path, tmp_path: Path, asked: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        resample_archive(six_minutes, tmp_path / "new.zarr", **asked)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("*new.zarr*"))


def test_an_archive_whose_frames_all_stand_alone_has_no_slot_between(tmp_path: Path) -> None:
    path = write(tmp_path / "alone.zarr", [blob(0)] * 4, first=START + minutes(8), missing=[1, 2])
    # Frames at 8 and 26 min; slots at 10, 15, 20 and 25.
    with pytest.raises(DataError, match="none of 4 slots every 5 min"):
        resample_archive(path, tmp_path / "new.zarr", step=minutes(5))


@pytest.mark.slow
def test_real_rain_left_out_is_made_better_than_by_blending(radar_data: Path, tmp_path: Path) -> None:
    from data_prep.ingest import ingest

    files = sorted((radar_data / "radar/bom/prcp-cscn").rglob("*.nc"))[10:17]
    ingest(files, tmp_path / "all.zarr")
    every = open_archive(tmp_path / "all.zarr")
    fields = every.rain_rate(0, 7)
    half = write_archive(
        tmp_path / "half.zarr", fields[::2], first_time=every.times[0], step=2 * every.step, grid=every.grid
    )
    resample_archive(half, tmp_path / "made.zarr", step=every.step)
    made = open_archive(tmp_path / "made.zarr").rain_rate(0, 7)
    np.testing.assert_array_equal(made[::2], fields[::2])
    for left_out in (1, 3, 5):
        errors = made[left_out] - fields[left_out], fields[[left_out - 1, left_out + 1]].mean(0) - fields[left_out]
        carried, blended = (np.sqrt(np.nanmean(error**2)) for error in errors)
        assert carried < 0.8 * blended
