"""Nowcaster: a trained bundle as a forecaster of rain. Rain rates in, rain rates out, all in mm/h.

It has the interface of the baselines (`Persistence`, `Extrapolation`): a name, a number of input frames, and
`forecast_frames`. Which frames to give it is the business of `nowcast.prediction.predict`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from nowcast.data.climate import RainClimate
from nowcast.data.grid import Grid
from nowcast.data.motion import estimate_motion
from nowcast.errors import ConfigError, DataError, MismatchError
from nowcast.models.bundle import DESCRIPTION, WEIGHTS, Bundle, find_bundle, load_bundle
from nowcast.models.heads import Exceedance
from nowcast.models.inputs import rain_inputs
from nowcast.models.moving_frame import into_moving_frame, out_of_moving_frame
from nowcast.models.noise import WithNoise, draw_noise
from nowcast.prediction.decisions import area_levels, expected_csi_levels

# A model learns the motion of a pixel a step: another pixel size or step is another motion.
PIXEL_SIZE_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class Nowcaster:
    """A trained model, ready to forecast.

    Attributes:
        bundle: Net, configuration, normaliser.
        device: Where the net runs.
        bundle_sha256: Digest of the bundle's files; empty for a model that was never saved.
    """

    bundle: Bundle
    device: torch.device
    bundle_sha256: str = ""

    @classmethod
    def load(cls, path: str | Path, *, device: str | None = None) -> Nowcaster:
        """The model of a bundle or run folder, on the GPU when torch sees one and `device` says nothing else.

        Raises:
            DataError: The folder is not a readable bundle, or not one of a rain model.
        """
        bundle = load_bundle(path)
        if bundle.step_seconds is None:
            raise DataError(
                f"{path} was not trained on rain (Moving MNIST?)", "give a model trained by `nowcast train`"
            )
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        bundle.net.to(chosen)
        return cls(bundle, chosen, _digest(find_bundle(path)))

    @property
    def identity(self) -> dict[str, str]:
        """What a forecast says of its maker: model_id, config_hash, and bundle_sha256 where there is one."""
        config = json.dumps(self.bundle.config.model_dump(mode="json"), sort_keys=True)
        found = {"config_hash": hashlib.sha256(config.encode()).hexdigest()}
        if not self.bundle_sha256:
            return {"model_id": self.name, **found}
        return {"model_id": f"{self.name}-{self.bundle_sha256[:12]}", **found, "bundle_sha256": self.bundle_sha256}

    @property
    def name(self) -> str:
        """The name that its training gave it (that of its run folder), else its architecture."""
        return str(self.bundle.provenance.get("name") or self.bundle.name)

    @property
    def input_frames(self) -> int:
        return self.bundle.config.data.input_frames

    @property
    def output_frames(self) -> int:
        """Lead times that the model was trained for; it can be asked for more, at its own risk."""
        return self.bundle.config.data.output_frames

    @property
    def in_moving_frame(self) -> bool:
        """Whether the model forecasts what an observer sees who travels with the rain."""
        return self.bundle.config.data.frame == "moving"

    def require_fit(self, grid: Grid, step: np.timedelta64, name: str) -> None:
        """Refuse data of another step or pixel size.

        Raises:
            MismatchError: With both sides named.
        """
        seconds = float(step / np.timedelta64(1, "s"))
        if seconds != self.bundle.step_seconds:
            assert self.bundle.step_seconds is not None
            raise MismatchError(
                f"the model was trained on steps of {self.bundle.step_seconds / 60:g} min, "
                f"{name} has {seconds / 60:g} min",
                "train a model on data of this step",
            )
        wanted = self.bundle.pixel_size_km
        found = grid.pixel_size_km
        if wanted is not None and not np.allclose(found, wanted, rtol=PIXEL_SIZE_TOLERANCE):
            raise MismatchError(
                f"the model was trained on pixels of {wanted[0]:.4g}x{wanted[1]:.4g} km, "
                f"{name} has {found[0]:.4g}x{found[1]:.4g} km",
                "train a model on data of this pixel size",
            )

    @property
    def training_climate(self) -> RainClimate | None:
        """How it rained where the model was trained; None where its bundle does not say."""
        values = self.bundle.provenance.get("rain_climate")
        return None if values is None else RainClimate.from_dict(values)

    @property
    def thresholds_mm_h(self) -> tuple[float, ...]:
        """The thresholds whose chances the model forecasts; none for a mean head without members."""
        return self.bundle.thresholds_mm_h

    @property
    def chances_are_calibrated(self) -> bool:
        """Whether its chances are those that `nowcast calibrate` found to come true."""
        return self.bundle.chance_map is not None

    def forecast_frames(self, frames: np.ndarray, num_leads: int) -> np.ndarray:
        """Rain rates (num_leads, H, W) float32 [mm/h] after the last of `frames` (T, H, W).

        NaN where the last frame was not measured: there the net has nothing to start from. A model of the moving
        frame is NaN where the rain would come from there. Of a model that draws members, the first one of seed 0.
        """
        if self.draws_members:
            return np.asarray(self.forecast_members(frames, num_leads, 1, 0)[0])
        (output,) = self._outputs(frames, num_leads, [None])
        return self._read(output)

    @property
    def draws_members(self) -> bool:
        """Whether the model was trained to draw the members of an ensemble."""
        return isinstance(self.bundle.net, WithNoise)

    def forecast_members(self, frames: np.ndarray, num_leads: int, members: int, seed: int) -> np.ndarray:
        """Rain rates (members, num_leads, H, W) float32 [mm/h], missing as in `forecast_frames`.

        Member k is a function of the frames, the seed and k: the same on any device but for rounding, and whatever
        the number of members.

        Raises:
            ConfigError: The model forecasts one field.
        """
        net = self.bundle.net
        if not isinstance(net, WithNoise):
            raise ConfigError(
                f"{self.name} forecasts one field and no members",
                "train a model with model.noise_channels and loss.name=crps",
            )
        height, width = frames.shape[-2:]
        noise = (
            draw_noise(1, net.channels, height, width, generator=_generator(seed, k)).to(self.device)
            for k in range(members)
        )
        return np.stack([self._read(output) for output in self._outputs(frames, num_leads, noise)])

    def forecast_chances(self, frames: np.ndarray, num_leads: int) -> tuple[np.ndarray, np.ndarray]:
        """Rain rates as `forecast_frames`, and the chances (num_leads, K, H, W) float32 of reaching each threshold.

        The chances are calibrated where the model is.

        Raises:
            ConfigError: The model has a mean head: it forecasts no chances.
        """
        if not isinstance(self.bundle.head, Exceedance):
            raise ConfigError(
                f"{self.name} forecasts one field and no probabilities", "train a model with model.head=exceedance"
            )
        (output,) = self._outputs(frames, num_leads, [None])
        logits = output.placed_logits()
        return self._events(output, logits), self.calibrated(torch.sigmoid(torch.from_numpy(logits)).numpy())

    def calibrated(self, chances: np.ndarray) -> np.ndarray:
        """Chances (L, K, H, W) of the model's thresholds as they came true; as they are where it is not calibrated."""
        return chances if self.bundle.chance_map is None else self.bundle.chance_map(chances)

    def _outputs(self, frames: np.ndarray, num_leads: int, noise: Iterable[torch.Tensor | None]) -> Iterator[_Output]:
        """What the net gives for each noise (1, N, H, W), or none; motion and inputs are made once."""
        if frames.shape[0] < self.input_frames:
            raise DataError(f"the model needs {self.input_frames} frames, got {frames.shape[0]}")
        recent = np.asarray(frames[-self.input_frames :], dtype=np.float32)
        motion = estimate_motion(recent) if self.in_moving_frame else None
        seen = recent if motion is None else into_moving_frame(recent, motion)
        inputs = rain_inputs(seen, self.bundle.normalizer).unsqueeze(0).to(self.device)
        for fields in noise:
            given = () if fields is None else (fields,)
            with torch.inference_mode():
                logits = self.bundle.net.forward_logits(inputs, num_leads, *given)  # type: ignore[operator]
            yield _Output(logits[0], recent[-1], motion)

    def _read(self, output: _Output) -> np.ndarray:
        head = self.bundle.head
        if isinstance(head, Exceedance):
            return self._events(output, output.placed_logits())
        return output.placed(head.rain_rate(output.logits))

    def _events(self, output: _Output, logits: np.ndarray) -> np.ndarray:
        """Rain rates of an exceedance head's logits (L, K, H, W).

        Events are decided where the rain will be: carried afterwards, small showers would be smoothed away.
        """
        head = self.bundle.head
        assert isinstance(head, Exceedance)
        if self.bundle.decision != "level":
            moved = np.broadcast_to(output.last, (len(logits), *output.last.shape))
            moved = moved if output.motion is None else out_of_moving_frame(moved, output.motion)
            rule = area_levels if self.bundle.decision == "area" else expected_csi_levels
            head = replace(head, decision_levels=rule(logits, moved, head.thresholds_mm_h))
        unknown = np.isnan(logits[:, 0])
        fields = head.rain_rate(torch.from_numpy(np.where(np.isnan(logits), -np.inf, logits)))
        return np.where(unknown, np.float32(np.nan), fields)


@dataclass(frozen=True, eq=False)
class _Output:
    """What a net gave, (L, K, H, W), with the last frame and the motion that place it on the ground."""

    logits: torch.Tensor
    last: np.ndarray
    motion: np.ndarray | None

    def placed(self, fields: np.ndarray) -> np.ndarray:
        """Fields (..., L, H, W) in the net's frame of reference where they will be, missing where nobody knows."""
        fields = np.where(np.isnan(self.last), np.float32(np.nan), fields)
        return fields if self.motion is None else out_of_moving_frame(fields, self.motion)

    def placed_logits(self) -> np.ndarray:
        """The logits (L, K, H, W) float32 where they will be, NaN where nobody knows."""
        return self.placed(self.logits.float().cpu().numpy().swapaxes(0, 1)).swapaxes(0, 1)


def _digest(folder: Path) -> str:
    """SHA-256 of the names and bytes of a bundle's two files."""
    digest = hashlib.sha256()
    for name in (DESCRIPTION, WEIGHTS):
        digest.update(name.encode() + b"\0" + (folder / name).read_bytes())
    return digest.hexdigest()


def _generator(seed: int, member: int) -> torch.Generator:
    """On the CPU, so that every device is given the same numbers."""
    state = np.random.SeedSequence([seed, member]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
