"""Forecasts in mm/h: trained models and baselines behind one interface, frames in and frames out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nowcast.prediction.predict import FramesForecaster

BASELINES = ("persistence", "extrapolation", "scale-decay")


def baseline(name: str) -> FramesForecaster | None:
    """The baseline of that name, or None."""
    if name == "persistence":
        from nowcast.prediction.persistence import Persistence

        return Persistence()
    if name == "extrapolation":
        from nowcast.prediction.extrapolation import Extrapolation

        return Extrapolation()
    if name == "scale-decay":
        from nowcast.prediction.scale_decay import ScaleDecay

        return ScaleDecay()
    return None
