"""The numbers of a frame, against the same numbers pixel by pixel."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from nowcast.data.frame_measures import BLOCK_PIXELS, measure_frame


def measured(rain_rate: np.ndarray) -> dict[str, float]:
    return measure_frame(rain_rate, ~np.isnan(rain_rate))


def test_the_numbers_of_a_small_frame() -> None:
    nan = np.nan
    rain_rate = np.array([[0.0, 0.1, 0.05, nan], [nan, 7.0, 7.0, 0.0], [0.09, 0.2, nan, 3.0]], dtype=np.float32)
    found = measured(rain_rate)
    # Rain at 0.1 itself; edges beside missing pixels count, since nothing is wet there.
    assert found["valid_pixels"] == 9 and found["wet_share"] == 5 / 9
    assert found["edge_share"] == (2 + 2 + 3) / 9
    assert found["maximum_rate"] == 7.0
    assert found["mean_rate"] == pytest.approx((0.1 + 0.05 + 14 + 0.09 + 0.2 + 3) / 9, rel=1e-6)


def test_a_frame_of_many_blocks_is_measured_as_a_whole() -> None:
    random = np.random.default_rng(3)
    rain_rate = random.gamma(0.3, 3.0, (BLOCK_PIXELS // 100, 317)).astype(np.float32)
    rain_rate[random.random(rain_rate.shape) < 0.4] = np.nan
    wet = np.nan_to_num(rain_rate) >= np.float32(0.1)
    found = measured(rain_rate)
    valid = np.count_nonzero(~np.isnan(rain_rate))
    assert found["wet_share"] == wet.sum() / valid
    assert found["edge_share"] == np.count_nonzero(np.diff(wet.astype(int), axis=1)) / valid
    assert found["maximum_rate"] == np.nanmax(rain_rate)
    assert found["mean_rate"] == pytest.approx(np.nanmean(rain_rate, dtype=np.float64), rel=1e-6)


def test_a_frame_without_a_valid_pixel_has_no_rates() -> None:
    assert measured(np.full((3, 5), np.nan, dtype=np.float32)) == {"valid_pixels": 0}


def test_a_process_that_decodes_loads_nothing_that_stores_and_no_compiler() -> None:
    code = (
        "import sys, importlib, data_prep.decode\n"
        "from data_prep.readers.registry import BUILT_IN\n"
        "for name in BUILT_IN: importlib.import_module('data_prep.readers.' + name)\n"
        "print(sorted({'zarr', 'xarray', 'pandas', 'torch', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
