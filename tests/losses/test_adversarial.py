"""Losses of critics and generators, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unlabeled.losses.adversarial import gradient_penalty, wasserstein_gap
from unlabeled.nn.critics import ImageCritic


class Plane(nn.Module):
    """A linear critic: one slope an image, times its own factor."""

    def __init__(self, slope: torch.Tensor) -> None:
        super().__init__()
        self.slope = nn.Parameter(slope)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image * self.slope).flatten(1).sum(1)


def images(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return tuple(torch.rand(count, 1, 4, 4, generator=rng) for _ in range(2))


def test_worked_example_of_the_wasserstein_losses():
    real, made = torch.tensor([0.4, 1.2, -0.3]), torch.tensor([-0.5, 0.1, 0.2])
    gap = wasserstein_gap(real, made)
    assert float(gap) == pytest.approx(0.433333 + 0.066667, abs=1e-6)
    slopes = torch.tensor([0.7, 1.4, 1.0]).view(3, 1, 1, 1)
    penalty = gradient_penalty(Plane(slopes), *(torch.rand(3, 1, 1, 1) for _ in range(2)), torch.rand(3))  # fmt: skip
    assert float(penalty.detach()) == pytest.approx(0.083333, abs=1e-6)
    assert float(10 * penalty.detach() - gap) == pytest.approx(0.333333, abs=1e-6)
    assert float(-made.mean()) == pytest.approx(0.066667, abs=1e-6)


def test_the_penalty_is_0_of_a_unit_slope_and_1_of_a_constant_critic():
    real, made = images()
    unit = torch.full((1, 1, 4, 4), 0.25)
    assert float(
        gradient_penalty(Plane(unit), real, made, torch.rand(3)).detach()
    ) == pytest.approx(0)
    constant = gradient_penalty(Plane(0 * unit), real, made, torch.rand(3))
    assert float(constant.detach()) == 1
    constant.backward()  # the root has no slope at zero: no gradient, and no nan


def test_the_slope_is_measured_where_the_shares_say():
    """The slope of x^2 / 2 summed is x itself."""
    real, made = torch.full((2, 1, 1, 1), 3.0), torch.full((2, 1, 1, 1), 1.0)
    shares = torch.tensor([1.0, 0.25])
    penalty = gradient_penalty(
        lambda seen: 0.5 * seen.square().flatten(1).sum(1), real, made, shares
    )
    assert float(penalty.detach()) == pytest.approx(((3 - 1) ** 2 + (1.5 - 1) ** 2) / 2)


def test_the_penalty_moves_the_critic_and_nothing_else():
    critic = ImageCritic(1, width=2, layers=2)
    real, made = images()
    made.requires_grad_()
    gradient_penalty(critic, real, made, torch.rand(3)).backward()
    assert made.grad is None
    kernels = [p for p in critic.parameters() if p.ndim > 1]
    assert all(float(p.grad.abs().sum()) > 0 for p in kernels)


def test_following_the_penalty_bounds_the_slope():
    torch.manual_seed(0)
    critic = ImageCritic(1, width=4, layers=2)
    with torch.no_grad():
        critic.linear.weight.mul_(50)
    adam = torch.optim.Adam(critic.parameters(), lr=0.02)
    real, made = images(8)
    first = last = None
    for _ in range(100):
        last = gradient_penalty(critic, real, made, torch.rand(8))
        first = first or float(last.detach())
        adam.zero_grad()
        last.backward()
        adam.step()
    assert float(last.detach()) < 0.05 < first
