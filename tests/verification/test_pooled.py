"""Pooled contingency counts against blocks counted one by one."""

from __future__ import annotations

import numpy as np
import pytest

from nowcast.verification.counting import count_events
from nowcast.verification.pooled import pool_blocks, pooled_events


def rain(shape: tuple[int, ...], seed: int, missing: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = np.where(rng.random(shape) < 0.2, rng.gamma(0.7, 4.0, shape), 0.0).astype(np.float32)
    field[rng.random(shape) < missing] = np.nan
    return field


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("scale", [1, 4, 16])
def test_counts_equal_blocks_counted_one_by_one(pooling, scale):
    f, o = rain((2, 50, 39), 1), rain((2, 50, 39), 2)
    thresholds = [0.0, 0.5, 3.0]
    counts = pooled_events(f, o, thresholds, scale, pooling=pooling, min_valid_share=0.6)
    take = np.max if pooling == "max" else lambda values: np.float32(np.mean(values, dtype=np.float64))
    for case in range(2):
        table = np.zeros((3, 4), dtype=int)
        for i in range(50 // scale):
            for j in range(39 // scale):
                box = np.s_[case, i * scale : (i + 1) * scale, j * scale : (j + 1) * scale]
                valid = ~np.isnan(f[box]) & ~np.isnan(o[box])
                if valid.mean() < 0.6:
                    continue
                for t, threshold in enumerate(thresholds):
                    yes, seen = (take(a[box][valid]) >= np.float32(threshold) for a in (f, o))
                    table[t, 0 if yes and seen else 1 if yes else 2 if seen else 3] += 1
        assert np.array_equal(counts.table()[case], table)


def test_scale_one_is_the_pixel_count():
    f, o = rain((30, 30), 1), rain((30, 30), 2)
    assert np.array_equal(pooled_events(f, o, [0.5], 1).table(), count_events(f, o, [0.5]).table())


def test_a_displacement_inside_a_block_is_forgiven_by_the_maximum_and_one_across_is_not():
    f, o = np.zeros((16, 16)), np.zeros((16, 16))
    f[1, 1], o[3, 3] = 5.0, 5.0
    assert pooled_events(f, o, [1.0], 4).hits == 1
    o[3, 3], o[3, 4] = 0.0, 5.0
    table = pooled_events(f, o, [1.0], 4).table()[0]
    assert table.tolist() == [0, 1, 1, 14]


def test_ragged_edges_are_dropped():
    field = np.zeros((19, 21))
    field[16:, :], field[:, 20:] = 99.0, 99.0
    assert pool_blocks(field, 4, pooling="max").shape == (4, 5)
    assert pool_blocks(field, 4, pooling="max").max() == 0.0


def test_a_block_is_valid_from_the_stated_share_on():
    field = np.full((4, 4), 2.0)
    field.flat[:8] = np.nan
    assert pool_blocks(field, 4, pooling="mean", min_valid_share=0.5) == 2.0
    assert np.isnan(pool_blocks(field, 4, pooling="mean", min_valid_share=0.51))
    assert np.isnan(pool_blocks(np.full((4, 4), np.nan), 4, pooling="max", min_valid_share=0.0))


def test_a_constant_field_keeps_its_value_when_averaged():
    field = np.full((16, 16), 0.1, dtype=np.float32)
    assert pool_blocks(field, 16, pooling="mean")[0, 0] == np.float32(0.1)
    assert pooled_events(field, field, [0.1], 16, pooling="mean").hits == 1


def test_pixels_missing_in_one_field_are_missing_in_both():
    f, o = np.zeros((4, 4)), np.zeros((4, 4))
    f[0, 0], o[0, 0] = 50.0, np.nan
    assert pooled_events(f, o, [1.0], 4).false_alarms == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0, "pooling": "max"}, "blocks of 0 pixels"),
        ({"scale": 9, "pooling": "max"}, "blocks of 9 pixels"),
        ({"scale": 2, "pooling": "median"}, "'max' or 'mean'"),
        ({"scale": 2, "pooling": "max", "min_valid_share": 1.5}, r"in \[0, 1\]"),
    ],
)
def test_what_cannot_be_pooled_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pool_blocks(np.zeros((8, 8)), **options)
