"""`nowcast train`: what it leaves, what it refuses, how it goes on."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.synthetic_rain import write_synthetic_archive
from nowcast.data.archive import open_archive
from nowcast.models.bundle import load_bundle
from nowcast.training.packed import pack_archive
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


@pytest.fixture
def begun(nowcast: Run, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that Ctrl-C ended before its first step, on an archive of its own."""
    shutil.copytree(archive, tmp_path / "rain.zarr")

    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nowcast.training.fit.fit", interrupt)
        run = tmp_path / "run"
        said = nowcast("train", tmp_path / "rain.zarr", "-o", run, "--cache", tmp_path / "cache", *TINY, expect=130)
    assert f"nowcast train --resume {run}" in said.stderr
    return run


def test_a_run_interrupted_before_its_first_step_starts_with_resume(
    nowcast: Run, begun: Path, run_folder: Path
) -> None:
    shutil.rmtree(begun.parent / "rain.zarr")  # the packed copy is enough
    nowcast("train", "--resume", begun)
    weights, whole = (load_bundle(run).net.state_dict() for run in (begun, run_folder))
    for name, value in whole.items():  # within rounding: sums depend on where memory lies
        torch.testing.assert_close(weights[name], value, atol=1e-6, rtol=0)


def test_a_run_does_not_go_on_with_another_archive(nowcast: Run, begun: Path) -> None:
    shutil.rmtree(begun.parent / "rain.zarr")
    write_synthetic_archive(begun.parent / "rain.zarr", 60, (32, 40), seed=4)
    message = str(nowcast("train", "--resume", begun, expect=6).exception)
    assert "rain.zarr is not the archive that this run was trained on" in message


def test_the_log_of_a_run_holds_what_was_said_and_any_traceback(
    nowcast: Run, archive: Path, run_folder: Path, tmp_path: Path
) -> None:
    said = (run_folder / "log.txt").read_text()
    assert said.count(" samples of 32x40 pixels") == 1 and "validation at step 6" in said
    where = ["-o", tmp_path / "run", "--cache", run_folder.parent / "cache"]
    nowcast("train", archive, *where, *TINY, "--set", "model.hidden_channels=[4]", "--init-from", run_folder, expect=6)
    assert "Traceback" in (tmp_path / "run/log.txt").read_text()


def test_dry_and_empty_archives_are_named(nowcast: Run, archive: Path, tmp_path: Path) -> None:
    for name, value in (("dry", 0.0), ("empty", np.nan)):
        shutil.copytree(archive, tmp_path / f"{name}.zarr")
        pack = pack_archive(open_archive(tmp_path / f"{name}.zarr"), tmp_path / name)
        rain = np.where(np.isnan(pack.rain_rate), np.nan, value).astype(np.float32)
        np.save(pack.folder / "rain_rate.npy", rain)
        result = nowcast("train", pack.folder, "-o", tmp_path / "run", *TINY, expect=3)
        assert f"{name}.zarr" in str(result.exception)
        assert {"dry": "0% of the valid pixels are wet", "empty": "no pixel is valid"}[name] in str(result.exception)


def test_a_run_without_a_validation_window_says_so(nowcast: Run, archive: Path, tmp_path: Path) -> None:
    long = ["--set", "data.output_frames=20", "--dry-run"]
    assert "no validation window is left" in nowcast("train", archive, "--cache", tmp_path, *TINY, *long).stderr


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
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_was_done_and_the_run_resumes_to_the_same_weights(
    nowcast: Run, archive: Path, run_folder: Path, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    long = [*TINY, "--set", "training.max_steps=300", "--set", "training.validate_every=100"]
    where = ["--cache", str(run_folder.parent / "cache")]
    nowcast("train", archive, "-o", tmp_path / "whole", *where, *long)
    command = [sys.executable, "-m", "cli.main", "train", str(archive), "-o", str(tmp_path / "cut"), *where, *long]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cut/checkpoints").glob("*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signum)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code and f"nowcast train --resume {tmp_path / 'cut'}" in said
    nowcast("train", "--resume", tmp_path / "cut")
    whole, cut = (load_bundle(tmp_path / name).net.state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
