"""Packed archives and their windows: nothing crosses a gap or a split, and training needs the pack alone."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nowcast.config import DataConfig
from nowcast.data.archive import open_archive
from nowcast.data.archive_writer import write_archive
from nowcast.data.grid import Grid
from nowcast.data.normalize import Normalizer
from nowcast.errors import ConfigError, DataError
from nowcast.training.dataset import SequenceDataset, SurroundedDataset, rain_training_data
from nowcast.training.packed import PackedArchive, open_packed, pack_archive

START = np.datetime64("2024-05-01T00:00:00", "s")
CONFIG = DataConfig(input_frames=2, output_frames=2, rain_weighted=False)


def archive(
    folder: Path,
    name: str = "a",
    *,
    frames: int = 60,
    shape: tuple[int, int] = (12, 16),
    minutes: int = 5,
    pixel_m: float = 1000.0,
    present: np.ndarray | None = None,
    seed: int = 0,
) -> Path:
    rain = np.random.default_rng(seed).gamma(0.4, 3.0, (frames, *shape)).astype(np.float32)
    rain[:, :2] = np.nan
    # The frame number stands in a corner, so that a window tells where it came from.
    rain[:, 2, 2] = np.arange(frames)
    grid = Grid.from_corner(0.0, 0.0, pixel_m, pixel_m, shape, "EPSG:3035")
    step = np.timedelta64(minutes * 60, "s")
    return write_archive(folder / f"{name}.zarr", rain, first_time=START, step=step, grid=grid, present=present)


def packed(folder: Path, name: str = "a", **options: object) -> PackedArchive:
    return pack_archive(open_archive(archive(folder, name, **options)), folder / "cache")  # type: ignore[arg-type]


def frame_numbers(dataset: SequenceDataset, index: int) -> np.ndarray:
    fields = dataset.archives[dataset.archive[index]].rain_rate
    start = dataset.start[index]
    return np.asarray(fields[start : start + dataset.input_frames + dataset.output_frames, 2, 2])


def test_the_pack_holds_the_archive_and_training_needs_nothing_else(tmp_path: Path) -> None:
    path = archive(tmp_path)
    rain = open_archive(path).rain_rate(0, 60)
    pack = pack_archive(open_archive(path), tmp_path / "cache")
    shutil.rmtree(path)
    np.testing.assert_array_equal(pack.rain_rate, rain)
    assert len(rain_training_data([pack], CONFIG, Normalizer()).train) > 0


def test_a_pack_is_made_once_and_again_when_the_archive_changes(tmp_path: Path) -> None:
    path = archive(tmp_path)
    first = pack_archive(open_archive(path), tmp_path / "cache")
    calls: list[int] = []
    pack_archive(open_archive(path), tmp_path / "cache", on_progress=lambda done, total: calls.append(done))
    assert calls == []
    shutil.rmtree(path)
    archive(tmp_path, seed=1)
    assert pack_archive(open_archive(path), tmp_path / "cache").fingerprint != first.fingerprint


def test_no_window_crosses_a_gap(tmp_path: Path) -> None:
    present = np.ones(60, dtype=bool)
    present[[10, 31]] = False
    data = rain_training_data([packed(tmp_path, present=present)], CONFIG, Normalizer())
    for part in (data.train, data.validation):
        assert isinstance(part, SequenceDataset)
        for index in range(len(part)):
            numbers = frame_numbers(part, index)
            assert (np.diff(numbers) == 1).all() and not {10, 31} & set(numbers.astype(int))


def test_training_and_validation_share_no_frame(tmp_path: Path) -> None:
    data = rain_training_data([packed(tmp_path)], CONFIG, Normalizer())
    frames = [
        {int(n) for index in range(len(part)) for n in frame_numbers(part, index)}  # type: ignore[arg-type]
        for part in (data.train, data.validation)
    ]
    assert frames[0] and frames[1] and not frames[0] & frames[1]


def test_missing_pixels_are_filled_in_the_inputs_and_masked_in_the_targets(tmp_path: Path) -> None:
    batch = rain_training_data([packed(tmp_path)], CONFIG, Normalizer()).train.__getitems__([0, 3])
    assert batch.inputs.shape == (2, 2, 2, 12, 16) and torch.isfinite(batch.inputs).all()
    assert (batch.inputs[:, :, 1, :2] == 0).all() and (batch.inputs[:, :, 1, 2:] == 1).all()
    assert not batch.valid[..., :2, :].any() and batch.valid[..., 2:, :].all()


def test_the_normalizer_is_fitted_on_training_windows_alone(tmp_path: Path) -> None:
    path = archive(tmp_path, frames=60)
    pack = pack_archive(open_archive(path), tmp_path / "cache")
    data = rain_training_data([pack], CONFIG, Normalizer())
    assert isinstance(data.validation, SequenceDataset)
    louder = np.array(pack.rain_rate)
    louder[data.validation.start.min() :] *= 50
    changed = PackedArchive(**{**vars(pack), "rain_rate": louder})
    assert rain_training_data([changed], CONFIG, Normalizer()).normalizer == data.normalizer


def test_rain_weighted_sampling_prefers_rain(tmp_path: Path) -> None:
    pack = packed(tmp_path)
    rain = np.array(pack.rain_rate)
    rain[:30] = np.where(np.isnan(rain[:30]), np.nan, 0)
    data = rain_training_data(
        [PackedArchive(**{**vars(pack), "rain_rate": rain})], DataConfig(input_frames=2, output_frames=2), Normalizer()
    )
    assert isinstance(data.train, SequenceDataset) and data.train.weights is not None
    dry = data.train.weights[data.train.start < 26]
    wet = data.train.weights[data.train.start >= 30]
    # A dry crop keeps q_min = 2e-4; with 0.1 mean(s) of about .04 a wet one is drawn some 200 times as often.
    assert wet.mean() > 100 * dry.mean() and (dry > 0).all()


def test_archives_of_another_step_or_pixel_size_are_refused_with_both_named(tmp_path: Path) -> None:
    first = packed(tmp_path)
    with pytest.raises(DataError, match=r"a\.zarr has a step of 5 min, .*b\.zarr of 10 min"):
        rain_training_data([first, packed(tmp_path, "b", minutes=10)], CONFIG, Normalizer())
    with pytest.raises(DataError, match=r"1x1 km, .*c\.zarr of 2x2 km \(pass --resample"):
        rain_training_data([first, packed(tmp_path, "c", pixel_m=2000.0)], CONFIG, Normalizer())


def test_archives_on_grids_of_their_own_train_together_on_crops(tmp_path: Path) -> None:
    packs = [packed(tmp_path), packed(tmp_path, "b", shape=(20, 14), seed=1)]
    with pytest.raises(ConfigError, match=r"data\.crop is not set"):
        rain_training_data(packs, CONFIG, Normalizer())
    data = rain_training_data(packs, CONFIG.model_copy(update={"crop": 10}), Normalizer())
    assert isinstance(data.train, SequenceDataset) and set(data.train.archive) == {0, 1}
    assert data.train.__getitems__([0, len(data.train) - 1]).inputs.shape == (2, 2, 2, 10, 10)


def test_surrounded_samples_see_beyond_their_crops_and_learn_of_the_crops_alone(tmp_path: Path) -> None:
    archives = [packed(tmp_path, "a", shape=(20, 24)), packed(tmp_path, "b", shape=(17, 30), seed=1)]
    crops = CONFIG.model_copy(update={"crop": 8, "crop_stride": 4})
    samples = rain_training_data(archives, crops, Normalizer("db")).train
    assert isinstance(samples, SequenceDataset)
    surrounded = SurroundedDataset.of(samples, 5)
    chosen = list(range(0, len(samples), 7))
    assert {int(samples.archive[index]) for index in chosen} == {0, 1}
    plain, wide = samples.__getitems__(chosen), surrounded.__getitems__(chosen)
    assert wide.inputs.shape[-2:] == (17, 18) and len(surrounded) == len(samples)  # 8 + 2 * 5, or what the grid has
    for number, index in enumerate(chosen):
        valid = wide.valid[number]
        assert valid.sum() == plain.valid[number].sum()
        learnt = wide.targets[number][valid]
        torch.testing.assert_close(learnt, plain.targets[number][plain.valid[number]])
        row, column = (int(getattr(surrounded.wider, name)[index]) for name in ("row", "column"))
        past = archives[samples.archive[index]].rain_rate[
            samples.start[index] + 1, row : row + 17, column : column + 18
        ]
        seen = ~np.isnan(past)
        np.testing.assert_array_equal(wide.inputs[number, 1, 1].numpy() > 0, seen)
        np.testing.assert_allclose(
            wide.inputs[number, 1, 0].numpy()[seen], samples.normalizer.transform(past[seen]), rtol=1e-6
        )


def test_of_moving_rain_the_surroundings_know_more(tmp_path: Path) -> None:
    """Rain that comes into a crop from outside is unknown to the crop, and known with its surroundings."""
    crops = CONFIG.model_copy(update={"crop": 8, "crop_stride": 4, "frame": "moving"})
    samples = rain_training_data([packed(tmp_path, shape=(30, 34))], crops, Normalizer("db")).train
    assert isinstance(samples, SequenceDataset)
    chosen = list(range(0, len(samples), 11))
    plain = samples.__getitems__(chosen).valid
    wide = SurroundedDataset.of(samples, 6).__getitems__(chosen).valid
    assert wide.sum() > plain.sum() and wide.sum() <= plain[..., 0, 0].numel() * 64


def test_too_short_is_said_with_the_counts(tmp_path: Path) -> None:
    present = np.arange(60) % 4 != 0
    with pytest.raises(DataError, match=r"45 of 60 frames present in 15 gap-free runs, the longest 3; 0 windows of 4"):
        rain_training_data([packed(tmp_path, present=present)], CONFIG, Normalizer())


def test_a_pack_cut_short_is_refused(tmp_path: Path) -> None:
    pack = packed(tmp_path)
    (folder,) = (tmp_path / "cache").iterdir()
    array = folder / "rain_rate.npy"
    array.write_bytes(array.read_bytes()[:-1000])
    del pack
    with pytest.raises(DataError, match="is not a packed archive"):
        open_packed(folder)


def test_the_climate_for_the_bundle_is_that_of_all_windows_not_of_the_preferred_ones(tmp_path: Path) -> None:
    pack = packed(tmp_path)
    rain = np.where(np.isnan(pack.rain_rate), np.nan, np.where(np.arange(len(pack.present)) < 30, 0, 4)[:, None, None])
    half = PackedArchive(**{**vars(pack), "rain_rate": rain.astype(np.float32)})
    data = rain_training_data(
        [half], DataConfig(input_frames=2, output_frames=2, validation_share=0, test_share=0), Normalizer()
    )
    climate = data.provenance["rain_climate"]
    issues = np.arange(1, len(pack.present) - 2)  # the last input frame of each window
    assert climate["wet_share"] == pytest.approx(float((issues >= 30).mean()), abs=1e-6)
    assert climate["wet_p99_mm_h"] == 4 and climate["mean_mm_h"] == pytest.approx(4 * climate["wet_share"])


@pytest.mark.parametrize("damage", ["a key", "a frame"])
def test_a_packed_archive_that_another_version_wrote_is_named(tmp_path: Path, damage: str) -> None:
    folder = packed(tmp_path).folder
    description = folder / "packed.json"
    values = json.loads(description.read_text())
    values = {**values, "present": values["present"][1:]} if damage == "a frame" else {"name": values["name"]}
    description.write_text(json.dumps(values))
    with pytest.raises(DataError, match="is not a packed archive"):
        open_packed(folder)


def test_a_worker_opens_the_packed_file_instead_of_being_sent_it(tmp_path: Path) -> None:
    pack = packed(tmp_path)
    sent = pickle.dumps(pack)
    assert len(sent) < 1000 < pack.rain_rate.nbytes
    np.testing.assert_array_equal(pickle.loads(sent).rain_rate, pack.rain_rate)
