"""What happens beside the steps: stopping on a signal, and a line of progress now and then."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from nowcast.training.checkpoints import step_name

log = logging.getLogger(__name__)

# Seconds between two lines of progress.
PROGRESS_INTERVAL = 5.0
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
            trainer.should_stop = True
            self.stopped = True

    def _somebody_was_told(self, trainer: lightning.Trainer) -> bool:
        """Whether a signal came to any process: all must write the checkpoint together, or none can."""
        told = trainer.strategy.reduce_boolean_decision(self.signum is not None, all=False)
        if told and self.signum is None:
            self.signum = signal.SIGTERM
        return bool(told)


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
