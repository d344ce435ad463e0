"""fit: train the forecaster that a configuration names, with Lightning, into a run folder.

The folder holds the configuration, the log, checkpoints of plain data, and the portable bundle. A run that was
stopped at any step continues to the weights that the unbroken run would have reached.
"""

from __future__ import annotations

import logging
import math
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from nowcast.config import Config, TrainingConfig, write_config
from nowcast.errors import ConfigError, MismatchError, MissingPackageError
from nowcast.models.base import WithBase
from nowcast.models.bundle import Bundle, load_bundle
from nowcast.models.heads import Head, make_head
from nowcast.models.inputs import Batch
from nowcast.models.registry import build_forecaster
from nowcast.training.callbacks import DrawCurves, ProgressLines, StopOnSignal, TimeBudget, ValidationsDue
from nowcast.training.checkpoints import CHECKPOINTS, WholeFiles, last_readable, remove_old, step_name, step_of
from nowcast.training.dataset import BatchSource, TrainingData
from nowcast.training.loaders import DataLoaders
from nowcast.training.metrics import LOGS, metrics_logger
from nowcast.training.module import EventCounter, ForecastModule
from nowcast.training.packed import PIXEL_SIZE_TOLERANCE

log = logging.getLogger(__name__)

BEST = "best"
MODEL, LAST = "model", "last"
# Batches that the climatology of events is taken from.
CLIMATOLOGY_BATCHES = 8
# What a base is fitted on: about so many samples, and pixels of them in all.
BASE_SAMPLES, BASE_PIXELS = 256, 102_400


@dataclass(frozen=True)
class FitResult:
    """What a training run left.

    Attributes:
        bundle: Folder of the portable model.
        steps: Optimiser steps done, those before a resume included.
        validation_loss: The best one, NaN without validation.
        minutes: Wall time of this call.
        skipped: Steps whose gradient was not finite.
    """

    bundle: Path
    steps: int
    validation_loss: float
    minutes: float
    skipped: int = 0


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
    origins: Mapping[str, str] | None = None,
    draw: Callable[[Path], object] | None = None,
) -> FitResult:
    """Train and leave the portable model in `run/model`; with validation that is the best, the last is in `run/last`.

    With `training.max_minutes` the schedule follows the larger of the share of steps and the share of time, so that a
    run whose time is up ends annealed. Such a run is not repeatable to the bit: it follows the clock. Resumed, it goes
    on with the time that is left. Without, a resumed run is the unbroken one, bit for bit on a CPU.

    Args:
        data: Batches, normaliser and what the model must remember of them.
        config: The resolved configuration.
        run: The run folder; made when absent.
        resume: Continue from the last readable checkpoint in it; from the start when there is none yet.
        init_from: A bundle or run to take the first weights from (fine-tuning).
        count_events: For validation CSI; without it only the loss is logged.
        provenance: What else the bundle should remember: command, versions, ...
        origins: Where each value of the configuration came from, by dotted path, for `run/config.yaml`.
        draw: Called with the run folder after checkpoints and at the end (`nowcast.training.curves.draw_curves`).

    Raises:
        ConfigError: A loss that does not fit the normaliser, a net that cannot be built, a GPU too small.
        DataError: `resume` with damaged checkpoints alone; a gradient that stays not finite.
        MismatchError: Weights of `init_from` that do not fit the net.
        Interrupted: SIGINT or SIGTERM; the checkpoint is written, the same call with `resume` goes on.
    """
    run = Path(run)
    run.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    seed = config.training.seed
    torch.manual_seed(seed)
    net = build_forecaster(config, data.in_channels)
    # A run without a model may have been stopped in its last validation, which comes after the last checkpoint.
    before = None if (run / MODEL).exists() else config.training.max_steps
    checkpoint = last_readable(run / CHECKPOINTS, before=before) if resume else None
    if checkpoint is None:
        _start_weights(net, data, config, init_from)
    module = ForecastModule(net, config, data, count_events)
    with _quiet_lightning():
        trainer, best, stop = _trainer(
            config.training,
            run,
            validates=data.validation is not None,
            first_step=0 if checkpoint is None else step_of(checkpoint),
            draw=draw,
        )
    if trainer.is_global_zero:
        write_config(config, run / "config.yaml", origins)
    if config.training.batch_size < trainer.world_size:
        raise ConfigError(
            f"training.batch_size is {config.training.batch_size} for {trainer.world_size} processes",
            f"--set training.batch_size={trainer.world_size}",
        )
    with _quiet_lightning(), _memory_advice(config), stop.listening():
        trainer.fit(
            module,
            datamodule=DataLoaders(data, config.training),
            ckpt_path=None if checkpoint is None else str(checkpoint),
            weights_only=True,
        )
    if trainer.is_global_zero:
        remove_old(run / CHECKPOINTS, config.training.keep_checkpoints)
        if draw is not None:
            draw(run)
    if stop.stopped and stop.signum is not None and trainer.global_step < config.training.max_steps:
        raise Interrupted(stop.signum)
    remembered = (
        dict(provenance or {})
        | data.provenance
        | {
            "steps": trainer.global_step,
            "skipped_steps": module.skipped,
            "seed": seed,
            "device": _device_name(trainer),
            "processes": trainer.world_size,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
        }
    )
    bundle = Bundle(net, config, data.normalizer, data.in_channels, data.step_seconds, data.pixel_size_km, remembered)
    loss = math.nan
    if data.validation is not None:
        if trainer.is_global_zero:
            bundle.save(run / LAST)
        loss = _take_best(module, best)
        bundle = replace(bundle, provenance=remembered | {"validation_loss": None if math.isnan(loss) else loss})
    if trainer.is_global_zero:
        bundle.save(run / MODEL)
    trainer.strategy.barrier()
    return FitResult(run / MODEL, trainer.global_step, loss, (time.monotonic() - began) / 60, module.skipped)


def _trainer(
    training: TrainingConfig,
    run: Path,
    *,
    validates: bool,
    first_step: int,
    draw: Callable[[Path], object] | None,
) -> tuple[lightning.Trainer, ModelCheckpoint, StopOnSignal]:
    folder = run / CHECKPOINTS
    last = ModelCheckpoint(
        folder,
        filename=step_name("{step}"),
        auto_insert_metric_name=False,
        monitor="step",
        mode="max",
        save_top_k=training.keep_checkpoints,
        every_n_train_steps=training.checkpoint_every,
        enable_version_counter=False,
    )
    best = ModelCheckpoint(folder, filename=BEST, monitor="val_loss", save_top_k=1, enable_version_counter=False)
    stop = StopOnSignal(folder)
    # The average is taken first, so that every checkpoint after a step holds it.
    callbacks: list[Callback] = [] if training.ema is None else [EMAWeightAveraging(decay=training.ema)]
    budget = None if training.max_minutes is None else TimeBudget(training.max_minutes)
    callbacks += [] if budget is None else [budget]
    callbacks += [last, stop, ProgressLines(training.max_steps, budget)]
    if draw is not None:
        callbacks.append(DrawCurves(run, draw))
    if validates:
        every = min(training.validate_every, training.max_steps)
        callbacks += [ValidationsDue(every, training.max_steps), best]
        if training.patience is not None:
            callbacks.append(EarlyStopping("val_loss", patience=training.patience))
    trainer = lightning.Trainer(
        max_steps=training.max_steps,
        accelerator="auto",
        devices=training.devices,
        num_nodes=training.nodes,
        precision=_precision(training.precision),  # type: ignore[arg-type]
        gradient_clip_val=training.gradient_clip,
        val_check_interval=min(training.validate_every, training.max_steps) if validates else None,
        check_val_every_n_epoch=None if validates else 1,
        limit_val_batches=None if validates else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=min(10, training.max_steps),
        logger=_loggers(training, run, first_step),
        callbacks=callbacks,
        plugins=[WholeFiles()],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return trainer, best, stop


def _loggers(training: TrainingConfig, run: Path, first_step: int) -> list[Logger]:
    loggers: list[Logger] = [metrics_logger(run, first_step=first_step)]
    if training.tensorboard:
        if find_spec("tensorboard") is None:
            raise MissingPackageError("tensorboard", "tensorboard", "training.tensorboard")
        loggers.append(TensorBoardLogger(run, name=LOGS, version="tensorboard"))
    return loggers


def _precision(wanted: str) -> str:
    if wanted == "auto":
        wanted = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32"
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[wanted]


def _start_weights(net: torch.nn.Module, data: TrainingData, config: Config, init_from: str | Path | None) -> None:
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
        head = make_head(config.model, data.normalizer)
        net.set_output_bias(mean if head.channels == 1 else _event_shares(data, head, config))  # type: ignore[operator]
        for base in net.modules():
            if isinstance(base, WithBase):
                number = math.ceil(BASE_SAMPLES / config.training.batch_size)
                log.info("fitting the base on %d batches", number)
                batches = _drawn_batches(data.surrounded or data.train, config, number, stream=4)
                samples = ((batch.inputs, head.encode(batch.targets), batch.valid) for batch in batches)
                base.fit(samples, batches=number, pixels=BASE_PIXELS // number, seed=config.training.seed)
        return
    other = load_bundle(init_from)
    _require_same_units(other, data, init_from)
    try:
        net.load_state_dict(other.net.state_dict())
    except RuntimeError as error:
        raise MismatchError(
            f"the weights of {init_from} do not fit the net of this configuration: {error}",
            "use the model section of its configuration",
        ) from error


def _require_same_units(other: Bundle, data: TrainingData, name: str | Path) -> None:
    """Refuse weights that learned another scale of rain, another step or other pixels: they would mean something else.

    Raises:
        MismatchError: With both sides.
    """
    both = (other.normalizer, data.normalizer)
    scales = [f"{one.kind} of {one.minimum_mm_h:g} to {one.maximum_mm_h:g} mm/h" for one in both]
    steps = [_said(seconds, "{:g} s") for seconds in (other.step_seconds, data.step_seconds)]
    sizes = [_said(size, "{0[0]:.4g}x{0[1]:.4g} km") for size in (other.pixel_size_km, data.pixel_size_km)]
    differ = {"normalizer": scales[0] != scales[1], "step": steps[0] != steps[1]}
    here, there = data.pixel_size_km, other.pixel_size_km
    near = here is not None and there is not None and np.allclose(here, there, rtol=PIXEL_SIZE_TOLERANCE)
    differ["pixel size"] = not (near or here is there is None)
    found = dict(zip(differ, (scales, steps, sizes), strict=True))
    wrong = [f"{key} {found[key][0]} there, {found[key][1]} here" for key, is_wrong in differ.items() if is_wrong]
    if wrong:
        raise MismatchError(
            f"the weights of {name} were trained on something else: {'; '.join(wrong)}",
            "use the normalizer section of its configuration, and data of its step and pixel size",
        )


def _said(value: Any, form: str) -> str:
    return "none" if value is None else form.format(value)


def _event_shares(data: TrainingData, head: Head, config: Config) -> list[float]:
    """For each output channel the share of valid pixels with its event, in samples as training will draw them."""
    happened, valid = torch.zeros(head.channels, dtype=torch.float64), 0
    for batch in _drawn_batches(data.train, config, CLIMATOLOGY_BATCHES, stream=2):
        events = torch.where(batch.valid, head.encode(batch.targets), 0.0)
        happened += events.sum(dim=(0, 1, 3, 4), dtype=torch.float64).cpu()
        valid += int(batch.valid.sum())
    return (happened / max(valid, 1)).tolist()


def _drawn_batches(samples: BatchSource, config: Config, number: int, *, stream: int) -> Iterator[Batch]:
    """Batches as training will draw them, but of a random stream of their own."""
    rng = np.random.default_rng([config.training.seed, stream])
    for _ in range(number):
        chosen = rng.choice(len(samples), config.training.batch_size, p=samples.weights)
        yield samples.__getitems__(chosen.tolist())


def _take_best(module: ForecastModule, best: ModelCheckpoint) -> float:
    """Load the weights of the best validation into the module; its loss."""
    module.cpu()
    if not best.best_model_path:
        return math.nan
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(state)
    return float(best.best_model_score) if best.best_model_score is not None else math.nan


def _device_name(trainer: lightning.Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


@contextmanager
def _memory_advice(config: Config) -> Iterator[None]:
    """Running out of memory says what to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        crop = "the whole grid" if config.data.crop is None else f"{config.data.crop} pixels"
        raise ConfigError(
            f"the GPU ran out of memory with training.batch_size={config.training.batch_size} and crops of {crop}: "
            f"{str(error).splitlines()[0]}",
            "lower training.batch_size, data.crop or model.hidden_channels, or set training.precision=bf16",
        ) from error


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
