"""Implausible frames: one that leaves its neighbours is found, weather that changes is not."""

from __future__ import annotations

import numpy as np
import pytest

from nowcast.data.plausibility import implausible_frames

FRAMES = 12


def series(**changed: tuple[int, float]) -> dict[str, np.ndarray]:
    """Rain that grows steadily, with one value of one frame replaced."""
    grow = np.linspace(1.0, 2.0, FRAMES)
    values = {
        "valid_pixels": np.full(FRAMES, 700.0),
        "wet_share": 0.15 * grow,
        "edge_share": 0.01 * grow,
        "mean_rate": 0.2 * grow,
        "maximum_rate": 20.0 * grow,
    }
    for name, (index, value) in changed.items():
        values[name][index] = value
    return values


def found(values: dict[str, np.ndarray], present: np.ndarray | None = None) -> list[int]:
    present = np.ones(FRAMES, dtype=bool) if present is None else present
    return [index for index, _ in implausible_frames(values, present, pixels=1000)]


def test_rain_that_grows_is_plausible() -> None:
    assert found(series()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("valid_pixels", 690.0), ("valid_pixels", 800.0), ("wet_share", 0.6), ("wet_share", 0.0), ("edge_share", 0.2),
     ("mean_rate", 1.0), ("mean_rate", 0.05), ("maximum_rate", 150.0)],
)  # fmt: skip
def test_a_frame_that_leaves_its_neighbours_is_found_and_they_are_not(name: str, value: float) -> None:
    assert found(series(**{name: (5, value)})) == [5]


def test_a_frame_with_too_few_neighbours_is_not_judged() -> None:
    present = np.zeros(FRAMES, dtype=bool)
    present[[4, 5]] = True
    assert found(series(wet_share=(5, 0.9)), present) == []
    present[6] = True
    assert found(series(wet_share=(5, 0.9)), present) == [5]


def test_a_single_pixel_counts_where_the_mask_stands_still() -> None:
    assert found(series(valid_pixels=(5, 701.0))) == [5]
    moving = series()
    moving["valid_pixels"] += np.arange(FRAMES) % 3
    moving["valid_pixels"][5] += 5
    assert found(moving) == []
    outage = series()
    outage["valid_pixels"][6:] -= 10
    assert found(outage) == []


def test_a_peak_that_falls_or_doubles_is_weather() -> None:
    assert found(series(maximum_rate=(5, 5.0))) == [] and found(series(maximum_rate=(5, 80.0))) == []


@pytest.mark.parametrize(("name", "usual", "odd"), [("cut_pixels", 12.0, 40.0), ("lone_rate", 10.0, 60.0)])
def test_a_mark_of_damage_is_odd_far_above_all_others(name: str, usual: float, odd: float) -> None:
    values = {key: np.repeat(value[:1], 2 * FRAMES) for key, value in series().items()}
    values[name] = np.linspace(0.0, usual, 2 * FRAMES)
    present = np.ones(2 * FRAMES, dtype=bool)
    assert found(values, present) == []
    values[name][5] = odd
    assert found(values, present) == [5]
    values[name][20] = 1.1 * odd
    assert found(values, present) == [5, 20]
    # Where many frames have it, it is the source's way.
    values[name][8:12] = odd
    assert found(values, present) == []


def test_a_mark_is_compared_with_enough_frames_or_not_at_all() -> None:
    few = series() | {"cut_pixels": np.full(FRAMES, np.nan), "lone_rate": np.zeros(FRAMES)}
    few["cut_pixels"][3:9] = [0, 0, 0, 90, 0, 0]
    few["lone_rate"][5] = 500.0
    assert found(few) == []
    few["cut_pixels"][9] = 0
    assert found(few) == [6]


def test_the_reason_names_what_is_odd() -> None:
    ((_, reason),) = implausible_frames(series(valid_pixels=(5, 690.0)), np.ones(FRAMES, dtype=bool), pixels=1000)
    assert reason == "10 pixels fewer are measured than in all around it"


def test_a_radar_that_is_out_makes_a_frame_partial_and_not_implausible() -> None:
    assert found(series(valid_pixels=(5, 600.0))) == []
