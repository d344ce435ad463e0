"""TrajGRU: a ConvGRU that gathers the previous state along learned displacements, in two dimensions.

Shapes: B batch, C input channels, D hidden channels, L links, F flow channels, (H, W) the grid of the state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nowcast.nn import checks
from nowcast.nn.cell import CellOptions
from nowcast.nn.cells import ConvGRUCell
from nowcast.nn.checks import Size, State
from nowcast.nn.convolution import SameConvolution
from nowcast.nn.recurrent import LayerOptions, RecurrentLayers, Sizes


class TrajGRUCell(ConvGRUCell):
    """The trajectory GRU of Shi et al. 2017 (arXiv 1706.03458, eq. 4; gates named as in torch.nn.GRU).

        u, v = flow(x, h')                                    L displacements of every pixel
        r = sigmoid(Wxr * x + sum_l Whr_l * warp(h', u_l, v_l) + br)
        z = sigmoid(Wxz * x + sum_l Whz_l * warp(h', u_l, v_l) + bz)
        n = tanh(Wxn * x + bn + r o (sum_l Whn_l * warp(h', u_l, v_l) + bhn))
        h = (1 - z) o n + z o h'

    The Wh are 1x1 convolutions. The flow is two convolutions with a leaky ReLU (slope 0.2) between, the first one of
    x and of h'. The paper has a leaky ReLU where tanh stands, too: activation="leaky_relu" gives it.

    Args:
        links: L, how many displacements each pixel has.
        flow_channels: Channels between the two convolutions of the flow.
        flow_kernel_size: Kernel of the convolutions of the flow.
        options: As for ConvCell, but for spatial_dims, which is 2, and recurrent_kernel_size, which is 1.

    The state is h. Parameters as for ConvGRUCell, with weight_hh (3 * D, L * D, 1, 1) link after link along its second
    axis, and flow_ih (F, C, k, k), flow_hh (F, D, k, k), flow_bias (F), flow_out (2 * L, F, k, k) and flow_out_bias
    (2 * L), whose output channels are u_1, v_1, u_2, v_2, ...: pixels along columns and along rows.
    """

    flow_ih: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: Size,
        *,
        links: int = 5,
        flow_channels: int = 32,
        flow_kernel_size: Size = 5,
        **options: Unpack[CellOptions],
    ) -> None:
        for name, fixed in (("spatial_dims", 2), ("recurrent_kernel_size", 1)):
            if options.get(name, fixed) not in (fixed, None):
                raise ValueError(f"{name} of a TrajGRU is {fixed}, got {options[name]}")  # type: ignore[literal-required]
        options |= {"spatial_dims": 2, "recurrent_kernel_size": 1}
        super().__init__(in_channels, hidden_channels, kernel_size, **options)
        self.links = checks.positive_int("links", links)
        self.flow_channels = checks.positive_int("flow_channels", flow_channels)
        kernel = checks.size("flow_kernel_size", flow_kernel_size, 2)
        like, convolution = self.weight_hh, self.convolve_input
        self.flow_of_input = SameConvolution(kernel, convolution.stride, (1, 1), convolution.padding_mode)
        self.flow_of_state = SameConvolution(kernel, (1, 1), (1, 1), convolution.padding_mode)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(like.new_empty(shape))

        self.weight_hh = parameter(3 * hidden_channels, links * hidden_channels, 1, 1)
        self.flow_ih = parameter(flow_channels, in_channels, *kernel) if in_channels else None
        self.flow_hh = parameter(flow_channels, hidden_channels, *kernel)
        self.flow_bias = parameter(flow_channels)
        self.flow_out = parameter(2 * links, flow_channels, *kernel)
        self.flow_out_bias = parameter(2 * links)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for weight, bias in ((self.flow_ih, None), (self.flow_hh, self.flow_bias), (self.flow_out, self.flow_out_bias)):
            for values in (weight, bias):
                if weight is not None and values is not None:
                    bound = 1 / math.sqrt(weight[0].numel())
                    nn.init.uniform_(values, -bound, bound)

    def input_gates(self, input: Tensor | None) -> Tensor:
        """What an input adds to every gate and to the flow, (N, 3 * D + F, H, W)."""
        gates = super().input_gates(input)
        if self.flow_ih is None or input is None:
            flow = self.flow_bias.view(1, -1, 1, 1)
        else:
            flow = self.flow_of_input(input, self.flow_ih, self.flow_bias)
        return torch.cat([gates, flow.to(gates.dtype)], dim=1)

    def step(self, input_gates: Tensor, state: State) -> State:
        (h,) = state
        x_gates, x_flow = input_gates.split([3 * self.hidden_channels, self.flow_channels], dim=1)
        between = F.leaky_relu(x_flow + self.flow_of_state(h, self.flow_hh), 0.2)
        flow = self.flow_of_state(between, self.flow_out, self.flow_out_bias)
        return (self.reset_after(x_gates, self.state_gates(warp(h, flow.to(h.dtype))), h),)


def warp(h: Tensor, flow: Tensor) -> Tensor:
    """`h` (B, D, H, W) gathered along L displacements (B, 2 * L, H, W): (B, L * D, H, W), link after link.

    Pixel (row, column) of link l is h at (row + v_l, column + u_l), bilinearly, and 0 beyond the edge (eq. 3 of the
    TrajGRU paper).
    """
    height, width = h.shape[2:]
    u, v = flow.unflatten(1, (-1, 2)).unbind(2)
    columns = torch.arange(width, device=h.device, dtype=h.dtype) + u
    rows = torch.arange(height, device=h.device, dtype=h.dtype).unsqueeze(-1) + v
    # grid_sample counts from -1 at the outer edge of the first pixel to 1 at that of the last.
    where = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    links = where.shape[1]
    copies = h.unsqueeze(1).expand(-1, links, -1, -1, -1).flatten(0, 1)
    gathered = F.grid_sample(copies, where.flatten(0, 1), mode="bilinear", padding_mode="zeros", align_corners=False)
    return gathered.unflatten(0, (-1, links)).flatten(1, 2)


class TrajGRU(RecurrentLayers):
    """Layers of TrajGRUCell over time.

    Args:
        links, flow_channels, flow_kernel_size: As for TrajGRUCell; a list gives one value per layer.
        options: See RecurrentLayers.
    """

    cell_class = TrajGRUCell

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | Sequence[int],
        kernel_size: Sizes,
        num_layers: int = 1,
        *,
        links: int | list[int] = 5,
        flow_channels: int | list[int] = 32,
        flow_kernel_size: Sizes = 5,
        **options: Unpack[LayerOptions],
    ) -> None:
        flow: dict[str, Any] = {"links": links, "flow_channels": flow_channels, "flow_kernel_size": flow_kernel_size}
        super().__init__(in_channels, hidden_channels, kernel_size, num_layers, **options, **flow)
