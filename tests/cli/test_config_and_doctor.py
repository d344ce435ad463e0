"""`nowcast config` shows where each value came from; `nowcast doctor` says whether all is well."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

from cli import doctor
from nowcast.config import preset_names
from tests.cli.conftest import Run


def test_show_names_the_origin_of_every_value(nowcast: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOWCAST_TRAINING__SEED", "7")
    lines = nowcast("config", "show", "-c", "demo", "--set", "training.batch_size=3").stdout.splitlines()
    origin = {line.split()[0]: line.split(maxsplit=2) for line in lines}
    assert origin["training.batch_size"][1:] == ["3", "--set training.batch_size=3"]
    assert origin["training.seed"][1:] == ["7", "environment"]
    assert any(parts[2].strip() == "preset demo" for parts in origin.values())
    assert origin["training.nodes"][2] == "default"


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_is_valid_and_can_be_written_out_and_read_back(nowcast: Run, tmp_path: Path, preset: str) -> None:
    nowcast("config", "init", preset, "-o", tmp_path / "c.yaml")
    assert "is a valid configuration" in nowcast("config", "validate", tmp_path / "c.yaml").stdout
    nowcast("config", "init", preset, "-o", tmp_path / "c.yaml", expect=2)


def test_the_schema_is_json(nowcast: Run) -> None:
    assert "training" in json.loads(nowcast("config", "schema").stdout)["properties"]


def test_doctor_finds_what_is_installed(nowcast: Run) -> None:
    report = json.loads(nowcast("doctor", "--json").stdout)
    assert report["ok"] and report["packages"]["torch"] and "demo" in report["presets"]
    assert "all is well" in nowcast("doctor").stdout


def test_doctor_knows_every_dependency_and_extra() -> None:
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name = re.compile(r"[A-Za-z0-9-]+")
    assert set(doctor.CORE) == {name.match(text)[0] for text in declared["dependencies"]}  # type: ignore[index]
    extras = {
        name.match(text)[0]: extra  # type: ignore[index]
        for extra, packages in declared["optional-dependencies"].items()
        if extra not in ("formats", "oracles", "test")
        for text in packages
    }
    assert extras == doctor.EXTRAS


def test_doctor_finds_what_is_broken(nowcast: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    report = json.loads(nowcast("doctor", "--json", expect=4).stdout)
    assert not report["ok"] and list(report["broken"]) == ["numba"]
    said = nowcast("doctor", expect=4).stdout
    assert "BROKEN: ModuleNotFoundError" in said and "all is well" not in said


def test_doctor_wants_a_folder_for_temporary_files(nowcast: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    said = nowcast("doctor", expect=4).stdout
    assert "NOT writable" in said and "no temporary file can be written" in said


def test_doctor_says_that_there_is_no_folder_for_temporary_files(nowcast: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert "no temporary file can be written" in nowcast("doctor", expect=4).stdout
