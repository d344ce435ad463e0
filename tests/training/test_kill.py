"""Killed without warning at twenty random steps and resumed each time: the weights of the unbroken run, bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from nowcast.errors import DataError
from nowcast.models.bundle import load_bundle
from nowcast.training.fit import fit
from tests.training.tiny import Fields, tiny_config, tiny_data

KILLS = 20
CONFIG = tiny_config(
    "training.max_steps=200",
    "training.validate_every=50",
    "training.checkpoint_every=5",
    "augment.flip=true",
    "training.ema=0.95",
)


class KilledAt(Fields):
    """A data set that kills its process while it reads a certain batch."""

    def __init__(self, number: int, batch: int) -> None:
        super().__init__(number)
        self.left = batch

    def __getitems__(self, indices):  # type: ignore[no-untyped-def]
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitems__(indices)


def train_until_killed(run: Path, batch: int) -> None:
    torch.set_num_threads(1)
    data = tiny_data()
    try:
        fit(type(data)(**{**vars(data), "train": KilledAt(24, batch)}), CONFIG, run, resume=run.exists())
    except DataError as error:
        # Killed before the first checkpoint: there is nothing to resume, and the run starts anew.
        assert "no readable checkpoint" in error.message
        fit(type(data)(**{**vars(data), "train": KilledAt(24, batch)}), CONFIG, run)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums of floats come out bit for bit alike only with one number of threads, here and in the killed processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_twenty_kills_leave_no_trace(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["nowcast.training.fit", "tests.training.tiny"])
    rng = np.random.default_rng(0)
    for _ in range(KILLS):
        process = processes.Process(target=train_until_killed, args=(tmp_path / "killed", int(rng.integers(3, 16))))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    fit(tiny_data(), CONFIG, tmp_path / "killed", resume=True)
    fit(tiny_data(), CONFIG, tmp_path / "whole")
    killed, whole = (load_bundle(tmp_path / run).net.state_dict() for run in ("killed", "whole"))
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())
