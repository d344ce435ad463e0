"""TrajGRU: a ConvGRU when nothing is displaced, and displaced the way that its paper says when something is."""

from __future__ import annotations

import pytest
import torch

from nowcast.nn import ConvGRU, TrajGRU
from nowcast.nn.trajgru import warp

DOUBLE = torch.float64


def test_with_zero_flow_it_is_a_convgru_with_the_sum_of_the_links() -> None:
    torch.manual_seed(0)
    moving = TrajGRU(2, 3, 5, links=4, dtype=DOUBLE, activation="leaky_relu")
    still = ConvGRU(2, 3, 5, recurrent_kernel_size=1, dtype=DOUBLE, activation="leaky_relu")
    cell, plain = moving.cells[0], still.cells[0]
    with torch.no_grad():
        cell.flow_out.zero_()
        cell.flow_out_bias.zero_()
        plain.weight_ih.copy_(cell.weight_ih)
        plain.weight_hh.copy_(cell.weight_hh.unflatten(1, (4, 3)).sum(1))
        plain.bias.copy_(cell.bias)
        plain.bias_hn.copy_(cell.bias_hn)
    frames = torch.randn(4, 2, 2, 6, 7, dtype=DOUBLE)
    torch.testing.assert_close(moving(frames), still(frames))


def test_warp_reads_where_the_displacement_points() -> None:
    h = torch.arange(12, dtype=DOUBLE).view(1, 1, 3, 4)
    flow = torch.zeros(1, 4, 3, 4, dtype=DOUBLE)
    flow[:, 0] = 1  # u of the first link: one column to the right
    flow[:, 3] = -0.5  # v of the second link: half a row up
    first, second = warp(h, flow)[0]
    right = [[1.0, 2, 3, 0], [5, 6, 7, 0], [9, 10, 11, 0]]  # 0 beyond the edge
    up = [[0, 0.5, 1, 1.5], [2, 3, 4, 5], [6, 7, 8, 9]]
    torch.testing.assert_close(torch.stack([first, second]), torch.tensor([right, up], dtype=DOUBLE))


def test_warp_on_a_grid_of_one_pixel() -> None:
    assert warp(torch.full((1, 1, 1, 1), 3.0), torch.zeros(1, 2, 1, 1)).item() == 3


def test_a_constant_flow_carries_a_blob() -> None:
    """With z = 1 - tiny, h = h' read one pixel further on each step."""
    layer = TrajGRU(1, 1, 1, links=1, activation="identity", dtype=DOUBLE)
    cell = layer.cells[0]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        cell.flow_out_bias.copy_(torch.tensor([-1.0, 0.0]))  # each pixel reads its left neighbour
        cell.weight_hh.copy_(torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1, 1))
        cell.bias.copy_(torch.tensor([50.0, -50.0, 0.0]))  # r = 1, z = 0: h = warp(h')
    start = torch.zeros(1, 1, 3, 8, dtype=DOUBLE)
    start[..., 1, 2] = 1
    output, _ = layer(torch.zeros(4, 1, 1, 3, 8, dtype=DOUBLE), (start,))
    assert [frame[0, 0, 1].argmax().item() for frame in output] == [3, 4, 5, 6]
    assert output[-1].sum().item() == pytest.approx(1)


def test_links_per_layer() -> None:
    layer = TrajGRU(1, [4, 2], 3, 2, links=[13, 9], stride=2)
    assert [cell.weight_hh.shape[1] for cell in layer.cells] == [13 * 4, 9 * 2]
    assert layer(torch.randn(2, 1, 1, 9, 9))[0].shape == (2, 1, 2, 3, 3)
