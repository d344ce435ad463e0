"""A bundle's net as a program that runs without this package: torch.export, and ONNX from it.

The program goes from normalised inputs to logits, for any batch and grid and a fixed number of lead times. What
stands before and after it (normaliser, fill, head, moving frame) is in the description that goes with it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nowcast.errors import ConfigError, DataError, MissingPackageError
from nowcast.models.bundle import Bundle
from nowcast.models.noise import WithNoise

FORMATS = ("pt2", "onnx")
# Sides of the grid, in units of the net's multiple, that the program is made for.
SMALLEST, LARGEST_SIDE, LARGEST_BATCH = 4, 16384, 4096
# Sizes (batch, rows, columns; sides in units of the multiple) at which the program is compared with the net.
CHECKED = ((1, 5, 9), (3, 8, 4))
# Logits: 1e-3 moves a probability by at most 0.00025. Fast kernels differ from plain convolutions by less.
TOLERANCE = 1e-3


class Program(nn.Module):
    """frames (B, T, C, H, W), and noise (B, N, H, W) for a net that draws members -> logits (B, L, K, H, W)."""

    def __init__(self, net: nn.Module, num_leads: int) -> None:
        super().__init__()
        self.net = net
        self.num_leads = num_leads

    def forward(self, frames: Tensor, *noise: Tensor) -> Tensor:
        logits: Tensor = self.net.forward_logits(frames, self.num_leads, *noise)  # type: ignore[operator]
        return logits


def export_program(bundle: Bundle, path: str | Path, *, format: str, num_leads: int) -> float:
    """Write the program to a file; the largest difference of its logits from those of the net.

    The file is read back and compared on random inputs of two sizes before it is written under its name.

    Raises:
        ConfigError: An unknown format.
        MissingPackageError: ONNX without its packages.
        DataError: The program differs from the net; nothing is left.
    """
    path = Path(path)
    if format not in FORMATS:
        raise ConfigError(f"the export format '{format}' is not known", f"use one of: {', '.join(FORMATS)}")
    if format == "onnx":
        _require_onnx()
    program = Program(bundle.net.cpu().eval(), num_leads).eval()
    draft = path.with_name(f".{path.stem}.draft.{format}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        exported = _export(bundle, program)
        if format == "pt2":
            torch.export.save(exported, draft)
        else:
            torch.onnx.export(exported, dynamo=True).save(draft)  # type: ignore[union-attr]
        difference = _largest_difference(bundle, program, draft, format)
        if not difference <= TOLERANCE:
            raise DataError(
                f"the exported program differs from the net by up to {difference:.2g} in its logits "
                f"({TOLERANCE:g} is allowed); nothing was written",
                "export another format, and report it with the bundle's configuration",
            )
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return difference


def describe_program(bundle: Bundle, *, format: str, num_leads: int, difference: float) -> dict[str, Any]:
    """What a program needs to know that runs it: JSON values."""
    model, data, multiple = bundle.config.model, bundle.config.data, grid_multiple(bundle.net)
    inputs: dict[str, Any] = {
        "frames": {
            "axes": ["batch", "time", "channel", "row", "column"],
            "time": data.input_frames,
            "channels": ["normalised rain rate, 0 where missing", "1 where measured, else 0"][: bundle.in_channels],
        }
    }
    if isinstance(bundle.net, WithNoise):
        inputs["noise"] = {"axes": ["batch", "channel", "row", "column"], "channel": bundle.net.channels}
    return {
        "format": format,
        "inputs": inputs,
        "output": {
            "axes": ["batch", "lead time", "threshold" if model.head == "exceedance" else "channel", "row", "column"],
            "lead_times": num_leads,
            "meaning": "logits: the chance of reaching each threshold is their sigmoid"
            if model.head == "exceedance"
            else "logits: the normalised rain rate is their sigmoid",
        },
        "rows": "north first",
        "sides_are_multiples_of": multiple,
        "smallest_side": SMALLEST * multiple,
        "padding": "zeros below and to the right",
        "head": model.head,
        "thresholds_mm_h": list(model.thresholds_mm_h) if model.head == "exceedance" else None,
        "decision_levels": bundle.decision_levels,
        "chance_map": None if bundle.chance_map is None else bundle.chance_map.to_dict(),
        "decision": bundle.decision,
        "frame": data.frame,
        "normalizer": bundle.normalizer.to_dict(),
        "step_seconds": bundle.step_seconds,
        "pixel_size_km": bundle.pixel_size_km,
        "largest_difference": difference,
        "torch": str(torch.__version__),
        "provenance": dict(bundle.provenance),
    }


def grid_multiple(net: nn.Module) -> int:
    """What the sides of a net's grid must be multiples of; 1 for a net that does not say."""
    while not hasattr(net, "multiple") and isinstance(getattr(net, "net", None), nn.Module):
        net = net.net  # type: ignore[assignment]
    return int(getattr(net, "multiple", 1))


def _export(bundle: Bundle, program: Program) -> torch.export.ExportedProgram:
    multiple = grid_multiple(bundle.net)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    rows, columns = (
        multiple * torch.export.Dim(name, min=SMALLEST, max=LARGEST_SIDE // multiple) for name in ("rows", "columns")
    )
    shapes: tuple[Any, ...] = ({0: batch, 3: rows, 4: columns},)
    if isinstance(bundle.net, WithNoise):
        shapes += (({0: batch, 2: rows, 3: columns},),)  # one entry for all of *noise
    inputs = _random_inputs(bundle, 2, 6 * multiple, 7 * multiple)
    return torch.export.export(program, inputs, dynamic_shapes=shapes, strict=False)


def _random_inputs(bundle: Bundle, batch: int, height: int, width: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(batch)
    shape = (batch, bundle.config.data.input_frames, bundle.in_channels, height, width)
    frames = torch.rand(shape, generator=generator)
    frames[:, :, 1:] = (frames[:, :, 1:] < 0.9).float()
    frames[:, :, :1] *= frames[:, :, 1:2] if bundle.in_channels > 1 else 1
    if not isinstance(bundle.net, WithNoise):
        return (frames,)
    return frames, torch.randn(batch, bundle.net.channels, height, width, generator=generator)


def _largest_difference(bundle: Bundle, program: Program, path: Path, format: str) -> float:
    run = _loaded(path, format)
    multiple, largest = grid_multiple(bundle.net), 0.0
    for batch, rows, columns in CHECKED:
        inputs = _random_inputs(bundle, batch, rows * multiple, columns * multiple)
        with torch.inference_mode():
            wanted = program(*inputs).numpy()
        found = run(inputs)
        if found.shape != wanted.shape or not np.isfinite(found).all():
            return float("nan")
        largest = max(largest, float(np.abs(found - wanted).max()))
    return largest


def _loaded(path: Path, format: str) -> Any:
    """The program in a file as a function of tensors that gives an array."""
    if format == "pt2":
        module = torch.export.load(path).module()

        def run(inputs: tuple[Tensor, ...]) -> np.ndarray:
            with torch.no_grad():
                return np.asarray(module(*inputs))

        return run
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, (part.numpy() for part in inputs), strict=True)))[0]


def _require_onnx() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingPackageError(package, "onnx", "export to ONNX")
