"""Convolutional recurrent networks for torch: ConvRNN, ConvLSTM, ConvGRU and TrajGRU, and their cells.

This package needs torch alone and knows nothing of rain; README.md beside this file is its manual.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nowcast.nn.cells import ConvGRUCell, ConvLSTMCell, ConvRNNCell
    from nowcast.nn.layers import ConvGRU, ConvLSTM, ConvRNN, detach_state
    from nowcast.nn.trajgru import TrajGRU, TrajGRUCell

__all__ = [
    "ConvGRU",
    "ConvGRUCell",
    "ConvLSTM",
    "ConvLSTMCell",
    "ConvRNN",
    "ConvRNNCell",
    "TrajGRU",
    "TrajGRUCell",
    "detach_state",
]

_MODULES = ("cells", "layers", "trajgru")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = getattr(import_module(f"nowcast.nn.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module 'nowcast.nn' has no attribute '{name}'")
