"""Forecasters by name, so that a configuration or a bundle can say which one it means.

A third party adds its own with `register_forecaster`, or with an entry point of the group `nowcast.forecasters`;
nothing is ever imported because a file of a user's says so.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nowcast.config import Config
from nowcast.data.normalize import Normalizer
from nowcast.errors import ConfigError
from nowcast.models.base import WithBase
from nowcast.models.blocks import WithOutputBias
from nowcast.models.heads import output_channels
from nowcast.models.noise import with_noise

ENTRY_POINTS = "nowcast.forecasters"
# Large enough for any net to reflect at its edges.
TRIAL_GRID = (256, 256)
UNKNOWN_OPTION = re.compile(r"got an unexpected keyword argument '(\w+)'")


class Forecaster(Protocol):
    """What every net here does: frames in, number of frames to forecast, frames out.

    `forward_logits(frames (B, T, C, H, W), num_frames)` gives logits (B, num_frames, K, H, W), which is what losses
    and heads take; K is 1, or the number of thresholds of an exceedance head.
    """

    def forward_logits(self, frames: Tensor, num_frames: int) -> Tensor: ...

    def set_output_bias(self, mean: float | Sequence[float]) -> None: ...


Builder = Callable[[Config, int], nn.Module]
_BUILDERS: dict[str, Builder] = {}
# Name: module, class. Imported when asked for.
OWN = {
    "autoencoder": ("seq2seq", "RecurrentAutoencoder"),
    "encoder_forecaster": ("encoder_forecaster", "EncoderForecaster"),
    "pyramid": ("pyramid", "Pyramid"),
    "seq2seq": ("seq2seq", "SequenceToSequence"),
    "unet": ("unet", "UNet"),
}


def register_forecaster(name: str, builder: Builder) -> None:
    """Make `builder(config, in_channels) -> nn.Module` known as `name`.

    The module has `forward_logits` and `set_output_bias` as Forecaster says; or is any module that gives logits
    (B, L, K, H, W) for `module(frames, num_frames)`, which then gets an output bias added.
    """
    if name in _BUILDERS or name in OWN:
        raise ValueError(f"a forecaster named '{name}' is registered already")
    _BUILDERS[name] = builder


def forecaster_names() -> list[str]:
    """The names that a configuration can give."""
    return sorted({*OWN, *_BUILDERS, *(point.name for point in metadata.entry_points(group=ENTRY_POINTS))})


def build_forecaster(config: Config, in_channels: int) -> nn.Module:
    """The net that a configuration names, freshly initialised.

    Raises:
        ConfigError: A name that nobody registered, or options that the net does not take or cannot run with.
    """
    name = config.model.name
    builder = _own if name in OWN else _BUILDERS.get(name) or _from_entry_point(name)
    if builder is None:
        raise ConfigError(
            f"no forecaster is named '{name}'",
            f"known: {', '.join(forecaster_names())}; add yours with nowcast.models.register_forecaster",
        )
    try:
        noise = config.model.noise_channels
        net = builder(config, in_channels + noise)
        if name in OWN:
            _try(net, config, in_channels + noise)
        if config.model.base:
            if getattr(net, "sampling_end", 0) > 0:
                raise ValueError(
                    "scheduled sampling feeds true frames back, which a base does not see; set model.base=false or "
                    "model.options.sampling_end=0"
                )
            if noise and in_channels == 1:
                raise ValueError("a base takes the second channel for validity; it does not go with noise alone")
            net = WithBase(net, _borders(config), config.data.output_frames)
        if not hasattr(net, "forward_logits"):
            net = WithOutputBias(net, output_channels(config.model))
        return with_noise(net, noise) if noise else net
    except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        unknown = UNKNOWN_OPTION.search(str(error))
        reason = str(error) if unknown is None else f"it takes no option '{unknown[1]}'"
        raise ConfigError(f"model {name} cannot be built: {reason}") from error


def _try(net: nn.Module, config: Config, in_channels: int) -> None:
    """Run a net once, without data or cost, so that options which it cannot run with are refused here.

    Raises:
        ValueError: It fails, or its forecast has another shape than it should.
    """
    height, width = config.model.options.get("grid") or TRIAL_GRID
    leads = config.data.output_frames
    copied: Any = copy.deepcopy(net).to("meta").eval()
    frames = torch.empty(1, config.data.input_frames, in_channels, height, width, device="meta")
    try:
        with torch.no_grad():
            found = tuple(copied.forward_logits(frames, leads).shape)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"with options {config.model.options} it cannot forecast: {error}") from error
    wanted = (1, leads, output_channels(config.model), height, width)
    if found != wanted:
        raise ValueError(f"with options {config.model.options} its forecast has shape {found}, expected {wanted}")


def _borders(config: Config) -> list[float]:
    """The thresholds of an exceedance head as normalised values; none for a mean head."""
    if config.model.head != "exceedance":
        return []
    scale = config.normalizer
    normalizer = Normalizer(scale.kind, scale.minimum_mm_h, scale.maximum_mm_h)
    return [float(value) for value in normalizer.transform(np.array(config.model.thresholds_mm_h))]


def _from_entry_point(name: str) -> Builder | None:
    for point in metadata.entry_points(group=ENTRY_POINTS, name=name):
        builder: Builder = point.load()
        return builder
    return None


def _own(config: Config, in_channels: int) -> nn.Module:
    model = config.model
    module, name = OWN[model.name]
    options: dict[str, Any] = {"out_channels": output_channels(model)}
    for key in ("kernel_size", "recurrent_kernel_size"):
        if (value := getattr(model, key)) is not None:
            options[key] = value[0] if len(value) == 1 else list(value)
    for key in ("hidden_channels", "patch", "peephole", "decoder_order"):
        if (value := getattr(model, key)) is not None:
            options[key] = value
    if model.name == "unet":
        options |= {"input_frames": config.data.input_frames, "output_frames": config.data.output_frames}
    twice = sorted(options.keys() & model.options.keys())
    if twice:
        raise ValueError(f"model.options sets {', '.join(twice)}, which stands elsewhere in the configuration")
    build: Callable[..., nn.Module] = getattr(import_module(f"nowcast.models.{module}"), name)
    return build(in_channels, **options, **model.options)
