"""The fast kernels equal the cells, whose equations are proved elsewhere, and run only where they may."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nowcast.nn import ConvGRU, ConvLSTM, kernels
from nowcast.nn.kernels import winograd
from nowcast.nn.kernels.lstm import LSTMSequence, step_by_step


@pytest.mark.parametrize("kernel", winograd.KERNELS)
def test_the_transforms_are_a_correlation(kernel: int) -> None:
    rng = np.random.default_rng(0)
    of_input, of_kernel, of_output = (matrix.numpy() for matrix in winograd.one_dimensional_transforms(kernel))
    tile, weights = rng.normal(size=winograd.TILE + kernel - 1), rng.normal(size=kernel)
    have = of_output @ ((of_kernel @ weights) * (of_input @ tile))
    np.testing.assert_allclose(have, np.correlate(tile, weights, mode="valid"), rtol=1e-12, atol=1e-12)


def inputs(kernel: int, grid: tuple[int, int], *, channels: int, bias: bool, peephole: bool) -> list[Tensor | None]:
    """Arguments of both implementations, after the number of steps: 3 steps, batch 2, 4 hidden channels."""
    torch.manual_seed(0)
    made = [
        torch.randn(6, channels, *grid) if channels else None,
        torch.randn(2, 4, *grid),
        torch.randn(2, 4, *grid),
        0.2 * torch.randn(16, channels + 4, kernel, kernel),
        torch.randn(16) if bias else None,
        torch.randn(3, 4) if peephole else None,
    ]
    return [tensor if tensor is None else tensor.requires_grad_() for tensor in made]


@pytest.mark.parametrize("kernel", winograd.KERNELS)
@pytest.mark.parametrize("grid", [(8, 8), (5, 10)])
@pytest.mark.parametrize(
    ("channels", "bias", "peephole"), list(itertools.product([0, 3], [True, False], [True, False]))
)
def test_winograd_equals_direct_convolution_with_all_gradients(
    kernel: int, grid: tuple[int, int], channels: int, bias: bool, peephole: bool
) -> None:
    given = inputs(kernel, grid, channels=channels, bias=bias, peephole=peephole)
    exact = [tensor if tensor is None else tensor.detach().double().requires_grad_() for tensor in given]
    results = []
    for run, tensors in ((_fast, given), (step_by_step, exact)):
        h, c = run(3, *tensors)
        weights = torch.linspace(-1, 1, h.numel(), dtype=h.dtype).view_as(h)
        (h * weights).sum().add((c * weights[:2].cos()).sum()).backward()
        results.append([h, c, *(tensor.grad for tensor in tensors if tensor is not None)])
    for have, want in zip(*results, strict=True):
        # Winograd rounds to some 4e-6 of the values it meets (5x5, root mean square), and sums add that up.
        scale = max(1.0, want.abs().max().item())
        assert (have - want).square().mean().sqrt() < 1e-5 * scale
        torch.testing.assert_close(have.double(), want, rtol=0, atol=1e-4 * scale)


def _fast(steps: int, *tensors: Tensor | None) -> Any:
    return LSTMSequence.apply(steps, True, *tensors)


def test_gradients_of_gradients_are_those_of_direct_convolution() -> None:
    seconds = []
    for run in (_fast, step_by_step):
        given = inputs(3, (8, 8), channels=2, bias=True, peephole=True)
        h, c = run(3, *given)
        firsts = torch.autograd.grad(h.square().sum() + c.sum(), given, create_graph=True)
        penalty = sum(first.square().sum() for first in firsts)
        seconds.append(torch.autograd.grad(penalty, given))
    for have, want in zip(*seconds, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-3, atol=1e-4 * want.abs().max().item())


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "peephole": "channel"}, {"bias": False}])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_layer_computes_the_same_with_and_without_kernels(options: dict[str, Any], kernel: int) -> None:
    torch.manual_seed(0)
    layer = ConvLSTM(3, [16, 24], kernel, 2, **options)
    frames = torch.randn(4, 2, 3, 16, 13)
    results = []
    for run in (layer, _by_reference(layer)):
        layer.zero_grad()
        output, state = run(frames)
        again, _ = run(frames, state)
        (output.square().mean() + again.square().mean()).backward()
        results.append([output, state, again, *(parameter.grad for parameter in layer.parameters())])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=2e-5)


def _by_reference(layer: nn.Module) -> Any:
    def run(*args: Any) -> Any:
        with kernels.reference_only():
            return layer(*args)

    return run


def test_without_gradients_the_numbers_are_the_same() -> None:
    layer = ConvLSTM(3, 16, 3)
    frames = torch.randn(5, 2, 3, 16, 16)
    with torch.no_grad():
        still = layer(frames)
    torch.testing.assert_close(still, layer(frames))


def test_an_output_may_be_changed_in_place() -> None:
    layer = ConvLSTM(3, 16, 3)
    frames = torch.randn(5, 2, 3, 16, 16)
    gradients = []
    for run in (layer, _by_reference(layer)):
        layer.zero_grad()
        output, _ = run(frames)
        assert output.is_contiguous()
        output.mul_(2)
        output.square().sum().backward()
        gradients.append([parameter.grad for parameter in layer.parameters()])
    for have, want in zip(*gradients, strict=True):
        torch.testing.assert_close(have, want, rtol=0, atol=3e-5 * want.abs().max().item())


class TestChoice:
    """The kernel runs for plain float32 layers on the CPU; everything else goes step by step."""

    def runs_fast(self, layer: Any, frames: Tensor, monkeypatch: pytest.MonkeyPatch) -> bool:
        taken: list[bool] = []
        real = kernels.fast_sequence

        def spy(*args: Any, **options: Any) -> Any:
            taken.append(True)
            return real(*args, **options)

        monkeypatch.setattr(kernels, "fast_sequence", spy)
        layer(frames)
        return bool(taken)

    def test_a_plain_layer_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.runs_fast(ConvLSTM(3, 16, 3), torch.randn(5, 2, 3, 16, 16), monkeypatch)
        assert self.runs_fast(ConvLSTM(0, 16, 5, peephole="channel"), torch.randn(5, 2, 0, 16, 16), monkeypatch)

    @pytest.mark.parametrize(
        "options",
        [
            {"kernel_size": 7},
            {"kernel_size": (3, 5)},
            {"recurrent_kernel_size": 5},
            {"stride": 2},
            {"dilation": 2},
            {"padding_mode": "reflect"},
            {"activation": "relu"},
            {"activation": F.tanh},
            {"norm": "layer"},
            {"peephole": "spatial", "grid": (16, 16)},
            {"recompute": True},
            {"hidden_channels": 8},
            {"dtype": torch.float64},
        ],
        ids=str,
    )
    def test_these_do_not(self, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        layer = ConvLSTM(**{"in_channels": 3, "hidden_channels": 16, "kernel_size": 3} | options)
        frames = torch.randn(5, 2, 3, 16, 16, dtype=options.get("dtype"))
        assert not self.runs_fast(layer, frames, monkeypatch)

    def test_nor_do_other_circumstances(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layer, frames = ConvLSTM(3, 16, 3), torch.randn(5, 2, 3, 16, 16)
        assert not self.runs_fast(ConvGRU(3, 16, 3), frames, monkeypatch)
        assert not self.runs_fast(layer, torch.randn(5, 2, 3, 5, 5), monkeypatch)  # mostly waste
        with torch.autocast("cpu", torch.bfloat16):
            assert not self.runs_fast(layer, frames, monkeypatch)
        with kernels.reference_only():
            assert not self.runs_fast(layer, frames, monkeypatch)
        assert not self.runs_fast(torch.func.vmap(layer), torch.randn(2, 5, 2, 3, 16, 16), monkeypatch)


@pytest.mark.slow
def test_training_arrives_at_the_same_place() -> None:
    """Forty steps of a small net that predicts a moving blob, with the kernel and step by step."""
    losses = []
    for run in (lambda layer: layer, _by_reference):
        torch.manual_seed(0)
        layer, head = ConvLSTM(1, 16, 5, forget_bias=1.0), nn.Conv2d(16, 1, 1)
        optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=1e-2)
        for step in range(40):
            frames = _moving_blob(step)
            output, _ = run(layer)(frames[:-1])
            loss = F.mse_loss(head(output.flatten(0, 1)), frames[1:].flatten(0, 1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] < 0.5 * _moving_blob(39).square().mean().item()
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def _moving_blob(seed: int) -> Tensor:
    """(9, 4, 1, 16, 16): a blob of 4 x 4 that moves one column a step."""
    rows = torch.randint(0, 12, (4,), generator=torch.Generator().manual_seed(seed))
    frames = torch.zeros(9, 4, 1, 16, 16)
    for t in range(9):
        for b, row in enumerate(rows):
            frames[t, b, 0, row : row + 4, t : t + 4] = 1
    return frames
