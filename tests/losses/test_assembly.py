"""Puzzles put together softly: which way round, what is no error, what knowing nothing costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.losses.assembly import (
    assembly_error,
    assembly_scores,
    put_back,
    shows_something,
    spread_of_pieces,
)
from unlabeled.nn.sinkhorn import sinkhorn


def belief(order: torch.Tensor) -> torch.Tensor:
    """The true S of an order: 1 at (i, order[i])."""
    return torch.eye(len(order))[order]


@given(seed=st.integers(0, 2**31), pieces=st.integers(2, 9))
def test_the_true_permutation_puts_everything_back(seed, pieces):
    rng = torch.Generator().manual_seed(seed)
    intact = torch.randn(pieces, 1, 4, 3, generator=rng)
    order = torch.randperm(pieces, generator=rng)
    slots = intact[order]
    torch.testing.assert_close(put_back(belief(order)[None], slots[None])[0], intact)
    assert assembly_error(belief(order)[None], slots[None], intact[None]) == 0


@given(seed=st.integers(0, 2**31), pieces=st.integers(2, 9))
def test_knowing_nothing_costs_the_spread_of_the_pieces(seed, pieces):
    rng = torch.Generator().manual_seed(seed)
    intact = torch.randn(2, pieces, 1, 4, 3, generator=rng)
    slots = intact[:, torch.randperm(pieces, generator=rng)]
    even = torch.full((2, pieces, pieces), 1 / pieces)
    torch.testing.assert_close(assembly_error(even, slots, intact), spread_of_pieces(intact))
    flat = intact.flatten(2)
    torch.testing.assert_close(spread_of_pieces(intact), flat.var(1, correction=0).mean())


def test_two_pieces_by_hand():
    intact = torch.eye(2)[None]
    slots = intact.flip(1)
    wrong = sinkhorn(torch.tensor([[2.0, 1.0], [1.0, 3.0]]).log())[None]
    assert assembly_error(wrong, slots, intact).item() == pytest.approx(0.504245, abs=1e-5)
    assert assembly_error(wrong.flip(2), slots, intact).item() == pytest.approx(0.084041, abs=1e-5)
    assert assembly_error(torch.full((1, 2, 2), 0.5), slots, intact) == 0.25


def test_gradients_reach_the_permutation_alone():
    soft, slots, intact = (torch.rand(1, 3, 3, requires_grad=True) for _ in range(3))
    assembly_error(soft, slots, intact).backward()
    assert soft.grad is not None
    assert slots.grad is None
    assert intact.grad is None


def test_background_does_not_count():
    pieces = torch.zeros(1, 3, 1, 4, 4)
    pieces[0, 0] = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))
    pieces[0, 1] = 7.0
    counts = shows_something(pieces)
    assert counts.tolist() == [[True, False, False]]
    scores = assembly_scores(torch.tensor([[0, 2, 1]]), torch.tensor([[0, 1, 2]]), counts)
    assert scores["accuracy"] == scores["whole"] == 1
    nothing = assembly_scores(torch.tensor([[0]]), torch.tensor([[0]]), torch.tensor([[False]]))
    assert nothing["accuracy"] == 0


def test_golden_arrays(golden: Path):
    arrays = {
        name: torch.from_numpy(array) if array.ndim else float(array)
        for name, array in np.load(golden / "multimodal-puzzles" / "sinkhorn.npz").items()
    }
    intact, slots = arrays["P_star"][None].float(), arrays["P_shuffled"][None].float()
    assert torch.equal(intact[:, arrays["perm"].long()], slots)
    assert torch.equal(belief(arrays["perm"].long()), arrays["S_true"].float())
    soft = sinkhorn(arrays["logits_puzzle"], 1.0, 20)[None]
    torch.testing.assert_close(soft[0], arrays["S_soft"].float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(put_back(soft, slots)[0], arrays["P_rec"].float(), atol=1e-5, rtol=0)
    even = torch.full((1, 9, 9), 1 / 9)
    for believed, wanted in (
        (soft, "mse"),
        (arrays["S_true"][None], "mse_true"),
        (even, "mse_uniform"),
    ):
        error = assembly_error(believed, slots, intact).item()
        assert error == pytest.approx(arrays[wanted], abs=1e-6)
