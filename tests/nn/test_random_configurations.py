"""Any configuration that can be constructed runs, trains and exports."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nowcast.nn import ConvGRU, ConvLSTM, ConvRNN, TrajGRU

QUIET = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


def per_layer(draw: Any, values: st.SearchStrategy[Any], layers: int) -> Any:
    """One value for all layers, or a list with one for each."""
    return draw(st.one_of(values, st.lists(values, min_size=layers, max_size=layers)))


@st.composite
def configurations(draw: Any) -> tuple[type, dict[str, Any]]:
    build = draw(st.sampled_from([ConvLSTM, ConvGRU, ConvRNN, TrajGRU]))
    dims = 2 if build is TrajGRU else draw(st.sampled_from([1, 2, 3]))
    layers = draw(st.integers(1, 3))
    kernel = st.one_of(st.integers(1, 4), st.tuples(*[st.integers(1, 3)] * dims))
    options: dict[str, Any] = {
        "in_channels": draw(st.integers(0, 3)),
        "hidden_channels": draw(
            st.one_of(st.integers(1, 4), st.lists(st.integers(1, 4), min_size=layers, max_size=layers))
        ),
        "kernel_size": per_layer(draw, kernel, layers),
        "num_layers": layers,
        "spatial_dims": dims,
        "stride": per_layer(draw, st.integers(1, 3), layers),
        "dilation": per_layer(draw, st.integers(1, 2), layers),
        "bias": draw(st.booleans()),
        "padding_mode": draw(st.sampled_from(["zeros", "replicate", "zeros", "circular", "reflect"])),
        "activation": draw(st.sampled_from(["tanh", "relu", "leaky_relu"])),
        "norm": per_layer(draw, st.sampled_from(["none", "none", "layer", "group", "batch"]), layers),
        "learn_initial_state": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "return_all_layers": draw(st.booleans()),
        "dropout": draw(st.sampled_from([0.0, 0.3])) if layers > 1 else 0.0,
    }
    norms = options["norm"] if isinstance(options["norm"], list) else [options["norm"]]
    options["recompute"] = "batch" not in norms and draw(st.booleans())
    if build is TrajGRU:
        options |= {"links": draw(st.integers(1, 3)), "flow_channels": 2, "flow_kernel_size": 3}
    else:
        options["recurrent_kernel_size"] = per_layer(draw, st.one_of(st.none(), kernel), layers)
    if build is ConvLSTM:
        options["peephole"] = draw(st.sampled_from(["none", "channel", "spatial"]))
        options["grid"] = GRIDS[dims] if options["peephole"] == "spatial" else None
    if build is ConvGRU:
        options["reset"] = draw(st.sampled_from(["after", "before"]))
    return build, options


GRIDS = {1: (9,), 2: (7, 6), 3: (5, 4, 4)}
# After a stride of 3 there are still the 3 pixels that a kernel of 4 reflects.
WIDE_GRIDS = {1: (17,), 2: (13, 11), 3: (9, 10, 9)}


def make(configuration: tuple[type, dict[str, Any]]) -> tuple[Any, Tensor]:
    build, options = configuration
    grid = GRIDS[options["spatial_dims"]]
    if options["padding_mode"] in ("reflect", "circular"):
        # Padding would outgrow grids of a stride at every layer; that it is then refused is tested elsewhere.
        stride = options["stride"][0] if isinstance(options["stride"], list) else options["stride"]
        options = options | {"stride": [stride] + [1] * (options["num_layers"] - 1), "dilation": 1}
        grid = WIDE_GRIDS[options["spatial_dims"]]
        if options.get("grid") is not None:
            options["grid"] = grid
    torch.manual_seed(0)
    layer = build(**options)
    leading = (2, 3) if options["batch_first"] else (3, 2)
    return layer, torch.randn(*leading, options["in_channels"], *grid)


@pytest.mark.slow
@settings(max_examples=40, **QUIET)
@given(configurations())
def test_it_runs_trains_and_keeps_its_shapes(configuration: tuple[type, dict[str, Any]]) -> None:
    layer, input = make(configuration)
    output, state = layer(input)
    outputs = output if layer.return_all_layers else (output,)
    sum(part.square().sum() for part in outputs).backward()
    for name, parameter in layer.named_parameters():
        # Where only the last layer is looked at, every layer below it still carries gradient.
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    again, _ = layer(input, state)
    assert [part.shape for part in (again if layer.return_all_layers else (again,))] == [part.shape for part in outputs]
    assert outputs[-1].shape[:2] == input.shape[:2]
    assert len(state) == layer.num_layers * layer.num_directions


@pytest.mark.slow
@settings(max_examples=12, **QUIET)
@given(configurations())
def test_it_exports(configuration: tuple[type, dict[str, Any]]) -> None:
    layer, input = make(configuration)
    layer.eval()
    program = torch.export.export(layer, (input,))
    torch.testing.assert_close(program.module()(input), layer(input))
