"""ForecastModule: one training step and one validation of a forecaster, as Lightning wants them.

It knows batches, a net and a loss; not where the samples come from, nor where the run is kept.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Protocol

import lightning
import numpy as np
import torch
from torch import Tensor

from nowcast.config import Config
from nowcast.errors import ConfigError, DataError
from nowcast.models.heads import make_head
from nowcast.models.inputs import Batch, rain_rate_of
from nowcast.training.augment import augment
from nowcast.training.dataset import TrainingData
from nowcast.training.losses import make_loss, masked_mean
from nowcast.training.optimizers import learning_rate_factor, make_optimizer, share_of_steps
from nowcast.training.sampling import StepBatches

log = logging.getLogger(__name__)

# After so many steps in a row without a finite gradient the weights are beyond help.
MAXIMUM_SKIPPED_IN_A_ROW = 10


class EventCounter(Protocol):
    """Counts events above thresholds; the command hands in the one of `nowcast.verification`."""

    def __call__(self, forecast: np.ndarray, observed: np.ndarray, thresholds: np.ndarray) -> Any: ...


class ForecastModule(lightning.LightningModule):
    """A forecaster with its loss, optimiser and validation.

    Attributes:
        skipped: Steps of this run whose gradient was not finite; their batches changed nothing.
        time_share: Share of a wall-clock budget that is spent, the same in all processes; 0 without one.
    """

    def __init__(self, net: torch.nn.Module, config: Config, data: TrainingData, count_events: EventCounter | None):
        super().__init__()
        self.net = net
        self.config = config
        self.normalizer = data.normalizer
        self.head = make_head(config.model, data.normalizer)
        self.loss = make_loss(config.loss, data.normalizer, self.head)
        if (config.loss.name == "crps") != (config.model.noise_channels > 0):
            raise ConfigError(
                f"loss {config.loss.name} does not go with {config.model.noise_channels} noise channels",
                "loss.name=crps trains an ensemble: it needs model.noise_channels, which no other loss makes use of",
            )
        # Members of a sample in training; None for a net that forecasts one field.
        self.members = config.training.ensemble_size if config.model.noise_channels else None
        self.count_events = count_events if data.step_seconds is not None else None
        self.thresholds = np.array(config.scores.thresholds_mm_h)
        self.skipped = 0
        self.time_share = 0.0
        self._skipped_in_a_row = 0
        self._forget_validation()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout, noise and augmentation are a function of seed and step, so that a resumed run draws what the
        # unbroken one drew; each process draws its own.
        torch.manual_seed(hash((self.config.training.seed, self.global_step, self.global_rank)) & 0x7FFF_FFFF)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        batch = augment(batch, self.config.augment)
        values = self._pixel_losses(batch)
        loss = masked_mean(values, batch.valid, count=self._mean_count(batch.valid))
        self.log("train_loss", loss, on_step=True, on_epoch=False, batch_size=len(batch), sync_dist=True)
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log("learning_rate", rate, on_step=True, on_epoch=False, batch_size=len(batch))
        return loss

    def progress(self, step: int) -> float:
        """Share of the run that is done: the larger of that of its steps and that of its time."""
        return max(share_of_steps(step, self.config.training), self.time_share)

    def _pixel_losses(self, batch: Batch) -> Tensor:
        drawn = batch if self.members is None else _repeated(batch, self.members)
        if hasattr(self.net, "scheduled_logits"):  # a net that feeds forecasts back learns from true frames at first
            progress = self.progress(self.global_step)
            logits = self.net.scheduled_logits(drawn.inputs, drawn.targets, drawn.valid, progress)  # type: ignore[operator]
        else:
            logits = self.net.forward_logits(drawn.inputs, drawn.targets.shape[1])  # type: ignore[operator]
        return self.loss(logits if self.members is None else logits.unflatten(0, (self.members, -1)), batch.targets)

    def _mean_count(self, valid: Tensor) -> Tensor | None:
        """Valid pixels per process, averaged over processes: gradients are averaged too, so each pixel weighs the same.

        None for a single process.
        """
        if self.trainer.world_size == 1:
            return None
        return torch.as_tensor(self.trainer.strategy.reduce(valid.sum().float(), reduce_op="mean"))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient's norm; a gradient that is not finite is dropped, so that the step changes nothing."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.training.gradient_clip)
        if torch.isfinite(norm):
            self._skipped_in_a_row = 0
            return
        for parameter in parameters:
            parameter.grad = None
        self.skipped += 1
        self._skipped_in_a_row += 1
        log.warning(
            "step %d: the gradient is not finite; its batch%s is skipped (%d so far)",
            self.global_step,
            self._samples(),
            self.skipped,
        )
        if self._skipped_in_a_row >= MAXIMUM_SKIPPED_IN_A_ROW:
            raise DataError(
                f"the gradient was not finite in {self._skipped_in_a_row} steps in a row, the last one step "
                f"{self.global_step}{self._samples()}",
                "lower training.learning_rate or training.gradient_clip, and look for absurd rates in the archive",
            )

    def _samples(self) -> str:
        """Which samples the batch of this step is made of, in words; nothing where nobody knows."""
        sampler = getattr(self.trainer.train_dataloader, "batch_sampler", None)
        if not isinstance(sampler, StepBatches):
            return ""
        return f" (samples {', '.join(map(str, sampler.samples(self.global_step).tolist()))})"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped"] = self.skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped = checkpoint["skipped"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if self.members is None:
            logits = self.net.forward_logits(batch.inputs, batch.targets.shape[1])  # type: ignore[operator]
        else:
            # The same members at every validation; training seeds anew at every step.
            torch.manual_seed(hash((self.config.training.seed, batch_idx, self.global_rank)) & 0x7FFF_FFFF)
            drawn = _repeated(batch, self.members)
            logits = self.net.forward_logits(drawn.inputs, drawn.targets.shape[1])  # type: ignore[operator]
            logits = logits.unflatten(0, (self.members, -1))
        values = self.loss(logits, batch.targets)
        self._loss_sum += torch.where(batch.valid, values, 0.0).sum(dtype=torch.float64).cpu()
        self._valid_count += batch.valid.sum().double().cpu()
        if self.count_events is not None:
            missing = ~batch.valid.squeeze(-3).cpu().numpy()
            observed = np.where(missing, np.nan, rain_rate_of(batch.targets, self.normalizer))
            forecast = self.head.rain_rate(logits)
            if self.members is not None:
                forecast = forecast.mean(axis=0)
            events = self.count_events(forecast, observed, self.thresholds)
            axes = tuple(range(events.hits.ndim - 1))
            self._events += np.stack([e.sum(axis=axes) for e in (events.hits, events.false_alarms, events.misses)])

    def on_validation_epoch_end(self) -> None:
        """Loss over all valid pixels, and CSI from events summed over all batches and processes."""
        sums = torch.cat([self._loss_sum[None], self._valid_count[None], torch.from_numpy(self._events).ravel()])
        if self.trainer.world_size > 1:
            sums = torch.as_tensor(self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum")).cpu()
        self._forget_validation()
        self.log("val_loss", (sums[0] / sums[1].clamp(min=1)).float(), rank_zero_only=False)
        if self.count_events is None:
            return
        hits, false_alarms, misses = sums[2:].numpy().reshape(3, -1)
        for index, threshold in enumerate(self.thresholds):
            happened = hits[index] + false_alarms[index] + misses[index]
            csi = hits[index] / happened if happened else math.nan  # 0/0 is undefined, never 0
            self.log(f"val_csi_{threshold:g}", float(csi))

    def _forget_validation(self) -> None:
        self._loss_sum = torch.zeros((), dtype=torch.float64)
        self._valid_count = torch.zeros((), dtype=torch.float64)
        self._events = np.zeros((3, self.thresholds.size))

    def configure_optimizers(self) -> Any:
        training = self.config.training
        optimizer = make_optimizer(self.net, training)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, training, progress=self.progress(step))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _repeated(batch: Batch, times: int) -> Batch:
    """The whole batch several times over: member 1 of every sample, then member 2, ..."""
    parts = (part.repeat(times, 1, 1, 1, 1) for part in (batch.inputs, batch.targets, batch.valid))
    return Batch(*parts)
