"""The numbers of a run, step by step: written by Lightning's CSV log, which here survives a resume, and read back."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

LOGS = "logs"
METRICS = "metrics.csv"


def metrics_logger(run: Path, *, first_step: int = 0) -> CSVLogger:
    """A CSV log in `run/logs` that keeps what was logged there of the steps before `first_step`.

    Lightning begins such a log anew, and a resumed run would lose its past.
    """
    kept = [row for row in _rows(run) if int(row["step"]) < first_step]
    logger = CSVLogger(run, name=LOGS, version="")
    _keep(logger, kept)
    return logger


@rank_zero_only
def _keep(logger: CSVLogger, rows: list[dict[str, str]]) -> None:
    # At once, for Lightning has just removed the file.
    logger.experiment.metrics = [{name: value for name, value in row.items() if value} for row in rows]
    logger.experiment.save()


def read_metrics(run: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For every quantity that was logged the steps done, ascending, and its values; empty without a log.

    A step that was done twice, as after a kill, counts as it was the last time.
    """
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for row in _rows(run):
        for name, value in row.items():
            if value and name not in ("step", "epoch"):
                found[name][int(row["step"]) + 1] = float(value)
    series = {name: np.array(sorted(values.items())) for name, values in found.items()}
    return {name: (values[:, 0].astype(int), values[:, 1]) for name, values in series.items()}


def _rows(run: Path) -> list[dict[str, str]]:
    """The rows that are whole: a kill may have cut the last one short."""
    path = run / LOGS / METRICS
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if (row.get("step") or "").isdigit() and None not in row and None not in row.values()]
