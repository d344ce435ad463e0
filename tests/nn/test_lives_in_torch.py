"""Autocast, export, compile, copies, pickles, several processes: a layer behaves as any module of torch does."""

from __future__ import annotations

import copy
import io
import os
import pickle
import socket
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

from nowcast.nn import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell, ConvRNN, TrajGRU

LAYERS: dict[str, Any] = {
    "rnn": lambda **options: ConvRNN(2, [4, 3], 3, 2, **options),
    "lstm": lambda **options: ConvLSTM(2, [4, 3], 3, 2, peephole="channel", **options),
    "gru": lambda **options: ConvGRU(2, [4, 3], 3, 2, **options),
    "trajgru": lambda **options: TrajGRU(2, [4, 3], 3, 2, links=2, flow_channels=4, **options),
}
ALL = pytest.mark.parametrize("kind", LAYERS)


def frames(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_convolutions_are_half_and_states_whole(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    seen: list[torch.dtype] = []
    exact, _ = layer(frames(5, 2, 2, 8, 8))
    with torch.autocast("cpu", dtype), _Convolutions(seen):
        output, state = layer(frames(5, 2, 2, 8, 8))
    assert seen and set(seen) == {dtype}
    for h in state:
        for tensor in h if isinstance(h, tuple) else (h,):
            assert tensor.dtype == torch.float32
    # A convolution in bf16 keeps 8 bits: some 0.4 % of values of order one, and a few such errors add up.
    torch.testing.assert_close(output, exact, atol=0.03, rtol=0)
    output.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())
    # The state may go back in.
    with torch.autocast("cpu", dtype):
        layer(frames(5, 2, 2, 8, 8), state)


class _Convolutions(torch.overrides.TorchFunctionMode):
    """Notes the type in which convolutions return."""

    def __init__(self, seen: list[torch.dtype]) -> None:
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.conv2d:
            self.seen.append(result.dtype)
        return result


def test_the_cell_state_remembers_under_autocast_what_bf16_would_forget() -> None:
    """With f = sigmoid(6) = 0.9975, bf16 would round every step to 0.996 or 1."""
    layer = ConvLSTM(1, 1, 1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.cells[0].bias.copy_(torch.tensor([-100.0, 6.0, 0.0, 0.0]))
    start = ((torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)),)
    with torch.autocast("cpu", torch.bfloat16):
        _, ((_, c),) = layer(torch.zeros(200, 1, 1, 1, 1), start)
    assert c.item() == pytest.approx(torch.sigmoid(torch.tensor(6.0)).item() ** 200, rel=1e-4)


@pytest.mark.slow
@ALL
def test_export_with_dynamic_batch_height_and_width(kind: str) -> None:
    layer = LAYERS[kind]().eval()
    batch, height, width = (torch.export.Dim(name, min=2, max=64) for name in ("batch", "height", "width"))
    program = torch.export.export(
        layer, (frames(3, 2, 2, 8, 9),), dynamic_shapes={"input": {1: batch, 3: height, 4: width}}
    )
    for shape in ((3, 5, 2, 12, 7), (3, 2, 2, 4, 20)):
        have, have_state = program.module()(frames(*shape))
        want, want_state = layer(frames(*shape))
        torch.testing.assert_close(have, want)
        torch.testing.assert_close(have_state, want_state)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    torch.testing.assert_close(torch.export.load(file).module()(frames(3, 2, 2, 8, 9)), layer(frames(3, 2, 2, 8, 9)))


@pytest.mark.slow
def test_export_of_strides_norms_and_states() -> None:
    layer = ConvLSTM(2, [4, 3], 3, 2, stride=[2, 1], norm="group", bidirectional=True, padding_mode="reflect").eval()
    input = frames(3, 2, 2, 8, 10)
    with torch.no_grad():
        state = layer(input)[1]
    program = torch.export.export(layer, (input, state))
    torch.testing.assert_close(program.module()(input, state), layer(input, state))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler uses what torch deprecates
@pytest.mark.parametrize("build", [ConvLSTMCell, ConvGRUCell])
def test_a_compiled_cell_computes_the_same(build: Any) -> None:
    cell = build(2, 4, 3)
    compiled = torch.compile(cell, fullgraph=True)
    with torch.no_grad():
        state = cell(frames(2, 2, 8, 8))
    results = []
    for run in (cell, compiled):
        cell.zero_grad()
        last = run(frames(2, 2, 8, 8), state)
        (last[0] if isinstance(last, tuple) else last).sum().backward()
        results.append([last, {name: p.grad.clone() for name, p in cell.named_parameters()}])
    torch.testing.assert_close(results[0], results[1])


@ALL
def test_copies_and_pickles_compute_the_same_and_share_nothing(kind: str) -> None:
    layer = LAYERS[kind](activation="leaky_relu", norm="batch")
    layer(frames(2, 2, 2, 6, 6))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin.eval()(frames(2, 2, 2, 6, 6)), layer.eval()(frames(2, 2, 2, 6, 6)))
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert all(parameter.abs().sum() > 0 for name, parameter in layer.named_parameters() if "peephole" not in name)


@ALL
def test_channels_last_gives_the_same_numbers(kind: str) -> None:
    layer = LAYERS[kind](dtype=torch.float64)
    input = frames(3, 2, 2, 6, 6).double()
    want, _ = layer(input)
    layer = layer.to(memory_format=torch.channels_last)
    assert layer.cells[0].weight_ih.is_contiguous(memory_format=torch.channels_last)
    last = torch.stack([frame.to(memory_format=torch.channels_last) for frame in input])
    have, _ = layer(last)
    torch.testing.assert_close(have, want)
    have.sum().backward()


@ALL
def test_half_precision_and_double_precision_modules_run(kind: str) -> None:
    for dtype in (torch.bfloat16, torch.float64):
        layer = LAYERS[kind]().to(dtype)
        output, state = layer(frames(3, 2, 2, 6, 6).to(dtype))
        assert output.dtype == dtype
        layer(frames(3, 2, 2, 6, 6).to(dtype), state)[0].sum().backward()


def test_vmap_and_forward_gradients_of_a_cell() -> None:
    cell = ConvLSTMCell(2, 3, 3, dtype=torch.float64)
    many = frames(4, 1, 2, 5, 5).double()
    h, _ = torch.func.vmap(cell)(many)
    torch.testing.assert_close(h[2], cell(many[2])[0])


@pytest.mark.slow
def test_two_processes_see_the_gradient_of_the_whole_batch() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_compare_with_whole_batch, args=(port,), nprocs=2)


def _compare_with_whole_batch(rank: int, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    try:
        torch.manual_seed(0)
        layer = ConvLSTM(2, [4, 3], 3, 2, peephole="channel", bidirectional=True, learn_initial_state=True)
        whole = copy.deepcopy(layer)
        parallel = nn.parallel.DistributedDataParallel(layer)
        input = frames(3, 4, 2, 6, 6)
        parallel(input[:, 2 * rank : 2 * rank + 2])[0].mean().backward()
        whole(input)[0].mean().backward()
        for (name, have), want in zip(layer.named_parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(have.grad, want.grad, msg=name)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.gpu
@ALL
def test_cuda_equals_cpu(kind: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    layer = LAYERS[kind](dtype=torch.float64)
    want, _ = layer(frames(3, 2, 2, 6, 6).double())
    have, state = layer.cuda()(frames(3, 2, 2, 6, 6).double().cuda())
    torch.testing.assert_close(have.cpu(), want)
    layer(frames(3, 2, 2, 6, 6).double().cuda(), state)[0].sum().backward()
