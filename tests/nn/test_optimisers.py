"""LARS and Lookahead against plain loops over the formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unlabeled.nn.optimisers import LARS, Lookahead
from unlabeled.training.optimisers import fuse


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.Flatten(), nn.Linear(4, 2))


def plain(weights, grads, kept, *, lr, momentum, weight_decay, trust):
    """Move the weights as the formula reads."""
    for weight, grad, moving in zip(weights, grads, kept, strict=True):
        if weight.ndim > 1:
            grad = grad + weight_decay * weight
            own, slope = weight.norm(), grad.norm()
            if own > 0 and slope > 0:
                grad = grad * trust * own / slope
        moving.mul_(momentum).add_(grad)
        weight.sub_(lr * moving)


def test_moves_weights_as_the_formula_says():
    values = {"lr": 0.2, "momentum": 0.9, "weight_decay": 1e-2, "trust": 1e-2}
    made, expected = network(), [each.detach().clone() for each in network().parameters()]
    optimiser = LARS(made.parameters(), **values)
    kept = [torch.zeros_like(each) for each in expected]
    for seed in range(4):
        torch.manual_seed(seed)
        grads = [torch.randn_like(each) for each in expected]
        for weight, grad in zip(made.parameters(), grads, strict=True):
            weight.grad = grad.clone()
        optimiser.step()
        plain(expected, grads, kept, **values)
        for weight, own, grad in zip(made.parameters(), expected, grads, strict=True):
            torch.testing.assert_close(weight.detach(), own, rtol=1e-5, atol=1e-6)
            assert torch.equal(weight.grad, grad), "the gradient itself was changed"


def test_a_layer_moves_as_far_whatever_its_gradient():
    """Momentum off: a step has the length lr * trust * |w|; biases move by the plain gradient."""
    for scale in (1e-6, 1.0, 1e6):
        weight, bias = (nn.Parameter(torch.ones(shape)) for shape in ((3, 3), (3,)))
        weight.grad, bias.grad = torch.randn(3, 3) * scale, torch.full((3,), scale)
        LARS([weight, bias], lr=0.5, momentum=0.0, trust=0.1).step()
        assert float((weight.detach() - 1).norm()) == pytest.approx(0.5 * 0.1 * 3, rel=1e-4)
        torch.testing.assert_close(bias.detach(), torch.full((3,), 1 - 0.5 * scale))


def test_weights_of_zero_and_gradients_of_zero_stay_finite():
    zero, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    zero.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    LARS([zero, still], lr=0.1).step()
    torch.testing.assert_close(zero.detach(), torch.full((2, 2), -0.1))
    assert torch.equal(still.detach(), torch.ones(2, 2))


def test_weights_without_gradient_stay():
    moved, left = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    moved.grad = torch.ones(2, 2)
    optimiser = LARS([moved, left], lr=0.1)
    optimiser.step()
    assert torch.equal(left.detach(), torch.ones(2, 2))
    assert len(optimiser.state) == 1


def test_a_closure_gives_the_loss_and_the_gradients():
    weight = nn.Parameter(torch.ones(2, 2))

    def closure() -> float:
        loss = weight.square().sum()
        loss.backward()
        return float(loss.detach())

    assert LARS([weight], lr=0.1).step(closure) == 4.0
    assert (weight < 1).all()


def test_goes_on_from_its_state():
    one, other = network(), network()
    first, second = (LARS(each.parameters(), lr=0.5) for each in (one, other))

    def move(made, optimiser, seed):
        torch.manual_seed(seed)
        for weight in made.parameters():
            weight.grad = torch.randn_like(weight)
        optimiser.step()

    for seed in (1, 2):
        move(one, first, seed)
    move(other, second, 1)
    kept = second.state_dict()
    third = LARS(other.parameters(), lr=0.1)
    third.load_state_dict(kept)
    move(other, third, 2)
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay", "trust"])
def test_negative_numbers_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} of -1"):
        LARS([nn.Parameter(torch.ones(1))], **{"lr": 0.1, name: -1.0})


def inner_of(kind, weights):
    return kind(weights, lr=0.05, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_lookahead_goes_part_of_the_way_after_every_few_steps(kind):
    """Beside the inner optimiser alone, pulled back by hand; fused kernels included."""
    one, other = network(), network()
    ahead = fuse(Lookahead(inner_of(kind, one.parameters()), every=3, pull=0.25))
    plain = inner_of(kind, other.parameters())
    slow = [each.detach().clone() for each in other.parameters()]
    for number in range(1, 8):
        for made, optimiser in ((one, ahead), (other, plain)):
            torch.manual_seed(number)
            for weight in made.parameters():
                weight.grad = torch.randn_like(weight)
            optimiser.step()
        if number % 3 == 0:
            with torch.no_grad():
                for kept, weight in zip(slow, other.parameters(), strict=True):
                    kept += 0.25 * (weight - kept)
                    weight.copy_(kept)
        for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_lookahead_goes_on_from_its_state(kind):
    """Saved between two pulls: slow weights, momentum and the count go on."""
    one, other = network(), network()
    first = Lookahead(inner_of(kind, one.parameters()), every=3)
    second = Lookahead(inner_of(kind, other.parameters()), every=3)

    def move(made, optimiser, seed):
        torch.manual_seed(seed)
        for weight in made.parameters():
            weight.grad = torch.randn_like(weight)
        optimiser.step()

    for seed in range(7):
        move(one, first, seed)
    for seed in range(4):
        move(other, second, seed)
    third = Lookahead(inner_of(kind, other.parameters()), every=3)
    third.load_state_dict(second.state_dict())
    for seed in range(4, 7):
        move(other, third, seed)
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_lookahead_follows_the_rate_of_its_groups():
    weight = nn.Parameter(torch.ones(2))
    ahead = Lookahead(torch.optim.SGD([weight], lr=1.0))
    ahead.param_groups[0]["lr"] = 0.0
    weight.grad = torch.ones(2)
    ahead.step()
    assert torch.equal(weight.detach(), torch.ones(2))


@pytest.mark.parametrize("wrong", [{"every": 0}, {"pull": 0.0}, {"pull": 1.5}])
def test_lookahead_refuses_what_is_no_way(wrong):
    with pytest.raises(ValueError, match="no steps of"):
        Lookahead(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), **wrong)
