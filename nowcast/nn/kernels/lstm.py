"""A ConvLSTM over a whole sequence on the CPU: Winograd convolutions, gates on tiles, and a backward pass by hand.

`ConvLSTMCell.step` is the reference. Beyond the shapes of winograd.py: T steps, D hidden channels, E = C + D.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nowcast.nn.kernels.winograd import TILE, Tiling, transforms

Q = TILE * TILE


class Workspace:
    """Buffers that every step uses again, and the convolution of input and state at once that goes through them."""

    def __init__(self, tiling: Tiling, weight: Tensor) -> None:
        out, both = weight.shape[:2]
        self.tiling, self.both, self.out = tiling, both, out
        self.transforms = transforms(tiling.kernel)
        positions = self.transforms.of_input.shape[0]
        flat = weight.permute(2, 3, 1, 0).reshape(tiling.kernel**2, both * out)
        self.weight = (self.transforms.of_kernel @ flat).view(positions, both, out)
        self.padded = tiling.padded(both)
        self.tiles = torch.empty(positions, tiling.count * both)
        self.transformed = torch.empty(positions, tiling.count, both)
        self.products = torch.empty(positions, tiling.count, out)

    def transform_input(self) -> None:
        """Bring what stands in `padded` into `transformed`."""
        windows = self.tiling.windows(self.padded)
        self.tiles.view(windows.shape).copy_(windows)
        torch.mm(self.transforms.of_input, self.tiles, out=self.transformed.view(self.tiles.shape))

    def convolve(self, outputs: Tensor) -> None:
        """Convolve what stands in `padded` into output tiles (Q, K, O)."""
        self.transform_input()
        torch.bmm(self.transformed, self.weight, out=self.products)
        torch.mm(self.transforms.of_output, self.products.flatten(1), out=outputs.view(Q, -1))

    def transform_gradient(self, outputs: Tensor) -> None:
        """Bring the gradient of output tiles into `products`."""
        torch.mm(self.transforms.of_output.T, outputs.view(Q, -1), out=self.products.view(self.products.shape[0], -1))

    def input_gradient(self, padded: Tensor, first: int) -> None:
        """The gradient of the channels from `first` on, of what stands in `products`, into a padded grid."""
        gradient = torch.bmm(self.products, self.weight[:, first:].transpose(1, 2))
        tiles = self.transforms.of_input.T @ gradient.flatten(1)
        shape = (*self.tiling.windows(padded).shape[:-1], self.both - first)
        self.tiling.scatter(tiles.view(shape), padded)

    def kernel_gradient(self, transformed: Tensor) -> Tensor:
        """The gradient of the kernels (O, E, kernel, kernel), of that of the transformed ones (P, E, O)."""
        kernel = self.tiling.kernel
        flat = self.transforms.of_kernel.T @ transformed.flatten(1)
        return flat.view(kernel, kernel, self.both, self.out).permute(3, 2, 0, 1)


class LSTMSequence(torch.autograd.Function):
    """h of all steps (T * B, D, H, W) and the last c (B, D, H, W) of a ConvLSTM cell.

    Arguments: T, whether a backward pass will follow, x (T * B, C, H, W) or None, h and c (B, D, H, W), weight
    (O, E, k, k) of x and h side by side, bias (O) or None, peephole (3, D) or None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        steps: int,
        keep: bool,
        x: Tensor | None,
        h: Tensor,
        c: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        peephole: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        batch, hidden, height, width = h.shape
        tiling = Tiling(batch, height, width, weight.shape[2])
        work = Workspace(tiling, weight)
        channels = work.both - hidden
        inside = tiling.interior(work.padded)
        frames = None if x is None else _by_step(x, steps)
        outputs = torch.empty(steps, batch, height, width, hidden)
        gates = torch.empty(steps if keep else 1, Q, tiling.count, 4, hidden)
        cells = torch.empty(steps + 1 if keep else 2, Q, tiling.count, hidden)
        tiling.to_outputs(c.permute(0, 2, 3, 1), cells[0])
        inside[..., channels:] = h.permute(0, 2, 3, 1)
        scratch = torch.empty_like(cells[0])
        for t in range(steps):
            if frames is not None:
                inside[..., :channels] = frames[t]
            now = gates[t if keep else 0]
            before, after = (cells[t], cells[t + 1]) if keep else (cells[t % 2], cells[(t + 1) % 2])
            work.convolve(now)
            if bias is not None:
                now += bias.view(4, hidden)
            _step(now, before, after, scratch, peephole)
            outputs[t] = tiling.to_grid(scratch)
            inside[..., channels:] = outputs[t]
        ctx.steps, ctx.tiling = steps, tiling
        if keep:
            ctx.save_for_backward(x, h, c, weight, bias, peephole, outputs, gates, cells)
        last = cells[steps if keep else steps % 2]
        # Copies, contiguous as from any layer, which may be changed in place without harm to what is kept.
        return outputs.permute(0, 1, 4, 2, 3).flatten(0, 1).contiguous(), tiling.to_grid(last).permute(
            0, 3, 1, 2
        ).contiguous()

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor, grad_c: Tensor) -> tuple[Tensor | None, ...]:
        x, h, c, weight, bias, peephole, outputs, gates, cells = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants gradients of gradients
            return _differentiable(ctx, (x, h, c, weight, bias, peephole), (grad_h, grad_c))
        steps, tiling, hidden = ctx.steps, ctx.tiling, h.shape[1]
        work = Workspace(tiling, weight)
        channels = work.both - hidden
        inside = tiling.interior(work.padded)
        frames = None if x is None else _by_step(x, steps)
        wants_x = x is not None and ctx.needs_input_grad[2]
        first = 0 if wants_x else channels
        back = tiling.padded(work.both - first)
        back_inside = tiling.interior(back)
        grad_frames = torch.empty_like(frames) if frames is not None and wants_x else None
        grad_outputs = _by_step(grad_h, steps)
        grad_weight = torch.zeros_like(work.weight)
        grad_bias = torch.zeros(4, hidden)
        grad_peephole = None if peephole is None else torch.zeros_like(peephole)
        d_gates = torch.empty_like(gates[0])
        d_h, d_c = torch.empty_like(cells[0]), torch.empty_like(cells[0])
        tiling.to_outputs(grad_c.permute(0, 2, 3, 1), d_c)
        for t in reversed(range(steps)):
            arriving = grad_outputs[t] if t == steps - 1 else grad_outputs[t] + back_inside[..., channels - first :]
            tiling.to_outputs(arriving, d_h)
            _step_backward(gates[t], cells[t], cells[t + 1], d_h, d_c, d_gates, peephole, grad_peephole)
            grad_bias += d_gates.sum((0, 1))
            if frames is not None:
                inside[..., :channels] = frames[t]
            inside[..., channels:] = outputs[t - 1] if t > 0 else h.permute(0, 2, 3, 1)
            work.transform_input()
            work.transform_gradient(d_gates)
            grad_weight.baddbmm_(work.transformed.transpose(1, 2), work.products)
            work.input_gradient(back, first)
            if grad_frames is not None:
                grad_frames[t] = back_inside[..., :channels]
        return (
            None,
            None,
            None if grad_frames is None else grad_frames.permute(0, 1, 4, 2, 3).flatten(0, 1),
            back_inside[..., channels - first :].permute(0, 3, 1, 2).contiguous(),
            tiling.to_grid(d_c).permute(0, 3, 1, 2).contiguous(),
            work.kernel_gradient(grad_weight),
            None if bias is None else grad_bias.flatten(),
            grad_peephole,
        )


def _by_step(frames: Tensor, steps: int) -> Tensor:
    """(T * B, C, H, W) as (T, B, H, W, C)."""
    return frames.unflatten(0, (steps, -1)).permute(0, 1, 3, 4, 2)


def _step(gates: Tensor, before: Tensor, after: Tensor, h: Tensor, peephole: Tensor | None) -> None:
    """Equation 3 of Shi et al. 2015 on tiles: pre-activations (Q, K, 4, D) become gates; `after` and `h` are set."""
    i, f, g, o = gates.unbind(2)
    if peephole is not None:
        i.addcmul_(peephole[0], before)
        f.addcmul_(peephole[1], before)
    i.sigmoid_()
    f.sigmoid_()
    g.tanh_()
    torch.mul(f, before, out=after)
    after.addcmul_(i, g)
    if peephole is not None:
        o.addcmul_(peephole[2], after)
    o.sigmoid_()
    torch.tanh(after, out=h)
    h.mul_(o)


def _step_backward(
    gates: Tensor,
    before: Tensor,
    after: Tensor,
    d_h: Tensor,
    d_c: Tensor,
    d_gates: Tensor,
    peephole: Tensor | None,
    grad_peephole: Tensor | None,
) -> None:
    """Turn the gradient of h and c after a step into that of the pre-activations, and `d_c` into that of c before."""
    i, f, g, o = gates.unbind(2)
    d_i, d_f, d_g, d_o = d_gates.unbind(2)
    tanh_c = torch.tanh(after)
    d_o.copy_(torch.ops.aten.sigmoid_backward(d_h * tanh_c, o))
    d_c.add_(torch.ops.aten.tanh_backward(d_h * o, tanh_c))
    if peephole is not None:
        d_c.addcmul_(d_o, peephole[2])
    d_i.copy_(torch.ops.aten.sigmoid_backward(d_c * g, i))
    d_f.copy_(torch.ops.aten.sigmoid_backward(d_c * before, f))
    d_g.copy_(torch.ops.aten.tanh_backward(d_c * i, g))
    d_c.mul_(f)
    if peephole is not None and grad_peephole is not None:
        d_c.addcmul_(d_i, peephole[0]).addcmul_(d_f, peephole[1])
        grad_peephole[0] += (d_i * before).sum((0, 1))
        grad_peephole[1] += (d_f * before).sum((0, 1))
        grad_peephole[2] += (d_o * after).sum((0, 1))


def _differentiable(ctx: Any, inputs: tuple[Any, ...], gradients: tuple[Tensor, Tensor]) -> tuple[Tensor | None, ...]:
    """The same gradients by way of torch's own operations, which can be differentiated again."""
    wanted = [index for index, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
    results = step_by_step(ctx.steps, *inputs)
    found = torch.autograd.grad(results, [inputs[index] for index in wanted], gradients, create_graph=True)
    by_index = dict(zip(wanted, found, strict=True))
    return (None, None, *(by_index.get(index) for index in range(len(inputs))))


def step_by_step(
    steps: int, x: Tensor | None, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor | None, peephole: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What LSTMSequence computes, from the same arguments, in the usual way."""
    w_ci, w_cf, w_co = (0.0, 0.0, 0.0) if peephole is None else peephole.view(3, -1, 1, 1)
    frames = [None] * steps if x is None else x.unflatten(0, (steps, -1))
    outputs = []
    for frame in frames:
        both = h if frame is None else torch.cat([frame, h], dim=1)
        i, f, g, o = F.conv2d(both, weight, bias, padding=weight.shape[2] // 2).chunk(4, dim=1)
        c = torch.sigmoid(f + w_cf * c) * c + torch.sigmoid(i + w_ci * c) * torch.tanh(g)
        h = torch.sigmoid(o + w_co * c) * torch.tanh(c)
        outputs.append(h)
    return torch.cat(outputs), c
