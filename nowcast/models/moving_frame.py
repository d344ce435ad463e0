"""The moving frame: rain seen by an observer who travels with it, so that a net need only learn what changes.

Training and prediction both come through here. Motion is that of the input frames alone, estimated on the whole grid.

Shapes: T frames in, L frames out, H rows, W columns; rain rates [mm/h], NaN where missing.
"""

from __future__ import annotations

import numpy as np

from nowcast.data.motion import advect


def into_moving_frame(past: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """The past (T, H, W) carried along the motion (2, H, W) to the time of its last frame, which stays as it is.

    NaN where a frame's rain would have come from outside the grid.
    """
    # Counted from the last frame, frame k is carried k steps.
    carried = advect(past[-2::-1], motion, len(past) - 1)
    return np.concatenate([carried[::-1], past[-1:]])


def future_into_moving_frame(future: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Frames 1 ... L steps ahead (L, H, W) carried back along the motion to where their rain was at issue time."""
    return advect(future, -motion, len(future))
