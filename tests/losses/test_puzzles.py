"""The loss of yes-or-no questions about slots against its formula."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.losses.puzzles import slot_loss
from unlabeled.rng import generator


@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 4),
    slots=st.integers(1, 9),
    reduction=st.sampled_from(["mean", "sum"]),
)
def test_it_is_the_whole_cross_entropy(seed, batch, slots, reduction):
    rng = generator(seed)
    logits = 3 * torch.randn(batch, slots, generator=rng, dtype=torch.float64)
    bits = torch.randint(2, (batch, slots), generator=rng).double()
    likely = logits.sigmoid()
    each = -(bits * likely.log() + (1 - bits) * (1 - likely).log())
    expected = each.sum(1).mean() / (slots if reduction == "mean" else 1)
    torch.testing.assert_close(slot_loss(logits, bits, reduction).double(), expected, rtol=1e-5, atol=1e-6)  # fmt: skip
    flat = slot_loss(torch.zeros(batch, slots), bits.float(), reduction)
    assert float(flat) == pytest.approx(math.log(2) * (slots if reduction == "sum" else 1), rel=1e-5)  # fmt: skip


def test_yes_everywhere_is_not_free_and_wrong_answers_stay_finite_in_half_precision():
    bits = torch.tensor([[1.0, 0.0, 1.0]])
    assert float(slot_loss(torch.full((1, 3), 30.0), bits)) == pytest.approx(10.0)
    logits = torch.full((1, 3), -60000.0, dtype=torch.float16, requires_grad=True)
    loss = slot_loss(logits, bits, "sum")
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 4),
    slots=st.integers(1, 9),
    reduction=st.sampled_from(["mean", "sum"]),
)
def test_only_slots_that_count_count(seed, batch, slots, reduction):
    rng = generator(seed)
    logits = torch.randn(batch, slots, generator=rng)
    bits = torch.randint(2, (batch, slots), generator=rng).float()
    everywhere = slot_loss(logits, bits, reduction, torch.ones_like(bits))
    torch.testing.assert_close(everywhere, slot_loss(logits, bits, reduction))
    counts = torch.randint(2, (batch, slots), generator=rng).float()
    counted = slot_loss(logits, bits, reduction, counts)
    wild = torch.where(counts > 0, logits, 50 * logits)  # what does not count may say anything
    torch.testing.assert_close(slot_loss(wild, bits, reduction, counts), counted)
    chosen = counts > 0
    if reduction == "mean" and chosen.any():
        torch.testing.assert_close(counted, slot_loss(logits[chosen][None], bits[chosen][None]))
    assert float(slot_loss(logits, bits, reduction, torch.zeros_like(bits))) == 0
