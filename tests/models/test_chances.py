"""The map of chances that travels in a bundle: monotone, nested, and refused where it could not be one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nowcast.errors import ConfigError
from nowcast.models.chances import ChanceMap

THRESHOLDS = (0.5, 2.0)
HALVED = ((0.0, 1.0), (0.0, 0.5))


def chance_map() -> ChanceMap:
    """The first lead time halves the chance of 0.5 mm/h alone; the second lifts that of 2 mm/h above it."""
    said = ((HALVED[0], ()), ((), (0.0, 0.4)))
    happened = ((HALVED[1], ()), ((), (0.1, 0.9)))
    return ChanceMap(THRESHOLDS, said, happened)


def chances(leads: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    upper = rng.random((leads, 1, 20, 20))
    return np.concatenate([upper, upper * rng.random(upper.shape)], axis=1).astype(np.float32)


def test_each_lead_and_threshold_has_its_own_map_and_those_without_one_stay() -> None:
    fields = np.array([[[[0.8]], [[0.1]]], [[[0.95]], [[0.2]]]], dtype=np.float32)
    found = chance_map()(fields)
    np.testing.assert_allclose(found[:, :, 0, 0], [[0.4, 0.1], [0.95, 0.5]], atol=1e-7)
    assert found.dtype == np.float32


def test_calibrated_chances_are_nested_and_inside_zero_and_one() -> None:
    found = chance_map()(chances())
    assert (found[:, 1] <= found[:, 0]).all() and found.min() >= 0 and found.max() <= 1
    # The second lead's map alone would have lifted the higher threshold above the lower one.
    assert (np.interp(chances()[1, 1], (0.0, 0.4), (0.1, 0.9)) > chances()[1, 0]).any()


def test_a_pixel_with_a_higher_chance_never_gets_a_lower_one() -> None:
    fields = chances()
    higher = np.clip(fields + np.random.default_rng(1).random(fields.shape).astype(np.float32) * 0.2, 0, 1)
    assert (chance_map()(higher) >= chance_map()(fields)).all()


def test_missing_pixels_stay_missing_and_leads_beyond_take_the_last_map() -> None:
    fields = chances(4)
    fields[:, :, 3, 4] = np.nan
    found = chance_map()(fields)
    assert np.isnan(found[:, :, 3, 4]).all() and np.isnan(found).sum() == 8
    np.testing.assert_array_equal(found[3], chance_map()(fields[[0, 3]])[1])


def test_it_comes_back_from_json_as_it_was() -> None:
    assert ChanceMap.from_dict(json.loads(json.dumps(chance_map().to_dict()))) == chance_map()


@pytest.mark.parametrize(
    ("said", "happened"),
    [((0.1, 0.1), (0.2, 0.3)), ((0.1, 0.2), (0.3, 0.2)), ((0.1, 0.2), (0.3, 1.2)), ((0.1, 0.2), (0.3,))],
    ids=["knots do not rise", "falls", "above one", "numbers differ"],
)
def test_what_is_no_rising_map_is_refused(said: tuple[float, ...], happened: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"must not fall, nor leave \[0, 1\]"):
        ChanceMap((1.0,), ((said,),), ((happened,),))


def test_other_thresholds_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 thresholds need as many maps of chances, got 1"):
        ChanceMap(THRESHOLDS, ((HALVED[0],),), ((HALVED[1],),))
    with pytest.raises(ValueError, match="do not fit 2 thresholds"):
        chance_map()(chances()[:, :1])
