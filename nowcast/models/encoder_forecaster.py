"""EncoderForecaster: the encoding-forecasting network of Shi et al. 2015 (arXiv 1506.04214, section 3.2).

Shapes: B batch, T frames in, L frames out, C channels, H rows, W columns, p patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nowcast.errors import MismatchError
from nowcast.models.blocks import (
    ForecastNet,
    OutputLayer,
    pad_to_multiple,
    per_layer,
    recurrent_layers,
    space_to_depth,
)


class EncoderForecaster(ForecastNet):
    """Patches -> recurrent encoder -> recurrent forecaster, which starts from its states -> 1x1 head -> un-patch.

    The forecaster's first layer has no input weights, the next ones take the h of the one before; predictions are
    not fed back. The head sees the h of all forecaster layers. For any grid size: padded and cropped inside.

    Args:
        in_channels: Channels of an input frame.
        hidden_channels: One number for each encoder layer.
        kernel_size, recurrent_kernel_size: Input-to-state and state-to-state kernels; a list gives one a layer.
        patch: Side of the space-to-depth patches.
        peephole: For ConvLSTM: none, channel (what the paper's parameter counts say) or spatial (with `grid`).
        decoder_order: `same`: forecaster layer k continues encoder layer k. `mirrored`: the first forecaster layer
            continues the last encoder layer, and so on. The paper's counts fit both.
        out_channels: 1 for a field; more for nested exceedance logits (see OutputLayer).
        output_layers: Which forecaster layers the head sees: `all`, as the paper's ConvLSTM, or the `last`, as its
            FC-LSTM (which is this net with a patch as large as the image and 1x1 kernels).
        cell: convrnn, convlstm, convgru or trajgru.
        grid: (H, W), for spatial peepholes alone.
        options: Further arguments of the recurrent layers: norm, forget_bias, dropout, recompute, ...; a list gives
            one value an encoder layer, and the forecaster layer that continues it takes the same.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: Sequence[int] = (64, 64),
        *,
        kernel_size: int | list[int] = 3,
        recurrent_kernel_size: int | list[int] | None = None,
        patch: int = 2,
        peephole: str | None = None,
        decoder_order: str = "same",
        out_channels: int = 1,
        output_layers: str = "all",
        cell: str = "convlstm",
        grid: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, multiple=patch)
        hidden = list(hidden_channels)
        if not hidden:
            raise ValueError("hidden_channels must name at least one layer")
        if decoder_order not in ("same", "mirrored"):
            raise ValueError(f"decoder_order must be same or mirrored, got '{decoder_order}'")
        if output_layers not in ("all", "last"):
            raise ValueError(f"output_layers must be all or last, got '{output_layers}'")
        self.mirrored = decoder_order == "mirrored"
        self.patch = patch
        if cell == "convlstm":
            options["peephole"] = "channel" if peephole is None else peephole
        elif peephole is not None:
            raise ValueError(f"peephole belongs to cell convlstm, got cell {cell}")
        self.grid = None if grid is None else tuple(pad_to_multiple(torch.empty(*grid), patch).shape)
        if self.grid is not None:
            options["grid"] = tuple(side // patch for side in self.grid)
        order = slice(None, None, -1 if self.mirrored else 1)
        kernels = per_layer("kernel_size", kernel_size, len(hidden))
        recurrent = per_layer("recurrent_kernel_size", recurrent_kernel_size, len(hidden))

        def layers(channels: int, order: slice) -> Any:
            chosen = {name: value[order] if isinstance(value, list) else value for name, value in options.items()}
            if recurrent_kernel_size is not None:
                chosen["recurrent_kernel_size"] = recurrent[order]
            return recurrent_layers(cell, channels, hidden[order], kernels[order], **chosen)

        self.encoder = layers(in_channels * patch**2, slice(None))
        self.forecaster = layers(0, order)
        self.first_output = 0 if output_layers == "all" else len(hidden) - 1
        self.output = OutputLayer(sum(hidden[order][self.first_output :]), out_channels, patch=patch)

    def check(self, frames: Tensor, num_frames: int) -> None:
        super().check(frames, num_frames)
        padded = tuple(side + -side % self.patch for side in frames.shape[-2:])
        if self.grid is not None and padded != self.grid:
            raise MismatchError(
                f"this net has peephole weights for a grid of {self.grid[0]}x{self.grid[1]} pixels, padding included, "
                f"got frames of {frames.shape[-2]}x{frames.shape[-1]}",
                "forecast on that grid, or train a net with channel peepholes, which takes any",
            )

    def compute_logits(self, frames: Tensor, num_frames: int) -> Tensor:
        _, state = self.encoder(space_to_depth(frames, self.patch))
        outputs, _ = self.forecaster(None, state[::-1] if self.mirrored else state, num_steps=num_frames)
        logits: Tensor = self.output(torch.cat(outputs[self.first_output :], dim=2))
        return logits
