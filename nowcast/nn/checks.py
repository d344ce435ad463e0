"""What arguments and inputs must look like, and the errors that say so.

Every constructor and every forward call comes through here first, so that the code after it needs no doubts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

Size = int | tuple[int, ...]
State = tuple[Tensor, ...]
Activation = str | Callable[[Tensor], Tensor]


def positive_int(name: str, value: Any, *, least: int = 1) -> int:
    """`value`, an int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def boolean(name: str, value: Any) -> bool:
    """`value`, True or False: there is one for all layers."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def number(name: str, value: Any) -> float:
    """`value`, a finite int or float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return value


def one_of(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """`value`, if it is among `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
    return value


def size(name: str, value: Any, spatial_dims: int) -> tuple[int, ...]:
    """One int for each spatial axis, of one int for all or a tuple with one for each."""
    values = (value,) * spatial_dims if isinstance(value, int) else value
    if not isinstance(values, tuple):
        raise TypeError(
            f"{name} must be an int or a tuple of {spatial_dims} ints, got {value!r} (in a layer, a list "
            f"gives one value per layer)"
        )
    if len(values) != spatial_dims:
        raise ValueError(f"{name} must have one entry for each of the {spatial_dims} spatial axes, got {value!r}")
    return tuple(positive_int(name, entry) for entry in values)


def per_layer(name: str, value: Any, num_layers: int, *, tuples_too: bool = False) -> list[Any]:
    """One value for each layer: a list gives them all, anything else is repeated.

    A tuple is one value (a kernel over the spatial axes), unless `tuples_too`.
    """
    if not (isinstance(value, list) or (tuples_too and isinstance(value, tuple))):
        return [value] * num_layers
    if len(value) != num_layers:
        raise ValueError(f"{name} has {len(value)} entries, {value!r}, but num_layers is {num_layers}")
    return list(value)


def dropout(probability: Any, num_layers: int) -> float:
    """A probability, which is 0 where there are no layers to drop between."""
    if not isinstance(probability, (int, float)) or not 0 <= probability < 1:
        raise ValueError(f"dropout must be a probability in [0, 1), got {probability!r}")
    if probability > 0 and num_layers == 1:
        raise ValueError(f"dropout acts between layers, and num_layers is 1; got dropout={probability}")
    return float(probability)


def floating_input(input: Any, weight: Tensor, name: str = "input") -> None:
    """Refuse what is not a floating-point tensor of the type and device of the weights."""
    if not isinstance(input, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(input).__name__}")
    if not input.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {input.dtype}; convert it with .float()")
    if input.device != weight.device:
        raise ValueError(f"{name} is on {input.device}, the parameters are on {weight.device}")
    if input.dtype != weight.dtype and not torch.is_autocast_enabled(input.device.type):
        raise TypeError(f"{name} is {input.dtype}, the parameters are {weight.dtype}; convert one of them")


def input_shape(input: Tensor, in_channels: int, leading: str, spatial_dims: int) -> None:
    """Refuse an input whose axes are not `leading` (one letter each), channels and the spatial axes."""
    axes = ", ".join([*leading, "C", *_SPATIAL[-spatial_dims:]])
    if input.dim() != len(leading) + 1 + spatial_dims:
        raise ValueError(
            f"input must have the {len(leading) + 1 + spatial_dims} axes ({axes}), got shape {tuple(input.shape)}"
        )
    found = input.shape[len(leading)]
    if found != in_channels:
        raise ValueError(
            f"input must have {in_channels} channels on its axis C of ({axes}), got {found} in shape "
            f"{tuple(input.shape)}"
        )
    if 0 in input.shape[-spatial_dims:]:
        raise ValueError(
            f"input must have at least one pixel on each spatial axis of ({axes}), got {tuple(input.shape)}"
        )


def packed_shape(input: PackedSequence, in_channels: int, spatial_dims: int) -> None:
    """Refuse a packed sequence whose data are not (N, C, *S)."""
    data = input.data
    if data.dim() != 2 + spatial_dims or data.shape[1] != in_channels:
        axes = ", ".join(["N", "C", *_SPATIAL[-spatial_dims:]])
        raise ValueError(
            f"the data of a packed input must be ({axes}) with C = {in_channels}, got shape {tuple(data.shape)}; "
            f"was it packed with the right batch_first, from (B, T, C, ...) or (T, B, C, ...)?"
        )


_SPATIAL = ("D", "H", "W")


def state_entries(state: Any, wanted: int) -> None:
    """Refuse a layer's state that has not one entry for each layer and direction."""
    if not isinstance(state, (tuple, list)):
        raise TypeError(f"state must be a tuple with one entry per layer and direction, got {_describe(state)}")
    if len(state) != wanted:
        raise ValueError(f"state must have {wanted} entries, one per layer and direction, got {len(state)}")


def state_tensors(state: Any, names: Sequence[str], where: str) -> State:
    """The tensors of one layer's state, in the order of `names`; a state of one tensor comes bare."""
    tensors = (state,) if len(names) == 1 else state
    wanted = "a tensor h" if len(names) == 1 else f"a tuple ({', '.join(names)})"
    if not isinstance(tensors, (tuple, list)) or len(tensors) != len(names):
        raise TypeError(f"{where} must be {wanted}, got {_describe(state)}")
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise TypeError(f"{where} must be {wanted}, got {_describe(state)}")
    return tuple(tensors)


def state_shape(state: State, names: Sequence[str], shape: Sequence[int | None], where: str) -> None:
    """Refuse state tensors that are not (batch, hidden, *grid); None stands for any size."""
    for name, tensor in zip(names, state, strict=True):
        fits = tensor.dim() == len(shape) and all(
            want is None or have == want for have, want in zip(tensor.shape, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("*" if want is None else str(want) for want in shape)
            raise ValueError(
                f"{name} of {where} must have shape (batch, hidden, *grid) = ({wanted}), got {tuple(tensor.shape)}"
            )
        if 0 in tensor.shape[2:]:
            raise ValueError(f"{name} of {where} must have at least one pixel, got shape {tuple(tensor.shape)}")


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": torch.clone,
    "leaky_relu": partial(nn.functional.leaky_relu, negative_slope=0.2),
    "elu": nn.functional.elu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
}


def activation_function(activation: Activation) -> Callable[[Tensor], Tensor]:
    """The function that a name stands for, or the function or module given."""
    if isinstance(activation, str):
        return _ACTIVATIONS[one_of("activation", activation, list(_ACTIVATIONS))]
    if not callable(activation):
        raise TypeError(f"activation must be a name or a callable, got {activation!r}")
    return activation
