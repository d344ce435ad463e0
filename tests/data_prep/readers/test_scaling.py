"""Exact scaling: every step of every source is the float32 nearest to its decimal number."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.readers.scaling import convert, look_up, per_hour, rescale


@pytest.mark.parametrize(
    ("gain", "minutes"), [("0.05", 6), ("0.05", 10), ("0.01", 5), ("0.1", 60), ("0.001", 5), ("0.01", 15)]
)
def test_steps_are_the_nearest_float32(gain: str, minutes: int) -> None:
    stored = np.arange(4096, dtype=np.uint16)
    rates = rescale(stored, float(gain), 0.0, factor=per_hour(minutes)).astype(np.float32)
    exact = [Decimal(gain) * 60 * int(value) / minutes for value in stored]
    np.testing.assert_array_equal(rates, np.array([np.float32(str(value)) for value in exact]))


@given(
    st.integers(-32768, 65535),
    st.decimals("-10", "10", places=4),
    st.decimals("-100", "100", places=3),
    st.sampled_from([1, 5, 6, 10, 15, 60, 7.5]),
)
def test_any_decimal_scale_is_rounded_once(value: int, gain: Decimal, offset: Decimal, minutes: float) -> None:
    exact = (Fraction(gain) * value + Fraction(offset)) * 60 / Fraction(minutes)
    found = rescale(np.array([value], dtype=np.int32), str(gain), str(offset), factor=per_hour(minutes))
    assert found[0] == float(exact)


def test_floats_and_awkward_scales_are_multiplied_as_they_are() -> None:
    np.testing.assert_allclose(rescale(np.array([1.5, np.nan]), 2, 1), [4, np.nan])
    np.testing.assert_allclose(rescale(np.array([3], dtype=np.int16), np.pi, 0.0), [3 * np.pi])


def test_an_interval_must_be_positive() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        per_hour(0)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", ">i2", ">u2", "i4", "f4", ">f8"])
def test_a_field_converted_by_code_or_block_is_converted_pixel_by_pixel(dtype: str) -> None:
    stored = np.random.default_rng(5).integers(0, 256, (700, 300)).astype("u1").astype(dtype)
    stored[0] = np.arange(-150, 150).astype(dtype)
    calls = []

    def rates(values: np.ndarray) -> np.ndarray:
        calls.append(values.size)
        converted = rescale(values, "0.05", -1, factor=per_hour(6))
        converted[values == 7] = np.nan
        return converted

    found = convert(stored, rates)
    assert found.dtype == np.float32 and max(calls) < stored.size
    np.testing.assert_array_equal(found, rates(stored).astype(np.float32))
    np.testing.assert_array_equal(convert(stored[::-1, 5:], rates), found[::-1, 5:])


def test_a_field_with_fewer_pixels_than_codes_is_converted_itself() -> None:
    seen = []
    convert(np.ones((3, 4), dtype=np.uint16), lambda stored: seen.append(stored.size) or stored.astype(float))  # type: ignore[func-returns-value]
    assert seen == [12]


def test_codes_are_looked_up_in_windows_as_in_whole_fields() -> None:
    table = np.arange(256, dtype=np.float32) * 2
    codes = np.random.default_rng(6).integers(0, 256, (90, 1000)).astype(np.uint8)
    np.testing.assert_array_equal(look_up(table, codes), codes.astype(np.float32) * 2)
    np.testing.assert_array_equal(look_up(table, codes[::-1, 3:700:2]), codes[::-1, 3:700:2].astype(np.float32) * 2)


@dataclass(frozen=True)
class _Times:
    factor: float

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        return stored * self.factor


@dataclass(frozen=True)
class _Plus:
    term: float

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        return stored + self.term


def test_tables_are_kept_apart_by_what_makes_them() -> None:
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for kind in (np.uint8, np.int8):
        codes = stored.astype(kind)
        for rates in (_Times(2.0), _Plus(2.0), _Times(3.0), _Times(2.0)):
            np.testing.assert_array_equal(convert(codes, rates), rates(codes.astype(np.float64)))
