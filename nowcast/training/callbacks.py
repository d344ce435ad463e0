"""What happens beside the steps: stopping on a signal or when the time is up, and saying how far training is."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from nowcast.training.checkpoints import step_name

log = logging.getLogger(__name__)

# Seconds between two lines of progress, and between two pictures, which take about a third of one to draw.
PROGRESS_INTERVAL = 5.0
PICTURE_INTERVAL = 20.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopOnSignal(Callback):
    """Ends training after the running step when SIGINT or SIGTERM comes, with a checkpoint; a second one kills.

    Attributes:
        signum: The signal that came, if one did.
        stopped: Whether it ended training: one that comes in the last validation finds nothing left to stop.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.signum: int | None = None
        self.stopped = False
        self._before: dict[int, Any] = {}
        self._in_main_thread = threading.current_thread() is threading.main_thread()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note signals from here on, before the first step too; the handlers of before are there again after it."""
        before = dict(zip(SIGNALS, map(signal.getsignal, SIGNALS), strict=True))
        self._listen()
        try:
            yield
        finally:
            if self._in_main_thread:
                # Lightning puts back what it found when it began: our own.
                for signum, handler in before.items():
                    signal.signal(signum, handler)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Lightning takes SIGTERM for itself as it starts.
        if self.signum is None:
            self._listen()

    def _listen(self) -> None:
        if not self._in_main_thread:  # the caller's signals are the caller's
            return
        for signum in SIGNALS:
            self._before.setdefault(signum, signal.getsignal(signum))
            signal.signal(signum, self._note)

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
        if self._somebody_was_told(trainer):
            trainer.save_checkpoint(self.folder / f"{step_name(trainer.global_step)}.ckpt")
            if trainer.global_step >= trainer.max_steps:
                return  # nothing is left to stop but the last validation, without which the best model may be missed
            trainer.should_stop = True
            # Lightning would validate before it stops: time that a dying process may not have, and a best model that
            # the unbroken run would not know of. A validation that is due is made by the run that goes on.
            trainer.limit_val_batches = 0
            self.stopped = True

    def _somebody_was_told(self, trainer: lightning.Trainer) -> bool:
        """Whether a signal came to any process: all must write the checkpoint together, or none can."""
        told = trainer.strategy.reduce_boolean_decision(self.signum is not None, all=False)
        if told and self.signum is None:
            self.signum = signal.SIGTERM
        return bool(told)


class ValidationsDue(Callback):
    """Two validations that Lightning leaves out: of the last weights, and the one that a stop came before.

    The last weights may be the best, whatever the distance of validations. A checkpoint is written before the
    validation of its step; a run that resumes from it makes up for that, or it could miss its best model. So does one
    that finds all steps done, for it may have been killed in its last validation.
    """

    def __init__(self, every: int, max_steps: int) -> None:
        self.every, self.max_steps = every, max_steps
        self._trained = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._trained = True
        if trainer.global_step > 0 and trainer.global_step % self.every == 0:
            self._validate(trainer)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step >= self.max_steps:
            trainer.should_stop = True

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not self._trained and trainer.global_step >= self.max_steps:
            trainer.strategy.model_to_device()
            self._validate(trainer)
            for logger in trainer.loggers:
                logger.save()

    def _validate(self, trainer: lightning.Trainer) -> None:
        loop = trainer.fit_loop.epoch_loop.val_loop
        loop.restarting = False
        trainer.validating = True
        loop.run()
        trainer.training = True


class TimeBudget(Callback):
    """Ends training after some wall time of it, that before a resume included, and tells the module of what is spent.

    All processes go by the clock of the whole: a learning rate of its own in each would part their weights.
    """

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes
        self._before = 0.0
        self._start: float | None = None

    @property
    def spent(self) -> float:
        """Seconds of training so far."""
        return self._before + (0.0 if self._start is None else time.monotonic() - self._start)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.spent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = state_dict["seconds"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._start = time.monotonic()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        share = torch.tensor(self.spent / self.seconds, device=pl_module.device)
        pl_module.time_share = min(1.0, float(trainer.strategy.reduce(share, reduce_op="mean")))  # type: ignore[assignment]

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if float(pl_module.time_share) >= 1.0:  # type: ignore[arg-type]
            trainer.should_stop = True


class DrawCurves(Callback):
    """Calls `draw` with the run folder after a checkpoint, unless it did so a moment ago."""

    def __init__(self, run: Path, draw: Callable[[Path], object]) -> None:
        self.run, self.draw = run, draw
        self._last = time.monotonic()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.is_global_zero and time.monotonic() - self._last >= PICTURE_INTERVAL:
            for logger in trainer.loggers:
                logger.save()
            self.draw(self.run)
            self._last = time.monotonic()


class ProgressLines(Callback):
    """One line every few seconds: step, loss, rate, time left."""

    def __init__(self, max_steps: int, budget: TimeBudget | None = None) -> None:
        self.max_steps = max_steps
        self.budget = budget
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
        seconds = (self.max_steps - done) / rate if rate else math.inf
        if self.budget is not None:
            seconds = min(seconds, self.budget.seconds - self.budget.spent)
        left = timedelta(seconds=round(max(seconds, 0.0))) if math.isfinite(seconds) else "?"
        loss = outputs["loss"].item() if isinstance(outputs, Mapping) else float("nan")
        log.info("step %d of %d, loss %.4g, %.2f steps/s, %s left", done, self.max_steps, loss, rate, left)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        scores = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("val_")}
        if scores and not trainer.sanity_checking:
            log.info(
                "validation at step %d: %s", trainer.global_step, ", ".join(f"{k} {v:.4g}" for k, v in scores.items())
            )
