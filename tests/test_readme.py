"""The README says what is true: its Python runs, its commands run, its links and names exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.readers.registry import reader_names
from data_prep.synthetic_rain import write_synthetic_archive

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line[:1] == ["nowcast"]]


def test_the_two_commands_stand_there_and_are_targets() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {"make demo", "make test"} <= {line.split("#")[0].strip() for line in blocks("bash")[0].splitlines()}
    assert {"demo", "test"} <= set(targets)


def test_the_python_example_runs_and_prints_a_csi_for_each_lead_time(tmp_path: Path) -> None:
    (example,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    values = [float(number) for number in done.stdout.strip(" []\n").split()]
    assert len(values) == 6 and all(0 < value < 1 for value in values) and values[0] > values[-1]


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", TEXT):
        assert target.startswith("https://") or (ROOT / target).is_file(), target


def test_every_reader_stands_in_the_table() -> None:
    assert set(re.findall(r"^\|.*\| `(\w+)` \|$", TEXT, flags=re.MULTILINE)) == set(reader_names())


def test_every_extra_stands_in_the_table() -> None:
    project = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("[project.")[0]
    extras = set(re.findall(r"^(\w+) = \[", project, flags=re.MULTILINE)) - {"test", "oracles"}
    table = TEXT.split("| extra | for |")[1]
    assert extras == {name for name in extras if f"`{name}`" in table}


@pytest.mark.slow
def test_the_five_commands_run_one_after_the_other(tmp_path: Path) -> None:
    """On generated rain instead of radar files, and with a net of a few weights trained for a few steps."""
    (tmp_path / "radar").mkdir()
    source = write_synthetic_archive(tmp_path / "source.zarr", 60, (48, 48), seed=2)
    shutil.move(source, tmp_path / "radar/source.h5")
    smaller = [
        "model.hidden_channels=[4]",
        "data.crop=32",
        "data.output_frames=6",
        "data.validation_share=0.3",
        "training.max_steps=2",
        "training.validate_every=2",
        "training.batch_size=2",
    ]
    ran = []
    for command in commands()[:5]:
        if command[1] == "train":
            command += [part for setting in smaller for part in ("--set", setting)]
            command += ["--cache", str(tmp_path / "cache")]
        arguments = [str(path) for part in command[1:] for path in _expanded(part, tmp_path)]
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        # 5: finished, but the last forecasts reach past the end of the archive, where nothing is observed yet.
        assert done.returncode in ((0, 5) if command[1] == "evaluate" else (0,)), f"{command}: {done.stderr}"
        ran.append(command[1])
    assert ran == ["ingest", "train", "predict", "evaluate", "report"]
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8").lower()


def _expanded(part: str, folder: Path) -> list[str]:
    """What the shell would make of a pattern."""
    found = [str(path.relative_to(folder)) for path in folder.glob(part)] if "*" in part else []
    return found or [part]
