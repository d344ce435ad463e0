"""The steps of the cells made fast where that pays; the cells themselves are the reference that these equal.

Which one runs is decided here, once for each layer and call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from nowcast.nn.cell import ConvCell
from nowcast.nn.cells import ConvLSTMCell
from nowcast.nn.checks import State
from nowcast.nn.kernels import winograd
from nowcast.nn.kernels.lstm import LSTMSequence

_ALLOWED: ContextVar[bool] = ContextVar("fast kernels allowed", default=True)
# Below these a direct convolution is as fast: channels that fill a vector, products that are worth a transform.
LEAST_CHANNELS = 16
LEAST_TILES = 64
# Tiles of 4 x 4 may cover so much more than the grid.
MOST_WASTE = 1.4


@contextmanager
def reference_only() -> Iterator[None]:
    """Compute step by step with the cells themselves inside this block."""
    token = _ALLOWED.set(False)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def has_fast_sequence(cell: ConvCell, frames: Tensor | None, state: State, steps: int) -> bool:
    """Whether `fast_sequence` can run this: a plain 2-D ConvLSTM in float32 on the CPU, large enough to gain by it."""
    return _is_plain(cell) and _is_eager(cell.weight_hh, frames, *state) and _is_worth_it(cell, state[0], steps)


def fast_sequence(
    cell: ConvCell, frames: Tensor | None, state: State, steps: int, *, backward: bool
) -> tuple[Tensor, State]:
    """All h (T * B, D, H, W) of an LSTM cell, and its state after the last step (the first one, if backward)."""
    assert isinstance(cell, ConvLSTMCell)
    h, c = state
    weight = cell.weight_hh if cell.weight_ih is None else torch.cat([cell.weight_ih, cell.weight_hh], dim=1)
    x = None if cell.weight_ih is None else frames
    if backward and x is not None:
        x = _flip(x, steps)
    inputs = (x, h, c, weight, cell.bias, cell.peephole)
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in inputs)
    outputs, c = LSTMSequence.apply(steps, keep, *inputs)
    last = outputs.unflatten(0, (steps, -1))[-1]
    return (_flip(outputs, steps) if backward else outputs), (last, c)


def _flip(frames: Tensor, steps: int) -> Tensor:
    return frames.unflatten(0, (steps, -1)).flip(0).flatten(0, 1)


def _is_plain(cell: ConvCell) -> bool:
    convolutions = (cell.convolve_input, cell.convolve_state)
    return (
        type(cell) is ConvLSTMCell
        and cell.spatial_dims == 2
        and cell.kernel_size == cell.recurrent_kernel_size
        and cell.kernel_size in [(kernel, kernel) for kernel in winograd.KERNELS]
        and all({*c.stride, *c.dilation} == {1} and c.padding_mode == "zeros" for c in convolutions)
        and cell.activation is torch.tanh
        and cell.norm_hh is None
        and (cell.peephole is None or cell.peephole.dim() == 2)
    )


def _is_eager(*tensors: Tensor | None) -> bool:
    """Whether these are ordinary float32 tensors on the CPU that nothing traces, transforms or casts."""
    return (
        _ALLOWED.get()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and not torch.is_autocast_enabled("cpu")
        and all(
            type(tensor) in (Tensor, torch.nn.Parameter)
            and tensor.dtype == torch.float32
            and tensor.device.type == "cpu"
            and not tensor.is_quantized
            for tensor in tensors
            if tensor is not None
        )
    )


def _is_worth_it(cell: ConvCell, h: Tensor, steps: int) -> bool:
    batch, height, width = h.shape[0], *h.shape[2:]
    tiling = winograd.Tiling(batch, height, width, cell.kernel_size[0])
    covered = batch * height * width
    return (
        cell.hidden_channels >= LEAST_CHANNELS
        and steps * tiling.count >= LEAST_TILES
        and tiling.count * winograd.TILE**2 <= MOST_WASTE * covered
    )
