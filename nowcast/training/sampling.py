"""Which samples make step k: a function of the seed and the step alone.

So a resumed run sees what the unbroken one would have seen, whatever the number of workers, and every epoch of
uniform sampling sees each sample once, whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True, eq=False)
class StepBatches:
    """Sample numbers of the steps `first_step` to `last_step`, as a torch batch sampler.

    Attributes:
        num_samples: Size of the data set.
        batch_size: Global batch size; each of `world_size` processes takes its share.
        weights: Chance of each sample, drawn with replacement; None goes through all samples in shuffled order.
    """

    num_samples: int
    batch_size: int
    last_step: int
    seed: int
    first_step: int = 0
    weights: np.ndarray | None = None
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        """Steps of the whole run: a resumed run counts from its start, though it iterates from `first_step`."""
        return self.last_step

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.last_step):
            yield self.samples(step)[self.rank :: self.world_size].tolist()

    def samples(self, step: int) -> np.ndarray:
        """The samples of the whole batch of one step."""
        if self.weights is not None:
            return np.random.default_rng([self.seed, step]).choice(self.num_samples, self.batch_size, p=self.weights)
        position = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = position // self.num_samples, position % self.num_samples
        chosen = np.empty_like(position)
        for epoch in np.unique(epochs):
            order = _epoch_order(self.seed, int(epoch), self.num_samples)
            chosen[epochs == epoch] = order[places[epochs == epoch]]
        return chosen


@lru_cache(maxsize=2)  # every step of an epoch asks for it, and a step may reach into the next one
def _epoch_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """The shuffled samples of an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(num_samples)
