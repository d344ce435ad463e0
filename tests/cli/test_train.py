"""`nowcast train`: what it leaves, what it refuses, how it goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nowcast.models.bundle import load_bundle
from tests.cli.conftest import TINY, Run


def test_the_run_folder_tells_how_it_was_made(run_folder: Path) -> None:
    environment = json.loads((run_folder / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["data"]["synthetic"] is True and environment["data"]["training_samples"] > 0
    assert (run_folder / "config.yaml").is_file() and (run_folder / "logs/metrics.csv").is_file()
    provenance = load_bundle(run_folder).provenance
    assert provenance["steps"] == 6 and provenance["nowcast"] == environment["packages"]["nowcast-pipeline"]


def test_a_dry_run_says_what_would_be_trained_on_and_makes_nothing(nowcast: Run, archive: Path, tmp_path: Path) -> None:
    result = nowcast("train", archive, "-o", tmp_path / "run", "--cache", tmp_path / "cache", "--dry-run", *TINY)
    assert "training and" in result.stderr and json.loads(result.stdout)["data"]["input_frames"] == 3
    assert not (tmp_path / "run").exists()


def test_what_exists_is_not_overwritten(nowcast: Run, archive: Path, run_folder: Path) -> None:
    result = nowcast("train", archive, "-o", run_folder, "--cache", run_folder.parent / "cache", *TINY, expect=2)
    assert "exists" in str(result.exception)


def test_an_unknown_key_gets_the_nearest_name_and_all_mistakes_come_at_once(nowcast: Run, archive: Path) -> None:
    wrong = ["--set", "training.batchsize=2", "--set", "model.patch=0"]
    message = str(nowcast("train", archive, "-o", "x", *wrong, expect=2).exception)
    assert "training.batchsize is not a known key (nearest: training.batch_size)" in message
    assert "model.patch: Input should be greater than or equal to 1" in message


def test_resume_takes_everything_from_the_run_folder(nowcast: Run, archive: Path, run_folder: Path) -> None:
    message = str(nowcast("train", archive, "--resume", run_folder, expect=2).exception)
    assert "give --resume RUN alone" in message
    assert "is not a run folder" in str(nowcast("train", "--resume", archive, expect=3).exception)


def test_another_model_section_cannot_start_from_the_weights(
    nowcast: Run, archive: Path, run_folder: Path, tmp_path: Path
) -> None:
    other = [*TINY, "--set", "model.hidden_channels=[4]"]
    where = ["-o", tmp_path / "run", "--cache", run_folder.parent / "cache"]
    result = nowcast("train", archive, *where, *other, "--init-from", run_folder, expect=6)
    assert "do not fit the net of this configuration" in str(result.exception)


def test_the_slurm_script_runs_this_command(nowcast: Run, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["train", "a.zarr", "-o", "run", "--nodes", "2", "--devices", "4", "--print-sbatch"]
    monkeypatch.setattr(sys, "argv", ["nowcast", *arguments])
    script = nowcast(*arguments).stdout
    assert "#SBATCH --nodes=2" in script and "#SBATCH --ntasks-per-node=4" in script
    assert script.strip().endswith("srun nowcast train a.zarr -o run --nodes 2 --devices 4")


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_done_and_resumes_to_the_same_weights(
    nowcast: Run, archive: Path, run_folder: Path, tmp_path: Path
) -> None:
    long = [*TINY, "--set", "training.max_steps=300", "--set", "training.validate_every=100"]
    where = ["--cache", str(run_folder.parent / "cache")]
    nowcast("train", archive, "-o", tmp_path / "whole", *where, *long)
    command = [sys.executable, "-m", "cli.main", "train", str(archive), "-o", str(tmp_path / "cut"), *where, *long]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cut/checkpoints").glob("*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and f"nowcast train --resume {tmp_path / 'cut'}" in said
    nowcast("train", "--resume", tmp_path / "cut")
    whole, cut = (load_bundle(tmp_path / name).net.state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
