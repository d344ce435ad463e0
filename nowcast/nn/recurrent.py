"""Cells run over time, in layers and directions, whatever the cell.

Shapes: T steps, B batch, C channels of the input, D hidden channels, S one to three spatial axes, S' after the strides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, TypedDict, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.checkpoint import checkpoint

from nowcast.nn import checks, kernels
from nowcast.nn.cell import ConvCell
from nowcast.nn.checks import Activation, Size, State
from nowcast.nn.sequences import Layout

Sizes = Size | list[int] | list[tuple[int, ...]]


class LayerOptions(TypedDict, total=False):
    """The keyword arguments that all layers share; RecurrentLayers says what they do."""

    spatial_dims: int
    recurrent_kernel_size: Sizes | None
    stride: Sizes
    dilation: Sizes
    bias: bool
    padding_mode: str
    activation: Activation | list[Activation]
    norm: str | list[str]
    learn_initial_state: bool
    bidirectional: bool
    batch_first: bool
    dropout: float
    return_all_layers: bool
    recompute: bool
    device: torch.device | str | None
    dtype: torch.dtype | None


class RecurrentLayers(nn.Module):
    """Cells run over time, one layer on top of another.

    Args:
        in_channels: Channels of the input; 0 for a first layer that has no input weights and runs on its state.
        hidden_channels, kernel_size, recurrent_kernel_size, stride, dilation: As for a cell. Of these and of every
            option of a cell, a list gives one value per layer, and anything else is repeated (a tuple is one value:
            a kernel over the spatial axes).
        num_layers: Layers on top of one another.
        bidirectional: Run every layer forward and backward in time, with weights of their own, and hand on both
            outputs side by side, 2 * D channels, forward first.
        batch_first: Whether inputs and outputs are (B, T, C, *S); otherwise (T, B, C, *S). States and packed
            sequences are the same with both, as in torch.nn.LSTM.
        dropout: Probability with which elements of the outputs of every layer but the last are dropped in training.
        return_all_layers: Return a tuple with the outputs of every layer in place of the last one's.
        recompute: Keep only inputs and states for the backward pass, and compute the gates again there: less
            memory for about a third more time. Not with norm="batch", whose statistics would count twice.
        bias, padding_mode, activation, norm, learn_initial_state, spatial_dims, device, dtype: As for a cell.

    State: a tuple with one entry for each layer and direction, in the order layer 0 forward, (layer 0 backward,)
    layer 1 forward, ...; an entry is h, or (h, c) for ConvLSTM, each tensor (B, D, *S').

    Parameters in the state_dict: cells.<layer>.<parameter of the cell>, reverse_cells.<layer>.<parameter of the cell>.

    With norm="batch" in training, statistics run over whatever frames each step has: a packed sequence then differs
    from its sequences run alone.
    """

    cell_class: ClassVar[type[ConvCell]]

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | Sequence[int],
        kernel_size: Sizes,
        num_layers: int = 1,
        *,
        spatial_dims: int = 2,
        recurrent_kernel_size: Sizes | None = None,
        stride: Sizes = 1,
        dilation: Sizes = 1,
        bidirectional: bool = False,
        batch_first: bool = False,
        dropout: float = 0.0,
        return_all_layers: bool = False,
        recompute: bool = False,
        **cell_options: Any,
    ) -> None:
        super().__init__()
        self.num_layers = checks.positive_int("num_layers", num_layers)
        self.spatial_dims = checks.one_of("spatial_dims", spatial_dims, (1, 2, 3))
        self.in_channels = in_channels
        self.bidirectional = checks.boolean("bidirectional", bidirectional)
        self.batch_first = checks.boolean("batch_first", batch_first)
        self.return_all_layers = checks.boolean("return_all_layers", return_all_layers)
        self.recompute = checks.boolean("recompute", recompute)
        self.dropout = checks.dropout(dropout, num_layers)
        if recompute and "batch" in checks.per_layer("norm", cell_options.get("norm"), num_layers):
            raise ValueError("recompute=True would count every batch twice in the statistics of norm='batch'")
        grid = cell_options.pop("grid", None)
        hidden = checks.per_layer("hidden_channels", hidden_channels, num_layers, tuples_too=True)
        cell_options |= {
            "kernel_size": kernel_size,
            "recurrent_kernel_size": recurrent_kernel_size,
            "stride": stride,
            "dilation": dilation,
        }
        varying = {name: checks.per_layer(name, value, num_layers) for name, value in cell_options.items()}
        self.cells = nn.ModuleList()
        self.reverse_cells = nn.ModuleList()
        channels = in_channels
        for layer in range(num_layers):
            options = {name: values[layer] for name, values in varying.items()} | {"spatial_dims": spatial_dims}
            if grid is not None:
                options["grid"] = grid
            self.cells.append(self.cell_class(channels, hidden[layer], **options))
            if bidirectional:
                self.reverse_cells.append(self.cell_class(channels, hidden[layer], **options))
            channels = hidden[layer] * self.num_directions
            grid = None if grid is None else self._directions(layer)[0].convolve_input.output_grid(tuple(grid))

    @property
    def num_directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for cell in (*self.cells, *self.reverse_cells):
            cell.reset_parameters()

    def forward(
        self, input: Tensor | PackedSequence | None = None, state: Any = None, *, num_steps: int | None = None
    ) -> tuple[Any, tuple[Any, ...]]:
        """Run over a sequence.

        Args:
            input: (T, B, C, *S), or (B, T, C, *S) if batch_first; (T, C, *S) for one unbatched sequence; or a
                PackedSequence with data (N, C, *S). None if in_channels is 0: then `num_steps` and `state` say how
                far to run, and from where.
            state: The state before the first step, as this method returns it; get_initial_state if None.
            num_steps: Steps to run without an input.

        Returns:
            (output, state): the h of the last layer at every step, in the form of the input with the channels
            D (2 * D if bidirectional), or a tuple of these for all layers; and the state after the last step of all
            layers, of each sequence where it ends.

        Raises:
            TypeError: An input or state that is not floating-point tensors of the parameters' type.
            ValueError: An input or state of another shape.
        """
        layout = self._layout(input, state, num_steps)
        frames = None if input is None else layout.frames(input)
        states = self._states(frames, state, layout)
        outputs: list[Tensor] = []
        finals: list[State] = []
        for layer in range(self.num_layers):
            if layer > 0 and self.dropout > 0:
                frames = F.dropout(outputs[-1], self.dropout, self.training)
            runs = []
            for direction, cell in enumerate(self._directions(layer)):
                run, final = self._run(cell, frames, layout, states[len(finals)], backward=direction == 1)
                runs.append(run)
                finals.append(final)
            frames = runs[0] if len(runs) == 1 else torch.cat(runs, dim=1)
            outputs.append(frames)
        cells = self.cells_in_order()
        state = tuple(c.public_state(layout.state_out(final)) for c, final in zip(cells, finals, strict=True))
        if self.return_all_layers:
            return tuple(layout.restore(output) for output in outputs), state
        return layout.restore(outputs[-1]), state

    def get_initial_state(self, batch: int, grid: Sequence[int]) -> tuple[Any, ...]:
        """The state to start from, for `batch` inputs on `grid`: zeros, or what was learned."""
        checks.positive_int("batch", batch)
        sizes = checks.size("grid", tuple(grid), self.spatial_dims)
        cells, grids = self.cells_in_order(), self._state_grids(sizes)
        return tuple(c.public_state(c.initial_tensors(batch, g)) for c, g in zip(cells, grids, strict=True))

    def _run(
        self, cell: ConvCell, frames: Tensor | None, layout: Layout, state: State, *, backward: bool
    ) -> tuple[Tensor, State]:
        """All h of one cell, (N, D, *S'), and its state after the last step (the first one, if backward)."""
        fits = layout.counts is None and not self.recompute
        if fits and kernels.has_fast_sequence(cell, frames, state, layout.num_steps):
            return kernels.fast_sequence(cell, frames, state, layout.num_steps, backward=backward)
        advance: Callable[[Tensor, State], State] = cell.step
        if cell.weight_ih is None or frames is None:
            steps: Sequence[Tensor] = [cell.input_gates(None)] * layout.num_steps
        elif self.recompute and torch.is_grad_enabled():
            steps = layout.steps(frames)
            advance = partial(checkpoint, cell.advance, use_reentrant=False)
        else:
            steps = layout.steps(cell.input_gates(frames))
        counts = layout.counts or (None,) * layout.num_steps
        order = range(layout.num_steps - 1, -1, -1) if backward else range(layout.num_steps)
        hidden: dict[int, Tensor] = {}
        for t in order:
            # Of a packed sequence, the first `count` are running; the others wait for their start, or have ended.
            count = counts[t]
            if count is None:
                state = advance(steps[t], state)
                hidden[t] = state[0]
            else:
                running = advance(steps[t], tuple(tensor[:count] for tensor in state))
                state = tuple(torch.cat([new, old[count:]]) for new, old in zip(running, state, strict=True))
                hidden[t] = running[0]
        return torch.cat([hidden[t] for t in range(layout.num_steps)]), state

    def _directions(self, layer: int) -> list[ConvCell]:
        """The cells of one layer: forward, and backward if there is one."""
        modules = [self.cells[layer], self.reverse_cells[layer]] if self.bidirectional else [self.cells[layer]]
        return cast(list[ConvCell], modules)

    def cells_in_order(self) -> list[ConvCell]:
        """All cells, in the order of the state."""
        return [cell for layer in range(self.num_layers) for cell in self._directions(layer)]

    def _state_grids(self, grid: tuple[int, ...], *, skip_first: bool = False) -> list[tuple[int, ...]]:
        """The grid of the state of every cell in order, given that of the input (or of the first state)."""
        grids = []
        for layer in range(self.num_layers):
            if layer > 0 or not skip_first:
                grid = self._directions(layer)[0].convolve_input.output_grid(grid)
            grids += [grid] * self.num_directions
        return grids

    def _layout(self, input: Any, state: Any, num_steps: int | None) -> Layout:
        """The form of the input, which is refused where it has none that fits."""
        weight = self._directions(0)[0].weight_hh
        if input is None:
            return self._layout_without_input(state, num_steps)
        if num_steps is not None:
            raise ValueError(f"num_steps is for running without an input; got an input and num_steps={num_steps}")
        if isinstance(input, PackedSequence):
            checks.floating_input(input.data, weight, "input.data")
            checks.packed_shape(input, self.in_channels, self.spatial_dims)
            counts = tuple(input.batch_sizes.tolist())
            return Layout(len(counts), counts[0], counts, input)
        checks.floating_input(input, weight)
        unbatched = input.dim() == self.spatial_dims + 2
        axes = "T" if unbatched else "BT" if self.batch_first else "TB"
        checks.input_shape(input, self.in_channels, axes, self.spatial_dims)
        num_steps = input.shape[axes.index("T")]
        if num_steps == 0:
            raise ValueError(f"input must have at least one step, got shape {tuple(input.shape)} with axes {axes}")
        batch = 1 if unbatched else input.shape[axes.index("B")]
        return Layout(num_steps, batch, batch_first=self.batch_first, unbatched=unbatched)

    def _layout_without_input(self, state: Any, num_steps: int | None) -> Layout:
        if self.in_channels:
            raise ValueError(f"input must have {self.in_channels} channels, got None")
        if state is None or num_steps is None:
            raise ValueError("without an input, state and num_steps say from where and how far to run; give both")
        checks.positive_int("num_steps", num_steps)
        first = self._given_states(state)[0][0]
        unbatched = first.dim() == self.spatial_dims + 1
        return Layout(num_steps, 1 if unbatched else first.shape[0], batch_first=self.batch_first, unbatched=unbatched)

    def _given_states(self, state: Any) -> list[State]:
        cells = self.cells_in_order()
        checks.state_entries(state, len(cells))
        return [
            checks.state_tensors(s, cell.state_names, f"state[{i}]")
            for i, (s, cell) in enumerate(zip(state, cells, strict=True))
        ]

    def _states(self, frames: Tensor | None, state: Any, layout: Layout) -> list[State]:
        """The state to start each cell from, in order, batched and as tuples."""
        cells = self.cells_in_order()
        given = None if state is None else [layout.state_in(entry) for entry in self._given_states(state)]
        if frames is not None:
            grids = self._state_grids(tuple(frames.shape[2:]))
        else:
            assert given is not None
            grids = self._state_grids(tuple(given[0][0].shape[2:]), skip_first=True)
        for cell, grid in zip(cells, grids, strict=True):
            cell.check_grid(grid)
        if given is None:
            return [cell.initial_tensors(layout.batch, grid) for cell, grid in zip(cells, grids, strict=True)]
        for i, (cell, grid) in enumerate(zip(cells, grids, strict=True)):
            cell.check_state(given[i], (layout.batch, cell.hidden_channels, *grid), f"state[{i}]")
        return given
