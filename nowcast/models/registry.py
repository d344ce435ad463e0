"""Forecasters by name, so that a configuration or a bundle can say which one it means.

A third party adds its own with `register_forecaster`, or with an entry point of the group `nowcast.forecasters`;
nothing is ever imported because a file of a user's says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, Protocol

from torch import Tensor, nn

from nowcast.config import ModelConfig
from nowcast.errors import ConfigError

ENTRY_POINTS = "nowcast.forecasters"


class Forecaster(Protocol):
    """What every net here does: frames in, number of frames to forecast, frames out.

    `forward(frames (B, T, C, H, W), num_frames)` gives (B, num_frames, 1, H, W) in [0, 1];
    `forward_logits` gives the same before the sigmoid, which is what the losses take.
    """

    def forward_logits(self, frames: Tensor, num_frames: int) -> Tensor: ...

    def set_output_bias(self, mean: float) -> None: ...


Builder = Callable[[ModelConfig, int], nn.Module]
_BUILDERS: dict[str, Builder] = {}


def register_forecaster(name: str, builder: Builder) -> None:
    """Make `builder(config, in_channels) -> nn.Module` known as `name`."""
    if name in _BUILDERS:
        raise ValueError(f"a forecaster named '{name}' is registered already")
    _BUILDERS[name] = builder


def build_forecaster(config: ModelConfig, in_channels: int) -> nn.Module:
    """The net that a configuration names, freshly initialised.

    Raises:
        ConfigError: A name that nobody registered, or options that the net does not take.
    """
    builders: Mapping[str, Builder] = {"encoder_forecaster": _encoder_forecaster, **_BUILDERS}
    builder = builders.get(config.name) or _from_entry_point(config.name)
    if builder is None:
        raise ConfigError(
            f"no forecaster is named '{config.name}'",
            f"known: {', '.join(sorted(builders))}; add yours with nowcast.models.register_forecaster",
        )
    try:
        return builder(config, in_channels)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model {config.name} cannot be built: {error}") from error


def _from_entry_point(name: str) -> Builder | None:
    for point in metadata.entry_points(group=ENTRY_POINTS, name=name):
        builder: Builder = point.load()
        return builder
    return None


def _encoder_forecaster(config: ModelConfig, in_channels: int) -> nn.Module:
    from nowcast.models.encoder_forecaster import EncoderForecaster

    options: dict[str, Any] = {
        "kernel_size": _one_or_many(config.kernel_size),
        "patch": config.patch,
        "peephole": config.peephole,
        "decoder_order": config.decoder_order,
        **config.options,
    }
    if config.recurrent_kernel_size is not None:
        options["recurrent_kernel_size"] = _one_or_many(config.recurrent_kernel_size)
    return EncoderForecaster(in_channels, config.hidden_channels, out_channels=1, **options)


def _one_or_many(values: tuple[int, ...]) -> int | list[int]:
    return values[0] if len(values) == 1 else list(values)
