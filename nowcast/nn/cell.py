"""What the cells have in common: options, two convolutions, a bias, and the care for input and state.

The equations are in cells.py.

Shapes: B batch, C channels of the input, D hidden channels, S one to three spatial axes, S' the same after the stride.
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
        self.bias = parameter(stacked) if checks.boolean("bias", bias) else None
        learned = checks.boolean("learn_initial_state", learn_initial_state)
        self.initial_state = parameter(len(self.state_names), self.hidden_channels) if learned else None
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
