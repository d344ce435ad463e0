"""A Normalizer maps 0 to 0, inverts exactly inside its range, saturates outside, and keeps missing missing."""

import json

import numpy as np
import pytest

from nowcast.data.normalize import Normalizer
from nowcast.errors import ConfigError

KINDS = ["db", "log", "pixel", "linear"]


@pytest.mark.parametrize("kind", KINDS)
def test_inverse_undoes_transform_inside_the_range(kind):
    normalizer = Normalizer(kind)
    smallest = 0.02 if kind == "pixel" else 1e-3  # the HKO-7 pixel cannot tell rates below -10 dBZ from dry
    rates = np.concatenate([[0.0], np.geomspace(smallest, normalizer.largest_mm_h, 500)]).astype(np.float32)
    back = normalizer.inverse(normalizer.transform(rates))
    # float32 carries 24 bits; the logarithms cost a few of them.
    np.testing.assert_allclose(back, rates, rtol=2e-5, atol=1e-6)
    assert back[0] == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_values_rise_from_zero_to_one_and_saturate(kind):
    normalizer = Normalizer(kind)
    rates = np.linspace(0, 2 * normalizer.largest_mm_h, 4001)
    values = normalizer.transform(rates)
    assert values[0] == 0.0
    assert np.all(np.diff(values) >= 0)
    np.testing.assert_allclose(values[-1], 1.0, rtol=1e-6)
    assert values.max() <= normalizer.range[1] + 1e-6
    np.testing.assert_allclose(normalizer.inverse(np.array([-1.0, 2.0])), [0.0, normalizer.largest_mm_h], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_stays_missing_both_ways(kind):
    normalizer = Normalizer(kind)
    assert np.isnan(normalizer.transform(np.array([np.nan, 1.0]))[0])
    assert np.isnan(normalizer.inverse(np.array([np.nan, 0.5]))[0])


def test_pixel_is_the_hko7_pixel():
    # Shi et al. 2017: the thresholds of the HKO-7 table as pixels.
    pixels = Normalizer("pixel").transform(np.array([0.5, 2, 5, 10, 30]))
    np.testing.assert_allclose(pixels, [0.328253, 0.462426, 0.551110, 0.618197, 0.724527], atol=1e-6)


def test_db_is_linear_in_decibels_above_its_minimum():
    values = Normalizer("db", 0.1, 100.0).transform(np.array([0.05, 0.1, 1.0, 10.0, 100.0]))
    np.testing.assert_allclose(values, [0.05, 0.1, 0.4, 0.7, 1.0], atol=1e-6)


@pytest.mark.parametrize("kind", ["db", "log", "pixel", "linear"])
def test_values_never_leave_their_range(kind):
    for maximum in np.geomspace(1.0, 500.0, 400):
        scale = Normalizer(kind, 0.1, float(maximum))
        values = scale.transform(np.array([0.0, 0.05, 0.1, maximum, 1e6]))
        assert values.min() >= 0.0 and values.max() <= 1.0, maximum


def test_mean_is_that_of_valid_pixels_alone_and_travels():
    fields = [np.array([[0.0, np.nan], [50.0, 100.0]]), np.full((2, 2), np.nan)]
    fitted = Normalizer("linear", maximum_mm_h=100.0).fit(fields)
    assert fitted.mean == pytest.approx(0.5)
    assert Normalizer.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


def test_unknown_kinds_and_empty_ranges_are_refused():
    with pytest.raises(ConfigError, match="kind 'sqrt' is not known"):
        Normalizer("sqrt")
    with pytest.raises(ConfigError, match="0 < minimum < maximum"):
        Normalizer("db", 5.0, 1.0)
