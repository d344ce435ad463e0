"""What does not fit is refused, with the argument's name, what came and what was wanted; nothing is broadcast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

from nowcast.nn import ConvGRU, ConvLSTM, ConvLSTMCell, ConvRNN, TrajGRU

ARGUMENTS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "too few hidden channels": (
        lambda: ConvLSTM(1, [4, 4], 3, 3),
        ValueError,
        r"hidden_channels has 2 entries, \[4, 4\], but num_layers is 3",
    ),
    "too many kernels": (
        lambda: ConvLSTM(1, 4, [3, 3]),
        ValueError,
        r"kernel_size has 2 entries, \[3, 3\], but num_layers is 1",
    ),
    "dilations": (lambda: ConvGRU(1, 4, 3, 2, dilation=[1]), ValueError, "dilation has 1 entries"),
    "strides": (lambda: ConvGRU(1, 4, 3, 2, stride=[1]), ValueError, "stride has 1 entries"),
    "a kernel for other dimensions": (
        lambda: ConvLSTM(1, 4, (3, 3, 3)),
        ValueError,
        r"kernel_size must have one entry for each of the 2 spatial axes, got \(3, 3, 3\)",
    ),
    "a kernel list in a cell": (
        lambda: ConvLSTMCell(1, 4, [3, 3]),
        TypeError,
        r"kernel_size must be an int or a tuple of 2 ints, got \[3, 3\]",
    ),
    "a kernel of nothing": (lambda: ConvLSTM(1, 4, 0), ValueError, "kernel_size must be at least 1, got 0"),
    "no hidden channels": (lambda: ConvLSTM(1, 0, 3), ValueError, "hidden_channels must be at least 1, got 0"),
    "half a channel": (lambda: ConvLSTM(1.5, 4, 3), TypeError, "in_channels must be an int, got 1.5"),
    "four dimensions": (lambda: ConvLSTM(1, 4, 3, spatial_dims=4), ValueError, "spatial_dims must be one of 1, 2, 3"),
    "a peephole": (
        lambda: ConvLSTM(1, 4, 3, peephole="pixel"),
        ValueError,
        "peephole must be one of 'none', 'channel', 'spatial'; got 'pixel'",
    ),
    "spatial peepholes without grid": (
        lambda: ConvLSTM(1, 4, 3, peephole="spatial"),
        ValueError,
        "grid is needed with peephole='spatial', and there alone; got grid=None",
    ),
    "a grid without spatial peepholes": (
        lambda: ConvLSTM(1, 4, 3, grid=(5, 5)),
        ValueError,
        r"got grid=\(5, 5\) with peephole='none'",
    ),
    "padding": (lambda: ConvGRU(1, 4, 3, padding_mode="same"), ValueError, "padding_mode must be one of 'zeros'"),
    "a norm": (lambda: ConvGRU(1, 4, 3, norm="instance"), ValueError, "norm must be one of 'none', 'batch'"),
    "an activation": (lambda: ConvRNN(1, 4, 3, activation="tan"), ValueError, "activation must be one of 'tanh'"),
    "no activation": (
        lambda: ConvRNN(1, 4, 3, activation=3),
        TypeError,
        "activation must be a name or a callable, got 3",
    ),
    "reset": (lambda: ConvGRU(1, 4, 3, reset="never"), ValueError, "reset must be one of 'after', 'before'"),
    "dropout of one layer": (
        lambda: ConvLSTM(1, 4, 3, dropout=0.1),
        ValueError,
        "dropout acts between layers, and num_layers is 1; got dropout=0.1",
    ),
    "dropout of all": (
        lambda: ConvLSTM(1, 4, 3, 2, dropout=1.0),
        ValueError,
        r"dropout must be a probability in \[0, 1\)",
    ),
    "a forget bias without bias": (
        lambda: ConvLSTM(1, 4, 3, bias=False, forget_bias=1.0),
        ValueError,
        "forget_bias is 1.0, but bias=False",
    ),
    "recomputing batch statistics": (
        lambda: ConvLSTM(1, 4, 3, norm="batch", recompute=True),
        ValueError,
        "recompute=True would count every batch twice",
    ),
    "recomputing the batch statistics of some layers": (
        lambda: ConvLSTM(1, 4, 3, 2, norm=["none", "batch"], recompute=True),
        ValueError,
        "recompute=True would count every batch twice",
    ),
    "directions by layer": (
        lambda: ConvLSTM(1, 4, 3, 2, bidirectional=[True, False]),
        TypeError,
        r"bidirectional must be True or False, got \[True, False\]",
    ),
    "a word for a boolean": (lambda: ConvGRU(1, 4, 3, batch_first="no"), TypeError, "batch_first must be True or"),
    "a word for a bias": (lambda: ConvGRU(1, 4, 3, bias="no"), TypeError, "bias must be True or False, got 'no'"),
    "a word for a forget bias": (
        lambda: ConvLSTM(1, 4, 3, forget_bias="1"),
        TypeError,
        "forget_bias must be a number, got '1' of type str",
    ),
    "a trajectory in three dimensions": (
        lambda: TrajGRU(1, 4, 3, spatial_dims=3),
        ValueError,
        "spatial_dims of a TrajGRU is 2, got 3",
    ),
    "a trajectory with a recurrent kernel": (
        lambda: TrajGRU(1, 4, 3, recurrent_kernel_size=3),
        ValueError,
        "recurrent_kernel_size of a TrajGRU is 1, got 3",
    ),
    "an unknown option": (lambda: ConvGRU(1, 4, 3, peephole="channel"), TypeError, "peephole"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_are_refused(case: str) -> None:
    construct, error, message = ARGUMENTS[case]
    with pytest.raises(error, match=message):
        construct()


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


def lstm(**options: Any) -> ConvLSTM:
    return ConvLSTM(2, 4, 3, **options)


def state(*shape: int) -> list[Any]:
    return [(zeros(*shape), zeros(*shape))]


INPUTS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "channels": (
        lambda: lstm()(zeros(3, 1, 5, 8, 8)),
        ValueError,
        r"input must have 2 channels on its axis C of \(T, B, C, H, W\), got 5 in shape \(3, 1, 5, 8, 8\)",
    ),
    "axes": (
        lambda: lstm(batch_first=True)(zeros(8, 8)),
        ValueError,
        r"input must have the 5 axes \(B, T, C, H, W\), got shape \(8, 8\)",
    ),
    "no steps": (
        lambda: lstm()(zeros(0, 1, 2, 8, 8)),
        ValueError,
        r"input must have at least one step, got shape \(0, 1, 2, 8, 8\)",
    ),
    "no pixels": (
        lambda: lstm()(zeros(3, 1, 2, 8, 0)),
        ValueError,
        r"input must have at least one pixel on each spatial axis of \(T, B, C, H, W\), got \(3, 1, 2, 8, 0\)",
    ),
    "no pixels in a state": (
        lambda: ConvLSTM(0, 4, 3)(None, state(1, 4, 8, 0), num_steps=2),
        ValueError,
        r"h of state\[0\] must have at least one pixel, got shape \(1, 4, 8, 0\)",
    ),
    "integers": (
        lambda: lstm()(zeros(3, 1, 2, 8, 8).long()),
        TypeError,
        r"input must be floating point, got torch\.int64",
    ),
    "doubles": (
        lambda: lstm()(zeros(3, 1, 2, 8, 8).double()),
        TypeError,
        r"input is torch\.float64, the parameters are torch\.float32",
    ),
    "another device": (
        lambda: lstm()(zeros(3, 1, 2, 8, 8).to("meta")),
        ValueError,
        "input is on meta, the parameters are on cpu",
    ),
    "no tensor": (lambda: lstm()([1.0]), TypeError, r"input must be a torch\.Tensor, got list"),
    "no input": (lambda: lstm()(), ValueError, "input must have 2 channels, got None"),
    "the batch of a state": (
        lambda: lstm()(zeros(3, 2, 2, 8, 8), state(1, 4, 8, 8)),
        ValueError,
        r"h of state\[0\] must have shape \(batch, hidden, \*grid\) = \(2, 4, 8, 8\), got \(1, 4, 8, 8\)",
    ),
    "the grid of a state": (
        lambda: lstm(stride=2)(zeros(3, 2, 2, 8, 8), state(2, 4, 8, 8)),
        ValueError,
        r"\(2, 4, 4, 4\), got \(2, 4, 8, 8\)",
    ),
    "one tensor of a state": (
        lambda: lstm()(zeros(3, 2, 2, 8, 8), [(zeros(2, 4, 8, 8), zeros(2, 4, 1, 1))]),
        ValueError,
        r"c of state\[0\] must have shape",
    ),
    "a state without its tuple": (
        lambda: lstm()(zeros(3, 2, 2, 8, 8), (zeros(2, 4, 8, 8), zeros(2, 4, 8, 8))),
        ValueError,
        "state must have 1 entries, one per layer and direction, got 2",
    ),
    "a bare state": (
        lambda: ConvGRU(2, 4, 3)(zeros(3, 2, 2, 8, 8), zeros(2, 4, 8, 8)),
        TypeError,
        r"state must be a tuple with one entry per layer and direction, got a tensor of shape \(2, 4, 8, 8\)",
    ),
    "the state of an LSTM for a GRU": (
        lambda: ConvGRU(2, 4, 3)(zeros(3, 2, 2, 8, 8), state(2, 4, 8, 8)),
        TypeError,
        r"state\[0\] must be a tensor h, got a tuple of 2",
    ),
    "the state of a GRU for an LSTM": (
        lambda: lstm()(zeros(3, 2, 2, 8, 8), [zeros(2, 4, 8, 8)]),
        TypeError,
        r"state\[0\] must be a tuple \(h, c\), got a tensor of shape",
    ),
    "the state of one direction": (
        lambda: lstm(bidirectional=True)(zeros(3, 2, 2, 8, 8), state(2, 4, 8, 8)),
        ValueError,
        "state must have 2 entries",
    ),
    "a state in integers": (
        lambda: ConvGRU(2, 4, 3)(zeros(3, 2, 2, 8, 8), [zeros(2, 4, 8, 8).int()]),
        TypeError,
        r"h of state\[0\] must be floating point, got torch\.int32",
    ),
    "another grid than that of spatial peepholes": (
        lambda: lstm(peephole="spatial", grid=(8, 8))(zeros(3, 2, 2, 9, 8)),
        ValueError,
        r"peephole='spatial' was made for a state grid of \(8, 8\), got \(9, 8\)",
    ),
    "packed with other channels": (
        lambda: lstm()(pack_sequence([zeros(3, 1, 8, 8)])),
        ValueError,
        r"the data of a packed input must be \(N, C, H, W\) with C = 2, got shape \(3, 1, 8, 8\)",
    ),
    # (B, T, C, H, W) packed as if it were (B * T, C, H, W): the axis that batch_first swaps is lost.
    "packed by frame": (
        lambda: lstm(batch_first=True)(pack_padded_sequence(zeros(3, 2, 4, 2, 8, 8), [3, 2])),
        ValueError,
        "was it packed with the right batch_first",
    ),
    "a packed state of another batch": (
        lambda: lstm()(pack_sequence([zeros(3, 2, 8, 8)] * 2), state(3, 4, 8, 8)),
        ValueError,
        r"= \(2, 4, 8, 8\), got \(3, 4, 8, 8\)",
    ),
    "packed integers": (
        lambda: lstm()(pack_sequence([zeros(3, 2, 8, 8).int()])),
        TypeError,
        r"input\.data must be floating point",
    ),
    "reflecting a grid that is too small": (
        lambda: lstm(padding_mode="reflect", dilation=3)(zeros(2, 1, 2, 3, 9)),
        ValueError,
        r"padding_mode 'reflect' of a kernel .* pads 3 pixels, more than a grid of \(3, 9\)",
    ),
    "wrapping a grid that is too small": (
        lambda: lstm(padding_mode="circular", dilation=3)(zeros(2, 1, 2, 2, 9)),
        ValueError,
        r"pads 3 pixels, more than a grid of \(2, 9\)",
    ),
    "steps and an input": (
        lambda: lstm()(zeros(3, 1, 2, 8, 8), num_steps=3),
        ValueError,
        "num_steps is for running without an input",
    ),
    "no input and no state": (
        lambda: ConvLSTM(0, 4, 3)(num_steps=3),
        ValueError,
        "without an input, state and num_steps say from where and how far to run",
    ),
    "no input and no steps": (
        lambda: ConvLSTM(0, 4, 3)(None, state(1, 4, 8, 8)),
        ValueError,
        "state and num_steps say from where and how far to run",
    ),
    "a state that is neither batched nor not": (
        lambda: ConvLSTM(0, 4, 3)(None, state(4, 8), num_steps=2),
        ValueError,
        r"h of state\[0\] must have shape .* got \(4, 8\)",
    ),
    "a cell's channels": (
        lambda: ConvLSTMCell(2, 4, 3)(zeros(1, 3, 8, 8)),
        ValueError,
        r"input must have 2 channels on its axis C of \(B, C, H, W\), got 3",
    ),
    "a cell's state": (
        lambda: ConvLSTMCell(2, 4, 3)(zeros(1, 2, 8, 8), (zeros(1, 4, 8, 8), zeros(1, 4, 8, 1))),
        ValueError,
        r"c of state must have shape .* = \(1, 4, 8, 8\), got \(1, 4, 8, 1\)",
    ),
    "a cell without input or state": (
        lambda: ConvLSTMCell(0, 4, 3)(),
        ValueError,
        "state is needed where there is no input",
    ),
    "a cell that wants an input": (
        lambda: ConvLSTMCell(2, 4, 3)(),
        ValueError,
        "input must be a tensor of 2 channels, got None",
    ),
    "the grid of an initial state": (
        lambda: lstm().get_initial_state(2, (8, 8, 8)),
        ValueError,
        "grid must have one entry for each of the 2 spatial axes",
    ),
    "the batch of an initial state": (
        lambda: lstm().get_initial_state(0, (8, 8)),
        ValueError,
        "batch must be at least 1",
    ),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_that_are_refused(case: str) -> None:
    run, error, message = INPUTS[case]
    with pytest.raises(error, match=message):
        run()
