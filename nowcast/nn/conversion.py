"""torch.nn.LSTM, GRU and RNN as convolutional layers with 1x1 kernels, which compute the same at every pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from nowcast.nn.cell import ConvCell


def check_source(source: Any, wanted: type[nn.RNNBase]) -> None:
    """Refuse what is not a torch layer of the wanted type, and projections, which have no counterpart here."""
    if not isinstance(source, wanted):
        raise TypeError(f"source must be a torch.nn.{wanted.__name__}, got {type(source).__name__}")
    if source.proj_size:
        raise ValueError(f"an LSTM with proj_size={source.proj_size} has no convolutional counterpart here")


def shared_options(source: nn.RNNBase) -> dict[str, Any]:
    """The arguments of the layer that matches a torch layer."""
    weight = source.weight_hh_l0
    return {
        "in_channels": source.input_size,
        "hidden_channels": source.hidden_size,
        "kernel_size": 1,
        "num_layers": source.num_layers,
        "bias": source.bias,
        "batch_first": source.batch_first,
        "bidirectional": source.bidirectional,
        "dropout": source.dropout if source.num_layers > 1 else 0.0,
        "device": weight.device,
        "dtype": weight.dtype,
    }


@torch.no_grad()
def copy_weights(source: nn.RNNBase, cells: list[ConvCell]) -> None:
    """Fill cells, in the order of a state, with the weights of a torch layer; its two biases of a gate become one."""
    for index, cell in enumerate(cells):
        layer, backward = divmod(index, 2) if source.bidirectional else (index, 0)
        suffix = f"l{layer}_reverse" if backward else f"l{layer}"
        targets = [(cell.weight_ih, "weight_ih"), (cell.weight_hh, "weight_hh")]
        for target, name in targets:
            assert target is not None
            target.copy_(getattr(source, f"{name}_{suffix}").view_as(target))
        if cell.bias is None:
            continue
        of_input: Tensor = getattr(source, f"bias_ih_{suffix}")
        of_state: Tensor = getattr(source, f"bias_hh_{suffix}")
        cell.bias.copy_(of_input + of_state)
        hidden_only = getattr(cell, "bias_hn", None)
        if hidden_only is not None:
            # Of the candidate of a GRU, the bias of the state is inside the reset gate, so that the two stay two.
            cell.bias[-cell.hidden_channels :].copy_(of_input[-cell.hidden_channels :])
            hidden_only.copy_(of_state[-cell.hidden_channels :])
