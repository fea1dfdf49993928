"""Contrastive losses against plain ones: values, gradients, order, precision."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.losses import contrastive
from unlabeled.losses.contrastive import estimate_total, info_nce, noise_contrast, nt_xent


def rows(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=rng, dtype=dtype), dim=1)


def plain_info_nce(query, key, queue, temperature):
    own = (query * key).sum(1, keepdim=True)
    logits = torch.cat([own, query @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long))


def plain_nt_xent(first, second, temperature):
    """The published double loop."""
    views = [F.normalize(each, dim=0) for each in (*first, *second)]
    terms = []
    for i, anchor in enumerate(views):
        partner = (i + len(first)) % len(views)
        scores = [torch.exp(anchor @ other / temperature) for other in views]
        terms.append(-torch.log(scores[partner] / sum(s for j, s in enumerate(scores) if j != i)))
    return torch.stack(terms).mean()


def value_and_gradients(loss, *inputs):
    leaves = [each.clone().requires_grad_() for each in inputs]
    value = loss(*leaves)
    value.backward()
    return value.detach(), [leaf.grad for leaf in leaves]


@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 9),
    queued=st.integers(0, 40),
    temperature=st.sampled_from([0.01, 0.07, 0.5, 1.0]),
)
def test_info_nce_equals_the_plain_cross_entropy(seed, batch, queued, temperature):
    query, key = rows(seed, batch, 6), rows(seed + 1, batch, 6)
    queue = rows(seed + 2, queued, 6) if queued else torch.empty(0, 6, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrastive, "_CHUNK", 7)  # several chunks, the last a short one
        ours, (ours_moves,) = value_and_gradients(
            lambda q: info_nce(q, key, queue, temperature), query
        )
    theirs, (theirs_moves,) = value_and_gradients(
        lambda q: plain_info_nce(q, key, queue, temperature), query
    )
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(ours_moves, theirs_moves)


@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 9),
    temperature=st.sampled_from([0.01, 0.1, 0.5, 1.0]),
)
def test_nt_xent_equals_the_plain_double_loop(seed, batch, temperature):
    first, second = 3 * rows(seed, batch, 6), rows(seed + 1, batch, 6) / 2
    ours, ours_moves = value_and_gradients(lambda a, b: nt_xent(a, b, temperature), first, second)
    theirs, theirs_moves = value_and_gradients(
        lambda a, b: plain_nt_xent(a, b, temperature), first, second
    )
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(ours_moves, theirs_moves, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_equal_differences():
    queue, key = rows(0, 5, 3), rows(1, 4, 3)
    query, second = rows(2, 4, 3).requires_grad_(), rows(3, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda q: info_nce(q, key, queue, 0.2), query)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.2), (query, second))


def test_the_gradient_grows_with_what_comes_from_above():
    query, key, queue = rows(0, 4, 3), rows(1, 4, 3), rows(2, 9, 3)
    (once,) = value_and_gradients(lambda q: info_nce(q, key, queue), query)[1]
    (thrice,) = value_and_gradients(lambda q: 3 * info_nce(q, key, queue), query)[1]
    torch.testing.assert_close(thrice, 3 * once)


def test_neither_key_nor_queue_gets_a_gradient():
    query, key, queue = (
        each.requires_grad_() for each in (rows(0, 4, 3), rows(1, 4, 3), rows(2, 9, 3))
    )
    info_nce(query, key, queue).backward()
    assert query.grad is not None
    assert key.grad is None
    assert queue.grad is None


def test_knowing_nothing_costs_the_logarithm_of_the_choices():
    one = torch.eye(1, 8).repeat(5, 1)
    assert float(info_nce(one, one, one[:1].repeat(99, 1))) == pytest.approx(math.log(100))
    assert float(nt_xent(one, one)) == pytest.approx(math.log(9))


def test_a_single_pair_without_others_costs_nothing():
    one = rows(0, 1, 4)
    assert float(nt_xent(one, rows(1, 1, 4))) == pytest.approx(0, abs=1e-12)


@given(seed=st.integers(0, 2**31))
def test_the_order_of_the_batch_and_of_the_queue_does_not_matter(seed):
    query, key, queue = rows(seed, 6, 5), rows(seed + 1, 6, 5), rows(seed + 2, 11, 5)
    turn, mix = torch.randperm(6), torch.randperm(11)
    torch.testing.assert_close(
        info_nce(query, key, queue), info_nce(query[turn], key[turn], queue[mix])
    )
    torch.testing.assert_close(nt_xent(query, key), nt_xent(key[turn], query[turn]))


def test_large_logits_stay_finite():
    """At temperature 0.001 the exponentials alone would overflow."""
    query, key = rows(0, 4, 3, dtype=torch.float32), rows(1, 4, 3, dtype=torch.float32)
    for value, gradients in (
        value_and_gradients(lambda q: info_nce(q, key, 5 * key.roll(1, 0), 1e-3), query),
        value_and_gradients(lambda a, b: nt_xent(a, b, 1e-3), query, key),
    ):
        assert value.isfinite()
        assert all(each.isfinite().all() for each in gradients)


def test_half_precision_and_autocast_work_in_single_precision():
    query, key, queue = (rows(seed, 8, 16, dtype=torch.float32) for seed in range(3))
    exact = [info_nce(query, key, queue, 0.07), nt_xent(query, key, 0.1)]
    with torch.autocast("cpu", torch.bfloat16):
        inside = [info_nce(query, key, queue, 0.07), nt_xent(query, key, 0.1)]
    for one, other in zip(exact, inside, strict=True):
        assert torch.equal(one, other)
    short, (moves,) = value_and_gradients(
        lambda q: info_nce(q, key.bfloat16(), queue.bfloat16()), query.bfloat16()
    )
    assert short.dtype == torch.float32
    assert moves.dtype == torch.bfloat16
    assert float(short) == pytest.approx(float(exact[0]), rel=0.02)


def test_views_of_unequal_number_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(2, 2\)"):
        nt_xent(torch.rand(3, 2), torch.rand(2, 2))


def plain_noise_contrast(query, key, queue, total, images, temperature, eps):
    """The published formula, with plain probabilities."""
    cost = 0.0
    noise = len(queue) / images
    for anchor, own in zip(query, key, strict=True):
        p = torch.exp(anchor @ own / temperature) / total
        cost -= torch.log(p / (p + noise + eps))
        for other in queue:
            p = torch.exp(anchor @ other / temperature) / total
            cost -= torch.log(noise / (p + noise + eps))
    return cost / len(query)


@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 10**6),
    temperature=st.sampled_from([0.07, 0.2, 1.0]),
    eps=st.sampled_from([0.0, 1e-7, 1e-2]),
)
def test_noise_contrast_equals_the_published_formula(seed, images, temperature, eps):
    query, key, queue = rows(seed, 3, 6), rows(seed + 1, 3, 6), rows(seed + 2, 7, 6)
    given_ = {"images": images, "temperature": temperature}
    total = estimate_total(query, key, queue, **given_)
    both = [
        value_and_gradients(loss, query)
        for loss in (
            lambda q: noise_contrast(q, key, queue, total=total, eps=eps, **given_),
            lambda q: plain_noise_contrast(q, key, queue, total, images, temperature, eps),
        )
    ]
    torch.testing.assert_close(both[0], both[1])


def test_noise_contrast_stays_finite():
    query = rows(0, 4, 3, dtype=torch.float32)
    value, (moves,) = value_and_gradients(
        lambda q: noise_contrast(q, -query, query, total=1e6, images=1e6, temperature=1e-3), query
    )
    assert value.isfinite()
    assert moves.isfinite().all()
