"""The configuration of a training run: what can be set, checked, where each value came from.

Pydantic models, and `load_config`, which lays presets, files, the environment and `--set` over the defaults.
A leaf: it imports none of the other rooms, and no cell or layer ever sees it.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from nowcast.errors import ConfigError

ENVIRONMENT_PREFIX = "NOWCAST_"


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, int | float) else value


def _as_number(value: Any) -> Any:
    # YAML reads 1e-4 as a string; the schema must still make it a float.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Number = Annotated[float, BeforeValidator(_as_number)]
Weight = Annotated[Number, Field(ge=0, allow_inf_nan=False)]
Integers = Annotated[tuple[int, ...], BeforeValidator(_as_tuple)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values never change after birth."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if not values:
        raise ValueError("no threshold is given")
    if not all(0 <= value < math.inf for value in values):
        raise ValueError("a rain rate threshold is a finite number that is not negative")
    if list(values) != sorted(set(values)):
        raise ValueError("thresholds must ascend, each once")
    return values


Thresholds = Annotated[tuple[Number, ...], AfterValidator(_ascending)]


class DataConfig(Section):
    """How an archive becomes training windows."""

    input_frames: int = Field(5, ge=1, description="frames a forecast starts from")
    output_frames: int = Field(12, ge=1, description="frames to forecast in training")
    frame: Literal["fixed", "moving"] = Field(
        "fixed", description="moving: past and future carried along the motion to the issue time"
    )
    crop: int | None = Field(None, ge=8, description="side of the training crop in pixels; none: the whole grid")
    crop_stride: int | None = Field(
        None, ge=1, description="distance between crops offered to the sampler; none: half a crop"
    )
    validation_share: Number = Field(0.15, ge=0, lt=1, description="share of the time axis held for validation")
    test_share: Number = Field(0.15, ge=0, lt=1, description="share of the time axis held for testing, never seen")
    block_hours: Number = Field(24.0, gt=0, description="length of the contiguous blocks that are given to one split")
    minimum_valid_share: Number = Field(0.5, ge=0, le=1, description="a window needs this share of valid pixels")
    rain_weighted: bool = Field(True, description="prefer rainy crops in training (validation stays uniform)")
    resample: bool = Field(False, description="bring archives of another pixel size to that of the first")

    @model_validator(mode="after")
    def _something_to_train_on(self) -> DataConfig:
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share {self.validation_share:g} and test_share {self.test_share:g} leave nothing to "
                "train on: their sum must be below 1"
            )
        return self


class NormalizerConfig(Section):
    """How rain rates [mm/h] become numbers a net learns from."""

    kind: Literal["db", "log", "pixel", "linear"] = Field("db", description="dB of rain rate, log, HKO-7 pixel, linear")
    minimum_mm_h: Number = Field(0.1, gt=0, description="db: lowest rate on the dB scale; log: ten times the offset")
    maximum_mm_h: Number = Field(100.0, gt=0, description="db, log, linear: rates above this saturate")


class ModelConfig(Section):
    """The net. What is none is left to the net's own default; what a net does not take is refused."""

    name: str = Field("encoder_forecaster", description="a registered forecaster")
    head: Literal["mean", "exceedance"] = Field("mean", description="one bounded field, or a chance a threshold")
    thresholds_mm_h: Thresholds = Field((0.1, 0.5, 1.0, 5.0, 10.0), description="exceedance: the thresholds, ascending")
    decision: Literal["level", "area", "expected_csi"] = Field(
        "level",
        description="exceedance: events above a level (0.5, or as calibrated), as many as in the last frame, or near "
        "that number so that the expected CSI is highest",
    )
    hidden_channels: Integers | None = Field(None, description="hidden channels of each layer or level")
    kernel_size: Integers | None = Field(None, description="input-to-state kernel of each layer, or one for all")
    recurrent_kernel_size: Integers | None = Field(None, description="state-to-state kernel; none: as kernel_size")
    patch: int | None = Field(None, ge=1, description="space-to-depth patch size")
    peephole: Literal["none", "channel", "spatial"] | None = Field(None, description="peephole weights")
    decoder_order: Literal["same", "mirrored"] | None = Field(None, description="order of the forecaster's layers")
    noise_channels: int = Field(0, ge=0, description="random input channels of a net that draws ensemble members")
    base: bool = Field(False, description="add the net to a logistic regression on the blurred last frame")
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments of the net's constructor")


class LossConfig(Section):
    """What the net is asked to get right; masked everywhere."""

    name: Literal["cross_entropy", "mse", "mae", "balanced", "quantile", "crps", "exceedance"] = "balanced"
    mse_weight: Number = Field(1.0, ge=0, description="balanced: weight of the squared error")
    mae_weight: Number = Field(1.0, ge=0, description="balanced: weight of the absolute error")
    thresholds_mm_h: tuple[Number, ...] = Field((2.0, 5.0, 10.0, 30.0), description="balanced: borders of the weights")
    weights: tuple[Weight, ...] = Field((1.0, 2.0, 5.0, 10.0, 30.0), description="balanced: weight of each class")
    exceedance_weights: tuple[Weight, ...] | None = Field(
        None, description="exceedance: weight of each threshold of the head; none: all 1"
    )
    quantile: Number = Field(0.5, gt=0, lt=1, description="quantile: the level of the forecast field")
    crps_alpha: Number = Field(0.95, ge=0, le=1, description="crps: 1 fair, 0 plain, between: almost fair")

    @model_validator(mode="after")
    def _one_more_weight(self) -> LossConfig:
        if len(self.weights) != len(self.thresholds_mm_h) + 1:
            raise ValueError(f"{len(self.thresholds_mm_h)} thresholds need {len(self.thresholds_mm_h) + 1} weights")
        return self


class AugmentConfig(Section):
    """How training samples are varied; validation never is."""

    flip: bool = Field(False, description="turn and mirror batches: rain has no preferred direction")
    drop_input: Number = Field(0.0, ge=0, lt=1, description="chance that an input frame but the last is missing")


class TrainingConfig(Section):
    """How long and how fast."""

    batch_size: int = Field(8, ge=1)
    ensemble_size: int = Field(2, ge=2, description="crps: members drawn for each sample")
    max_steps: int = Field(2000, ge=1, description="optimiser steps")
    max_minutes: Number | None = Field(None, gt=0, description="end after this wall time, annealed; none: no bound")
    optimizer: Literal["adam", "adamw", "rmsprop"] = "adamw"
    learning_rate: Number = Field(1e-3, gt=0, allow_inf_nan=False)
    weight_decay: Number = Field(1e-4, ge=0)
    schedule: Literal["constant", "cosine", "one_cycle", "step"] = "cosine"
    warmup_steps: int = Field(50, ge=0)
    gradient_clip: Number = Field(1.0, gt=0, description="bound of the gradient norm")
    precision: Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(str)] = Field(
        "auto", description="auto: bf16 where the GPU has it, else 32"
    )
    devices: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="GPUs (on a CPU: processes) to use on each node"
    )
    nodes: int = Field(1, ge=1, description="machines to use, started by torchrun or SLURM")
    ema: Number | None = Field(None, gt=0, lt=1, description="decay of averaged weights, e.g. 0.99; none: off")
    validate_every: int = Field(200, ge=1, description="optimiser steps between validations")
    validation_batches: int = Field(16, ge=1, description="batches of one validation")
    patience: int | None = Field(None, ge=1, description="stop after this many validations without a better loss")
    checkpoint_every: int = Field(200, ge=1, description="optimiser steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="how many of the last checkpoints are kept")
    tensorboard: bool = Field(False, description="also log for TensorBoard (an extra)")
    workers: int | None = Field(None, ge=0, description="data-loading processes; none: 4 with a GPU, else 0")
    seed: int = Field(0, ge=0)


class MovingMnistConfig(Section):
    """The Moving MNIST generator; `nowcast mnist` alone reads it."""

    size: int = Field(64, ge=16, description="side of the square in pixels")
    digit_size: Literal[14, 28] = Field(28, description="14: digits at half the size, by 2x2 averaging")
    digits: Integers = Field((2,), description="digits in a sequence; several numbers are drawn from")
    subset: int | None = Field(None, ge=1, description="2015 protocol: this many digits, in training and test alike")
    speed: tuple[Number, Number] = Field((3.0, 5.0), description="pixels a frame, uniform from low to high")
    bounce: Literal["reflect", "clamp"] = Field("reflect", description="exact mirror, or a stop at the wall")
    sequences: int | None = Field(None, ge=1, description="fixed training sequences; none: each is seen once")
    validation_sequences: int = Field(500, ge=1)
    test_sequences: int = Field(1000, ge=1)
    test_seed: int = Field(2015, ge=0, description="seed of the fixed test set")

    @model_validator(mode="after")
    def _can_be_drawn(self) -> MovingMnistConfig:
        if not self.digits or min(self.digits) < 1:
            raise ValueError(f"digits must be numbers of at least 1, got {list(self.digits)}")
        if not 0 <= self.speed[0] <= self.speed[1] < math.inf:
            raise ValueError(f"speed must be 0 <= low <= high, got {list(self.speed)}")
        return self


class ScoresConfig(Section):
    """Which scores the run reports."""

    thresholds_mm_h: Thresholds = (0.1, 0.5, 1.0, 5.0, 10.0)


class Config(Section):
    """One training run."""

    data: DataConfig = DataConfig()
    normalizer: NormalizerConfig = NormalizerConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig()
    scores: ScoresConfig = ScoresConfig()
    moving_mnist: MovingMnistConfig = MovingMnistConfig()


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration and, for each dotted path, the name of the layer that set it."""

    config: Config
    origins: Mapping[str, str]

    def explain(self) -> Iterator[tuple[str, Any, str]]:
        """(dotted path, value, origin) of every value."""
        for path, value in _leaves(self.config.model_dump(mode="json")):
            yield path, value, self.origins.get(path, "default")


def preset_names() -> list[str]:
    """The presets that ship with the package."""
    names = (entry.name for entry in resources.files("configs").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_config(
    source: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> LoadedConfig:
    """The effective configuration: defaults < preset or file < environment < overrides.

    Args:
        source: A preset's name, or the path of a YAML file, which may name a preset to start from (`preset: radar`).
        overrides: `dotted.path=value`, the value a YAML scalar or list.
        environment: Variables such as `NOWCAST_TRAINING__BATCH_SIZE`; the process's own when None.

    Raises:
        ConfigError: All that is wrong at once, each with its dotted path and, for unknown keys, the nearest name.
    """
    layers: list[tuple[str, dict[str, Any]]] = []
    if source is not None:
        layers += _file_layers(source)
    layers.append(("environment", _environment_layer(os.environ if environment is None else environment)))
    layers += [(f"--set {text}", _override_layer(text)) for text in overrides]

    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, values in layers:
        merged = _merge(merged, values)
        origins.update({path: origin for path, _ in _leaves(values)})
    return LoadedConfig(_validate(merged), origins)


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """A configuration that travelled with a run or a bundle, checked again."""
    return _validate(dict(values))


def write_config(config: Config, path: Path, origins: Mapping[str, str] | None = None) -> None:
    """Write every value, defaults included, as YAML; with `origins` each with a comment that says what set it."""
    values = config.model_dump(mode="json")
    text = yaml.safe_dump(values, sort_keys=False) if origins is None else "".join(_commented(values, origins))
    path.write_text(text, encoding="utf-8")


def _commented(values: Mapping[str, Any], origins: Mapping[str, str], prefix: str = "") -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:\n"
            yield from _commented(value, origins, f"{prefix}{key}.")
        else:
            line = yaml.safe_dump({key: value}, default_flow_style=True, width=10**9).strip()[1:-1]
            yield f"{indent}{line}  # {origins.get(f'{prefix}{key}', 'default')}\n"


def _file_layers(source: str | Path, named_by: tuple[Path, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    path = Path(source)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise ConfigError(f"the configuration file '{path}' does not exist")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the configuration file '{path}' cannot be read: {error}") from error
        values = _parse(text, str(path))
        preset = values.pop("preset", None)
        if preset is None:
            return [(str(path), values)]
        if not isinstance(preset, str):
            raise ConfigError(
                f"{path}: preset is {preset!r}, expected a preset's name or the path of a YAML file",
                f"presets: {', '.join(preset_names())}",
            )
        chain = (*named_by, path.resolve())
        if Path(preset).resolve() in chain:
            raise ConfigError(f"{path}: preset '{preset}' leads back to itself", "name a file that does not name it")
        return [*_file_layers(preset, chain), (str(path), values)]
    if str(source) not in preset_names():
        raise ConfigError(
            f"there is no preset '{source}' and no such file",
            f"presets: {', '.join(preset_names())}; or give the path of a YAML file",
        )
    text = resources.files("configs").joinpath(f"{source}.yaml").read_text(encoding="utf-8")
    return [(f"preset {source}", _parse(text, f"preset {source}"))]


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{name} holds {type(values).__name__}, expected sections such as 'data:' and 'model:'")
    return values


def _environment_layer(environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, text in environment.items():
        path = key.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        # NOWCAST_TEST_DATA and the like belong to others: only names that start with a section are ours.
        if key.startswith(ENVIRONMENT_PREFIX) and len(path) > 1:
            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ConfigError(f"the environment variable {key}: '{text}' is not a YAML value") from error
            values = _merge(values, _nested(path, value))
    return values


def _override_layer(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"--set got '{text}', expected dotted.path=value", "for example --set training.batch_size=4")
    try:
        return _nested(path.strip().split("."), yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {path}: '{value}' is not a YAML value") from error


def _nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    return dict(value)


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _validate(values: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors()]
        raise ConfigError("the configuration cannot be used: " + "; ".join(problems)) from None


def _problem(item: Any) -> str:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] != "extra_forbidden":
        reason = item["msg"].removeprefix("Value error, ")
        # A rule about a whole section names its keys itself.
        return f"{path}: {reason}" if isinstance(item["input"], dict) else f"{path}: {reason}, got {item['input']!r}"
    known = _known_keys(item["loc"][:-1])
    nearest = difflib.get_close_matches(str(item["loc"][-1]), known, n=1, cutoff=0.0)
    return f"{path} is not a known key (nearest: {'.'.join([*map(str, item['loc'][:-1]), *nearest])})"


def _known_keys(path: Sequence[str | int]) -> list[str]:
    section: type[BaseModel] = Config
    for part in path:
        annotation = section.model_fields[str(part)].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        section = annotation
    return list(section.model_fields)
