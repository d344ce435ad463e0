"""fit: train the forecaster that a configuration names, with Lightning, into a run folder.

The folder holds the configuration, the log, checkpoints of plain data, and the portable bundle. A run that was
stopped at any step continues to the weights that the unbroken run would have reached.
"""

from __future__ import annotations

import logging
import math
import platform
import signal
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from nowcast.config import Config, TrainingConfig, write_config
from nowcast.errors import ConfigError, DataError, MismatchError
from nowcast.models.bundle import Bundle, load_bundle
from nowcast.models.inputs import Batch, rain_rate_of
from nowcast.models.registry import build_forecaster
from nowcast.training.dataset import BatchSource, TrainingData
from nowcast.training.losses import make_loss
from nowcast.training.sampling import StepBatches

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
BEST = "best.ckpt"
MODEL = "model"
# Seconds between two lines of progress.
PROGRESS_INTERVAL = 5.0


class EventCounter(Protocol):
    """Counts events above thresholds; the command hands in the one of `nowcast.verification`."""

    def __call__(self, forecast: np.ndarray, observed: np.ndarray, thresholds: np.ndarray) -> Any: ...


@dataclass(frozen=True)
class FitResult:
    """What a training run left.

    Attributes:
        bundle: Folder of the portable model.
        steps: Optimiser steps done, those before a resume included.
        validation_loss: The best one, NaN without validation.
        minutes: Wall time of this call.
    """

    bundle: Path
    steps: int
    validation_loss: float
    minutes: float


class Interrupted(Exception):
    """Training was stopped by a signal after an atomic checkpoint; `signum` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


def fit(
    data: TrainingData,
    config: Config,
    run: str | Path,
    *,
    resume: bool = False,
    init_from: str | Path | None = None,
    count_events: EventCounter | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> FitResult:
    """Train and leave the portable model in `run/model`.

    Args:
        data: Batches, normaliser and what the model must remember of them.
        config: The resolved configuration.
        run: The run folder; made when absent.
        resume: Continue from the last checkpoint in it.
        init_from: A bundle or run to take the first weights from (fine-tuning).
        count_events: For validation CSI; without it only the loss is logged.
        provenance: What else the bundle should remember: command, versions, ...

    Raises:
        ConfigError: A loss that does not fit the normaliser, a net that cannot be built.
        DataError: `resume` without a readable checkpoint.
        MismatchError: Weights of `init_from` that do not fit the net.
        Interrupted: SIGINT or SIGTERM; the checkpoint is written, the same call with `resume` goes on.
    """
    run = Path(run)
    run.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    seed = config.training.seed
    torch.manual_seed(seed)
    net = build_forecaster(config.model, data.in_channels)
    _start_weights(net, data, init_from)
    module = ForecastModule(net, config, data, count_events)
    checkpoint = run / CHECKPOINTS / LAST
    if resume and not checkpoint.is_file():
        raise DataError(f"{run} holds no checkpoint to resume from", "start it anew without --resume")
    write_config(config, run / "config.yaml")
    trainer, best = _trainer(config.training, run, validates=data.validation is not None)
    loaders = DataLoaders(data, config.training)
    with _quiet_lightning():
        trainer.fit(module, datamodule=loaders, ckpt_path=str(checkpoint) if resume else None, weights_only=True)
    stop = next(callback for callback in trainer.callbacks if isinstance(callback, StopOnSignal))  # type: ignore[attr-defined]
    if stop.signum is not None:
        raise Interrupted(stop.signum)
    loss = _take_best(module, best) if data.validation is not None else math.nan
    remembered = (
        dict(provenance or {})
        | data.provenance
        | {
            "steps": trainer.global_step,
            "seed": seed,
            "validation_loss": None if math.isnan(loss) else loss,
            "device": _device_name(trainer),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
        }
    )
    bundle = Bundle(
        net, config, data.normalizer, data.in_channels, data.step_seconds, data.pixel_size_km, remembered
    ).save(run / MODEL)
    return FitResult(bundle, trainer.global_step, loss, (time.monotonic() - began) / 60)


class ForecastModule(lightning.LightningModule):
    """A forecaster with its loss, optimiser and validation; knows batches, not archives."""

    def __init__(self, net: torch.nn.Module, config: Config, data: TrainingData, count_events: EventCounter | None):
        super().__init__()
        self.net = net
        self.config = config
        self.normalizer = data.normalizer
        self.loss = make_loss(config.loss, data.normalizer)
        self.count_events = count_events if data.step_seconds is not None else None
        self.thresholds = np.array(config.scores.thresholds_mm_h)
        self._events: list[np.ndarray] = []
        self._losses: list[float] = []

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout and noise are a function of seed and step, so that a resumed run draws what the unbroken one drew.
        torch.manual_seed(hash((self.config.training.seed, self.global_step)) & 0x7FFF_FFFF)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self.net.forward_logits(batch.inputs, batch.targets.shape[1])  # type: ignore[operator]
        loss = self.loss(logits, batch.targets, batch.valid)
        if not torch.isfinite(loss):
            raise DataError(
                f"the loss is {loss.item()} at step {self.global_step}",
                "lower training.learning_rate or training.gradient_clip",
            )
        self.log("train_loss", loss, on_step=True, on_epoch=False, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self.net.forward_logits(batch.inputs, batch.targets.shape[1])  # type: ignore[operator]
        loss = self.loss(logits, batch.targets, batch.valid)
        self.log("val_loss", loss, on_epoch=True, batch_size=len(batch), sync_dist=True)
        if self.count_events is not None:
            missing = ~batch.valid.squeeze(-3).cpu().numpy()
            observed = np.where(missing, np.nan, rain_rate_of(batch.targets, self.normalizer))
            forecast = rain_rate_of(torch.sigmoid(logits.float()), self.normalizer)
            events = self.count_events(forecast, observed, self.thresholds)
            axes = tuple(range(events.hits.ndim - 1))
            self._events.append(np.stack([e.sum(axis=axes) for e in (events.hits, events.false_alarms, events.misses)]))

    def on_validation_epoch_end(self) -> None:
        if not self._events:
            return
        hits, false_alarms, misses = np.sum(self._events, axis=0)
        self._events = []
        for index, threshold in enumerate(self.thresholds):
            happened = hits[index] + false_alarms[index] + misses[index]
            csi = hits[index] / happened if happened else math.nan  # 0/0 is undefined, never 0
            self.log(f"val_csi_{threshold:g}", float(csi))

    def configure_optimizers(self) -> Any:
        training = self.config.training
        optimizer = make_optimizer(self.net, training)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, training))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def make_optimizer(net: torch.nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser of a configuration; biases, norms and peepholes are not decayed."""
    decayed = [p for name, p in net.named_parameters() if p.ndim > 1 and "peephole" not in name]
    others = [p for name, p in net.named_parameters() if not (p.ndim > 1 and "peephole" not in name)]
    groups = [{"params": decayed, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}]
    rate = training.learning_rate
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate)
    if training.optimizer == "adam":
        return torch.optim.Adam(groups, lr=rate)
    return torch.optim.RMSprop(groups, lr=rate, alpha=0.9)


def learning_rate_factor(step: int, training: TrainingConfig) -> float:
    """The learning rate at a step as a share of the configured one.

    constant: 1 after the warm-up. cosine: from 1 to 0 over the rest. one_cycle: up over 30 % of the run, then down
    (cosine both). step: x 0.7 at each tenth of the run (as Shi et al. 2017 did every 20,000 steps).
    """
    warm = min(1.0, (step + 1) / max(1, training.warmup_steps))
    progress = min(1.0, step / max(1, training.max_steps))
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


class StopOnSignal(Callback):
    """Ends training after the running step when SIGINT or SIGTERM comes, with a checkpoint; a second one kills."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for signum in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[signum] = signal.signal(signum, self._note)
            except ValueError:  # not in the main thread: the caller's signals are the caller's
                return

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.signum is not None:
            trainer.save_checkpoint(self.checkpoint)
            trainer.should_stop = True

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self._restore()


class ProgressLines(Callback):
    """One line every few seconds: step, loss, rate, time left."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self._last = self._start = time.monotonic()
        self._first_step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._start = self._last = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self._last < PROGRESS_INTERVAL or not trainer.is_global_zero:
            return
        self._last = now
        done = trainer.global_step
        rate = (done - self._first_step) / (now - self._start)
        left = timedelta(seconds=round((self.max_steps - done) / rate)) if rate else "?"
        loss = outputs["loss"].item() if isinstance(outputs, Mapping) else float("nan")
        log.info("step %d of %d, loss %.4g, %.2f steps/s, %s left", done, self.max_steps, loss, rate, left)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        scores = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("val_")}
        if scores and not trainer.sanity_checking:
            log.info(
                "validation at step %d: %s", trainer.global_step, ", ".join(f"{k} {v:.4g}" for k, v in scores.items())
            )


def _trainer(training: TrainingConfig, run: Path, *, validates: bool) -> tuple[lightning.Trainer, ModelCheckpoint]:
    folder = run / CHECKPOINTS
    best = ModelCheckpoint(
        folder, filename=Path(BEST).stem, monitor="val_loss", save_top_k=1, enable_version_counter=False
    )
    last = ModelCheckpoint(
        folder, filename=Path(LAST).stem, every_n_train_steps=training.checkpoint_every, enable_version_counter=False
    )
    callbacks: list[Callback] = [last, StopOnSignal(folder / LAST), ProgressLines(training.max_steps)]
    if validates:
        callbacks.append(best)
        if training.patience is not None:
            callbacks.append(EarlyStopping("val_loss", patience=training.patience))
    trainer = lightning.Trainer(
        max_steps=training.max_steps,
        max_time=None if training.max_minutes is None else timedelta(minutes=training.max_minutes),
        accelerator="auto",
        devices=training.devices,
        precision=_precision(training.precision),  # type: ignore[arg-type]
        gradient_clip_val=training.gradient_clip,
        val_check_interval=min(training.validate_every, training.max_steps) if validates else None,
        check_val_every_n_epoch=None if validates else 1,
        limit_val_batches=None if validates else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        logger=CSVLogger(run, name="logs", version=""),
        callbacks=callbacks,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return trainer, best


def _precision(wanted: str) -> str:
    if wanted == "auto":
        wanted = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32"
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[wanted]


def _start_weights(net: torch.nn.Module, data: TrainingData, init_from: str | Path | None) -> None:
    """The weights of another model, or fresh ones with the output starting at the climatology.

    Without it a short run sits at climatology for a long time, which users report as a collapse to zero.
    """
    if init_from is None:
        mean = data.normalizer.mean
        if not 0 < mean < 1:
            raise ConfigError(
                f"the training fields have a normalised mean of {mean}: there is no rain to learn from",
                "train on an archive with rain",
            )
        net.set_output_bias(mean)  # type: ignore[operator]
        return
    other = load_bundle(init_from)
    try:
        net.load_state_dict(other.net.state_dict())
    except RuntimeError as error:
        raise MismatchError(
            f"the weights of {init_from} do not fit the net of this configuration: {error}",
            "use the model section of its configuration",
        ) from error


def _take_best(module: ForecastModule, best: ModelCheckpoint) -> float:
    """Load the weights of the best validation into the module; its loss."""
    if not best.best_model_path:
        return math.nan
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(state)
    module.cpu()
    return float(best.best_model_score) if best.best_model_score is not None else math.nan


def _device_name(trainer: lightning.Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's banners and its advice on loaders and resuming, which `StepBatches` makes moot, stay unsaid."""
    loggers = [
        logging.getLogger(name)
        for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
            warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
            warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)`.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
