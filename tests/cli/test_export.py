"""`nowcast export`: the file computes what the net computes, on grids it has not seen, and says what it needs."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import nowcast.models.export as export
from nowcast.config import load_config
from nowcast.data.normalize import Normalizer
from nowcast.errors import DataError
from nowcast.models.bundle import Bundle, load_bundle
from nowcast.models.noise import WithNoise
from nowcast.models.registry import build_forecaster
from tests.cli.conftest import Run


def saved(folder: Path, *overrides: str) -> Path:
    small = ["data.input_frames=2", "data.output_frames=2", "model.hidden_channels=[4]"]
    config = load_config(overrides=[*small, *overrides], environment={}).config
    torch.manual_seed(0)
    net = build_forecaster(config, 2).eval()
    return Bundle(net, config, Normalizer(mean=0.1), 2, 300.0, (1.0, 1.0), {"seed": 0}).save(folder)


def compare(path: Path, model: Path, *shape: int) -> None:
    """The file against the net on a batch and grid that the export did not see."""
    bundle = load_bundle(model)
    frames = torch.rand(shape[0], bundle.config.data.input_frames, 2, *shape[1:])
    given = [torch.randn(shape[0], bundle.net.channels, *shape[1:])] if isinstance(bundle.net, WithNoise) else []
    program = torch.export.load(path).module()
    leads = json.loads(path.with_name(f"{path.name}.json").read_text())["output"]["lead_times"]
    with torch.no_grad():
        wanted = bundle.net.forward_logits(frames, leads, *given)  # type: ignore[operator]
        torch.testing.assert_close(program(frames, *given), wanted, atol=1e-4, rtol=1e-4)


def test_a_file_computes_what_the_net_does_and_says_how_to_feed_it(nowcast: Run, tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "model.name=unet")
    result = nowcast("export", model, "-o", tmp_path / "net.pt2", "--leads", 1)
    assert "1 lead time, differs from the net by at most" in result.output
    compare(tmp_path / "net.pt2", model, 4, 18, 26)
    said = json.loads((tmp_path / "net.pt2.json").read_text())
    assert said["largest_difference"] <= export.TOLERANCE
    assert (said["sides_are_multiples_of"], said["smallest_side"], said["step_seconds"]) == (2, 8, 300.0)
    assert Normalizer.from_dict(said["normalizer"]) == load_bundle(model).normalizer
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "net.pt2", "net.pt2.json"]
    assert "exists" in str(nowcast("export", model, "-o", tmp_path / "net.pt2", expect=2).exception)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["model.name=pyramid", "model.hidden_channels=[4,4]", "model.head=exceedance", "model.base=true"],
        ["model.name=unet", "model.hidden_channels=[4,4]", "model.base=true"],
        ["model.name=seq2seq"],
        ["model.options={cell: convgru}"],
        ["model.noise_channels=2"],
        ["model.hidden_channels=[16]", "model.kernel_size=5"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_net_can_be_exported(nowcast: Run, tmp_path: Path, overrides: list[str]) -> None:
    model = saved(tmp_path / "model", *overrides)
    nowcast("export", model, "-o", tmp_path / "net.pt2")
    side = json.loads((tmp_path / "net.pt2.json").read_text())["sides_are_multiples_of"]
    compare(tmp_path / "net.pt2", model, 2, 7 * side, 10 * side)


def test_a_program_that_differs_is_not_written(nowcast: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(tmp_path / "model", "model.name=unet")
    real = export._loaded
    monkeypatch.setattr(export, "_loaded", lambda *where: lambda inputs: np.add(real(*where)(inputs), 0.01))
    result = nowcast("export", model, "-o", tmp_path / "net.pt2", expect=3)
    assert isinstance(result.exception, DataError) and "differs from the net by up to 0.01" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(find_spec("onnx") is not None, reason="onnx is installed")
def test_without_onnx_the_error_names_the_extra(nowcast: Run, tmp_path: Path) -> None:
    result = nowcast("export", saved(tmp_path / "m"), "-o", tmp_path / "n.onnx", "--format", "onnx", expect=4)
    assert "nowcast-pipeline[onnx]" in str(result.exception)


@pytest.mark.slow
def test_onnx_computes_what_the_net_does(nowcast: Run, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    model = saved(tmp_path / "model", "model.options={cell: convgru}")
    nowcast("export", model, "-o", tmp_path / "net.onnx", "--format", "onnx")
    assert json.loads((tmp_path / "net.onnx.json").read_text())["largest_difference"] <= export.TOLERANCE
