"""Averages of predictions stay probabilities, and losses to them weigh what is certain."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.losses.pseudo_labels import (
    average_predictions,
    certain_cross_entropy,
    entropy,
    label_scores,
    squared_difference,
)


def binary(*likely: float) -> torch.Tensor:
    """Predictions of one pixel with two classes, ``draw 1 2``."""
    foreground = torch.tensor(likely)
    return torch.stack([1 - foreground, foreground], 1)[:, None]


def test_by_hand():
    soft = average_predictions(binary(0.9, 0.6, 0.2))
    assert float(soft[0, 1]) == pytest.approx(0.566667, abs=1e-6)
    assert float(entropy(soft)) == pytest.approx(0.684232, abs=1e-6)
    logits = torch.tensor([[0.3, 0.7]]).log()
    assert float(squared_difference(logits, soft)) == pytest.approx(0.017778, abs=1e-6)
    assert float(certain_cross_entropy(logits, soft)) == pytest.approx(0.009310, abs=1e-6)
    weighted = average_predictions(binary(0.9, 0.6, 0.2), torch.tensor([0.5, 1.0, 2.0]))
    assert float(weighted[0, 1]) == pytest.approx(0.715184, abs=1e-6)


@given(seed=st.integers(0, 2**31), draws=st.integers(1, 5), classes=st.integers(2, 4))
def test_an_average_is_a_probability_without_gradient(seed, draws, classes):
    rng = torch.Generator().manual_seed(seed)
    raw = torch.randn(draws, 2, classes, 3, 4, generator=rng) * 20
    maps = raw.requires_grad_().softmax(2)
    for losses in (None, torch.rand(draws, generator=rng) * 50):
        soft = average_predictions(maps, losses)
        assert not soft.requires_grad
        assert soft.min() >= 0
        assert soft.max() <= 1 + 1e-6
        assert torch.allclose(soft.sum(1), torch.ones(2, 3, 4), atol=1e-5)
        assert float(entropy(soft).max()) <= math.log(classes) + 1e-5


def test_uncertain_pixels_cost_nothing_and_certain_ones_their_cross_entropy():
    logits = torch.randn(2, 3, 4, 4)
    even = torch.full((2, 3, 4, 4), 1 / 3)
    assert float(certain_cross_entropy(logits, even)) == pytest.approx(0, abs=1e-6)
    sure = torch.zeros(2, 3, 4, 4)
    sure[:, 1] = 1
    wanted = -logits.log_softmax(1)[:, 1].mean()
    assert float(certain_cross_entropy(logits, sure)) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("loss", [certain_cross_entropy, squared_difference])
def test_the_gradient_reaches_the_prediction_alone(loss):
    logits = torch.randn(2, 2, 3, 3, requires_grad=True)
    soft = torch.rand(2, 1, 3, 3, requires_grad=True)
    loss(logits, torch.cat([soft, 1 - soft], 1)).backward()
    assert logits.grad is not None
    assert soft.grad is None


def test_scores_of_nothing_and_of_chance_are_numbers():
    empty = torch.zeros(1, 4, 4, dtype=torch.long)
    scores = label_scores(torch.full((1, 2, 4, 4), 0.5), empty)
    assert all(math.isfinite(float(value)) for value in scores.values())
    assert float(scores["dice"]) == float(scores["dice_everything"]) == 0
    torch.manual_seed(0)
    likely = torch.rand(200000)
    truth = (torch.rand(200000) < likely).long()
    both = torch.stack([1 - likely, likely])[None]
    assert float(label_scores(both, truth[None])["calibration"]) < 0.01
