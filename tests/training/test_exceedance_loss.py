"""The loss of the exceedance head is a proper score of nested events."""

import numpy as np
import pytest
import torch

from nowcast.config import LossConfig
from nowcast.data.normalize import Normalizer
from nowcast.errors import ConfigError
from nowcast.models.heads import BoundedMean, Exceedance
from nowcast.training.losses import ExceedanceLoss, make_loss

NORMALIZER = Normalizer()
HEAD = Exceedance(NORMALIZER, (0.5, 2.0))


def targets(*rain: float) -> torch.Tensor:
    return torch.from_numpy(NORMALIZER.transform(np.array(rain, dtype=np.float32))).view(1, 1, 1, 1, -1)


def test_it_is_the_weighted_mean_of_the_cross_entropies_of_the_events():
    chances = torch.tensor([[0.8, 0.8, 0.8], [0.3, 0.3, 0.3]]).view(1, 1, 2, 1, 3)
    loss = ExceedanceLoss(HEAD, (1.0, 3.0))(torch.logit(chances), targets(0.1, 1.0, 2.0))
    no, low, high = np.log(0.2) + 3 * np.log(0.7), np.log(0.8) + 3 * np.log(0.7), np.log(0.8) + 3 * np.log(0.3)
    assert loss.shape == (1, 1, 1, 1, 3)
    np.testing.assert_allclose(loss.flatten(), -np.array([no, low, high]) / 4, rtol=1e-5)


def test_the_true_chances_score_best():
    rain = targets(*np.random.default_rng(0).choice([0.0, 1.0, 5.0], 4000, p=[0.6, 0.3, 0.1]))
    shares = HEAD.encode(rain).mean(dim=-1, keepdim=True)
    loss = ExceedanceLoss(HEAD)

    def score(chances: torch.Tensor) -> float:
        return float(loss(torch.logit(chances).expand(1, 1, 2, 1, 4000), rain).mean())

    assert all(score(shares) < score(shares + offset) for offset in (-0.03, 0.03))


def test_head_and_loss_must_fit():
    for head, name in ((HEAD, "mse"), (BoundedMean(NORMALIZER), "exceedance"), (None, "exceedance")):
        with pytest.raises(ConfigError, match="does not fit"):
            make_loss(LossConfig(name=name), NORMALIZER, head)
    with pytest.raises(ConfigError, match="for 2 thresholds"):
        make_loss(LossConfig(name="exceedance", exceedance_weights=(1.0, 2.0, 3.0)), NORMALIZER, HEAD)
