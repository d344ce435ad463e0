"""Motion: known motions are found again, still and dry fields stay as they are, and what is missing stays missing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from nowcast.data.motion import ESTIMATOR_VERSION, advect, carry, estimate_motion
from nowcast.errors import DataError

SIZE = 128


def showers(seed: int = 0, shape: tuple[int, int] = (3 * SIZE, 3 * SIZE)) -> np.ndarray:
    """A field of showers [mm/h], dry in between."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 4.0, mode="wrap")
    noise /= noise.std()
    return np.where(noise > 0.5, 0.3 * np.exp(1.5 * noise), 0.0)


def looked_up(field: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The middle window of a larger field, taken at other positions of that window; cubic, in dB."""
    decibel = 10 * np.log10(np.maximum(field, 0.05))
    values = ndimage.map_coordinates(decibel, [y + SIZE, x + SIZE], order=3)
    return np.where(values > -10.0, 10 ** (values / 10), 0.0).astype(np.float32)


def pixels() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    return y.astype(float), x.astype(float)


def moving(velocity: tuple[float, float], num_frames: int = 3, seed: int = 0) -> np.ndarray:
    """Showers that move by `velocity` (rows, columns) pixels a frame."""
    y, x = pixels()
    field = showers(seed)
    return np.stack([looked_up(field, y - k * velocity[0], x - k * velocity[1]) for k in range(num_frames)])


def turning(degrees: float, num_frames: int = 3) -> np.ndarray:
    """Showers that turn about the middle of the window, from rows towards columns."""
    y, x = (axis - (SIZE - 1) / 2 for axis in pixels())
    frames = []
    for k in range(num_frames):
        c, s = np.cos(np.deg2rad(k * degrees)), np.sin(np.deg2rad(k * degrees))
        frames.append(looked_up(showers(3), c * y + s * x + (SIZE - 1) / 2, c * x - s * y + (SIZE - 1) / 2))
    return np.stack(frames)


def rotation(degrees: float) -> np.ndarray:
    """The motion field of `turning`, for small angles."""
    y, x = (axis - (SIZE - 1) / 2 for axis in pixels())
    return np.deg2rad(degrees) * np.stack([-x, y])


@pytest.mark.parametrize("velocity", [(0.0, 0.4), (3.0, -2.0), (-4.3, 1.7), (0.0, 12.0), (9.0, 9.0)])
def test_a_known_motion_is_found(velocity: tuple[float, float]) -> None:
    motion = estimate_motion(moving(velocity))
    error = np.hypot(motion[0] - velocity[0], motion[1] - velocity[1])
    # A tenth of a pixel a step is 1.2 km/h on a 1 km grid of 5 min; rain that enters at the edge is not matched.
    assert np.mean(error[16:-16, 16:-16]) < 0.1
    assert np.mean(error) < 0.3


def test_a_single_blob_gives_its_motion_to_the_dry_pixels_about_it() -> None:
    y, x = pixels()
    blobs = [20 * np.exp(-((y - 50 - 2 * k) ** 2 + (x - 60 - 3 * k) ** 2) / 72) for k in range(3)]
    motion = estimate_motion(np.where(np.stack(blobs) < 0.1, 0.0, np.stack(blobs)))
    np.testing.assert_allclose(motion[:, 54, 66], (2.0, 3.0), atol=0.1)
    np.testing.assert_allclose(motion[:, 110, 20], (2.0, 3.0), atol=0.2)


def test_a_rotation_is_found() -> None:
    motion = estimate_motion(turning(3.0))
    error = np.hypot(*(motion - rotation(3.0)))
    # The frames turn by a finite angle, and at the rim the windows see one side only.
    assert np.mean(error[16:-16, 16:-16]) < 0.35
    # Two pixels a step at the rim: a constant motion would be wrong by far more.
    assert np.mean(np.hypot(*rotation(3.0))) > 2.0


def test_two_motions_side_by_side_stay_apart() -> None:
    left, right = moving((0.0, 2.0)), moving((3.0, 0.0), seed=1)
    motion = estimate_motion(np.concatenate([left, right], axis=2))
    np.testing.assert_allclose(motion[:, 64, 40], (0.0, 2.0), atol=0.2)
    np.testing.assert_allclose(motion[:, 64, 216], (3.0, 0.0), atol=0.2)


def test_still_rain_has_no_motion_and_stays_as_it_is() -> None:
    frames = moving((0.0, 0.0))
    motion = estimate_motion(frames)
    assert np.abs(motion).max() < 1e-3
    np.testing.assert_allclose(advect(frames[-1], motion, 12)[-1], frames[-1], rtol=0.01, atol=0.05)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_dry_or_missing_frames_have_no_motion(value: float) -> None:
    frames = np.full((3, 50, 60), value)
    motion = estimate_motion(frames)
    np.testing.assert_array_equal(motion, np.zeros((2, 50, 60)))
    np.testing.assert_array_equal(advect(frames[-1], motion, 4), np.full((4, 50, 60), value))


def test_missing_pixels_do_not_disturb_the_motion_of_the_others() -> None:
    frames = moving((2.0, -3.0))
    # A mask stands still while the rain moves beneath it: taken for rain, it would pull the motion towards zero.
    frames[:, 30:70, 30:80] = np.nan
    frames[1, :, 100:] = np.nan
    motion = estimate_motion(frames)
    error = np.hypot(motion[0] - 2.0, motion[1] + 3.0)
    assert np.mean(error[16:-16, 16:96]) < 0.15


def test_small_and_odd_frames_work() -> None:
    for shape in ((2, 2), (7, 33), (51, 97)):
        frames = np.random.default_rng(1).random((2, *shape))
        motion = estimate_motion(frames)
        assert motion.shape == (2, *shape) and np.isfinite(motion).all()


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1), (1, 2)])
def test_a_frame_one_pixel_wide_moves_along_itself_alone(shape: tuple[int, int]) -> None:
    frames = np.zeros((3, *shape), dtype=np.float32)
    line = 20 * np.exp(-((np.arange(40) - 15.0 - 2 * np.arange(3)[:, None]) ** 2) / 20)
    frames.reshape(3, -1)[:] = line[:, : frames[0].size]
    motion = estimate_motion(frames)
    assert np.isfinite(motion).all()
    across = [axis for axis, size in enumerate(shape) if size == 1]
    assert not motion[across].any()
    if max(shape) == 40:
        along = shape.index(40)
        np.testing.assert_allclose(motion[along].ravel()[12:26], 2.0, atol=0.2)
        moved = advect(frames[-1], np.where(np.arange(2)[:, None, None] == along, 3.0, 0.0) + 0 * motion, 1)[0]
        np.testing.assert_array_equal(moved.ravel()[3:], frames[-1].ravel()[:-3])
        # Half a pixel across still lies in the frame, more does not.
        for away, inside in ((0.4, True), (0.6, False)):
            drift = np.where(np.arange(2)[:, None, None] == along, 0.0, away) + 0 * motion
            assert np.isfinite(advect(frames[-1], drift, 1)).all() == inside


def test_a_changed_estimator_has_another_version() -> None:
    """Motion is kept under this version: whoever changes what comes out raises it, and these numbers with it."""
    motion = estimate_motion(moving((2.0, -3.0), seed=4))
    assert ESTIMATOR_VERSION == 1
    # Other processors round a little otherwise; what a changed method gives is further off.
    np.testing.assert_allclose(motion[0, ::40, 80], (2.028, 1.992, 1.988, 1.952), atol=2e-3)
    np.testing.assert_allclose(motion[1, ::40, 80], (-2.983, -2.993, -3.002, -2.890), atol=2e-3)


def test_one_frame_is_refused() -> None:
    with pytest.raises(DataError, match="two frames"):
        estimate_motion(np.zeros((1, 20, 20)))


def test_motion_of_whole_pixels_moves_every_pixel_exactly() -> None:
    field = np.random.default_rng(0).random((20, 30)).astype(np.float32)
    motion = np.stack([np.full((20, 30), 2.0), np.full((20, 30), -3.0)])
    advected = advect(field, motion, 3)
    for lead, moved in enumerate(advected, start=1):
        np.testing.assert_array_equal(moved[2 * lead :, : 30 - 3 * lead], field[: 20 - 2 * lead, 3 * lead :])
        assert np.isnan(moved[: 2 * lead]).all() and np.isnan(moved[:, 30 - 3 * lead :]).all()


def test_advection_agrees_with_a_plain_one() -> None:
    field = showers(5, (SIZE, SIZE)).astype(np.float32)
    y, x = pixels()
    motion = np.stack([1.5 + np.sin(x / 20), -2.0 + np.cos(y / 30)])
    position = np.stack([y, x])
    for _ in range(4):
        first = np.stack([ndimage.map_coordinates(part, position, order=1, mode="nearest") for part in motion])
        halfway = position - 0.5 * first
        position = position - [ndimage.map_coordinates(part, halfway, order=1, mode="nearest") for part in motion]
    expected = ndimage.map_coordinates(field, position, order=1, mode="nearest")
    inside = ((position >= 0) & (position <= SIZE - 1)).all(axis=0)
    advected = advect(field, motion, 4)[-1]
    np.testing.assert_allclose(advected[inside], expected[inside], rtol=1e-3, atol=1e-3)


def test_a_quarter_turn_in_twelve_steps_is_a_quarter_turn() -> None:
    y, x = (axis - (SIZE - 1) / 2 for axis in pixels())
    blob = (10 * np.exp(-((y - 20) ** 2 + (x - 5) ** 2) / 100)).astype(np.float32)
    turned = advect(blob, rotation(7.5), 12)[-1]
    middle = slice(24, -24)
    # The midpoint rule turns 7.5 degrees to within a thousandth, and one bilinear look-up costs a little of the peak.
    np.testing.assert_allclose(turned[middle, middle], np.rot90(blob)[middle, middle], atol=0.1)
    assert np.nansum(turned) == pytest.approx(blob.sum(), rel=0.01)


def test_what_is_missing_is_carried_along_and_never_becomes_dry() -> None:
    field = np.ones((40, 60), dtype=np.float32)
    field[:, :20] = np.nan
    motion = np.stack([np.zeros((40, 60)), np.full((40, 60), 2.4)])
    for lead, moved in enumerate(advect(field, motion, 5), start=1):
        # Beyond the edge of the missing block, moved on, all is known; before it nothing is.
        edge = 19.5 + 2.4 * lead
        columns = np.arange(60)
        assert np.isnan(moved[:, columns < edge - 0.01]).all()
        np.testing.assert_array_equal(moved[:, columns > edge + 0.01], 1.0)


def test_each_lead_may_have_a_field_of_its_own() -> None:
    fields = np.random.default_rng(2).random((3, 16, 16)).astype(np.float32)
    motion = np.stack([np.full((16, 16), 1.0), np.full((16, 16), 0.5)])
    together = advect(fields, motion, 3)
    for lead in range(3):
        np.testing.assert_array_equal(together[lead], advect(fields[lead], motion, 3)[lead])
        np.testing.assert_array_equal(together[lead], carry(fields[lead], motion, lead + 1))


def test_carried_forth_and_back_a_field_is_where_it_was() -> None:
    field = ndimage.gaussian_filter(showers(6, (SIZE, SIZE)), 3.0).astype(np.float32)
    motion = rotation(2.0) + np.array([1.3, -0.7])[:, None, None]
    again = carry(carry(field, motion, 5), motion, -5)
    known = ~np.isnan(again)
    assert known.mean() > 0.6
    # Two bilinear look-ups blur a little; a step too many or too few would shift the field by a pixel and more.
    assert np.mean(np.abs(again - field)[known]) < 0.03 * field.mean()
    np.testing.assert_array_equal(carry(field, motion, 0), field)


def test_fields_and_motion_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not give 3 leads"):
        advect(np.zeros((2, 8, 8)), np.zeros((2, 8, 8)), 3)
    with pytest.raises(ValueError, match="do not give"):
        advect(np.zeros((8, 8)), np.zeros((2, 8, 9)), 3)
    with pytest.raises(ValueError, match="do not give"):
        advect(np.zeros((2, 3, 8, 8)), np.zeros((2, 8, 8)), 3)
