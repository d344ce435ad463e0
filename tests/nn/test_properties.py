"""What must hold of every layer whatever its weights."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from nowcast.nn import ConvGRU, ConvLSTM, ConvRNN, TrajGRU, detach_state
from nowcast.nn.recurrent import RecurrentLayers

DOUBLE = torch.float64
BUILDERS: dict[str, Any] = {
    "rnn": ConvRNN,
    "lstm": ConvLSTM,
    "gru": ConvGRU,
    "gru before": lambda *args, **options: ConvGRU(*args, reset="before", **options),
    "lstm channel": lambda *args, **options: ConvLSTM(*args, peephole="channel", **options),
    "trajgru": lambda *args, **options: TrajGRU(*args, links=2, flow_channels=3, flow_kernel_size=3, **options),
}
ALL = pytest.mark.parametrize("kind", BUILDERS)


def build(kind: str, *args: Any, **options: Any) -> RecurrentLayers:
    """A layer in double precision whose parameters are all different from zero."""
    torch.manual_seed(0)
    layer: RecurrentLayers = BUILDERS[kind](*args, dtype=DOUBLE, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return layer


def tensors(state: Any) -> list[Tensor]:
    """All tensors of a state, in order."""
    return [state] if isinstance(state, Tensor) else [tensor for entry in state for tensor in tensors(entry)]


def state_of(layer: RecurrentLayers, flat: list[Tensor]) -> list[Any]:
    """The reverse of `tensors`."""
    each = len(layer.cell_class.state_names)
    return flat if each == 1 else [tuple(flat[i : i + each]) for i in range(0, len(flat), each)]


def assert_same_state(have: Any, want: Any) -> None:
    torch.testing.assert_close(tensors(have), tensors(want))


@ALL
def test_a_shifted_input_gives_a_shifted_output_away_from_the_edge(kind: str) -> None:
    layer = build(kind, 1, 2, 3)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "flow" in name:  # displacements of less than a pixel, so that the reach below is known
                parameter.mul_(0.1)
    frames = torch.randn(2, 1, 1, 20, 20, dtype=DOUBLE)
    output, _ = layer(frames)
    moved, _ = layer(frames.roll((2, 3), (-2, -1)))
    # Two steps of at most 3 + 3 pixels (kernels, flow) each, and the roll itself.
    inner = (..., slice(8, -6), slice(9, -6))
    torch.testing.assert_close(moved[inner], output.roll((2, 3), (-2, -1))[inner])


@ALL
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences_equal_each_sequence_alone(kind: str, bidirectional: bool) -> None:
    layer = build(kind, 2, [2, 3], 3, 2, bidirectional=bidirectional)
    sequences = [torch.randn(length, 2, 4, 5, dtype=DOUBLE) for length in (2, 4, 3)]
    start = [torch.randn_like(t) for t in tensors(layer.get_initial_state(3, (4, 5)))]

    output, state = layer(pack_sequence(sequences, enforce_sorted=False), state_of(layer, start))
    padded, lengths = pad_packed_sequence(output)
    assert lengths.tolist() == [2, 4, 3]
    for i, sequence in enumerate(sequences):
        alone, state_alone = layer(sequence, state_of(layer, [tensor[i] for tensor in start]))
        torch.testing.assert_close(padded[: len(sequence), i], alone)
        assert_same_state([tensor[i] for tensor in tensors(state)], state_alone)


@ALL
def test_a_sorted_packed_sequence_needs_no_reordering(kind: str) -> None:
    layer = build(kind, 2, 2, 3)
    sequences = [torch.randn(length, 2, 4, 5, dtype=DOUBLE) for length in (3, 1)]
    output, state = layer(pack_sequence(sequences))
    assert output.sorted_indices is None
    torch.testing.assert_close(output.data[-1], layer(sequences[0])[0][-1])
    torch.testing.assert_close(tensors(state)[0][1], tensors(layer(sequences[1])[1])[0])


@ALL
def test_a_sequence_in_chunks_equals_the_whole(kind: str) -> None:
    layer = build(kind, 2, [2, 3], 3, 2)
    frames = torch.randn(6, 2, 2, 4, 5, dtype=DOUBLE)
    whole, last = layer(frames)
    first, state = layer(frames[:2])
    second, state = layer(frames[2:5], detach_state(state))
    third, state = layer(frames[5:], list(state))
    torch.testing.assert_close(torch.cat([first, second, third]), whole)
    assert_same_state(state, last)
    assert not any(tensor.requires_grad for tensor in tensors(detach_state(state)))


@ALL
def test_bidirectional_is_forward_beside_reversed_forward(kind: str) -> None:
    both = build(kind, 2, 3, 3, bidirectional=True)
    forward, backward = build(kind, 2, 3, 3), build(kind, 2, 3, 3)
    forward.cells.load_state_dict(both.cells.state_dict())
    backward.cells.load_state_dict(both.reverse_cells.state_dict())
    frames = torch.randn(4, 2, 2, 5, 4, dtype=DOUBLE)
    output, state = both(frames)
    ahead, ahead_state = forward(frames)
    back, back_state = backward(frames.flip(0))
    torch.testing.assert_close(output, torch.cat([ahead, back.flip(0)], dim=2))
    assert_same_state(state, [*ahead_state, *back_state])


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "gru before", "lstm channel"])
def test_three_dimensions_of_depth_one_are_two(kind: str) -> None:
    flat = build(kind, 2, 3, (3, 5))
    deep = build(kind, 2, 3, (1, 3, 5), spatial_dims=3)
    deep.load_state_dict({name: value.view_as(deep.state_dict()[name]) for name, value in flat.state_dict().items()})
    frames = torch.randn(3, 2, 2, 6, 7, dtype=DOUBLE)
    torch.testing.assert_close(deep(frames.unsqueeze(3))[0].squeeze(3), flat(frames)[0])


@ALL
def test_an_unbatched_sequence_is_a_batch_of_one(kind: str) -> None:
    layer = build(kind, 2, [2, 3], 3, 2)
    frames = torch.randn(3, 2, 4, 5, dtype=DOUBLE)
    output, state = layer(frames)
    batched, batched_state = layer(frames.unsqueeze(1))
    torch.testing.assert_close(output, batched.squeeze(1))
    assert_same_state(state, [tensor.squeeze(0) for tensor in tensors(batched_state)])
    again, _ = layer(frames, state)
    torch.testing.assert_close(again, layer(frames.unsqueeze(1), batched_state)[0].squeeze(1))


@ALL
def test_batch_first_swaps_two_axes_and_no_more(kind: str) -> None:
    layer, swapped = build(kind, 2, 2, 3), build(kind, 2, 2, 3, batch_first=True)
    frames = torch.randn(3, 2, 2, 4, 5, dtype=DOUBLE)
    output, state = swapped(frames.transpose(0, 1))
    torch.testing.assert_close(output.transpose(0, 1), layer(frames)[0])
    assert_same_state(state, layer(frames)[1])


@ALL
def test_a_layer_is_its_cell_stepped_by_hand(kind: str) -> None:
    layer = build(kind, 2, 3, 3)
    cell: Any = layer.cells[0]
    frames = torch.randn(3, 2, 2, 4, 5, dtype=DOUBLE)
    output, final = layer(frames)
    state = None
    for t, frame in enumerate(frames):
        state = cell(frame, state)
        torch.testing.assert_close(output[t], tensors(state)[0])
    assert_same_state(state, final)
    one = cell(frames[0, 0])  # unbatched
    torch.testing.assert_close(tensors(one)[0], output[0, 0])


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (3, 3), (4, 2), (5, 4), (4, 4)])
@pytest.mark.parametrize("size", [4, 5, 6, 7])
def test_every_pixel_is_read_and_every_output_reads_one(kind: str, kernel: int, stride: int, size: int) -> None:
    """With dilation 1 and stride <= kernel. Public code pads so that most strided outputs see padding alone."""
    layer = build(kind, 1, 1, kernel, stride=stride)
    frame = torch.randn(1, 1, size, size, dtype=DOUBLE)
    output, _ = layer(frame)
    assert output.shape[-2:] == (-(-size // stride),) * 2

    jacobian = torch.autograd.functional.jacobian(lambda frame: layer(frame)[0], frame)
    reads = jacobian.reshape(output.numel(), frame.numel()) != 0
    assert reads.any(dim=1).all(), "an output depends on no input pixel"
    assert reads.any(dim=0).all(), "an input pixel reaches no output"


@ALL
def test_no_parameter_is_without_a_gradient(kind: str) -> None:
    layer = build(
        kind, 2, [2, 3], 3, 2, bidirectional=True, norm="layer", learn_initial_state=True, recurrent_kernel_size=1
    )
    output, _ = layer(torch.randn(3, 2, 2, 4, 5, dtype=DOUBLE))
    (output * torch.randn_like(output)).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        # No slice over the output channels may be dead either: a fifth of a public cell's weights never act.
        assert (parameter.grad.flatten(1) if parameter.dim() > 1 else parameter.grad[:, None]).abs().sum(1).all(), name


@ALL
def test_a_state_dict_makes_the_round_trip_through_a_file(kind: str) -> None:
    options: dict[str, Any] = {"bidirectional": True, "norm": "batch", "learn_initial_state": True}
    layer = build(kind, 2, [2, 3], 3, 2, **options)
    frames = torch.randn(3, 2, 2, 4, 5, dtype=DOUBLE)
    layer(frames)  # moves the running statistics
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = BUILDERS[kind](2, [2, 3], 3, 2, dtype=DOUBLE, **options)
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(other.eval()(frames)[0], layer.eval()(frames)[0])


def test_the_names_in_a_state_dict_are_these() -> None:
    lstm = ConvLSTM(1, 2, 3, bidirectional=True, peephole="channel", learn_initial_state=True, norm="group")
    names = ["weight_ih", "weight_hh", "bias", "initial_state", "peephole", "norm_ih.weight", "norm_hh.weight"]
    wanted = {f"{cells}.0.{name}" for cells in ("cells", "reverse_cells") for name in names}
    assert set(lstm.state_dict()) == wanted
    assert set(ConvGRU(1, 2, 3).state_dict()) == {f"cells.0.{n}" for n in ("weight_ih", "weight_hh", "bias", "bias_hn")}
    flow = ["flow_ih", "flow_hh", "flow_bias", "flow_out", "flow_out_bias"]
    names = ["weight_ih", "weight_hh", "bias", "bias_hn", *flow]
    assert set(TrajGRU(1, 2, 3).state_dict()) == {f"cells.0.{name}" for name in names}


@pytest.mark.parametrize(("peephole", "grid", "shape"), [("channel", None, (3, 4)), ("spatial", (6, 5), (3, 4, 3, 3))])
def test_peepholes_are_registered_move_train_and_save(peephole: str, grid: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = ConvLSTM(2, 4, 3, peephole=peephole, grid=grid, stride=2)
    weights = dict(layer.named_parameters())["cells.0.peephole"]
    assert weights.shape == shape
    layer.to(DOUBLE)
    assert dict(layer.named_parameters())["cells.0.peephole"].dtype == DOUBLE
    assert layer.to("meta").state_dict()["cells.0.peephole"].device.type == "meta"

    layer = ConvLSTM(2, 4, 3, peephole=peephole, grid=grid, stride=2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer(torch.randn(3, 2, 2, 6, 5))[0].sum().backward()
    optimizer.step()
    trained = layer.state_dict()["cells.0.peephole"]
    assert (trained != 0).all(), "a peephole got no gradient"
    layer(torch.randn(3, 2, 2, 6, 5))
    torch.testing.assert_close(layer.state_dict()["cells.0.peephole"], trained)  # nothing resets it between batches
