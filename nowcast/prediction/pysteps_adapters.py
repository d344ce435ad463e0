"""The classical nowcasts of pySTEPS behind our interface, to compare with: Lucas-Kanade, S-PROG and STEPS.

Only here is pySTEPS imported, and only when one of these is made. It comes with the extra `pysteps`; its own default
motion needs OpenCV beside it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nowcast.data.grid import Grid
from nowcast.errors import MismatchError, MissingPackageError
from nowcast.prediction.persistence import require_frames

EXTRA = "pysteps"
INPUT_FRAMES = 3
# pySTEPS' own convention: decibels of the rate, dry at -15 below a threshold of 0.1 mm/h.
WET_MM_H, WET_DB, DRY_DB = 0.1, -10.0, -15.0
CASCADE_LEVELS = 6
# STEPS perturbs motion and rain area by kilometres and minutes: pixel and step must be these to within a percent.
SCALE_TOLERANCE = 0.01

# A motion field (2, H, W) [pixels per step], rows then columns, of rain rates (T, H, W) [mm/h].
MotionEstimate = Callable[[np.ndarray], np.ndarray]


def lucas_kanade(frames: np.ndarray) -> np.ndarray:
    """The dense Lucas-Kanade motion of pySTEPS, (2, H, W) [pixels per step], rows then columns.

    Raises:
        MissingPackageError: pySTEPS or OpenCV is not installed.
    """
    _require_packages("the Lucas-Kanade motion", opencv=True)
    with _silent():
        columns, rows = _pysteps("motion").get_method("LK")(_decibel(frames))
    return np.stack([rows, columns])


class PystepsLucasKanade:
    """pySTEPS extrapolation: dense Lucas-Kanade motion and semi-Lagrangian advection of the last frame."""

    name = "pysteps-lk"
    input_frames = INPUT_FRAMES

    def __init__(self, motion: MotionEstimate = lucas_kanade) -> None:
        _require_packages(self.name, opencv=motion is lucas_kanade)
        self._motion = motion

    def forecast_frames(self, frames: np.ndarray, num_leads: int) -> np.ndarray:
        """(num_leads, H, W) float32 [mm/h]; NaN where nobody knows what comes."""
        recent = _recent(frames, self.name)
        if _is_dry(recent):
            return _unchanged(recent, num_leads)
        velocity = _velocity(self._motion(recent))
        with _silent():
            extrapolate = _pysteps("extrapolation").get_method("semilagrangian")
            forecast = extrapolate(recent[-1], velocity, num_leads, allow_nonfinite_values=True)
        return np.asarray(forecast, dtype=np.float32)


class PystepsSprog:
    """pySTEPS S-PROG (Seed 2003): six cascade levels, AR(2), matched to the last frame."""

    name = "pysteps-sprog"
    input_frames = INPUT_FRAMES

    def __init__(self, motion: MotionEstimate = lucas_kanade) -> None:
        _require_packages(self.name, opencv=motion is lucas_kanade)
        self._motion = motion

    def forecast_frames(self, frames: np.ndarray, num_leads: int) -> np.ndarray:
        """(num_leads, H, W) float32 [mm/h]; NaN where nobody knows what comes."""
        recent = _recent(frames, self.name)
        if _is_dry(recent):
            return _unchanged(recent, num_leads)
        velocity = _velocity(self._motion(recent))
        with _silent():
            forecast = _pysteps("nowcasts").get_method("sprog")(
                _decibel(recent), velocity, num_leads, precip_thr=WET_DB, n_cascade_levels=CASCADE_LEVELS
            )
        return _rain_rate(forecast)


@dataclass(frozen=True)
class PystepsSteps:
    """pySTEPS STEPS (Bowler et al. 2006), an ensemble; as a forecast of frames, the mean of its members.

    Attributes:
        members: How many.
        seed: The same seed gives the same members.
        pixel_km, step_minutes: Scale of the perturbations; data of another scale is refused.
        motion: Motion estimate; that of pySTEPS unless given.
    """

    members: int = 20
    seed: int = 1
    pixel_km: float = 1.0
    step_minutes: float = 5.0
    motion: MotionEstimate = lucas_kanade

    name = "pysteps-steps"
    input_frames = INPUT_FRAMES

    def __post_init__(self) -> None:
        _require_packages(self.name, opencv=self.motion is lucas_kanade)

    def require_fit(self, grid: Grid, step: np.timedelta64, name: str) -> None:
        """Refuse data whose scale is not the one of the perturbations.

        Raises:
            MismatchError: With both sides named.
        """
        minutes = float(step / np.timedelta64(1, "s")) / 60
        found = (*grid.pixel_size_km, minutes)
        if not np.allclose(found, (self.pixel_km, self.pixel_km, self.step_minutes), rtol=SCALE_TOLERANCE):
            dy, dx = grid.pixel_size_km
            raise MismatchError(
                f"{self.name} is set up for pixels of {self.pixel_km:g} km and steps of {self.step_minutes:g} min, "
                f"{name} has {dy:.4g}x{dx:.4g} km and {minutes:g} min",
                "from Python: PystepsSteps(pixel_km=..., step_minutes=...)",
            )

    def forecast_members(
        self, frames: np.ndarray, num_leads: int, members: int | None = None, seed: int | None = None
    ) -> np.ndarray:
        """(members, num_leads, H, W) float32 [mm/h]; NaN where nobody knows what comes.

        As many members, drawn by the seed, as the attributes say unless given.
        """
        recent = _recent(frames, self.name)
        members = self.members if members is None else members
        if _is_dry(recent):
            return np.repeat(_unchanged(recent, num_leads)[None], members, axis=0)
        velocity = _velocity(self.motion(recent))
        with _silent():
            forecast = _pysteps("nowcasts").get_method("steps")(
                _decibel(recent),
                velocity,
                num_leads,
                n_ens_members=members,
                n_cascade_levels=CASCADE_LEVELS,
                precip_thr=WET_DB,
                kmperpixel=self.pixel_km,
                timestep=self.step_minutes,
                seed=self.seed if seed is None else seed,
            )
        return _rain_rate(forecast)

    def forecast_frames(self, frames: np.ndarray, num_leads: int) -> np.ndarray:
        """The mean of the members, (num_leads, H, W) float32 [mm/h]; NaN where any member is NaN."""
        return np.asarray(self.forecast_members(frames, num_leads).mean(axis=0, dtype=np.float64), dtype=np.float32)


def _require_packages(purpose: str, *, opencv: bool) -> None:
    if importlib.util.find_spec("pysteps") is None:
        raise MissingPackageError("pysteps", EXTRA, purpose)
    if opencv and importlib.util.find_spec("cv2") is None:
        raise MissingPackageError("opencv-python-headless", EXTRA, purpose)


def _pysteps(module: str) -> Any:
    return importlib.import_module(f"pysteps.{module}")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """pySTEPS prints its settings, and divides by zero where nothing rains."""
    with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        yield


def _recent(frames: np.ndarray, name: str) -> np.ndarray:
    require_frames(frames, INPUT_FRAMES, name)
    return np.asarray(frames[-INPUT_FRAMES:], dtype=np.float64)


def _is_dry(frames: np.ndarray) -> bool:
    """Whether some frame has no rain to track; pySTEPS fails on those."""
    return not np.any(frames >= WET_MM_H, axis=(1, 2)).all()


def _unchanged(frames: np.ndarray, num_leads: int) -> np.ndarray:
    return np.repeat(frames[-1:].astype(np.float32), num_leads, axis=0)


def _velocity(motion: np.ndarray) -> np.ndarray:
    """pySTEPS has columns before rows."""
    return np.asarray(motion[::-1], dtype=np.float64)


def _decibel(rain_rate: np.ndarray) -> np.ndarray:
    wet = 10.0 * np.log10(np.maximum(rain_rate, WET_MM_H))
    return np.where(np.isnan(rain_rate), np.nan, np.where(rain_rate >= WET_MM_H, wet, DRY_DB))


def _rain_rate(decibel: np.ndarray) -> np.ndarray:
    decibel = np.asarray(decibel)
    rate = np.where(decibel >= WET_DB, 10.0 ** (decibel / 10.0), 0.0)
    return np.where(np.isnan(decibel), np.nan, rate).astype(np.float32)
