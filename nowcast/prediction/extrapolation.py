"""Extrapolation: the last frame carried along the motion of the last frames, unchanged on its way."""

from __future__ import annotations

import numpy as np

from nowcast.data.motion import advect, estimate_motion
from nowcast.prediction.persistence import require_frames


class Extrapolation:
    """Lagrangian persistence (Germann and Zawadzki 2002): rain moves on and neither grows nor decays."""

    name = "extrapolation"
    input_frames = 3

    def forecast_frames(self, frames: np.ndarray, num_leads: int) -> np.ndarray:
        """(num_leads, H, W) float32 [mm/h] after the last of `frames` (T, H, W); NaN where nobody knows what comes."""
        require_frames(frames, self.input_frames, self.name)
        recent = np.asarray(frames[-self.input_frames :], dtype=np.float32)
        return advect(recent[-1], estimate_motion(recent), num_leads)
