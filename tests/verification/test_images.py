"""Image scores against their definitions, window by window."""

from __future__ import annotations

import numpy as np
import pytest

from nowcast.verification import images


def pair(shape: tuple[int, ...] = (2, 3, 16, 20)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    observed = np.where(rng.random(shape) < 0.4, rng.random(shape), 0.0)
    return np.clip(observed + rng.normal(0, 0.2, shape), 0, 1), observed


@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_ssim_equals_its_definition_window_by_window(data_range):
    f, o = (field[0, 0] for field in pair())
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for i in range(16 - 6):
        for j in range(20 - 6):
            x, y = f[i : i + 7, j : j + 7].ravel(), o[i : i + 7, j : j + 7].ravel()
            (vx, cxy), (_, vy) = np.cov(x, y)
            top = (2 * x.mean() * y.mean() + c1) * (2 * cxy + c2)
            values.append(top / ((x.mean() ** 2 + y.mean() ** 2 + c1) * (vx + vy + c2)))
    assert images.structural_similarity(f, o, data_range=data_range) == pytest.approx(np.mean(values), rel=1e-11)


def test_errors_are_summed_over_pixels_and_averaged_over_frames():
    f, o = pair()
    sums = images.image_sums(f, o).pool()
    assert images.mse_per_frame(sums) == pytest.approx(np.mean((f - o) ** 2) * 16 * 20)
    assert images.mae_per_frame(sums) == pytest.approx(np.mean(np.abs(f - o)) * 16 * 20)
    by_frame = [-10 * np.log10(np.mean((a - b) ** 2)) for a, b in zip(f.reshape(6, -1), o.reshape(6, -1), strict=True)]
    assert images.mean_psnr(sums) == pytest.approx(np.mean(by_frame))
    assert images.mean_ssim(sums) == pytest.approx(np.mean(images.structural_similarity(f, o)))


def test_a_known_error_has_the_known_psnr_and_equal_frames_are_perfect():
    o = np.zeros((8, 8))
    assert images.peak_signal_to_noise(o + 0.1, o) == pytest.approx(20.0)
    sums = images.image_sums(o, o)
    assert images.mean_psnr(sums) == np.inf and images.mean_ssim(sums) == 1.0 and images.mse_per_frame(sums) == 0


def test_forecasts_are_clipped_for_ssim_and_psnr_and_not_for_the_errors():
    _, o = pair()
    wild = images.image_sums(o * 3 - 1, o)
    tame = images.image_sums(np.clip(o * 3 - 1, 0, 1), o)
    assert np.array_equal(wild.ssim, tame.ssim) and np.array_equal(wild.psnr, tame.psnr)
    assert np.all(wild.squared_error > tame.squared_error)


def test_a_data_range_of_two_flatters():
    f, o = pair()
    assert np.all(images.structural_similarity(f, o) > images.structural_similarity(f, o, data_range=1.0))


def test_images_with_holes_out_of_range_or_too_small_are_refused():
    f, o = pair()
    with pytest.raises(ValueError, match="no missing"):
        images.image_sums(np.where(f > 0.9, np.nan, f), o)
    with pytest.raises(ValueError, match=r"in \[0, 1\], found 0 to 2"):
        images.image_sums(f, np.where(o > 0.5, 2.0, 0.0))
    with pytest.raises(ValueError, match="at least 7 x 7"):
        images.image_sums(f[..., :6], o[..., :6])


def test_the_scores_of_training_are_the_same_at_a_data_range_of_one():
    torch = pytest.importorskip("torch")
    from nowcast.training import moving_mnist_scores as training

    f, o = pair()
    ours, theirs = images.image_sums(f, o, data_range=1.0).pool(), training.image_sums(*map(torch.tensor, (f, o)))
    wanted = {
        "mse": images.mse_per_frame(ours),
        "mae": images.mae_per_frame(ours),
        "ssim": images.mean_ssim(ours),
        "psnr": images.mean_psnr(ours),
    }
    found = theirs.scores()
    assert {name: found[name] for name in wanted} == pytest.approx({k: float(v) for k, v in wanted.items()}, rel=1e-9)
