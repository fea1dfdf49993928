"""Attention of words, and scores of images with texts, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.losses.crossmodal import (
    attend,
    attention,
    both_ways,
    evenness,
    found_share,
    global_scores,
    local_scores,
    same_text,
    word_scores,
)


def drawn(seed: int, images: int = 3, regions: int = 5, words: int = 4, width: int = 6):
    rng = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, words + 1, (images,), generator=rng)
    return (
        torch.randn(images, regions, width, generator=rng),
        torch.randn(images, words, width, generator=rng),
        counts,
    )


def plain_local_score(regions, words, *, agg="sum"):
    """One image with one text, as the formulas say."""
    shares = torch.stack([(words @ region).softmax(0) for region in regions], 1)  # word region
    total = 0.0
    for word, share in zip(words, shares, strict=True):
        weights = (4 * share).softmax(0)
        attended = (weights[:, None] * regions).sum(0)
        cosine = word @ attended / (word.norm() * attended.norm())
        total += math.exp(5 * float(cosine))
    return math.log(total / len(words) if agg == "mean" else total)


@given(seed=st.integers(0, 2**31), agg=st.sampled_from(["sum", "mean"]))
def test_local_scores_equal_a_plain_loop(seed, agg):
    regions, words, counts = drawn(seed)
    scores = local_scores(regions, words, counts, agg=agg)
    for image in range(3):
        for text in range(3):
            expected = plain_local_score(regions[image], words[text, : counts[text]], agg=agg)
            assert float(scores[image, text]) == pytest.approx(expected, abs=1e-4)


@given(seed=st.integers(0, 2**31))
def test_attention_rows_sum_to_one_and_words_in_use_alone_matter(seed):
    regions, words, counts = drawn(seed)
    used = torch.arange(4) < counts[:, None]
    attended, weights = attend(regions, words, used)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 4), atol=1e-5)
    assert torch.allclose(attended, torch.einsum("inm,imd->ind", weights, regions), atol=1e-5)
    other = words + torch.where(used, 0.0, 7.0)[..., None]
    assert torch.allclose(attend(regions, other, used)[1][used], weights[used], atol=1e-6)


def test_the_order_of_the_two_softmaxes_matters():
    """With regions first, every word would share out alike; with words first, each finds its own region."""
    affinity = torch.tensor([[8.0, 0.0], [0.0, 8.0]])
    weights = attention(affinity, torch.ones(2, dtype=torch.bool))
    assert weights.argmax(1).tolist() == [0, 1]
    constant = torch.full((3, 4), 2.0)
    assert torch.allclose(attention(constant, torch.ones(3, dtype=torch.bool)), torch.tensor(0.25))


@given(seed=st.integers(0, 2**31), more=st.integers(1, 5))
def test_padding_of_other_texts_changes_nothing(seed, more):
    regions, words, counts = drawn(seed)
    padded = torch.cat([words, torch.zeros(3, more, 6)], 1)
    longer = torch.cat([counts[:2], torch.tensor([4 + more])])
    first, second = local_scores(regions, words, counts), local_scores(regions, padded, longer)
    assert torch.allclose(first[:, :2], second[:, :2], atol=1e-5)


@given(seed=st.integers(0, 2**31))
def test_permuting_the_batch_permutes_scores_and_keeps_losses(seed):
    regions, words, counts = drawn(seed)
    turned = torch.tensor([2, 0, 1])
    for scores, other in (
        (
            local_scores(regions, words, counts),
            local_scores(regions[turned], words[turned], counts[turned]),
        ),
        (
            global_scores(regions[:, 0], words[:, 0]),
            global_scores(regions[turned, 0], words[turned, 0]),
        ),
    ):
        assert torch.allclose(scores[turned][:, turned], other, atol=1e-5)
        for one, two in zip(both_ways(scores), both_ways(other), strict=True):
            assert torch.allclose(one, two, atol=1e-4)


def test_mean_changes_the_choice_of_texts_alone():
    regions, words, _ = drawn(5)
    counts = torch.tensor([4, 1, 2])
    total, mean = (
        both_ways(local_scores(regions, words, counts, agg=agg)) for agg in ("sum", "mean")
    )
    assert torch.allclose(total[1], mean[1], atol=1e-5)
    assert not torch.allclose(total[0], mean[0], atol=1e-2)


def test_empty_words_give_finite_gradients():
    regions, words, _ = drawn(0)
    words[:, 2:] = 0.0
    regions.requires_grad_()
    words.requires_grad_()
    sum(both_ways(local_scores(regions, words, torch.tensor([2, 1, 2])))).backward()
    assert regions.grad.isfinite().all()
    assert words.grad.isfinite().all()
    assert (words.grad[:, 2:] == 0).all()


def test_half_precision_does_not_saturate():
    regions, words, counts = drawn(1, width=64)
    regions, words = 10 * regions, 10 * words
    exact = local_scores(regions, words, counts)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = local_scores(regions, words, counts)
        whole = global_scores(regions[:, 0], words[:, 0])
    assert mixed.dtype == whole.dtype == torch.float32
    assert torch.equal(mixed, exact)


def test_scores_of_words_are_cosines():
    regions, words, counts = drawn(2)
    cosines = word_scores(regions, words, torch.arange(4) < counts[:, None])
    assert cosines.shape == (3, 3, 4)
    assert cosines.abs().max() <= 1 + 1e-5


def test_knowing_nothing_costs_the_logarithm_of_the_batch():
    first, second = both_ways(torch.zeros(32, 32))
    assert float(first) == pytest.approx(math.log(32), abs=1e-5)
    assert float(second) == pytest.approx(math.log(32), abs=1e-5)


def test_equal_texts_are_right_for_both():
    ids = torch.tensor([[1, 5, 2], [1, 6, 2], [1, 5, 2]])
    same, share = same_text(ids)
    assert same.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    assert float(share) == pytest.approx(2 / 3)
    scores = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert float(found_share(scores, same)) == 1
    assert float(found_share(scores, torch.eye(3, dtype=torch.bool))) == pytest.approx(1 / 3)


def test_evenness_is_between_one_place_and_all():
    weights = torch.rand(4, 9).softmax(1)
    assert ((evenness(weights) > 0) & (evenness(weights) <= 1 + 1e-6)).all()
