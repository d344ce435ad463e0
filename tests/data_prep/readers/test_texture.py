"""Marks of damage in rasters without a checksum: cuts and lone pixels are measured as they were made."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.readers import texture
from data_prep.readers.texture import measure_codes

# Codes in steps of 0.5 mm/h, the last for no data.
RATES = np.append(np.arange(255) / 2, np.nan)
MISSING = 255


def rain(level: int = 4) -> np.ndarray:
    """Rain everywhere, none on a margin of no data."""
    codes = np.full((40, 60), level, dtype=np.uint8)
    codes[:3], codes[-3:], codes[:, :3], codes[:, -3:] = (MISSING,) * 4
    return codes


def test_whole_rain_has_no_marks() -> None:
    assert measure_codes(rain(), RATES) == {"cut_pixels": 0, "lone_rate": 0.0}


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_zeroed_bytes_are_a_cut_as_long_as_their_run(rows: int) -> None:
    codes = rain()
    codes[10 : 10 + rows, 20:33] = 0
    assert measure_codes(codes, RATES)["cut_pixels"] == 13


def test_a_cut_of_two_heights_counts_by_the_longer_part() -> None:
    """A range of bytes begins and ends within rows: its first part is one row higher or lower than the rest."""
    codes = rain()
    codes[10, 20:50] = 0
    codes[11, 20:38] = 0
    assert measure_codes(codes, RATES)["cut_pixels"] == 18


def test_what_is_measured_within_no_data_is_a_cut() -> None:
    codes = rain()
    codes[10:30, 10:40] = MISSING
    codes[20, 15:30] = 0
    assert measure_codes(codes, RATES)["cut_pixels"] == 15


def test_dry_weather_is_no_cut() -> None:
    """A dry area higher than bytes zeroed in one range, a short one, and one at a straight edge of rain."""
    codes = rain()
    codes[10:17, 20:40] = 0
    codes[20, 20:24] = 0
    codes[25:37] = np.where(codes[25:37] == MISSING, MISSING, 0)
    assert measure_codes(codes, RATES)["cut_pixels"] == 0


def test_runs_end_with_their_rows() -> None:
    codes = np.full((20, 12), 4, dtype=np.uint8)
    codes[5, 8:], codes[6, :4] = 0, 0
    assert measure_codes(codes, RATES)["cut_pixels"] == 0
    codes[5, 6:] = 0
    assert measure_codes(codes, RATES)["cut_pixels"] == 6


@pytest.mark.parametrize("at", [(20, 30), (3, 3), (36, 56)])
def test_a_lone_pixel_stands_above_twice_what_is_around_it(at: tuple[int, int]) -> None:
    codes = rain(level=4)
    codes[at] = 100
    assert measure_codes(codes, RATES)["lone_rate"] == 50.0 - 2 * 2.0
    codes[at[0] + (1 if at[0] < 30 else -1), at[1]] = 40
    assert measure_codes(codes, RATES)["lone_rate"] == 50.0 - 2 * 20.0


def test_a_steep_core_is_not_alone() -> None:
    codes = rain()
    codes[20, 30], codes[21, 31] = 200, 110
    assert measure_codes(codes, RATES)["lone_rate"] == 0.0


def test_sixteen_bits_and_a_view_are_measured_alike() -> None:
    codes = rain()
    codes[10, 20:33], codes[25, 30] = 0, 90
    wide = np.where(codes == MISSING, np.uint16(0xFFFF), codes.astype(np.uint16))[::-1]
    assert measure_codes(wide, RATES[:-1]) == measure_codes(codes, RATES) == {"cut_pixels": 13, "lone_rate": 41.0}


def test_a_narrow_raster_has_no_marks() -> None:
    assert measure_codes(rain()[:2], RATES) == {}


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("top", range(8, 13))
def test_marks_across_two_blocks_are_found(monkeypatch: pytest.MonkeyPatch, rows: int, top: int) -> None:
    codes = rain()
    codes[top : top + rows, 20:33], codes[top + rows + 1, 40] = 0, 90
    whole = measure_codes(codes, RATES)
    monkeypatch.setattr(texture, "BLOCK_PIXELS", 5 * codes.shape[1])
    assert measure_codes(codes, RATES) == whole == {"cut_pixels": 13 if rows <= 6 else 0, "lone_rate": 41.0}
