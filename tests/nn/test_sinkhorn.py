"""The Sinkhorn operator: sums, what changes nothing, what it tends to."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.nn.sinkhorn import match, sinkhorn


def logits_of(seed: int, edge: int, most: float = 5.0) -> torch.Tensor:
    """Numbers within +-most, ``edge edge``."""
    drawn = torch.rand(edge, edge, generator=torch.Generator().manual_seed(seed))
    return (2 * drawn - 1) * most


@given(seed=st.integers(0, 2**31), edge=st.integers(2, 25))
def test_is_not_negative_and_sums_to_one_by_columns(seed, edge):
    soft = sinkhorn(logits_of(seed, edge), 0.5, 20)
    assert soft.min() >= 0
    torch.testing.assert_close(soft.sum(0), torch.ones(edge), atol=1e-5, rtol=0)


@given(seed=st.integers(0, 2**31), edge=st.integers(2, 9))
def test_numbers_added_to_rows_and_columns_change_nothing(seed, edge):
    logits = logits_of(seed, edge, most=2.0)
    rng = torch.Generator().manual_seed(seed + 1)
    added = torch.randn(edge, 1, generator=rng) + torch.randn(1, edge, generator=rng)
    moved = sinkhorn(logits + added, rounds=200)
    torch.testing.assert_close(moved, sinkhorn(logits, rounds=200), atol=2e-4, rtol=0)


@given(seed=st.integers(0, 2**31), edge=st.integers(2, 6))
def test_rows_and_columns_move_with_those_of_the_logits(seed, edge):
    logits = logits_of(seed, edge)
    order = torch.randperm(edge, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(sinkhorn(logits[order], 0.5), sinkhorn(logits, 0.5)[order])
    torch.testing.assert_close(sinkhorn(logits[:, order], 0.5), sinkhorn(logits, 0.5)[:, order])


@given(seed=st.integers(0, 2**31), edge=st.integers(2, 5))
def test_match_is_the_best_of_all_permutations(seed, edge):
    logits = logits_of(seed, edge).double()
    rows = torch.arange(edge)
    best = max(logits[rows, torch.tensor(order)].sum() for order in permutations(range(edge)))
    found = match(logits)
    assert sorted(found.tolist()) == list(range(edge))
    torch.testing.assert_close(logits[rows, found].sum(), best)


def test_small_examples():
    logits = torch.tensor([[2.0, 1.0], [1.0, 3.0]]).log()
    for rounds, column in ((1, (0.727273, 0.272727)), (2, (0.713178, 0.286822))):
        torch.testing.assert_close(
            sinkhorn(logits, rounds=rounds)[:, 0], torch.tensor(column), atol=1e-6, rtol=0
        )
    limit = 6**0.5 / (1 + 6**0.5)
    assert sinkhorn(logits, rounds=20)[0, 0].item() == pytest.approx(limit, abs=1e-6)
    assert (sinkhorn(torch.zeros(3, 7, 7), rounds=1) - 1 / 7).abs().max() < 1e-7


def test_half_precision_and_large_logits_stay_finite():
    logits = logits_of(0, 9, most=1000.0)
    for given_ in (logits, logits.bfloat16(), logits.half()):
        wanted = given_.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            soft = sinkhorn(wanted, 0.05)
        assert soft.dtype == torch.float32
        assert soft.isfinite().all()
        soft.square().sum().backward()
        assert wanted.grad.isfinite().all()


def test_golden_arrays(golden: Path):
    arrays = np.load(golden / "multimodal-puzzles" / "sinkhorn.npz")
    for edge in (4, 9, 25):
        logits = torch.from_numpy(arrays[f"logits_N{edge}"])
        for temperature in (1.0, 0.1):
            for rounds in (1, 20):
                soft = sinkhorn(logits, temperature, rounds).numpy()
                want = arrays[f"S_N{edge}_tau{temperature}_it{rounds}"]
                np.testing.assert_allclose(soft, want, atol=1e-5, rtol=0)
        np.testing.assert_array_equal(match(logits).numpy(), arrays[f"match_N{edge}"])
