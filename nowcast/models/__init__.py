"""Forecasters built from `nowcast.nn`, one interface: frames in, number of frames to forecast, frames out.

Here too: heads, which read a net's outputs as rain; inputs, which turn rain into tensors; bundles, the portable
models; and the registry of names. The public names are imported when first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nowcast.models.bundle import Bundle as Bundle
    from nowcast.models.bundle import load_bundle as load_bundle
    from nowcast.models.encoder_forecaster import EncoderForecaster as EncoderForecaster
    from nowcast.models.heads import BoundedMean as BoundedMean
    from nowcast.models.heads import Exceedance as Exceedance
    from nowcast.models.pyramid import Pyramid as Pyramid
    from nowcast.models.registry import build_forecaster as build_forecaster
    from nowcast.models.registry import forecaster_names as forecaster_names
    from nowcast.models.registry import register_forecaster as register_forecaster
    from nowcast.models.seq2seq import RecurrentAutoencoder as RecurrentAutoencoder
    from nowcast.models.seq2seq import SequenceToSequence as SequenceToSequence
    from nowcast.models.unet import UNet as UNet

_HOMES = {
    "BoundedMean": "heads",
    "Bundle": "bundle",
    "EncoderForecaster": "encoder_forecaster",
    "Exceedance": "heads",
    "Pyramid": "pyramid",
    "RecurrentAutoencoder": "seq2seq",
    "SequenceToSequence": "seq2seq",
    "UNet": "unet",
    "build_forecaster": "registry",
    "forecaster_names": "registry",
    "load_bundle": "bundle",
    "register_forecaster": "registry",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nowcast.models' has no attribute '{name}'")
    value = getattr(import_module(f"nowcast.models.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
