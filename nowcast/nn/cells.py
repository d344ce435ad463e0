"""One step of a convolutional recurrent network: ConvRNNCell, ConvLSTMCell and ConvGRUCell.

A cell takes an input and a state and returns the next state, like torch.nn.LSTMCell; layers.py runs it over time.

Shapes: B batch, C channels of the input, D hidden channels, S one to three spatial axes, S' the same after the stride.
Equations: * is convolution, o the product of elements, ' the previous step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from nowcast.nn import checks
from nowcast.nn.cell import CellOptions, ConvCell
from nowcast.nn.checks import Size, State
from nowcast.nn.norm import GateNorm

PEEPHOLES = ("none", "channel", "spatial")


class ConvRNNCell(ConvCell):
    """h = tanh(Wx * x + Wh * h' + b): Elman's recurrent cell with convolutions. Options: see ConvCell.

    The state is h. One gate.
    """

    gates = 1
    state_names = ("h",)

    def __init__(
        self, in_channels: int, hidden_channels: int, kernel_size: Size, **options: Unpack[CellOptions]
    ) -> None:
        super().__init__(in_channels, hidden_channels, kernel_size, **options)
        self.reset_parameters()

    def step(self, input_gates: Tensor, state: State) -> State:
        (h,) = state
        return (self.activation((input_gates + self.state_gates(h)).to(h.dtype)),)


class ConvLSTMCell(ConvCell):
    """The ConvLSTM of Shi et al. 2015 (arXiv 1506.04214, eq. 3).

        i = sigmoid(Wxi * x + Whi * h' + wci o c' + bi)
        f = sigmoid(Wxf * x + Whf * h' + wcf o c' + bf)
        c = f o c' + i o tanh(Wxc * x + Whc * h' + bc)
        o = sigmoid(Wxo * x + Who * h' + wco o c + bo)
        h = o o tanh(c)

    Args:
        peephole: "channel" learns one weight wci, wcf, wco a channel, as the paper's parameter counts say it did;
            "spatial" one for each channel and pixel, which ties the cell to one grid; "none" leaves them out.
        grid: The grid of the input, for peephole="spatial" alone.
        forget_bias: Added to the initial bias of f; 1 helps memory to last in early training.
        options: See ConvCell.

    The state is (h, c). Gates in the order i, f, g (what tanh is applied to), o, as in torch.nn.LSTM. Beside the
    parameters of ConvCell: peephole (3, D) or (3, D, *S'), in the order i, f, o, zero at first.
    """

    gates = 4
    state_names = ("h", "c")
    peephole: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: Size,
        *,
        peephole: str = "none",
        grid: Sequence[int] | None = None,
        forget_bias: float = 0.0,
        **options: Unpack[CellOptions],
    ) -> None:
        super().__init__(in_channels, hidden_channels, kernel_size, **options)
        checks.one_of("peephole", peephole, PEEPHOLES)
        if (grid is not None) != (peephole == "spatial"):
            raise ValueError(f"grid is needed with peephole='spatial', and there alone; got {grid=} with {peephole=}")
        self.forget_bias = checks.number("forget_bias", forget_bias)
        if forget_bias != 0 and self.bias is None:
            raise ValueError(f"forget_bias is {forget_bias}, but bias=False leaves no bias to add it to")
        self.peephole = None
        if peephole != "none":
            tail: tuple[int, ...] = ()
            if grid is not None:
                tail = self.convolve_input.output_grid(checks.size("grid", tuple(grid), self.spatial_dims))
            self.peephole = nn.Parameter(self.weight_hh.new_empty(3, hidden_channels, *tail))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.peephole is not None:
            nn.init.zeros_(self.peephole)
        if self.bias is not None:
            with torch.no_grad():
                self.bias[self.hidden_channels : 2 * self.hidden_channels] += self.forget_bias

    def step(self, input_gates: Tensor, state: State) -> State:
        h, c = state
        i, f, g, o = (input_gates + self.state_gates(h)).to(c.dtype).chunk(4, dim=1)
        if self.peephole is None:
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * self.activation(g)
            return torch.sigmoid(o) * self.activation(c), c
        w_ci, w_cf, w_co = self.peephole_weights()
        c = torch.sigmoid(f + w_cf * c) * c + torch.sigmoid(i + w_ci * c) * self.activation(g)
        return torch.sigmoid(o + w_co * c) * self.activation(c), c

    def peephole_weights(self) -> Tensor:
        """The three peepholes, shaped to multiply c."""
        assert self.peephole is not None
        if self.peephole.dim() > 2:
            return self.peephole
        return self.peephole.view(3, -1, *(1,) * self.spatial_dims)

    def check_grid(self, grid: tuple[int, ...]) -> None:
        if self.peephole is not None and self.peephole.dim() > 2 and tuple(self.peephole.shape[2:]) != grid:
            raise ValueError(
                f"peephole='spatial' was made for a state grid of {tuple(self.peephole.shape[2:])}, got {grid}; "
                f"give the grid of the input up front as `grid`, or use peephole='channel' for any grid"
            )


class ConvGRUCell(ConvCell):
    """The gated recurrent unit with convolutions (Shi et al. 2017, arXiv 1706.03458, eq. 1; gates as in torch.nn.GRU).

        r = sigmoid(Wxr * x + Whr * h' + br)
        z = sigmoid(Wxz * x + Whz * h' + bz)
        n = tanh(Wxn * x + bn + r o (Whn * h' + bhn))
        h = (1 - z) o n + z o h'

    Args:
        reset: "after" the convolution, as above; or "before" it, n = tanh(Wxn * x + bn + Whn * (r o h')), which is
            what Ballas et al. 2016 (arXiv 1511.06432, eq. 12-15) write and most public copies have.
        options: See ConvCell.

    The state is h. Gates in the order r, z, n. Beside the parameters of ConvCell: bias_hn (D), with reset="after".
    """

    gates = 3
    state_names = ("h",)
    bias_hn: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: Size,
        *,
        reset: str = "after",
        **options: Unpack[CellOptions],
    ) -> None:
        super().__init__(in_channels, hidden_channels, kernel_size, **options)
        self.reset = checks.one_of("reset", reset, ("after", "before"))
        self.bias_hn = self.norm_hn = None
        if reset == "after" and self.bias is not None:
            self.bias_hn = nn.Parameter(self.bias.new_empty(hidden_channels))
        if reset == "before" and self.norm_hh is not None:
            kind, like = self.norm_hh.kind, self.weight_hh
            self.norm_hh = GateNorm(kind, 2, 2 * hidden_channels, device=like.device, dtype=like.dtype)
            self.norm_hn = GateNorm(kind, 1, hidden_channels, device=like.device, dtype=like.dtype)
        ConvGRUCell.reset_parameters(self)  # not that of a subclass, whose parameters are still to come

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.bias_hn is not None:
            bound = 1 / math.sqrt(self.weight_hh[0].numel())
            nn.init.uniform_(self.bias_hn, -bound, bound)

    def step(self, input_gates: Tensor, state: State) -> State:
        (h,) = state
        if self.reset == "before":
            return (self._reset_before(input_gates, h),)
        return (self.reset_after(input_gates, self.state_gates(h), h),)

    def reset_after(self, input_gates: Tensor, state_gates: Tensor, h: Tensor) -> Tensor:
        """The next h, given what input and state add to the gates."""
        x_r, x_z, x_n = input_gates.to(h.dtype).chunk(3, dim=1)
        h_r, h_z, h_n = state_gates.to(h.dtype).chunk(3, dim=1)
        if self.bias_hn is not None:
            h_n = h_n + self.bias_hn.view(-1, *(1,) * self.spatial_dims)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        n = self.activation(x_n + r * h_n)
        return n + z * (h - n)

    def _reset_before(self, input_gates: Tensor, h: Tensor) -> Tensor:
        x_r, x_z, x_n = input_gates.to(h.dtype).chunk(3, dim=1)
        w_rz, w_n = self.weight_hh.split([2 * self.hidden_channels, self.hidden_channels])
        h_rz = self.convolve_state(h, w_rz)
        h_r, h_z = (h_rz if self.norm_hh is None else self.norm_hh(h_rz)).to(h.dtype).chunk(2, dim=1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        h_n = self.convolve_state(r * h, w_n)
        n = self.activation(x_n + (h_n if self.norm_hn is None else self.norm_hn(h_n)).to(h.dtype))
        return n + z * (h - n)
