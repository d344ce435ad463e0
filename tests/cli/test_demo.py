"""`nowcast demo` in a small form: everything it promises is there, and its exit code says whether the model is good."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli import demo
from nowcast.data.archive import open_archive
from nowcast.data.forecast import load_forecast
from nowcast.models.bundle import load_bundle
from nowcast.verification.counts import CONTINGENCY
from nowcast.verification.evaluation import Evaluation
from tests.cli.conftest import Run
from tests.report.small_skill import small_evaluation

SMALL = {
    "TRAINING__MAX_STEPS": "2",
    "TRAINING__WARMUP_STEPS": "1",
    "TRAINING__VALIDATE_EVERY": "2",
    "TRAINING__VALIDATION_BATCHES": "1",
    "TRAINING__CHECKPOINT_EVERY": "1",
    "TRAINING__EMA": "null",
    "MODEL__HIDDEN_CHANNELS": "[4]",
    # Without the extrapolation that the net corrects, two steps of training teach nothing.
    "MODEL__BASE": "false",
    "DATA__FRAME": "fixed",
}


@pytest.mark.slow
def test_the_demo_makes_everything_and_leaves_with_10_where_persistence_is_better(
    nowcast: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SMALL.items():
        monkeypatch.setenv(f"NOWCAST_{name}", value)
    monkeypatch.setattr(demo, "NUM_FRAMES", 300)
    monkeypatch.setattr(demo, "SHAPE", (48, 48))
    folder = tmp_path / "demo"
    result = nowcast("demo", "-o", folder, expect=10)
    assert "the model does not beat persistence. CSI at 1 mm/h over 30-60 min: " in result.stderr
    assert "SYNTHETIC RAIN" in result.stdout
    for command in ("train", "predict", "evaluate", "report", "plot sequence", "plot animate", "plot skill", "view"):
        assert f"$ nowcast {command} " in result.stdout
    for name in demo.CONTENTS:
        assert (folder / name).is_dir() if name.endswith("/") else (folder / name).exists()
        assert f"{folder / name}" in result.stdout
    archive = open_archive(folder / "rain.zarr")
    assert archive.is_synthetic and archive.times.size == 300 and archive.grid.shape == (48, 48)
    assert load_bundle(folder / "convlstm").provenance["steps"] == 2
    files = sorted((folder / "forecasts").glob("*.nc"))
    evaluation = Evaluation.load(folder / "skill")
    assert evaluation.is_synthetic and len(evaluation.counts.cases) == len(files) > 3
    assert set(evaluation.models) == {load_forecast(files[0]).model, *demo.BASELINES}
    # What was scored is what was held out.
    assert archive.times[-1] - load_forecast(files[0]).issue_times[0] < 0.4 * (archive.times[-1] - archive.times[0])
    for page in ("report.html", "view.html"):
        text = (folder / page).read_text(encoding="utf-8")
        assert "</html>" in text and "ynthetic" in text
    for picture in ("sequence.png", "skill.png", "forecast.gif"):
        with Image.open(folder / "figures" / picture) as image:
            assert np.ptp(np.asarray(image.convert("L"))) > 50
    assert json.loads((folder / "convlstm" / "training.json").read_text())["archives"] == [str(folder / "rain.zarr")]


@pytest.mark.parametrize(("net", "code"), [(0.7, 0), (0.3, 10)])
def test_the_gate_asks_for_1_mm_an_hour_over_30_to_60_minutes(
    net: float, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = small_evaluation(cases=6, leads=5, skill={"net": net, "persistence": 0.5})
    ours, other = evaluation.counts.select(models=["net"]), evaluation.counts.select(models=["persistence"])
    # Where the gate does not look (15 and 75 min, other thresholds) the other one is ahead.
    cells = {name: np.array(getattr(evaluation.counts, name)) for name in CONTINGENCY}
    outside = np.ones((5, 3), dtype=bool)
    outside[1:4, 1] = False
    for name, values in cells.items():
        swapped = np.concatenate([getattr(other, name), getattr(ours, name)])
        values[:2] = np.where(outside, swapped, values[:2])
    replace(evaluation, counts=replace(evaluation.counts, **cells)).save(tmp_path / "skill")
    assert demo._gate(tmp_path / "skill") == code
    said = capsys.readouterr()
    assert ("The model beats persistence" in said.out) == (code == 0)
    assert ("does not beat persistence" in said.err) == (code == 10)
