"""Forecasts in mm/h: trained models and baselines behind one interface, frames in and frames out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nowcast.prediction.predict import FramesForecaster

_BASELINES = {
    "persistence": ("persistence", "Persistence"),
    "extrapolation": ("extrapolation", "Extrapolation"),
    "scale-decay": ("scale_decay", "ScaleDecay"),
    "pysteps-lk": ("pysteps_adapters", "PystepsLucasKanade"),
    "pysteps-sprog": ("pysteps_adapters", "PystepsSprog"),
    "pysteps-steps": ("pysteps_adapters", "PystepsSteps"),
}

# Those of pySTEPS need the extra of that name.
BASELINES = tuple(_BASELINES)


def baseline(name: str) -> FramesForecaster | None:
    """The baseline of that name, or None.

    Raises:
        MissingPackageError: It needs a package that is not installed.
    """
    if name not in _BASELINES:
        return None
    module, kind = _BASELINES[name]
    forecaster: FramesForecaster = getattr(importlib.import_module(f"nowcast.prediction.{module}"), kind)()
    return forecaster
