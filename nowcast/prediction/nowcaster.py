"""Nowcaster: a trained bundle as a forecaster of rain. Rain rates in, rain rates out, all in mm/h.

It has the interface of the baselines (`Persistence`, `Extrapolation`): a name, a number of input frames, and
`forecast_frames`. Which frames to give it is the business of `nowcast.prediction.predict`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nowcast.data.climate import RainClimate
from nowcast.data.grid import Grid
from nowcast.data.motion import estimate_motion
from nowcast.data.trajectories import Trajectories
from nowcast.errors import ConfigError, DataError, MismatchError
from nowcast.models.bundle import DESCRIPTION, WEIGHTS, Bundle, find_bundle, load_bundle
from nowcast.models.heads import Exceedance
from nowcast.models.inputs import rain_inputs
from nowcast.models.moving_frame import into_moving_frame
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
        return self._forecast(self._situation(frames), num_leads)

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
        situation = self._situation(frames)
        return np.stack([self._forecast(situation, num_leads, fields) for fields in noise])

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
        chances = np.empty((num_leads, len(self.thresholds_mm_h), *frames.shape[-2:]), dtype=np.float32)
        return self._forecast(self._situation(frames), num_leads, chances=chances), self.calibrated(chances)

    def calibrated(self, chances: np.ndarray) -> np.ndarray:
        """Chances (L, K, H, W) of the model's thresholds as they came true; as they are where it is not calibrated."""
        return chances if self.bundle.chance_map is None else self.bundle.chance_map(chances)

    def _situation(self, frames: np.ndarray) -> _Situation:
        """Motion and inputs, which are the same for all members."""
        if frames.shape[0] < self.input_frames:
            raise DataError(f"the model needs {self.input_frames} frames, got {frames.shape[0]}")
        recent = np.asarray(frames[-self.input_frames :], dtype=np.float32)
        motion = estimate_motion(recent) if self.in_moving_frame else None
        seen = recent if motion is None else into_moving_frame(recent, motion)
        inputs = rain_inputs(seen, self.bundle.normalizer).unsqueeze(0).to(self.device)
        return _Situation(inputs, recent[-1], motion)

    def _forecast(
        self,
        situation: _Situation,
        num_leads: int,
        noise: torch.Tensor | None = None,
        chances: np.ndarray | None = None,
    ) -> np.ndarray:
        """Rain rates (L, H, W), with a net's noise (1, N, H, W); fills `chances` (L, K, H, W) where it is given.

        One lead time after the other: all of them would fill the memory, and be far from the processor.
        """
        head, given = self.bundle.head, () if noise is None else (noise,)
        forecast = np.empty((num_leads, *situation.last.shape), dtype=np.float32)
        with torch.inference_mode():
            placing = _Placing(situation)
            for lead, logits in enumerate(_lead_logits(self.bundle.net, situation.inputs, num_leads, *given)):
                if not isinstance(head, Exceedance):
                    (forecast[lead],), _ = placing.next(head.rain_rate(logits))
                    continue
                # Events are decided where the rain will be: carried afterwards, small showers would be smoothed away.
                placed, moved = placing.next(logits[0].float().cpu().numpy())
                forecast[lead] = self._deciding(head, lead, placed, moved).rain_rate(torch.from_numpy(placed)[None])[0]
                if chances is not None:
                    chances[lead] = torch.sigmoid(torch.from_numpy(placed)).numpy()
        return forecast

    def _deciding(self, head: Exceedance, lead: int, logits: np.ndarray, moved: np.ndarray) -> Exceedance:
        """The head with the decision levels of one lead time alone, of logits (K, H, W)."""
        if self.bundle.decision == "level":
            return replace(head, decision_levels=(head.levels_at(lead),))
        rule = area_levels if self.bundle.decision == "area" else expected_csi_levels
        return replace(head, decision_levels=rule(logits[None], moved[None], head.thresholds_mm_h))


@dataclass(frozen=True, eq=False)
class _Situation:
    """What a forecast starts from: the net's inputs, the last frame (H, W), and motion if the net's frame moves."""

    inputs: torch.Tensor
    last: np.ndarray
    motion: np.ndarray | None


class _Placing:
    """Carries what a net gave, lead time after lead time, from its frame of reference to where it will be."""

    def __init__(self, situation: _Situation) -> None:
        self._last = situation.last
        self._unknown = np.isnan(situation.last)
        self._trajectories = None if situation.motion is None else Trajectories(situation.motion)

    def next(self, fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fields (K, H, W) of the next lead time where they will be, and the last frame: NaN where nobody knows."""
        together = np.empty((len(fields) + 1, *self._last.shape), dtype=np.float32)
        together[:-1], together[-1] = fields, self._last
        np.copyto(together[:-1], np.float32(np.nan), where=self._unknown)
        if self._trajectories is not None:
            self._trajectories.trace()
            together = self._trajectories.bring(together)
        return together[:-1], together[-1]


def _lead_logits(net: torch.nn.Module, inputs: torch.Tensor, num_leads: int, *noise: torch.Tensor) -> Iterator[Any]:
    """The net's logits (1, K, H, W), one lead time after the other; made at once by a net that cannot do it so."""
    one_by_one = getattr(net, "lead_logits", None)
    if one_by_one is None:
        return iter(net.forward_logits(inputs, num_leads, *noise).unbind(dim=1))  # type: ignore[operator]
    return iter(one_by_one(inputs, num_leads, *noise))


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
