"""Looked up at the places that trajectories reach, fields are what a plain bilinear look-up of each pixel gives."""

from __future__ import annotations

import numpy as np
import pytest

from nowcast.data.trajectories import Trajectories, value_at

SHAPE = (24, 30)


def places_after(motion: np.ndarray, steps: int) -> tuple[Trajectories, np.ndarray]:
    """Trajectories some steps back, and their places (2, H, W): fields of the coordinates, looked up.

    Only inside the frame, where a linear field is looked up as it is.
    """
    trajectories = Trajectories(motion)
    for _ in range(steps):
        trajectories.trace()
    return trajectories, trajectories.bring(np.indices(motion.shape[1:]))


def gamma(several: int, seed: int = 7, missing: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    fields = rng.gamma(0.5, 2.0, (several, *SHAPE)).astype(np.float32)
    fields[rng.random(fields.shape) < missing] = np.nan
    return fields


def drift(seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.4, 1.5, (2, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("missing", [0.0, 0.15, 0.9])
def test_every_pixel_is_a_plain_bilinear_look_up(missing: float) -> None:
    fields = gamma(3, missing=missing)
    trajectories, places = places_after(drift(), 2)
    known = ~np.isnan(places).any(axis=0)
    brought = trajectories.bring(fields)
    wanted = [[value_at(field, y, x) for y, x in places[:, known].T.astype(float)] for field in fields]
    # The places are known to single precision alone, so that one beside half the weight may fall on either side.
    differences = np.abs(brought[:, known] - np.array(wanted))
    assert (np.isnan(brought[:, known]) != np.isnan(wanted)).mean() < 0.002
    assert np.nanmax(differences) < 1e-4
    assert 0.5 < known.mean() < 1 and np.isnan(brought[:, ~known]).all()


def test_fields_that_travel_together_go_where_each_goes_alone() -> None:
    fields = gamma(3, missing=0.1)
    trajectories, _ = places_after(drift(), 4)
    together = trajectories.bring(fields)
    strided = np.empty((3, 2, *SHAPE), dtype=np.float32)[:, 1]
    assert trajectories.bring(fields, out=strided) is strided
    np.testing.assert_array_equal(strided, together)
    for field, brought in zip(fields, together, strict=True):
        np.testing.assert_array_equal(trajectories.bring(field[None])[0], brought)


@pytest.mark.parametrize("value", [0.1, 0.3, 7.7])
def test_a_value_on_a_threshold_stays_on_it(value: float) -> None:
    trajectories, places = places_after(drift(), 3)
    brought = trajectories.bring(np.full((1, *SHAPE), value, dtype=np.float32))[0]
    assert (brought[~np.isnan(places[0])] == np.float32(value)).all()


def test_before_the_first_step_everything_is_in_its_place() -> None:
    fields = gamma(2, missing=0.1)
    np.testing.assert_array_equal(Trajectories(drift()).bring(fields), fields)


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1)])
def test_a_grid_one_pixel_wide_has_neighbours_along_one_axis_alone(shape: tuple[int, int]) -> None:
    field = np.arange(9, dtype=np.float32)[: max(shape)].reshape(shape)
    trajectories = Trajectories(np.where(np.array(shape) > 1, 0.25, 0.0)[:, None, None] * np.ones((2, *shape)))
    trajectories.trace()
    brought = trajectories.bring(field[None])[0].ravel()
    np.testing.assert_array_equal(brought, [0.0, *(np.arange(1, max(shape)) - 0.25)])


def test_an_endless_value_is_no_missing_one() -> None:
    """Minus infinity is the log odds of never; between two of them lies another."""
    field = np.full((1, *SHAPE), -np.inf, dtype=np.float32)
    trajectories = Trajectories(np.full((2, *SHAPE), 0.3))
    trajectories.trace()
    assert (trajectories.bring(field)[0, 1:, 1:] == -np.inf).all()


def test_fields_on_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"fields \(1, 8, 9\) do not lie on the grid \(8, 8\)"):
        Trajectories(np.zeros((2, 8, 8))).bring(np.zeros((1, 8, 9)))
