"""Fused optimisers move the weights as the plain ones do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from unlabeled.training.optimisers import fuse

KINDS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {"weight_decay": 1e-3, "betas": (0.5, 0.999)}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "adamw": (torch.optim.AdamW, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}),
    "adagrad": (torch.optim.Adagrad, {}),
}


def weights() -> list[torch.nn.Parameter]:
    rng = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(n, 3, generator=rng)) for n in (1, 5, 7)]


@pytest.mark.parametrize("name", KINDS)
def test_a_fused_optimiser_moves_the_weights_as_the_plain_one_does(name: str) -> None:
    kind, options = KINDS[name]
    moved = [weights(), weights()]
    plain, fused = (kind(each, lr=0.05, **options) for each in moved)
    fuse(fused)
    rng = torch.Generator().manual_seed(1)
    for _ in range(5):
        for pair in zip(*moved, strict=True):
            pair[0].grad = torch.randn(pair[0].shape, generator=rng)
            pair[1].grad = pair[0].grad.clone()
        plain.step()
        fused.step()
    assert all(group["fused"] for group in fused.param_groups)
    for one, other, first in zip(*moved, weights(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        assert not torch.equal(one, first)


def test_what_has_no_fused_kernel_or_was_told_how_to_step_is_left_alone() -> None:
    for made in (
        torch.optim.RMSprop(weights(), lr=0.1),
        torch.optim.Adam(weights(), foreach=True),
        torch.optim.Adam(weights(), fused=False),
        torch.optim.SGD([torch.nn.Parameter(torch.ones(2, device="meta"))], lr=0.1),
    ):
        before = [{k: v for k, v in group.items() if k != "params"} for group in made.param_groups]
        fuse(made)
        after = [{k: v for k, v in group.items() if k != "params"} for group in made.param_groups]
        assert after == before
