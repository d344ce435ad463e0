"""The climate of a sample of rain: known values, and what counts as far, in both directions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nowcast.data.climate import FAR_RATE, FAR_SHARE, RainClimate

HERE = RainClimate(wet_share=0.1, mean_mm_h=0.3, wet_p95_mm_h=8.0, wet_p99_mm_h=20.0, wet_pixels=10_000)


def test_shares_and_rates_are_those_of_the_measured_pixels() -> None:
    field = np.array([[np.nan, 0.0, 0.05], [0.1, 2.0, 4.0]], dtype=np.float32)
    climate = RainClimate.of([field, np.full((2, 3), np.nan, np.float32)])
    assert climate is not None and climate.wet_pixels == 3
    assert climate.wet_share == pytest.approx(3 / 5)  # 0.1 itself is wet
    assert climate.mean_mm_h == pytest.approx(6.15 / 5)
    assert climate.wet_p95_mm_h == pytest.approx(np.percentile(np.float32([0.1, 2, 4]), 95))
    assert RainClimate.from_dict(climate.to_dict()) == climate


def test_nothing_measured_is_no_climate_and_a_dry_one_has_no_rates() -> None:
    assert RainClimate.of([np.full((2, 2), np.nan)]) is None and RainClimate.of([]) is None
    dry = RainClimate.of([np.zeros((4, 4))])
    assert dry == RainClimate(0.0, 0.0, 0.0, 0.0, 0)
    assert dry.differences(HERE) == [] and HERE.differences(dry) == []


@pytest.mark.parametrize(
    ("name", "factor", "words"),
    [
        ("wet_p95_mm_h", FAR_RATE, "95th percentile"),
        ("wet_p99_mm_h", FAR_RATE, "99th percentile"),
        ("wet_share", FAR_SHARE, "share of wet pixels"),
    ],
)
@pytest.mark.parametrize("upwards", [True, False])
def test_far_is_beyond_a_factor_either_way(name: str, factor: float, words: str, upwards: bool) -> None:
    def changed(by: float) -> RainClimate:
        return replace(HERE, **{name: getattr(HERE, name) * (by if upwards else 1 / by)})

    assert changed(0.99 * factor).differences(HERE) == []
    (difference,) = changed(1.01 * factor).differences(HERE)
    assert words in difference and "against" in difference


def test_a_source_is_sampled_over_the_frames_that_are_there() -> None:
    class Source:
        present = np.arange(100) % 2 == 0
        asked: list[int] = []  # noqa: RUF012

        def rain_rate(self, start: int, stop: int) -> np.ndarray:
            assert stop == start + 1 and self.present[start]
            self.asked.append(start)
            return np.full((1, 4, 4), float(start))

    climate = RainClimate.of_source(Source(), number=5)
    assert Source.asked == [0, 24, 50, 74, 98] or Source.asked == [0, 24, 48, 74, 98]
    assert climate is not None and climate.wet_share == pytest.approx(4 / 5)
