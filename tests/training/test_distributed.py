"""Two processes with the same global batch train as one: same losses, same scores, same weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nowcast.models.bundle import load_bundle
from tests.training import tiny  # noqa: F401 - registers the net that the bundles name

SCRIPT = Path(__file__).with_name("distributed_run.py")


def run_in(folder: Path, processes: int) -> np.ndarray:
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, str(SCRIPT), str(folder), str(processes)]
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=300)
    return np.genfromtxt(folder / "logs/metrics.csv", delimiter=",", names=True)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    one, two = run_in(tmp_path / "one", 1), run_in(tmp_path / "two", 2)
    assert one.dtype.names == two.dtype.names and "val_csi_1" in one.dtype.names
    for name in one.dtype.names:
        # Sums in another order: float32 rounding, amplified by 16 steps of AdamW.
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-6, err_msg=name)
    left, right = (dict(load_bundle(tmp_path / run).net.state_dict()) for run in ("one", "two"))
    for name, value in left.items():
        np.testing.assert_allclose(right[name].numpy(), value.numpy(), rtol=1e-3, atol=1e-5, err_msg=name)
