"""SequenceDataset: windows and crops of packed archives as batches.

Which windows there are is decided in `nowcast.data.windows`; how values become tensors in `nowcast.models.inputs`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from nowcast.config import DataConfig
from nowcast.data.climate import RainClimate
from nowcast.data.normalize import Normalizer
from nowcast.data.windows import Q_MIN, Q_SLOPE, SPLITS, Split, require_windows, split_windows, window_starts
from nowcast.errors import ConfigError, DataError
from nowcast.models.inputs import Batch, rain_inputs, rain_targets
from nowcast.models.moving_frame import future_into_moving_frame, into_moving_frame
from nowcast.training.motions import Motions
from nowcast.training.packed import PIXEL_SIZE_TOLERANCE, Archive, PackedArchive

log = logging.getLogger(__name__)

# Pixels around a crop that a base sees too: more than half its widest neighbourhood, and enough to tell how rain fades.
SURROUNDINGS = 64


class BatchSource(Protocol):
    """What training needs of a data set: samples by number, a batch at a time."""

    @property
    def weights(self) -> np.ndarray | None: ...

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Batch: ...


@dataclass(frozen=True, eq=False)
class SequenceDataset:
    """Windows of packed archives, cropped, as batches of tensors.

    Attributes:
        archives: Where the windows are.
        archive, start, row, column: One entry for each sample, int64.
        weights: Chance of each sample in rain-weighted training, or None for uniform.
        height, width: Size of a crop.
        motions: Of each archive, for samples in the moving frame (`nowcast.models.moving_frame`); else none.
    """

    archives: Sequence[PackedArchive]
    normalizer: Normalizer
    input_frames: int
    output_frames: int
    height: int
    width: int
    archive: np.ndarray
    start: np.ndarray
    row: np.ndarray
    column: np.ndarray
    weights: np.ndarray | None = None
    motions: Sequence[Motions] = ()

    def __len__(self) -> int:
        return self.start.size

    def rain_rate(self, index: int) -> np.ndarray:
        """(T + L, H, W) float32 [mm/h] of one sample, NaN where missing."""
        time = slice(self.start[index], self.start[index] + self.input_frames + self.output_frames)
        return np.asarray(self.archives[self.archive[index]].rain_rate[time, *self._crop(index)])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        fields = np.stack([self._seen(index) for index in indices])
        targets, valid = rain_targets(fields[:, self.input_frames :], self.normalizer)
        return Batch(rain_inputs(fields[:, : self.input_frames], self.normalizer), targets, valid)

    def _crop(self, index: int) -> tuple[slice, slice]:
        row, column = int(self.row[index]), int(self.column[index])
        return slice(row, row + self.height), slice(column, column + self.width)

    def _seen(self, index: int) -> np.ndarray:
        rain_rate = self.rain_rate(index)
        if not self.motions:
            return rain_rate
        motion = self.motions[self.archive[index]].crop(int(self.start[index]), *self._crop(index))
        past, future = np.split(rain_rate, [self.input_frames])
        return np.concatenate([into_moving_frame(past, motion), future_into_moving_frame(future, motion)])


@dataclass(frozen=True, eq=False)
class SurroundedDataset:
    """The samples of another data set with what lies around their crops, as far as the grids reach.

    For what looks far: at the edge of a crop it would see less than it will in a forecast. The targets are valid in
    the crop alone.

    Attributes:
        samples: The samples as they are.
        wider: The same ones with larger crops.
    """

    samples: SequenceDataset
    wider: SequenceDataset

    @classmethod
    def of(cls, samples: SequenceDataset, margin: int) -> SurroundedDataset:
        """Crops with `margin` pixels more on every side, moved where the grid would end before them."""
        sides, corners = [], []
        for axis, (side, corner) in enumerate(((samples.height, samples.row), (samples.width, samples.column))):
            grids = np.array([archive.grid.shape[axis] for archive in samples.archives])
            sides.append(min(side + 2 * margin, int(grids.min())))
            corners.append(np.clip(corner - margin, 0, grids[samples.archive] - sides[-1]))
        height, width = sides
        return cls(samples, replace(samples, height=height, width=width, row=corners[0], column=corners[1]))

    @property
    def weights(self) -> np.ndarray | None:
        return self.samples.weights

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        batch = self.wider.__getitems__(indices)
        inside = torch.zeros_like(batch.valid)
        for one, index in zip(inside, indices, strict=True):
            row = int(self.samples.row[index] - self.wider.row[index])
            column = int(self.samples.column[index] - self.wider.column[index])
            one[..., row : row + self.samples.height, column : column + self.samples.width] = True
        return replace(batch, valid=batch.valid & inside)


@dataclass(frozen=True, eq=False)
class TrainingData:
    """All that `fit` needs to know of the data.

    Attributes:
        train, validation: Batches by sample number; validation may be empty (None).
        normalizer: Fitted on the training part alone.
        in_channels: Channels of an input frame.
        step_seconds, pixel_size_km: What a forecast's archive must match; None where it has no meaning.
        provenance: Fingerprints and counts, for the bundle.
        surrounded: The training samples with what lies around them; None where nothing does.
    """

    train: BatchSource
    validation: BatchSource | None
    normalizer: Normalizer
    in_channels: int
    step_seconds: float | None = None
    pixel_size_km: tuple[float, float] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    surrounded: BatchSource | None = None


def rain_training_data(
    archives: Sequence[PackedArchive],
    config: DataConfig,
    normalizer: Normalizer,
    *,
    validation_archives: Sequence[PackedArchive] = (),
    seed: int = 0,
) -> TrainingData:
    """Training and validation windows of one or several archives of one step and pixel size.

    With `validation_archives` the archives are trained on whole and validated on those; else each archive's time
    axis is split into blocks with guards (`nowcast.data.windows.split_windows`).

    Raises:
        DataError: Steps or pixel sizes that differ, an archive that is too short or too gappy, with the counts.
        ConfigError: A crop that does not fit a grid, or grids of several sizes without a crop.
    """
    everything = [*archives, *validation_archives]
    _require_one_kind(everything)
    height, width = _crop_size(everything, config.crop)
    length = config.input_frames + config.output_frames
    for archive in everything:
        require_windows(archive.present, length, archive.name)
    starts = [_starts(archive, config, length, whole=bool(validation_archives)) for archive in archives]

    def dataset(chosen: Sequence[PackedArchive], start: Sequence[np.ndarray], weighted: bool) -> SequenceDataset:
        crops = [_crops(one, at, config, length, (height, width)) for one, at in zip(chosen, start, strict=True)]
        joined = [np.concatenate(part) for part in zip(*crops, strict=True)]
        number = np.repeat(np.arange(len(chosen)), [crop[0].size for crop in crops])
        keep = np.minimum(1.0, Q_MIN + Q_SLOPE * joined[3])
        motions = [Motions(one, config.input_frames) for one in chosen] if config.frame == "moving" else []
        for motion in motions:
            motion.prepare()
        return SequenceDataset(
            chosen,
            normalizer,
            config.input_frames,
            config.output_frames,
            height,
            width,
            number,
            joined[0],
            joined[1],
            joined[2],
            keep / keep.sum() if weighted and keep.size else None,
            motions,
        )

    train = dataset(archives, [part["train"] for part in starts], config.rain_weighted)
    if validation_archives:
        whole = [window_starts(one.present, length) for one in validation_archives]
        validation = dataset(validation_archives, whole, False)
    else:
        validation = dataset(archives, [part["validation"] for part in starts], False)
    if len(train) == 0:
        _require_valid_pixels(archives)
        raise DataError(
            "no training window is left: "
            + "; ".join(f"{one.name}: {int(one.present.sum())} frames" for one in archives)
            + f"; a window takes {length} frames",
            "lower data.validation_share and data.test_share, or data.minimum_valid_share, or give whole archives "
            "for validation with --validation",
        )
    if len(validation) == 0 and (validation_archives or config.validation_share > 0):
        log.warning("no validation window is left: nothing is validated, and the last weights are kept")
    fitted = normalizer.fit(_sample_fields(train, seed))
    if not fitted.mean > 0:
        raise DataError(
            "there is no rain to learn from: "
            + "; ".join(f"{one.name}: {100 * _wet_share(one):.2g}% of the valid pixels are wet" for one in archives),
            "train on archives with rain",
        )
    climate = RainClimate.of(_uniform_fields(train, seed))
    train, validation = (_with_normalizer(part, fitted) for part in (train, validation))
    first = archives[0]
    return TrainingData(
        train,
        validation if len(validation) else None,
        fitted,
        in_channels=2,
        step_seconds=first.step_seconds,
        pixel_size_km=first.grid.pixel_size_km,
        provenance={
            "archives": [{"name": Path(one.name).name, "fingerprint": one.fingerprint} for one in archives],
            "validation_archives": [Path(one.name).name for one in validation_archives],
            "training_samples": len(train),
            "validation_samples": len(validation),
            "synthetic": any(one.synthetic for one in archives),
            "rain_climate": None if climate is None else climate.to_dict(),
        },
        surrounded=SurroundedDataset.of(train, SURROUNDINGS),
    )


def _require_valid_pixels(archives: Sequence[PackedArchive]) -> None:
    """Refuse archives that measured nothing."""
    if not any((~np.isnan(frame)).any() for one in archives for frame in one.rain_rate):
        raise DataError(
            f"no pixel is valid in {', '.join(one.name for one in archives)}: every rain rate is missing",
            "look at it with nowcast inspect",
        )


def _wet_share(archive: PackedArchive) -> float:
    """Share of the valid pixels with any rain."""
    counts = [(np.count_nonzero(frame > 0), np.count_nonzero(~np.isnan(frame))) for frame in archive.rain_rate]
    wet, valid = np.sum(counts, axis=0)
    return float(wet / max(valid, 1))


def held_out_windows(archive: Archive, config: DataConfig) -> np.ndarray:
    """Window starts of an archive's test split, which training and validation never see."""
    return _split(archive.present, config, float(archive.step / np.timedelta64(1, "s")))["test"]


def _starts(archive: PackedArchive, config: DataConfig, length: int, *, whole: bool) -> dict[Split, np.ndarray]:
    if whole:
        return {name: window_starts(archive.present, length)[: None if name == "train" else 0] for name in SPLITS}
    return _split(archive.present, config, archive.step_seconds)


def _split(present: np.ndarray, config: DataConfig, step_seconds: float) -> dict[Split, np.ndarray]:
    return split_windows(
        present,
        config.input_frames + config.output_frames,
        block_frames=max(1, round(config.block_hours * 3600 / step_seconds)),
        validation_share=config.validation_share,
        test_share=config.test_share,
    )


def _require_one_kind(archives: Sequence[PackedArchive]) -> None:
    first = archives[0]
    for other in archives[1:]:
        if other.step_seconds != first.step_seconds:
            raise DataError(
                f"{first.name} has a step of {first.step_seconds / 60:g} min, {other.name} of "
                f"{other.step_seconds / 60:g} min",
                "train on archives of one step",
            )
        here, there = first.grid.pixel_size_km, other.grid.pixel_size_km
        if not np.allclose(here, there, rtol=PIXEL_SIZE_TOLERANCE):
            raise DataError(
                f"{first.name} has pixels of {here[0]:.4g}x{here[1]:.4g} km, "
                f"{other.name} of {there[0]:.4g}x{there[1]:.4g} km",
                "pass --resample to bring every archive to the pixel size of the first",
            )


def _crop_size(archives: Sequence[PackedArchive], crop: int | None) -> tuple[int, int]:
    shapes = {archive.grid.shape for archive in archives}
    if crop is None:
        if len(shapes) > 1:
            raise ConfigError(
                f"the archives have grids of {sorted(shapes)} pixels and data.crop is not set", "set data.crop"
            )
        return shapes.pop()
    smallest = min(min(shape) for shape in shapes)
    if crop > smallest:
        raise ConfigError(f"data.crop is {crop}, the smallest grid side is {smallest}", f"--set data.crop={smallest}")
    return crop, crop


def _crops(
    archive: PackedArchive, starts: np.ndarray, config: DataConfig, length: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Start, row, column and mean saturated rain of every crop of every window that has enough valid pixels."""
    height, width = size
    stride = config.crop_stride or max(1, min(size) // 2)
    rows = _positions(archive.grid.shape[0], height, stride)
    columns = _positions(archive.grid.shape[1], width, stride)
    rain, valid = _crop_means(archive, np.unique((starts[:, None] + np.arange(length)).ravel()), rows, columns, size)
    if starts.size == 0:
        empty = np.empty(0, dtype=np.int64)
        return empty, empty, empty, np.empty(0)
    window_rain = np.stack([rain[start : start + length].mean(axis=0) for start in starts])
    window_valid = np.stack([valid[start : start + length].mean(axis=0) for start in starts])
    # Relative to the pixels that are ever measured: a third of a composite may lie outside every radar's range.
    usable = window_valid >= config.minimum_valid_share * max(window_valid.max(), np.finfo(float).tiny)
    window, row, column = np.nonzero(usable)
    return starts[window], rows[row], columns[column], window_rain[usable]


def _positions(side: int, crop: int, stride: int) -> np.ndarray:
    return np.unique(np.append(np.arange(0, side - crop + 1, stride), side - crop))


def _crop_means(
    archive: PackedArchive, frames: np.ndarray, rows: np.ndarray, columns: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of 1 - exp(-R) and share of valid pixels, (T, rows, columns), of each crop of the frames asked for."""
    rain = np.zeros((archive.rain_rate.shape[0], rows.size, columns.size))
    valid = np.zeros_like(rain)
    for frame in frames:
        field_ = np.asarray(archive.rain_rate[frame])
        missing = np.isnan(field_)
        rain[frame] = _box_means(1.0 - np.exp(-np.where(missing, 0.0, field_)), rows, columns, size)
        valid[frame] = _box_means(~missing, rows, columns, size)
    return rain, valid


def _box_means(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Means over the boxes of `size` at every row and column, from one summed-area table."""
    table = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    table[1:, 1:] = values.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    top, left = np.ix_(rows, columns)
    bottom, right = top + size[0], left + size[1]
    boxes = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
    return np.asarray(boxes / (size[0] * size[1]))


def _sample_fields(dataset: SequenceDataset, seed: int, number: int = 48) -> list[np.ndarray]:
    """Rain of some samples as training will draw them: the net's output starts at their mean."""
    rng = np.random.default_rng([seed, 1])
    chosen = rng.choice(len(dataset), size=min(number, len(dataset)), p=dataset.weights)
    return [dataset.rain_rate(index)[dataset.input_frames :] for index in chosen]


def _uniform_fields(dataset: SequenceDataset, seed: int, number: int = 96) -> Iterator[np.ndarray]:
    """Rain at the issue time of some samples, each as likely: what it rains there, not what training prefers."""
    rng = np.random.default_rng([seed, 3])
    for index in rng.choice(len(dataset), size=min(number, len(dataset)), replace=False):
        yield dataset.rain_rate(index)[dataset.input_frames - 1]


def _with_normalizer(dataset: SequenceDataset, normalizer: Normalizer) -> SequenceDataset:
    return replace(dataset, normalizer=normalizer)
