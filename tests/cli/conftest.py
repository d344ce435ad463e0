"""A small archive and a model trained on it for a few steps, made once for the tests of the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import exit_code, group
from data_prep.synthetic_rain import write_synthetic_archive

Run = Callable[..., Result]
TINY = [
    "--set", "model.name=encoder_forecaster",
    "--set", "model.head=mean",
    "--set", "model.base=false",
    "--set", "data.frame=fixed",
    "--set", "model.hidden_channels=[8]",
    "--set", "model.patch=4",
    "--set", "data.input_frames=3",
    "--set", "data.output_frames=4",
    "--set", "data.crop=null",
    "--set", "data.validation_share=0.3",
    "--set", "training.max_steps=6",
    "--set", "training.batch_size=2",
    "--set", "training.validate_every=3",
    "--set", "training.checkpoint_every=2",
    "--set", "training.warmup_steps=1",
    "--set", "loss.name=mse",
]  # fmt: skip


@pytest.fixture(scope="session")
def nowcast() -> Run:
    """Run a command in this process; the exit code is the one that the shell would see."""

    def run(*arguments: object, expect: int = 0) -> Result:
        result = CliRunner().invoke(group, [str(part) for part in arguments])
        code = result.exit_code
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            assert isinstance(result.exception, Exception)
            code = exit_code(result.exception)
            if code == 1:
                raise result.exception
        assert code == expect, result.output + str(result.exception)
        return result

    return run


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_archive(tmp_path_factory.mktemp("archive") / "rain.zarr", 60, (32, 40), seed=3)


@pytest.fixture(scope="session")
def run_folder(nowcast: Run, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "run"
    nowcast("train", archive, "-o", folder, "--cache", folder.parent / "cache", *TINY)
    return folder
