"""Logistic regression by Newton's method: the best weights at once, not after thousands of steps of a net's optimiser.

Shapes: N samples, F features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 12
TOLERANCE = 1e-4
# A variance of a probability below this says nothing more, but would make the curvature singular.
SMALLEST_VARIANCE = 1e-6


def fit_logistic(features: Tensor, events: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights (F,) and bias () of the most likely logistic regression with a normal prior on the weights.

    Minimises the cross-entropy summed over the samples plus `penalty` / 2 times the squared weights, by Newton steps
    that are halved until they help.

    Args:
        features: (N, F), of about unit variance, as the prior takes them to be.
        events: (N,) in [0, 1]; not all 0 and not all 1, or the bias has no bound.
    """
    design = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    ridge = torch.full((design.shape[1],), float(penalty), dtype=torch.float64, device=features.device)
    ridge[-1] = 0.0
    mean = events.double().mean()
    solution = torch.zeros_like(ridge)
    solution[-1] = torch.logit(mean)

    def cost(at: Tensor) -> Tensor:
        logits = design @ at.to(design.dtype)
        total = F.binary_cross_entropy_with_logits(logits, events, reduction="none").sum(dtype=torch.float64)
        return total + 0.5 * (ridge * at.square()).sum()

    reached = cost(solution)
    for _ in range(STEPS):
        chance = torch.sigmoid(design @ solution.to(design.dtype))
        variance = (chance * (1 - chance)).clamp(min=SMALLEST_VARIANCE)
        slope = (design.T @ (chance - events)).double() + ridge * solution
        curvature = (design.T @ (design * variance[:, None])).double() + torch.diag(ridge)
        step = torch.linalg.solve(curvature, slope)
        length = 1.0
        while (after := cost(solution - length * step)) > reached and length > 1e-3:
            length /= 2
        if after > reached:
            break
        solution = solution - length * step
        gain, reached = reached - after, after
        if gain < TOLERANCE * (1 + reached.abs()):
            break
    return solution[:-1].to(features.dtype), solution[-1].to(features.dtype)
