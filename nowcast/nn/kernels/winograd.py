"""Winograd's minimal filtering in 2-D: 3x3 and 5x5 convolutions as batched matrix products over tiles.

A tile of n x n pixels, n = 4 + kernel - 1, gives 4 x 4 outputs: with BT, G and AT of Lavin and Gray 2016
(arXiv 1509.09308), output = AT [(G kernel GT) o (BT tile B)] A. Their 2-D forms are Kronecker products here, so that
each transform is one matrix product. That is 4 times (3x3) and 6.25 times (5x5) fewer multiplications than directly.

Shapes: B batch, H and W grid, C channels in, O channels out, P = n * n, K = B * tiles, Q = 16 outputs of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

TILE = 4
# Toom-Cook points, the last one being infinity. Of ten sets tried for each, these have the least rounding error in
# float32: 4e-6 (5x5) and 9e-7 (3x3) root mean square, of outputs of order one summed over 64 channels.
_POINTS = {3: (0.0, 0.7, -0.7, 1.4, -1.4), 5: (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)}
KERNELS = tuple(_POINTS)


@dataclass(frozen=True)
class Transforms:
    """The three transforms of a kernel size, in two dimensions.

    Attributes:
        of_input: (P, P), of_kernel: (P, kernel * kernel), of_output: (Q, P).
    """

    of_input: Tensor
    of_kernel: Tensor
    of_output: Tensor


@cache
def transforms(kernel: int) -> Transforms:
    """The transforms of a kernel size, in float32, made in float64."""
    return Transforms(*(torch.kron(matrix, matrix).float() for matrix in one_dimensional_transforms(kernel)))


def one_dimensional_transforms(kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    """BT (n, n), G (n, kernel) and AT (4, n) in float64.

    Row j of BT holds the polynomial that vanishes at every point but the j-th. Rows of BT and G are scaled against each
    other to like magnitudes, which leaves their product alone.
    """
    points = _POINTS[kernel]
    n = TILE + kernel - 1
    of_input, of_kernel, of_output = (
        torch.zeros(shape, dtype=torch.float64) for shape in ((n, n), (n, kernel), (TILE, n))
    )
    powers = torch.arange(n, dtype=torch.float64)
    for j, point in enumerate(points):
        others = [other for other in points if other != point]
        of_input[j, : n - 1] = _polynomial(others)
        of_kernel[j] = point ** powers[:kernel] / math.prod(point - other for other in others)
        of_output[:, j] = point ** powers[:TILE]
    of_input[-1] = _polynomial(points)
    of_kernel[-1, -1] = of_output[-1, -1] = 1
    scale = (of_kernel.abs().amax(1) / of_input.abs().amax(1)).sqrt()[:, None]
    return of_input * scale, of_kernel / scale, of_output


def _polynomial(roots: Sequence[float]) -> Tensor:
    """Coefficients, the constant one first, of the polynomial x^n + ... with these roots."""
    coefficients = [1.0]
    for root in roots:
        coefficients = [a - root * b for a, b in zip([0.0, *coefficients], [*coefficients, 0.0], strict=True)]
    return torch.tensor(coefficients, dtype=torch.float64)


@dataclass(frozen=True)
class Tiling:
    """How a batch of grids is cut into tiles for a kernel size."""

    batch: int
    height: int
    width: int
    kernel: int

    @property
    def side(self) -> int:
        """n, pixels along a side of an input tile."""
        return TILE + self.kernel - 1

    @property
    def rows(self) -> int:
        """Tiles from top to bottom."""
        return -(-self.height // TILE)

    @property
    def columns(self) -> int:
        """Tiles from left to right."""
        return -(-self.width // TILE)

    @property
    def count(self) -> int:
        """K."""
        return self.batch * self.rows * self.columns

    def padded(self, channels: int) -> Tensor:
        """Zeros (B, rows * 4 + kernel - 1, columns * 4 + kernel - 1, C): a grid with what lies beyond its edge."""
        border = self.kernel - 1
        return torch.zeros(self.batch, self.rows * TILE + border, self.columns * TILE + border, channels)

    def interior(self, padded: Tensor) -> Tensor:
        """The grid (B, H, W, C) inside a padded one, as a view."""
        edge = self.kernel // 2
        return padded[:, edge : edge + self.height, edge : edge + self.width]

    def windows(self, padded: Tensor) -> Tensor:
        """The overlapping input tiles of a padded grid as a view (n, n, B, rows, columns, C)."""
        of_batch, of_row, of_column, of_channel = padded.stride()
        return padded.as_strided(
            (self.side, self.side, self.batch, self.rows, self.columns, padded.shape[3]),
            (of_row, of_column, of_batch, TILE * of_row, TILE * of_column, of_channel),
            padded.storage_offset(),
        )

    def scatter(self, tiles: Tensor, padded: Tensor) -> None:
        """Set a padded grid to the sum of what overlapping tiles (n, n, B, rows, columns, C) say of its pixels."""
        padded.zero_()
        windows = self.windows(padded)
        # Blocks of 4 x 4 pixels at one place in their tiles do not overlap.
        for row in range(0, self.side, TILE):
            for column in range(0, self.side, TILE):
                block = (slice(row, row + TILE), slice(column, column + TILE))
                windows[block].add_(tiles[block])

    def to_outputs(self, grid: Tensor, outputs: Tensor) -> None:
        """Cut a grid (B, H, W, C) into output tiles (Q, K, C), 0 beyond its edge."""
        whole = self._output_view(outputs)
        if (self.height % TILE, self.width % TILE) == (0, 0):
            whole.copy_(grid.unflatten(2, (self.columns, TILE)).unflatten(1, (self.rows, TILE)))
            return
        around = grid.new_zeros(self.batch, self.rows * TILE, self.columns * TILE, grid.shape[3])
        around[:, : self.height, : self.width] = grid
        whole.copy_(around.unflatten(2, (self.columns, TILE)).unflatten(1, (self.rows, TILE)))

    def to_grid(self, outputs: Tensor) -> Tensor:
        """Put output tiles (Q, K, C) together to a grid (B, H, W, C)."""
        grid = self._output_view(outputs).reshape(self.batch, self.rows * TILE, self.columns * TILE, -1)
        return grid[:, : self.height, : self.width]

    def _output_view(self, outputs: Tensor) -> Tensor:
        """Output tiles as (B, rows, 4, columns, 4, C)."""
        view = outputs.view(TILE, TILE, self.batch, self.rows, self.columns, outputs.shape[2])
        return view.permute(2, 3, 0, 4, 1, 5)
