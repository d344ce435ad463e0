"""With 1x1 kernels, a layer is torch.nn.LSTM, GRU or RNN at every pixel: outputs, states and all gradients."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from nowcast.nn import ConvGRU, ConvLSTM, ConvRNN
from nowcast.nn.recurrent import RecurrentLayers

STEPS, BATCH, CHANNELS, HIDDEN, GRID = 4, 3, 2, 3, (2, 3)
PIXELS = GRID[0] * GRID[1]
LENGTHS = [2, 4, 1]  # of the packed sequences: unsorted on purpose

PAIRS: dict[str, Any] = {
    "lstm": (nn.LSTM, ConvLSTM.from_lstm, {}),
    "gru": (nn.GRU, ConvGRU.from_gru, {}),
    "rnn": (nn.RNN, ConvRNN.from_rnn, {}),
    "rnn relu": (nn.RNN, ConvRNN.from_rnn, {"nonlinearity": "relu"}),
}
CONFIGURATIONS = list(itertools.product([1, 2], [False, True], [False, True], [True, False], [False, True]))


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize(("layers", "bidirectional", "packed", "bias", "batch_first"), CONFIGURATIONS)
def test_one_by_one_kernels_equal_torch_at_every_pixel(
    kind: str, layers: int, bidirectional: bool, packed: bool, bias: bool, batch_first: bool
) -> None:
    torch.manual_seed(0)
    torch_class, convert, options = PAIRS[kind]
    flat = torch_class(
        CHANNELS,
        HIDDEN,
        layers,
        bias=bias,
        batch_first=batch_first,
        bidirectional=bidirectional,
        dtype=torch.float64,
        **options,
    )
    ours = convert(flat)
    directions = 2 if bidirectional else 1
    frames = torch.randn(STEPS, BATCH, CHANNELS, *GRID, dtype=torch.float64)
    start = torch.randn(2, layers * directions, BATCH, HIDDEN, *GRID, dtype=torch.float64)

    x, x_flat = _leaf(frames), _leaf(_pixels_as_batch(frames, axis=1))
    s, s_flat = _leaf(start), _leaf(_pixels_as_batch(start, axis=2))
    output, state = ours(_given(x, packed, batch_first, 1), _state_of_ours(s, kind))
    wanted, wanted_state = flat(_given(x_flat, packed, batch_first, PIXELS), _state_of_torch(s_flat, kind))

    output, wanted = _padded(output, batch_first), _padded(wanted, batch_first)
    ours_h, ours_c = _stacked(state, kind)
    torch_h, torch_c = wanted_state if kind == "lstm" else (wanted_state, wanted_state)
    pairs = [
        (_pixels_as_batch(output, axis=1), wanted),
        (_pixels_as_batch(ours_h, axis=1), torch_h),
        (_pixels_as_batch(ours_c, axis=1), torch_c),
    ]
    for have, want in pairs:
        torch.testing.assert_close(have, want)

    # One random sum of everything that comes out, so that every gradient is put to the test.
    weights = [torch.randn_like(want) for _, want in pairs]
    sum((have * w).sum() for (have, _), w in zip(pairs, weights, strict=True)).backward()
    sum((want * w).sum() for (_, want), w in zip(pairs, weights, strict=True)).backward()
    torch.testing.assert_close(_pixels_as_batch(_gradient(x), axis=1), _gradient(x_flat))
    torch.testing.assert_close(_pixels_as_batch(_gradient(s), axis=2), _gradient(s_flat))
    for have, want in _matching_gradients(ours, flat):
        torch.testing.assert_close(have, want)


def test_conversion_refuses_projections_and_other_layers() -> None:
    with pytest.raises(ValueError, match="proj_size=2 has no convolutional counterpart"):
        ConvLSTM.from_lstm(nn.LSTM(2, 4, proj_size=2))
    with pytest.raises(TypeError, match=r"source must be a torch\.nn\.GRU, got LSTM"):
        ConvGRU.from_gru(nn.LSTM(2, 4))


@pytest.mark.parametrize("spatial_dims", [1, 3])
def test_conversion_to_other_dimensions(spatial_dims: int) -> None:
    flat = nn.LSTM(2, 3)
    ours = ConvLSTM.from_lstm(flat, spatial_dims=spatial_dims)
    frames = torch.randn(4, 1, 2)
    output, _ = ours(frames.view(4, 1, 2, *(1,) * spatial_dims))
    torch.testing.assert_close(output.view(4, 1, 3), flat(frames)[0])


def _leaf(values: Tensor) -> Tensor:
    return values.clone().requires_grad_()


def _gradient(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def _pixels_as_batch(values: Tensor, axis: int) -> Tensor:
    """(..., B, C, H, W) to (..., B * H * W, C), with B on `axis`."""
    return values.movedim(axis + 1, -1).flatten(axis, axis + 2)


def _given(frames: Tensor, packed: bool, batch_first: bool, repeats: int) -> Tensor | PackedSequence:
    """Time-major frames in the form that the configuration asks for."""
    given = frames.transpose(0, 1) if batch_first else frames
    if not packed:
        return given
    lengths = torch.tensor(LENGTHS).repeat_interleave(repeats)
    return pack_padded_sequence(given, lengths, batch_first=batch_first, enforce_sorted=False)


def _padded(output: Tensor | PackedSequence, batch_first: bool) -> Tensor:
    """Time-major frames, 0 where a sequence has ended."""
    if isinstance(output, PackedSequence):
        return pad_packed_sequence(output)[0]
    return output.transpose(0, 1) if batch_first else output


def _state_of_ours(start: Tensor, kind: str) -> list[Any]:
    return [(h, c) if kind == "lstm" else h for h, c in start.unbind(1)]


def _state_of_torch(start: Tensor, kind: str) -> Any:
    return (start[0].contiguous(), start[1].contiguous()) if kind == "lstm" else start[0].contiguous()


def _stacked(state: Any, kind: str) -> tuple[Tensor, Tensor]:
    if kind == "lstm":
        return torch.stack([h for h, _ in state]), torch.stack([c for _, c in state])
    return torch.stack(list(state)), torch.stack(list(state))


def _matching_gradients(ours: RecurrentLayers, flat: nn.RNNBase) -> list[tuple[Tensor, Tensor]]:
    matching = []
    for layer in range(ours.num_layers):
        for cells, suffix in ((ours.cells, f"l{layer}"), (ours.reverse_cells, f"l{layer}_reverse")):
            if len(cells) == 0:
                continue
            cell = cells[layer]
            names = [("weight_ih", "weight_ih"), ("weight_hh", "weight_hh")]
            names += [("bias", "bias_ih")] if flat.bias else []
            for name, flat_name in names:
                have, want = _gradient(getattr(cell, name)), _gradient(getattr(flat, f"{flat_name}_{suffix}"))
                matching.append((have.view_as(want), want))
            if getattr(cell, "bias_hn", None) is not None:
                matching.append((_gradient(cell.bias_hn), _gradient(getattr(flat, f"bias_hh_{suffix}"))[-HIDDEN:]))
    return matching
