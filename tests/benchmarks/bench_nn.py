"""ConvLSTM of nowcast.nn against a plain concatenate-and-convolve ConvLSTM, in training and inference, on the CPU.

    python tests/benchmarks/bench_nn.py [--repeats 7] [--threads N] [--quick]

Both sides run in turn in one process, on the same input and with the same weights, and the outcome is the median of
the ratios of neighbouring runs: above 1, ours is faster. With one thread the seconds are those of the processor, which
other programs on the machine hardly disturb; with more they are those of the clock on the wall.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from nowcast.nn import ConvLSTM

SEED = 0


@dataclass(frozen=True)
class Case:
    """One setting to time: batch, steps, channels of the input, hidden channels, kernel and side of the grid."""

    name: str
    batch: int
    steps: int
    channels: int
    hidden: list[int]
    kernel: int
    side: int


CASES = [
    Case("a: one 5x5 layer, B=8 T=10 C=16 h=64, 16x16", 8, 10, 16, [64], 5, 16),
    Case("b: 5x5 stack 128-64-64, B=8 T=10 C=16, 16x16", 8, 10, 16, [128, 64, 64], 5, 16),
    Case("c: one 3x3 layer, B=2 T=10 C=4 h=64, 64x64", 2, 10, 4, [64], 3, 64),
]
TINY = [Case("tiny: 3x3 stack 4-3, B=2 T=3 C=2, 8x8", 2, 3, 2, [4, 3], 3, 8)]


class PlainConvLSTM(nn.Module):
    """The usual way: at every step one convolution of input and state side by side, and the gates by autograd."""

    def __init__(self, channels: int, hidden: list[int], kernel: int) -> None:
        super().__init__()
        inputs = [channels, *hidden[:-1]]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before + own, 4 * own, kernel, padding=kernel // 2)
            for before, own in zip(inputs, hidden, strict=True)
        )

    def forward(self, frames: Tensor) -> Tensor:
        sequence = list(frames.unbind(0))
        for convolution in self.convolutions:
            h = c = frames.new_zeros(frames.shape[1], convolution.out_channels // 4, *frames.shape[3:])
            outputs = []
            for x in sequence:
                i, f, g, o = convolution(torch.cat([x, h], dim=1)).chunk(4, dim=1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                outputs.append(h)
            sequence = outputs
        return torch.stack(sequence)

    def load_from(self, ours: ConvLSTM) -> None:
        """Take over the weights of a ConvLSTM of as many layers."""
        with torch.no_grad():
            for convolution, cell in zip(self.convolutions, ours.cells, strict=True):
                convolution.weight.copy_(torch.cat([cell.weight_ih, cell.weight_hh], dim=1))
                convolution.bias.copy_(cell.bias)


def main() -> None:
    """Time all cases and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a tiny case, once, to see that it runs")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, float32, seed {SEED}, one warm-up run of each side")
    for case in TINY if arguments.quick else CASES:
        compare(case, 1 if arguments.quick else arguments.repeats)


def compare(case: Case, repeats: int) -> None:
    """Print the times of both sides of one case, and their ratio."""
    torch.manual_seed(SEED)
    ours = ConvLSTM(case.channels, case.hidden, case.kernel, len(case.hidden))
    plain = PlainConvLSTM(case.channels, case.hidden, case.kernel)
    plain.load_from(ours)
    frames = torch.randn(case.steps, case.batch, case.channels, case.side, case.side)
    error = (ours(frames)[0] - plain(frames)).abs().max().item()
    print(f"{case.name}; largest difference {error:.1e}")
    for mode, run in (("training", train), ("inference", infer)):
        ours_once = partial(run, lambda: ours(frames)[0])
        plain_once = partial(run, lambda: plain(frames))
        mine, usual = interleave(ours_once, plain_once, repeats)
        ratio = statistics.median(b / a for a, b in zip(mine, usual, strict=True))
        print(f"  {mode:9}  ours {1e3 * min(mine):8.1f} ms  plain {1e3 * min(usual):8.1f} ms  ratio {ratio:.2f}")


def train(forward: Callable[[], Tensor]) -> None:
    """A forward and a backward pass."""
    forward().square().mean().backward()


def infer(forward: Callable[[], Tensor]) -> None:
    """A forward pass without a graph."""
    with torch.no_grad():
        forward()


def interleave(first: Callable[[], None], second: Callable[[], None], repeats: int) -> tuple[list[float], list[float]]:
    """Seconds that each side took, in turn, after one warm-up run."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for side, run in zip(times, (first, second), strict=True):
            start = clock()
            run()
            if repeat > 0:
                side.append(clock() - start)
    return times


if __name__ == "__main__":
    main()
