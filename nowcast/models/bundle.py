"""The portable model: a folder of safetensors weights and one JSON file. Nothing in it can execute.

It holds all that a forecast needs: net, normaliser, number of frames, step, pixel size, and where it came from.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nowcast.config import Config, config_from_dict
from nowcast.data.normalize import Normalizer
from nowcast.errors import ConfigError, DataError
from nowcast.models.chances import ChanceMap
from nowcast.models.heads import Head, make_head
from nowcast.models.registry import build_forecaster

FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
DESCRIPTION = "bundle.json"
# The name that stands for the model in the package, and where it lies, its card beside it.
PRETRAINED = "pretrained"
PRETRAINED_FOLDER = Path(__file__).with_name("pretrained")


@dataclass(frozen=True, eq=False)
class Bundle:
    """A trained forecaster and what it was trained for.

    Attributes:
        net: The module, in evaluation mode.
        config: The resolved configuration of its training.
        normalizer: As fitted on the training split.
        in_channels: Channels of an input frame (2 for rain: value and validity).
        step_seconds: Cadence that it was trained at; None where time has no unit (Moving MNIST).
        pixel_size_km: (dy, dx) that it was trained at; None likewise.
        provenance: Data fingerprints, versions, seed, steps, command, `synthetic`, ...
        decision_levels: For an exceedance head, as calibrated (lead rows of one level a threshold); None: 0.5.
        chance_map: What the chances that it says are worth, as calibrated; None: they are taken as they are.
    """

    net: nn.Module
    config: Config
    normalizer: Normalizer
    in_channels: int
    step_seconds: float | None
    pixel_size_km: tuple[float, float] | None
    provenance: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    decision_levels: tuple[tuple[float, ...], ...] | None = None
    chance_map: ChanceMap | None = None

    def __post_init__(self) -> None:
        if self.chance_map is not None and self.chance_map.thresholds_mm_h != self.thresholds_mm_h:
            raise ConfigError(
                f"the map of chances is one of thresholds {self.chance_map.thresholds_mm_h} mm/h, the model says the "
                f"chances of {self.thresholds_mm_h}",
                "calibrate the model again",
            )

    @property
    def thresholds_mm_h(self) -> tuple[float, ...]:
        """Thresholds whose chances it can say: those of its exceedance head, or of the scores for an ensemble."""
        if self.config.model.head == "exceedance":
            return self.config.model.thresholds_mm_h
        return self.config.scores.thresholds_mm_h if self.draws_members else ()

    @property
    def draws_members(self) -> bool:
        """Whether its net draws the members of an ensemble."""
        return self.config.model.noise_channels > 0

    @property
    def name(self) -> str:
        return self.config.model.name

    @property
    def decision(self) -> str:
        """How the events of an exceedance head are decided: "level" where levels are calibrated, else as configured."""
        model = self.config.model
        return model.decision if model.head == "exceedance" and self.decision_levels is None else "level"

    @property
    def head(self) -> Head:
        """How the net's outputs are read: the one way from logits to rain rates."""
        return make_head(self.config.model, self.normalizer, self.decision_levels)

    def save(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
        """Write the bundle as a folder, atomically; an older bundle there is replaced.

        Args:
            dtype: What the weights are rounded to, to save space: `torch.float16` halves it. They are read back as
                they are used, in single precision.
        """
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            draft = Path(scratch) / "new"
            draft.mkdir()
            weights = {name: _rounded(value.detach().cpu(), dtype) for name, value in self.net.state_dict().items()}
            save_file(weights, draft / WEIGHTS)
            (draft / DESCRIPTION).write_text(json.dumps(self._describe(), indent=2) + "\n", encoding="utf-8")
            if folder.exists():
                folder.rename(Path(scratch) / "old")
            draft.rename(folder)
        return folder

    def _describe(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "config": self.config.model_dump(mode="json"),
            "normalizer": self.normalizer.to_dict(),
            "in_channels": self.in_channels,
            "step_seconds": self.step_seconds,
            "pixel_size_km": self.pixel_size_km,
            "quantity": "rainfall_rate" if self.step_seconds is not None else "image",
            "decision_levels": self.decision_levels,
            "chance_map": None if self.chance_map is None else self.chance_map.to_dict(),
            "provenance": dict(self.provenance),
        }


def _rounded(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return (value if dtype is None or not value.is_floating_point() else value.to(dtype)).contiguous()


def find_bundle(path: str | Path) -> Path:
    """The bundle folder that a path means: itself, that inside a run folder, or for "pretrained" that of the package.

    Raises:
        DataError: None is there.
    """
    path = Path(path)
    candidates = [path, path / "model"]
    if str(path) == PRETRAINED:
        candidates.append(PRETRAINED_FOLDER)
    for candidate in candidates:
        if (candidate / DESCRIPTION).is_file():
            return candidate
    raise DataError(
        f"{path} is neither a model bundle nor a run folder: there is no {DESCRIPTION} in it",
        "give the folder that `nowcast train -o` wrote, or pretrained, persistence, extrapolation or scale-decay",
    )


def load_bundle(path: str | Path) -> Bundle:
    """Read a bundle or the bundle of a run folder; the net is on the CPU, in evaluation mode.

    Raises:
        DataError: Files that are missing, damaged, of a newer format, or that do not fit each other.
    """
    folder = find_bundle(path)
    try:
        values = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        version = values["format_version"]
        if version != FORMAT_VERSION:
            raise DataError(
                f"{folder} has bundle format {version}, this version reads {FORMAT_VERSION}", "update nowcast"
            )
        config = config_from_dict(values["config"])
        channels = values["in_channels"]
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
            raise TypeError(f"in_channels is {channels!r}, expected a positive int")
        net = build_forecaster(config, channels)
        net.load_state_dict(load_file(folder / WEIGHTS))
        step, size, levels = values["step_seconds"], values["pixel_size_km"], values.get("decision_levels")
        chance_map = values.get("chance_map")
        return Bundle(
            net.eval(),
            config,
            Normalizer.from_dict(values["normalizer"]),
            channels,
            None if step is None else float(step),
            None if size is None else (float(size[0]), float(size[1])),
            dict(values["provenance"]),
            None if levels is None else tuple(tuple(map(float, row)) for row in levels),
            None if chance_map is None else ChanceMap.from_dict(chance_map),
        )
    except ConfigError as error:
        raise DataError(f"the model bundle {folder} cannot be used: {error.message}", error.hint) from error
    except (OSError, LookupError, TypeError, ValueError, AttributeError, SafetensorError, RuntimeError) as error:
        raise DataError(f"the model bundle {folder} cannot be read: {error}", "copy or train it again") from error
