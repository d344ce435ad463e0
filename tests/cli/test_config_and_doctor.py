"""`nowcast config` shows where each value came from; `nowcast doctor` says whether all is well."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
