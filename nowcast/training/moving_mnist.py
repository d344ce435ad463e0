"""Moving MNIST: one seeded, vectorised generator on any device, and fixed sets in the public file layout.

Sequence k of seed s is a function of (s, k) and the settings alone, whatever the batch, the device or the number of
workers. Where digits come from, and the writing of fixed sets, is the business of `data_prep.moving_mnist`.

Shapes: B sequences, D digits in a sequence, T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nowcast.config import Config
from nowcast.data.normalize import Normalizer
from nowcast.errors import DataError
from nowcast.models.inputs import Batch
from nowcast.training.dataset import TrainingData

Bounce = Literal["reflect", "clamp"]
Split = Literal["train", "validation", "test"]

# Grey values 0..255 become 0..1: nothing is scaled further.
IMAGE_SCALE = Normalizer("linear", minimum_mm_h=0.1, maximum_mm_h=1.0)
# Random numbers that a sequence may draw: how many digits, then five a digit.
DRAWS_PER_DIGIT = 5
# Enough to know the mean grey value, at which nets start their output, to a per cent.
CLIMATOLOGY_SEQUENCES = 256
SPLIT_NUMBERS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True, eq=False)
class MovingMnist:
    """Digits that move at constant speed in a square and bounce off its walls (Srivastava et al. 2015).

    The start and the direction are uniform, positions are truncated to whole pixels, digits overlay by maximum.

    Attributes:
        digits: (N, h, w) uint8, what to draw from.
        seed, split: Which stream of sequences.
        num_sequences: Length of the data set; as long as the training for sequences that are always fresh.
        size: Side of the square in pixels.
        digits_per_sequence: How many digits; several numbers are drawn from with equal chance.
        speed: Pixels a frame, uniform in [low, high).
        bounce: `reflect` is an exact mirror; `clamp` stops at the wall for a frame, as the public generator does.
        device: Where frames are drawn.
    """

    digits: np.ndarray
    seed: int
    num_sequences: int
    split: Split = "train"
    size: int = 64
    digits_per_sequence: tuple[int, ...] = (2,)
    speed: tuple[float, float] = (3.0, 5.0)
    bounce: Bounce = "reflect"
    input_frames: int = 10
    output_frames: int = 10
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.digits.ndim != 3 or self.digits.dtype != np.uint8 or self.digits.shape[0] == 0:
            raise ValueError(f"digits must be (N, h, w) uint8, got {self.digits.shape} {self.digits.dtype}")
        if max(self.digits.shape[1:]) > self.size:
            raise ValueError(f"digits of {self.digits.shape[1:]} pixels do not fit a square of {self.size}")
        if not self.digits_per_sequence or min(self.digits_per_sequence) < 1:
            raise ValueError(f"digits_per_sequence must be positive numbers, got {self.digits_per_sequence}")
        if not 0 <= self.speed[0] <= self.speed[1]:
            raise ValueError(f"speed must be 0 <= low <= high, got {self.speed}")

    @property
    def weights(self) -> None:
        """Every sequence has the same chance."""
        return None

    def __len__(self) -> int:
        return self.num_sequences

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return batch_of(self.frames(indices), self.input_frames)

    def frames(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """The sequences of these numbers, (B, T, H, W) uint8 on `device`."""
        draws = uniform_draws(
            self.seed, SPLIT_NUMBERS[self.split], indices, 1 + DRAWS_PER_DIGIT * max(self.digits_per_sequence)
        )
        choice = (draws[:, 0] * len(self.digits_per_sequence)).astype(np.int64)
        count = np.asarray(self.digits_per_sequence)[choice]
        number, start_y, start_x, angle, pace = np.moveaxis(draws[:, 1:].reshape(len(draws), -1, DRAWS_PER_DIGIT), 2, 0)
        number = (number * len(self.digits)).astype(np.int64)
        number[np.arange(number.shape[1]) >= count[:, None]] = -1  # no digit
        speed = self.speed[0] + (self.speed[1] - self.speed[0]) * pace
        top = self._path(start_y, speed * np.sin(2 * np.pi * angle), self.size - self.digits.shape[1])
        left = self._path(start_x, speed * np.cos(2 * np.pi * angle), self.size - self.digits.shape[2])
        return self._draw(number, top, left)

    def _path(self, start: np.ndarray, velocity: np.ndarray, room: int) -> np.ndarray:
        """Whole-pixel positions (B, D, T) between the walls 0 and `room`, from a uniform start in [0, 1)."""
        steps = self.input_frames + self.output_frames
        if self.bounce == "reflect":
            # A triangle wave: the mirrored walls repeat every 2 * room.
            along = start[..., None] * room + velocity[..., None] * np.arange(steps)
            position = room - np.abs(np.mod(along, 2 * max(room, 1)) - room)
        else:
            position = np.empty((*start.shape, steps))
            here = start * room
            for step in range(steps):
                position[..., step] = here
                beyond = (here + velocity < 0) | (here + velocity > room)
                here = np.clip(here + velocity, 0, room)
                velocity = np.where(beyond, -velocity, velocity)
        return np.clip(position.astype(np.int64), 0, room)

    def _draw(self, number: np.ndarray, top: np.ndarray, left: np.ndarray) -> Tensor:
        batch, digits, steps = top.shape
        corner = torch.from_numpy(top * self.size + left).to(self.device)
        chosen = self._bank[torch.from_numpy(number).to(self.device)]
        canvas = torch.zeros(batch, steps, self.size * self.size, dtype=torch.uint8, device=self.device)
        for digit in range(digits):
            # Within one digit no two pixels share a place, so that gather and scatter meet no race.
            place = corner[:, digit, :, None] + self._offsets
            image = chosen[:, digit, None].expand(-1, steps, -1)
            canvas.scatter_(2, place, torch.maximum(canvas.gather(2, place), image))
        return canvas.reshape(batch, steps, self.size, self.size)

    @cached_property
    def _bank(self) -> Tensor:
        """Digits as rows of pixels, with an empty one at the end (number -1)."""
        rows = self.digits.reshape(len(self.digits), -1)
        return torch.from_numpy(np.concatenate([rows, np.zeros_like(rows[:1])])).to(self.device)

    @cached_property
    def _offsets(self) -> Tensor:
        height, width = self.digits.shape[1:]
        rows, columns = torch.arange(height), torch.arange(width)
        return (rows[:, None] * self.size + columns).flatten().to(self.device)


@dataclass(frozen=True, eq=False)
class FixedSequences:
    """A set of sequences kept in a file, as a source of batches.

    Attributes:
        frames: (T, N, H, W) uint8, the layout of the public `mnist_test_seq.npy`.
        input_frames: How many of the T frames are inputs; the rest are targets.
    """

    frames: np.ndarray
    input_frames: int = 10

    @property
    def weights(self) -> None:
        """Every sequence has the same chance."""
        return None

    def __len__(self) -> int:
        return self.frames.shape[1]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = np.ascontiguousarray(np.moveaxis(self.frames[:, list(indices)], 0, 1))
        return batch_of(torch.from_numpy(chosen), self.input_frames)


def moving_mnist_training_data(digits: np.ndarray, config: Config) -> TrainingData:
    """Training and validation sequences of a configuration, drawn from `digits` (N, h, w) uint8.

    Without `moving_mnist.sequences` every sequence is seen once. Frames are drawn on the GPU where there is one and
    no loading processes are asked for. The two streams share the digits, never a sequence.
    """
    training, settings = config.training, config.moving_mnist
    device = "cuda" if training.workers == 0 and torch.cuda.is_available() else "cpu"
    fresh = training.batch_size * training.max_steps
    train = generator(digits, config, "train", settings.sequences or fresh, seed=training.seed, device=device)
    validation = generator(
        digits, config, "validation", settings.validation_sequences, seed=training.seed, device=device
    )
    sample = train.frames(np.arange(min(len(train), CLIMATOLOGY_SEQUENCES)))
    return TrainingData(
        train,
        validation,
        replace(IMAGE_SCALE, mean=float(sample.float().mean()) / 255),
        in_channels=1,
        provenance={
            "training_samples": len(train),
            "validation_samples": len(validation),
            "synthetic": True,
            "digits": len(digits),
        },
    )


def generator(
    digits: np.ndarray, config: Config, split: Split, num_sequences: int, *, seed: int, device: str = "cpu"
) -> MovingMnist:
    """The sequences that a configuration describes.

    Raises:
        DataError: Digits that are larger than the square, or none.
    """
    settings = config.moving_mnist
    if len(digits) == 0:
        raise DataError("there is no digit to draw from", "give idx files with more images, or leave --digits out")
    if max(digits.shape[1:]) > settings.size:
        raise DataError(
            f"digits of {digits.shape[1]}x{digits.shape[2]} pixels do not fit a square of {settings.size}",
            "raise moving_mnist.size, or set moving_mnist.digit_size=14",
        )
    return MovingMnist(
        digits,
        seed,
        num_sequences,
        split,
        size=settings.size,
        digits_per_sequence=settings.digits,
        speed=settings.speed,
        bounce=settings.bounce,
        input_frames=config.data.input_frames,
        output_frames=config.data.output_frames,
        device=device,
    )


def load_sequences(path: str | Path, *, frames: int = 20) -> np.ndarray:
    """A file of sequences, (T, N, H, W) uint8, memory-mapped: one that we wrote, or the public test set.

    Raises:
        DataError: Not such a file, or sequences that are shorter than `frames`.
    """
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is not a numpy file of sequences: {error}", "write one: nowcast mnist sample"
        ) from error
    if values.ndim != 4 or values.dtype != np.uint8 or values.shape[0] < frames or values.shape[1] == 0:
        raise DataError(
            f"{path} holds {values.dtype} {values.shape}, expected uint8 (frames, sequences, rows, columns) "
            f"with at least {frames} frames",
            "give the public mnist_test_seq.npy or a file written by nowcast mnist sample",
        )
    return values


def batch_of(frames: Tensor, input_frames: int) -> Batch:
    """Grey frames (B, T, H, W) uint8 as a batch of values in [0, 1], all of them valid."""
    values = frames.unsqueeze(2).to(torch.float32).div_(255.0)
    targets = values[:, input_frames:]
    return Batch(values[:, :input_frames], targets, torch.ones_like(targets, dtype=torch.bool))


def uniform_draws(seed: int, stream: int, indices: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """Uniform numbers in [0, 1), (len(indices), count) float64: row k is a function of seed, stream and index alone.

    A counter-based generator, so that any sequence can be made without those before it: the SplitMix64 output
    function (Steele et al. 2014, OOPSLA, figure 11) of a hashed key and a counter.
    """
    key = _mix(_mix(np.array([seed], dtype=np.uint64)) ^ np.uint64(stream))
    rows = _mix(key + _mix(np.asarray(indices, dtype=np.uint64)))
    bits = _mix(rows[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN_GAMMA)
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53)


GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser on arrays of uint64, whose products wrap as they must."""
    values = values + GOLDEN_GAMMA
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
