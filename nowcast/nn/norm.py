"""Normalisation of gate pre-activations, without fixing the grid size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS = ("none", "batch", "group", "layer")


class GateNorm(nn.Module):
    """Normalise (N, gates * hidden, *grid) and scale it by one weight a channel; the cell adds its own bias.

    kind: "batch" normalises each channel over batch and grid (running statistics in evaluation, shared by all steps),
    "group" each gate over its channels and the grid, "layer" all gates over the channels of each pixel alone.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        kind: str,
        gates: int,
        channels: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kind, self.gates, self.eps, self.momentum = kind, gates, eps, momentum
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))
        if kind == "batch":
            self.register_buffer("running_mean", torch.zeros(channels, device=device, dtype=dtype))
            self.register_buffer("running_var", torch.ones(channels, device=device, dtype=dtype))

    def forward(self, gates: Tensor) -> Tensor:
        if self.kind == "batch":
            return F.batch_norm(
                gates,
                self.running_mean,
                self.running_var,
                self.weight,
                None,
                self.training,
                self.momentum,
                self.eps,
            )
        if self.kind == "group":
            return F.group_norm(gates, self.gates, self.weight, None, self.eps)
        return F.layer_norm(gates.movedim(1, -1), self.weight.shape, self.weight, None, self.eps).movedim(-1, 1)

    def extra_repr(self) -> str:
        return f"{self.kind}, gates={self.gates}, channels={self.weight.numel()}"
