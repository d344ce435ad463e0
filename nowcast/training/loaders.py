"""Loaders that begin where training stands: what step k sees depends on the seed and k alone."""

from __future__ import annotations

from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader

from nowcast.config import TrainingConfig
from nowcast.models.inputs import Batch
from nowcast.training.dataset import BatchSource, TrainingData
from nowcast.training.sampling import StepBatches


class DataLoaders(lightning.LightningDataModule):
    """Training and validation loaders; the training one starts at the step that the trainer has reached."""

    def __init__(self, data: TrainingData, training: TrainingConfig) -> None:
        super().__init__()
        self.data = data
        self.training = training

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer = self.trainer
        assert trainer is not None
        batches = StepBatches(
            len(self.data.train),
            self.training.batch_size,
            self.training.max_steps,
            self.training.seed,
            first_step=trainer.global_step,
            weights=self.data.train.weights,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        return self._loader(self.data.train, batches)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        if self.data.validation is None:
            return []
        # The same evenly spread samples at every validation: uniform, never rain-weighted.
        number = min(len(self.data.validation), self.training.validation_batches * self.training.batch_size)
        samples = np.unique(np.linspace(0, len(self.data.validation) - 1, number).round().astype(int))
        size = self.training.batch_size
        batches = [samples[i : i + size].tolist() for i in range(0, samples.size, size)]
        return self._loader(self.data.validation, batches)

    def _loader(self, source: BatchSource, batches: Any) -> DataLoader[Batch]:
        workers = (
            self.training.workers if self.training.workers is not None else (4 if torch.cuda.is_available() else 0)
        )
        return DataLoader(
            source,  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=_as_it_is,
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            persistent_workers=workers > 0,
        )


def _as_it_is(batch: Any) -> Any:
    return batch
