"""Train the tiny net in as many processes as torchrun started: `torchrun ... distributed_run.py RUN PROCESSES`."""

from __future__ import annotations

import sys
from pathlib import Path

from nowcast.training.fit import fit
from nowcast.verification.counting import count_events
from tests.training.tiny import tiny_config, tiny_data

if __name__ == "__main__":
    run, processes = Path(sys.argv[1]), int(sys.argv[2])
    config = tiny_config(f"training.devices={processes}", "training.max_steps=16", dropout=0.0)
    fit(tiny_data(validation=10), config, run, count_events=count_events)
