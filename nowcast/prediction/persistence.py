"""Persistence: the last frame stays. What every forecast has to beat."""

from __future__ import annotations

import numpy as np

from nowcast.errors import DataError


class Persistence:
    """The baseline that changes nothing."""

    name = "persistence"
    input_frames = 1

    def forecast_frames(self, frames: np.ndarray, num_leads: int) -> np.ndarray:
        """The last of `frames` (T, H, W) [mm/h] `num_leads` times, (num_leads, H, W) float32; NaN stays NaN."""
        require_frames(frames, self.input_frames, self.name)
        return np.repeat(np.asarray(frames[-1:], dtype=np.float32), num_leads, axis=0)


def require_frames(frames: np.ndarray, input_frames: int, name: str) -> None:
    """Refuse what a baseline cannot start from.

    Raises:
        DataError: Not (T, H, W), or fewer than `input_frames` frames.
    """
    if frames.ndim != 3 or len(frames) < input_frames:
        raise DataError(f"{name} needs {input_frames} frames (T, H, W), got an array of shape {frames.shape}")
