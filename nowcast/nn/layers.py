"""ConvRNN, ConvLSTM and ConvGRU: recurrent layers over time, used as torch.nn.LSTM is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, Unpack

from torch import Tensor, nn

from nowcast.nn import conversion
from nowcast.nn.cells import ConvGRUCell, ConvLSTMCell, ConvRNNCell
from nowcast.nn.recurrent import LayerOptions, RecurrentLayers, Sizes


class ConvRNN(RecurrentLayers):
    """Layers of ConvRNNCell over time, h = tanh(Wx * x + Wh * h' + b). Options: see RecurrentLayers."""

    cell_class = ConvRNNCell

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | Sequence[int],
        kernel_size: Sizes,
        num_layers: int = 1,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(in_channels, hidden_channels, kernel_size, num_layers, **options)

    @classmethod
    def from_rnn(cls, source: nn.RNN, *, spatial_dims: int = 2) -> Self:
        """A 1x1-kernel layer that computes at every pixel what a torch.nn.RNN does."""
        conversion.check_source(source, nn.RNN)
        layer = cls(**conversion.shared_options(source), spatial_dims=spatial_dims, activation=source.nonlinearity)
        conversion.copy_weights(source, layer.cells_in_order())
        return layer


class ConvLSTM(RecurrentLayers):
    """Layers of ConvLSTMCell over time, the ConvLSTM of Shi et al. 2015 (arXiv 1506.04214).

    Args:
        peephole, forget_bias: As for ConvLSTMCell.
        grid: The grid of the first layer's input, for peephole="spatial" alone.
        options: See RecurrentLayers.

    Example:
        >>> layer = ConvLSTM(2, [32, 16], kernel_size=3, num_layers=2, batch_first=True)
        >>> output, state = layer(torch.zeros(4, 10, 2, 64, 64))
        >>> tuple(output.shape), [tuple(h.shape) for h, c in state]
        ((4, 10, 16, 64, 64), [(4, 32, 64, 64), (4, 16, 64, 64)])
    """

    cell_class = ConvLSTMCell

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | Sequence[int],
        kernel_size: Sizes,
        num_layers: int = 1,
        *,
        peephole: str = "none",
        grid: Sequence[int] | None = None,
        forget_bias: float = 0.0,
        **options: Unpack[LayerOptions],
    ) -> None:
        cell_options = {"peephole": peephole, "grid": grid, "forget_bias": forget_bias}
        super().__init__(in_channels, hidden_channels, kernel_size, num_layers, **options, **cell_options)

    @classmethod
    def from_lstm(cls, source: nn.LSTM, *, spatial_dims: int = 2) -> Self:
        """A 1x1-kernel layer that computes at every pixel what a torch.nn.LSTM does."""
        conversion.check_source(source, nn.LSTM)
        layer = cls(**conversion.shared_options(source), spatial_dims=spatial_dims)
        conversion.copy_weights(source, layer.cells_in_order())
        return layer


class ConvGRU(RecurrentLayers):
    """Layers of ConvGRUCell over time. `reset` is as for ConvGRUCell, the other options as for RecurrentLayers."""

    cell_class = ConvGRUCell

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | Sequence[int],
        kernel_size: Sizes,
        num_layers: int = 1,
        *,
        reset: str = "after",
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(in_channels, hidden_channels, kernel_size, num_layers, reset=reset, **options)

    @classmethod
    def from_gru(cls, source: nn.GRU, *, spatial_dims: int = 2) -> Self:
        """A 1x1-kernel layer that computes at every pixel what a torch.nn.GRU does."""
        conversion.check_source(source, nn.GRU)
        layer = cls(**conversion.shared_options(source), spatial_dims=spatial_dims)
        conversion.copy_weights(source, layer.cells_in_order())
        return layer


def detach_state(state: Any) -> Any:
    """The same state cut off from the graph that computed it, to go on from chunk to chunk of a long sequence."""
    if isinstance(state, Tensor):
        return state.detach()
    return tuple(detach_state(entry) for entry in state)
