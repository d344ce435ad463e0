"""The cells against their equations, written out slowly and apart from the library."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nowcast.nn import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell, ConvRNNCell, TrajGRUCell

DOUBLE = torch.float64


def convolve(frame: Tensor, kernel: Tensor) -> Tensor:
    """(C, H, W) by (out, C, k, k), odd k, zeros beyond the edge: one multiplication at a time, but for channels."""
    height, width, reach = frame.shape[1], frame.shape[2], kernel.shape[-1] // 2
    result = torch.zeros(kernel.shape[0], height, width, dtype=frame.dtype)
    for row in range(height):
        for column in range(width):
            for down in range(-reach, reach + 1):
                for right in range(-reach, reach + 1):
                    if 0 <= row + down < height and 0 <= column + right < width:
                        weights = kernel[:, :, reach + down, reach + right]
                        result[:, row, column] += weights @ frame[:, row + down, column + right]
    return result


def sigma(values: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-values))


@pytest.mark.parametrize("peephole", ["none", "channel", "spatial"])
def test_convlstm_is_equation_3_of_shi_et_al_2015(peephole: str) -> None:
    torch.manual_seed(1)
    steps, channels, hidden, grid = 3, 2, 3, (4, 5)
    layer = ConvLSTM(
        channels,
        hidden,
        3,
        recurrent_kernel_size=5,
        peephole=peephole,
        grid=grid if peephole == "spatial" else None,
        dtype=DOUBLE,
    )
    randomise(layer)
    frames = torch.randn(steps, channels, *grid, dtype=DOUBLE)
    output, ((h_last, c_last),) = layer(frames)

    cell: Any = layer.cells[0]
    w_xi, w_xf, w_xc, w_xo = cell.weight_ih.detach().split(hidden)
    w_hi, w_hf, w_hc, w_ho = cell.weight_hh.detach().split(hidden)
    b_i, b_f, b_c, b_o = cell.bias.detach().view(4, hidden, 1, 1)
    w_ci = w_cf = w_co = torch.zeros(1, dtype=DOUBLE)
    if peephole != "none":
        shape = (3, hidden, 1, 1) if peephole == "channel" else (3, hidden, *grid)
        w_ci, w_cf, w_co = cell.peephole.detach().view(shape)
    h = c = torch.zeros(hidden, *grid, dtype=DOUBLE)
    for t in range(steps):
        x = frames[t]
        i = sigma(convolve(x, w_xi) + convolve(h, w_hi) + w_ci * c + b_i)
        f = sigma(convolve(x, w_xf) + convolve(h, w_hf) + w_cf * c + b_f)
        c = f * c + i * torch.tanh(convolve(x, w_xc) + convolve(h, w_hc) + b_c)
        o = sigma(convolve(x, w_xo) + convolve(h, w_ho) + w_co * c + b_o)
        h = o * torch.tanh(c)
        torch.testing.assert_close(output[t], h)
    torch.testing.assert_close(h_last, h)
    torch.testing.assert_close(c_last, c)


@pytest.mark.parametrize("reset", ["after", "before"])
def test_convgru_is_its_equations(reset: str) -> None:
    torch.manual_seed(2)
    steps, channels, hidden, grid = 3, 2, 3, (4, 5)
    layer = ConvGRU(channels, hidden, 3, reset=reset, dtype=DOUBLE)
    randomise(layer)
    frames = torch.randn(steps, channels, *grid, dtype=DOUBLE)
    output, _ = layer(frames)

    cell: Any = layer.cells[0]
    w_xr, w_xz, w_xn = cell.weight_ih.detach().split(hidden)
    w_hr, w_hz, w_hn = cell.weight_hh.detach().split(hidden)
    b_r, b_z, b_n = cell.bias.detach().view(3, hidden, 1, 1)
    h = torch.zeros(hidden, *grid, dtype=DOUBLE)
    for t in range(steps):
        x = frames[t]
        r = sigma(convolve(x, w_xr) + convolve(h, w_hr) + b_r)
        z = sigma(convolve(x, w_xz) + convolve(h, w_hz) + b_z)
        if reset == "after":
            inner = r * (convolve(h, w_hn) + cell.bias_hn.detach().view(hidden, 1, 1))
        else:
            inner = convolve(r * h, w_hn)
        n = torch.tanh(convolve(x, w_xn) + b_n + inner)
        h = (1 - z) * n + z * h
        torch.testing.assert_close(output[t], h)


CELLS: dict[str, Any] = {
    "rnn": lambda dims: ConvRNNCell(2, 2, 3, spatial_dims=dims, dtype=DOUBLE),
    "lstm": lambda dims: ConvLSTMCell(2, 2, 3, spatial_dims=dims, dtype=DOUBLE),
    "lstm channel": lambda dims: ConvLSTMCell(2, 2, 3, spatial_dims=dims, peephole="channel", dtype=DOUBLE),
    "lstm spatial": lambda dims: ConvLSTMCell(
        2, 2, 3, spatial_dims=dims, peephole="spatial", grid=(3, 2, 2)[:dims], dtype=DOUBLE
    ),
    "gru": lambda dims: ConvGRUCell(2, 2, 3, spatial_dims=dims, dtype=DOUBLE),
    "gru before": lambda dims: ConvGRUCell(2, 2, 3, spatial_dims=dims, reset="before", dtype=DOUBLE),
    "trajgru": lambda dims: TrajGRUCell(2, 2, 3, links=2, flow_channels=2, flow_kernel_size=3, dtype=DOUBLE),
}


@pytest.mark.parametrize(
    ("name", "dims"), [(name, dims) for name in CELLS for dims in (1, 2, 3) if dims == 2 or name != "trajgru"]
)
def test_gradcheck_of_every_cell_and_dimension(name: str, dims: int) -> None:
    torch.manual_seed(3)
    cell = CELLS[name](dims)
    randomise(cell)
    grid = (3, 2, 2)[:dims]
    names = [key for key, _ in cell.named_parameters()]
    x = torch.randn(1, 2, *grid, dtype=DOUBLE, requires_grad=True)
    state = [torch.randn(1, 2, *grid, dtype=DOUBLE, requires_grad=True) for _ in cell.state_names]

    def run(x: Tensor, *rest: Tensor) -> Any:
        tensors, values = rest[: len(state)], rest[len(state) :]
        given = tensors if len(state) == 2 else tensors[0]
        return torch.func.functional_call(cell, dict(zip(names, values, strict=True)), (x, given))

    assert torch.autograd.gradcheck(run, (x, *state, *cell.parameters()), fast_mode=False)


# (kernel of the input, kernel of the state, hidden channels) and the parameters of the net, 2015 paper, table 1.
NETS_OF_2015 = [
    (5, 5, [256], 13_524_496),
    (5, 5, [128, 128], 10_042_896),
    (5, 5, [128, 64, 64], 7_585_296),
    (9, 1, [128, 128], 11_550_224),
    (9, 1, [128, 64, 64], 8_830_480),
]


@pytest.mark.parametrize(("kernel", "recurrent", "hidden", "published"), NETS_OF_2015)
def test_parameter_counts_of_the_2015_paper(kernel: int, recurrent: int, hidden: list[int], published: int) -> None:
    options: dict[str, Any] = {"recurrent_kernel_size": recurrent, "peephole": "channel", "device": "meta"}
    # The encoder reads 4x4 patches as 16 channels; the forecaster's first layer has no input; a 1x1 head reads all h.
    encoder = ConvLSTM(16, hidden, kernel, len(hidden), **options)
    forecaster = ConvLSTM(0, hidden, kernel, len(hidden), **options)
    head = torch.nn.Conv2d(sum(hidden), 16, 1, device="meta")
    assert sum(p.numel() for net in (encoder, forecaster, head) for p in net.parameters()) == published


def test_initial_weights_are_bounded_by_the_number_of_values_summed_over() -> None:
    cell = ConvLSTMCell(2, 8, 3, forget_bias=1.0)
    assert cell.weight_ih is not None and cell.bias is not None
    assert cell.weight_ih.abs().max() <= 1 / math.sqrt(2 * 9)
    assert cell.weight_hh.abs().max() <= 1 / math.sqrt(8 * 9)
    i, f, g, o = cell.bias.split(8)
    assert (f - 1).abs().max() <= 1 / math.sqrt(8 * 9)
    assert torch.cat([i, g, o]).abs().max() <= 1 / math.sqrt(8 * 9)


def randomise(module: torch.nn.Module) -> None:
    """Give every parameter a value of its own, zeros included."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
