"""The built wheel, alone in a fresh environment, runs from anywhere and brings its presets."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds the wheel and nothing else of ours."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("nowcast_pipeline-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    pip = [str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True)
    return folder / "venv/bin"


def run(fresh: Path, *command: str, cwd: Path) -> str:
    # The dependencies come from this environment; its editable install does not, since .pth files are not read there.
    environment = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    done = subprocess.run(
        [str(fresh / command[0]), *command[1:]], capture_output=True, text=True, cwd=cwd, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_runs_and_finds_its_presets(fresh: Path, tmp_path: Path) -> None:
    assert metadata.version("nowcast-pipeline") in run(fresh, "nowcast", "--version", cwd=tmp_path)
    assert {"demo", "radar", "moving_mnist"} <= set(run(fresh, "nowcast", "config", "presets", cwd=tmp_path).split())
    home = run(fresh, "python", "-c", "import nowcast; print(nowcast.__file__)", cwd=tmp_path)
    assert str(fresh.parent) in home


@pytest.mark.slow
def test_the_wheel_holds_what_its_modules_read(fresh: Path, tmp_path: Path) -> None:
    site = next((fresh.parent / "lib").glob("python*/site-packages"))
    wanted = [
        path.relative_to(ROOT)
        for top in ("nowcast", "cli", "data_prep", "configs")
        for path in (ROOT / top).rglob("*")
        if path.suffix in {".py", ".yaml", ".jinja", ".json", ".css", ".js"}
    ]
    assert wanted and not [path for path in wanted if not (site / path).is_file()]
