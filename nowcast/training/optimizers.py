"""Optimisers and learning-rate schedules by the names a configuration uses."""

from __future__ import annotations

import math

import torch

from nowcast.config import TrainingConfig


def make_optimizer(net: torch.nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser of a configuration; biases, norms and peepholes are not decayed."""
    decayed: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in net.named_parameters():
        weight = parameter.ndim > 1 and "peephole" not in name and not name.endswith("bias")
        (decayed if weight else others).append(parameter)
    groups = [{"params": decayed, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}]
    rate = training.learning_rate
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate)
    if training.optimizer == "adam":
        return torch.optim.Adam(groups, lr=rate)
    return torch.optim.RMSprop(groups, lr=rate, alpha=0.9)


def learning_rate_factor(step: int, training: TrainingConfig, *, progress: float | None = None) -> float:
    """The learning rate at a step as a share of the configured one.

    constant: 1 after the warm-up. cosine: from 1 to 0 over the rest. one_cycle: up over 30 % of the run, then down
    (cosine both). step: x 0.7 at each tenth of the run (as Shi et al. 2017 did every 20,000 steps).

    Args:
        progress: Share of the run that is done, in [0, 1]; that of its steps unless given.
    """
    warm = min(1.0, (step + 1) / max(1, training.warmup_steps))
    progress = share_of_steps(step, training) if progress is None else progress
    if training.schedule == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * progress))
    if training.schedule == "one_cycle":
        rise = 0.3
        if progress < rise:
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * progress / rise))
        return 0.5 * (1 + math.cos(math.pi * (progress - rise) / (1 - rise)))
    if training.schedule == "step":
        return warm * 0.7 ** int(progress * 10)
    return warm


def share_of_steps(step: int, training: TrainingConfig) -> float:
    """Which share of the run a step ends, by steps alone."""
    return min(1.0, step / max(1, training.max_steps))
