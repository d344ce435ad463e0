"""Windows cross no gap, splits share no frame and stay apart, rainy crops are preferred."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nowcast.data.windows import (
    keep_probability,
    present_runs,
    require_windows,
    split_frames,
    split_windows,
    window_report,
    window_starts,
)
from nowcast.errors import DataError


@given(st.lists(st.booleans(), min_size=0, max_size=60), st.integers(1, 8))
def test_windows_are_exactly_the_gap_free_spans(present, length):
    present = np.array(present, dtype=bool)
    expected = [i for i in range(len(present) - length + 1) if present[i : i + length].all()]
    assert window_starts(present, length).tolist() == expected


def test_runs_are_start_and_stop_of_present_frames():
    assert present_runs(np.array([0, 1, 1, 0, 1], dtype=bool)).tolist() == [[1, 3], [4, 5]]


@given(
    st.integers(0, 3000),
    st.integers(1, 20),
    st.integers(1, 200),
    st.floats(0, 0.4),
    st.floats(0, 0.4),
)
def test_no_two_splits_come_nearer_than_one_window(num_frames, length, block, validation, test):
    labels = split_frames(num_frames, length, block_frames=block, validation_share=validation, test_share=test)
    frames = np.flatnonzero(labels >= 0)
    changes = np.flatnonzero(np.diff(labels[frames]))
    gaps = frames[changes + 1] - frames[changes] - 1
    assert np.all(gaps >= length)


@pytest.mark.parametrize("num_frames", [200, 20_000])
def test_shares_are_met_within_a_few_percent(num_frames):
    labels = split_frames(num_frames, 3, block_frames=50, validation_share=0.2, test_share=0.1)
    shares = [np.mean(labels == code) for code in (0, 1, 2)]
    np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=0.05)


def test_split_windows_stay_inside_their_split():
    present = np.ones(400, dtype=bool)
    present[100:110] = False
    windows = split_windows(present, 10, block_frames=40, validation_share=0.2, test_share=0.2)
    used = [{frame for start in starts for frame in range(start, start + 10)} for starts in windows.values()]
    assert all(used)
    assert not (used[0] & used[1] or used[0] & used[2] or used[1] & used[2])
    assert not any(present[list(frames)].size and not present[list(frames)].all() for frames in used)


def test_a_gappy_archive_is_said_to_be_so_with_the_counts():
    present = np.tile([True, True, False], 10)
    assert window_report(present, 3).longest_run == 2
    with pytest.raises(DataError, match="20 of 30 frames present in 10 gap-free runs, the longest 2; 0 windows of 3"):
        require_windows(present, 3, "gappy.zarr")


def test_keep_probability_follows_the_formula_and_counts_missing_as_dry():
    field = np.array([[0.0, 1.0], [np.nan, 3.0]])
    expected = 2e-4 + 0.1 * np.mean([0, 1 - np.exp(-1), 0, 1 - np.exp(-3)])
    assert keep_probability(field) == pytest.approx(expected, rel=1e-6)
    assert keep_probability(np.full((4, 4), np.nan)) == pytest.approx(2e-4)
