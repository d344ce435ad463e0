"""One step of a convolutional recurrent network: ConvRNNCell, ConvLSTMCell and ConvGRUCell.

A cell takes an input and a state and returns the next state, like torch.nn.LSTMCell; layers.py runs it over time.

Shapes: B batch, C channels of the input, D hidden channels, S one to three spatial axes, S' the same after the stride.
Equations: * is convolution, o the product of elements, ' the previous step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, TypedDict, Unpack

import torch
from torch import Tensor, nn

from nowcast.nn import checks
from nowcast.nn.checks import Activation, Size, State
from nowcast.nn.convolution import PADDING_MODES, SameConvolution
from nowcast.nn.norm import NORMS, GateNorm

PEEPHOLES = ("none", "channel", "spatial")


class CellOptions(TypedDict, total=False):
    """The keyword arguments that all cells share; ConvCell says what they do."""

    spatial_dims: int
    recurrent_kernel_size: Size | None
    stride: Size
    dilation: Size
    bias: bool
    padding_mode: str
    activation: Activation
    norm: str
    learn_initial_state: bool
    device: torch.device | str | None
    dtype: torch.dtype | None


class ConvCell(nn.Module):
    """What the cells have in common: two convolutions, a bias, and a state of one or two tensors.

    Args:
        in_channels: Channels of the input; 0 for a cell that runs on its state alone and has no input weights.
        hidden_channels: Channels of the state.
        kernel_size: Of the input-to-state convolution: an int, or a tuple with one int for each spatial axis.
        spatial_dims: 1, 2 or 3.
        recurrent_kernel_size: Of the state-to-state convolution; `kernel_size` if None.
        stride: Of the input-to-state convolution. The state lives on the strided grid of ceil(size / stride).
        dilation: Of both convolutions.
        bias: Whether each gate has a bias.
        padding_mode: What both convolutions see beyond the edge: zeros, reflect, replicate or circular.
        activation: A name or a function from tensor to tensor; what tanh is in the equations.
        norm: none, batch, group or layer; normalises the two convolutions apart, before bias and gates
            (Ba et al. 2016, arXiv 1607.06450, eq. 20, with the cell state left alone).
        learn_initial_state: Start from one learned value a channel in place of zeros.

    Parameters in the state_dict, gates stacked along the first axis in the order of the class:
        weight_ih (gates * D, C, *kernel_size), weight_hh (gates * D, D, *recurrent_kernel_size), bias (gates * D);
        initial_state (tensors of the state, D); norm_ih.weight, norm_hh.weight (gates * D).
    """

    gates: ClassVar[int]
    state_names: ClassVar[tuple[str, ...]]

    weight_ih: nn.Parameter | None
    bias: nn.Parameter | None
    initial_state: nn.Parameter | None

    def __init__(
        self, in_channels: int, hidden_channels: int, kernel_size: Size, **options: Unpack[CellOptions]
    ) -> None:
        super().__init__()
        self.in_channels = checks.positive_int("in_channels", in_channels, least=0)
        self.hidden_channels = checks.positive_int("hidden_channels", hidden_channels)
        self._configure(kernel_size, **options)

    def _configure(
        self,
        kernel_size: Size,
        *,
        spatial_dims: int = 2,
        recurrent_kernel_size: Size | None = None,
        stride: Size = 1,
        dilation: Size = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        activation: Activation = "tanh",
        norm: str = "none",
        learn_initial_state: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.spatial_dims = checks.one_of("spatial_dims", spatial_dims, (1, 2, 3))
        checks.one_of("padding_mode", padding_mode, PADDING_MODES)
        checks.one_of("norm", norm, NORMS)
        self.kernel_size = checks.size("kernel_size", kernel_size, spatial_dims)
        self.recurrent_kernel_size = self.kernel_size
        if recurrent_kernel_size is not None:
            self.recurrent_kernel_size = checks.size("recurrent_kernel_size", recurrent_kernel_size, spatial_dims)
        strides, dilations = (
            checks.size("stride", stride, spatial_dims),
            checks.size("dilation", dilation, spatial_dims),
        )
        self.convolve_input = SameConvolution(self.kernel_size, strides, dilations, padding_mode)
        self.convolve_state = SameConvolution(self.recurrent_kernel_size, (1,) * spatial_dims, dilations, padding_mode)
        self.activation = checks.activation_function(activation)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        stacked = self.gates * self.hidden_channels
        self.weight_ih = parameter(stacked, self.in_channels, *self.kernel_size) if self.in_channels else None
        self.weight_hh = parameter(stacked, self.hidden_channels, *self.recurrent_kernel_size)
        self.bias = parameter(stacked) if bias else None
        self.initial_state = parameter(len(self.state_names), self.hidden_channels) if learn_initial_state else None
        self.norm_ih = self.norm_hh = None
        if norm != "none":
            normalise = GateNorm(norm, self.gates, stacked, device=device, dtype=dtype)
            self.norm_ih = normalise if self.in_channels else None
            self.norm_hh = GateNorm(norm, self.gates, stacked, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw weights and biases as torch.nn.Conv2d does, each from the number of values that it sums over."""
        for weight in (self.weight_ih, self.weight_hh):
            if weight is not None:
                bound = 1 / math.sqrt(weight[0].numel())
                nn.init.uniform_(weight, -bound, bound)
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight_hh[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        if self.initial_state is not None:
            nn.init.zeros_(self.initial_state)

    def forward(self, input: Tensor | None = None, state: Any = None) -> Any:
        """The state after one step.

        Args:
            input: (B, C, *S), or (C, *S) for one unbatched frame; None if in_channels is 0.
            state: The state before, each tensor (B, D, *S') or (D, *S'); the initial state if None.

        Returns:
            h, or (h, c) for ConvLSTMCell, shaped as the state.
        """
        if input is None:
            return self._forward_without_input(state)
        unbatched = isinstance(input, Tensor) and input.dim() == self.spatial_dims + 1
        checks.floating_input(input, self.weight_hh)
        checks.input_shape(input, self.in_channels, "" if unbatched else "B", self.spatial_dims)
        frame = input.unsqueeze(0) if unbatched else input
        grid = self.convolve_input.output_grid(tuple(frame.shape[2:]))
        self.check_grid(grid)
        if state is None:
            previous = self.initial_tensors(frame.shape[0], grid)
        else:
            previous = self._previous(state, unbatched)
            self.check_state(previous, (frame.shape[0], self.hidden_channels, *grid), "state")
        return self._following(self.step(self.input_gates(frame), previous), unbatched)

    def _forward_without_input(self, state: Any) -> Any:
        if self.in_channels:
            raise ValueError(f"input must be a tensor of {self.in_channels} channels, got None")
        if state is None:
            raise ValueError("state is needed where there is no input, for it gives the batch and the grid; got None")
        unbatched = checks.state_tensors(state, self.state_names, "state")[0].dim() == self.spatial_dims + 1
        previous = self._previous(state, unbatched)
        self.check_state(previous, (None, self.hidden_channels, *(None,) * self.spatial_dims), "state")
        self.check_state(previous, tuple(previous[0].shape), "state")
        self.check_grid(tuple(previous[0].shape[2:]))
        return self._following(self.step(self.input_gates(None), previous), unbatched)

    def _previous(self, state: Any, unbatched: bool) -> State:
        tensors = checks.state_tensors(state, self.state_names, "state")
        return tuple(tensor.unsqueeze(0) for tensor in tensors) if unbatched else tensors

    def _following(self, state: State, unbatched: bool) -> Any:
        return self.public_state(tuple(tensor.squeeze(0) for tensor in state) if unbatched else state)

    def input_gates(self, input: Tensor | None) -> Tensor:
        """What an input adds to every gate, (N, gates * D, *S'); the bias alone, to be broadcast, without one."""
        if self.weight_ih is None or input is None:
            return self._broadcast_bias()
        if self.norm_ih is None:
            return self.convolve_input(input, self.weight_ih, self.bias)
        return self.norm_ih(self.convolve_input(input, self.weight_ih)) + self._broadcast_bias()

    def _broadcast_bias(self) -> Tensor:
        shape = (1, self.gates * self.hidden_channels, *(1,) * self.spatial_dims)
        return self.weight_hh.new_zeros(shape) if self.bias is None else self.bias.view(shape)

    def state_gates(self, h: Tensor) -> Tensor:
        """What the previous h adds to every gate, (B, gates * D, *S')."""
        gates = self.convolve_state(h, self.weight_hh)
        return gates if self.norm_hh is None else self.norm_hh(gates)

    def step(self, input_gates: Tensor, state: State) -> State:
        """The state after one step, h first, given what `input_gates` made of the input."""
        raise NotImplementedError

    def advance(self, frames: Tensor, state: State) -> State:
        """The state after one step, of batched frames and state that need no checks."""
        return self.step(self.input_gates(frames), state)

    def get_initial_state(self, batch: int, grid: Sequence[int]) -> Any:
        """The state to start from, for `batch` inputs on `grid`: zeros, or what was learned."""
        checks.positive_int("batch", batch)
        grid = checks.size("grid", tuple(grid), self.spatial_dims)
        return self.public_state(self.initial_tensors(batch, self.convolve_input.output_grid(grid)))

    def initial_tensors(self, batch: int, state_grid: tuple[int, ...]) -> State:
        """The state to start from on a grid of its own, as a tuple of tensors whatever the cell."""
        shape = (batch, self.hidden_channels, *state_grid)
        if self.initial_state is None:
            return tuple(self.weight_hh.new_zeros(shape) for _ in self.state_names)
        return tuple(
            value.view(-1, *(1,) * self.spatial_dims).expand(shape).contiguous() for value in self.initial_state
        )

    def check_state(self, state: State, shape: tuple[int | None, ...], where: str) -> None:
        """Refuse a state that is not (batch, D, *S') = `shape`, where None is any size, or not of the weights' type."""
        checks.state_shape(state, self.state_names, shape, where)
        for name, tensor in zip(self.state_names, state, strict=True):
            checks.floating_input(tensor, self.weight_hh, f"{name} of {where}")

    def check_grid(self, grid: tuple[int, ...]) -> None:
        """Refuse a state grid that the cell cannot have; most can have any."""

    def public_state(self, state: State) -> Any:
        """A state as users see it: a single tensor stands bare."""
        return state[0] if len(self.state_names) == 1 else state

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.hidden_channels}, kernel_size={self.kernel_size}"]
        if self.recurrent_kernel_size != self.kernel_size:
            parts.append(f"recurrent_kernel_size={self.recurrent_kernel_size}")
        convolution = self.convolve_input
        for name in ("stride", "dilation"):
            values = getattr(convolution, name)
            parts += [f"{name}={values}"] if set(values) != {1} else []
        return ", ".join(parts)


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
        if forget_bias != 0 and self.bias is None:
            raise ValueError(f"forget_bias is {forget_bias}, but bias=False leaves no bias to add it to")
        self.forget_bias = forget_bias
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
