"""Networks look on or keep their statistics for a while, and are then as they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unlabeled.nn.modes import keeping_statistics, looking_on


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))


def test_looking_on_is_evaluation_without_gradient_and_ends():
    made = network()
    made[2].eval()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    image = torch.rand(2, 1, 5, 5)
    with looking_on([made]):
        seen = made(image)
        assert torch.equal(seen, made(image))
    assert not seen.requires_grad
    assert made.training
    assert not made[2].training, "a part keeps its own mode"
    assert all(torch.equal(before[name], t) for name, t in made.state_dict().items())
    with pytest.raises(RuntimeError), looking_on([made]):
        made(torch.rand(1))
    assert made.training
    assert torch.is_grad_enabled()


def test_looking_on_may_remember_the_statistics_of_the_batch():
    made, twin = network(), network()[:2]
    image = torch.rand(2, 1, 5, 5)
    with looking_on([made], remembering=True):
        seen = made(image)
    assert torch.equal(seen, twin(image)), "no dropout, and the statistics of the batch"
    assert not seen.requires_grad
    assert torch.equal(made[1].running_mean, twin[1].running_mean)
    assert made.training
    made[1].eval()
    with looking_on([made], remembering=True):
        made(image)
    assert torch.equal(made[1].running_mean, twin[1].running_mean), "frozen statistics stay"


def test_gradients_come_back_in_half_precision():
    made = nn.Linear(3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with looking_on([made]):
            made(torch.rand(4, 3))
        made(torch.rand(4, 3)).sum().backward()
    assert made.weight.grad is not None
    assert made.weight.grad.abs().sum() > 0


def test_statistics_are_kept_and_the_batch_is_used():
    made, twin = network()[:2], network()[:2]
    image = torch.rand(4, 1, 5, 5)
    with keeping_statistics(made):
        seen = made(image)
    seen.sum().backward()
    assert torch.equal(seen, twin(image))
    assert made[1].num_batches_tracked == 0
    assert torch.equal(made[1].running_mean, torch.zeros(2))
    made(image)
    assert torch.equal(made[1].running_mean, twin[1].running_mean)
