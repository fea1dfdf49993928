"""Local prototypes: equal to the published module, bounded, and what a hand gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.errors import OptionError
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.prototypes import (
    SHARPNESS,
    GridEmbedding,
    Prototypes,
    mask_on_grid,
    pool_prototypes,
    prototype_score,
    segment_by_support,
)


@pytest.fixture
def module(golden):
    """Inputs and outputs of the published module."""
    arrays = np.load(golden / "superpixel-fewshot" / "alp_module.npz")
    return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.mark.parametrize(("window", "name", "cells"), [(4, "train4", 12), (2, "val2", 64)])
def test_scores_equal_the_published_module(module, window, name, cells):
    query, support = module["qry"][0], module["sup_x"][0, 0]
    edges = (window, window)
    back = pool_prototypes(support, module["bg"][0, 0], edges, whole=False)
    fore = pool_prototypes(support, module["fg"][0, 0], edges, whole=True)
    assert int(fore.there.sum()) == cells + 1
    assert fore.there.shape[1] - 1 == (32 // window) ** 2
    for found, expected in ((back, f"bg_gridconv_{name}"), (fore, f"fg_gridconvplus_{name}")):
        score = prototype_score(query, found)
        assert (score - module[f"score_{expected}"][0]).abs().max() < 1e-3
    alone = fore._replace(there=torch.arange(fore.there.shape[1])[None] == fore.there.shape[1] - 1)
    score = prototype_score(query, alone)
    assert (score - module[f"score_fg_mask_{name}"][0]).abs().max() < 1e-3


def test_cell_means_equal_the_published_module(module):
    cells = F.avg_pool2d(module["fg"][0, 0][:, None], 4)[:, 0]
    assert torch.allclose(cells, module["fg_cell_mean_train4"][0], atol=1e-6)


def test_one_prototype_scores_twenty_times_the_cosine():
    query, one = torch.randn(2, 5, 3, 4), torch.randn(2, 1, 5)
    found = prototype_score(query, Prototypes(F.normalize(one, dim=2), torch.ones(2, 1) > 0))
    expected = 20 * F.cosine_similarity(query, one[:, 0, :, None, None], dim=1)
    assert torch.allclose(found, expected, atol=1e-4)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 9))
def test_a_score_lies_between_mean_and_maximum_of_the_similarities_and_within_twenty(seed, count):
    rng = torch.Generator().manual_seed(seed)
    query = torch.randn(1, 4, 3, 3, generator=rng)
    vectors = F.normalize(torch.randn(1, count, 4, generator=rng), dim=2)
    there = torch.rand(1, count, generator=rng) < 0.7
    score = prototype_score(query, Prototypes(vectors, there))
    assert score.abs().max() <= SHARPNESS + 1e-4
    if not there.any():
        assert (score == -SHARPNESS).all()
        return
    alike = 20 * torch.einsum("kd,dij->kij", vectors[0][there[0]], F.normalize(query, dim=1)[0])
    assert (score[0] >= alike.mean(0) - 1e-4).all()
    assert (score[0] <= alike.amax(0) + 1e-4).all()


def test_two_and_four_score_by_hand():
    expected = (2 * math.e**2 + 4 * math.e**4) / (math.e**2 + math.e**4)
    vectors = torch.tensor([[[0.1, 0.99**0.5], [0.2, 0.96**0.5]]])
    query = torch.tensor([[[[1.0]], [[0.0]]]])
    score = prototype_score(query, Prototypes(vectors, torch.ones(1, 2) > 0))
    assert float(score) == pytest.approx(expected, abs=1e-4)
    assert expected == pytest.approx(3.7616, abs=1e-4)


def test_rows_that_are_no_prototypes_change_nothing():
    query, vectors = torch.randn(1, 6, 4, 4), F.normalize(torch.randn(1, 3, 6), dim=2)
    short = Prototypes(vectors, torch.ones(1, 3) > 0)
    junk = Prototypes(torch.full((1, 2, 6), 1e3), torch.zeros(1, 2) > 0)
    assert torch.allclose(prototype_score(query, short), prototype_score(query, short.beside(junk)))


def test_a_small_region_has_its_mean_alone_and_a_background_without_cells_too():
    features = torch.randn(1, 5, 8, 8)
    mask = torch.zeros(1, 8, 8)
    mask[0, 3:5, 3:5] = 1
    fore = pool_prototypes(features, mask, (4, 4), whole=True)
    assert fore.there.tolist() == [[False] * 4 + [True]]
    mean = features[0, :, 3:5, 3:5].mean((1, 2))
    assert torch.allclose(fore.vectors[0, -1], F.normalize(mean, dim=0), atol=1e-4)
    everywhere = torch.full((1, 8, 8), 0.5)
    back = pool_prototypes(features, everywhere, (4, 4), whole=False)
    assert back.there.tolist() == [[False] * 4 + [True]]  # the published code fails here
    assert segment_by_support(features, features, everywhere, (4, 4)).isfinite().all()


def test_background_with_cells_has_no_mean():
    back = pool_prototypes(torch.randn(1, 5, 8, 8), torch.ones(1, 8, 8), (4, 4), whole=False)
    assert back.there.tolist() == [[True] * 4 + [False]]


def test_gradients_reach_the_features_of_both_and_are_finite():
    support, query = (torch.randn(1, 5, 8, 8, requires_grad=True) for _ in range(2))
    mask = torch.zeros(1, 8, 8)
    mask[0, :4, :4] = 1
    segment_by_support(query, support, mask, (4, 4)).square().mean().backward()
    for each in (support, query):
        assert each.grad is not None
        assert each.grad.isfinite().all()
        assert each.grad.abs().sum() > 0


def test_an_image_segments_itself():
    """Where features tell the classes, the support's own region comes back."""
    mask = torch.zeros(1, 16, 16)
    mask[0, 4:12, 4:12] = 1
    features = torch.stack([mask[0], 1 - mask[0]])[None] + 0.05 * torch.randn(1, 2, 16, 16)
    found = segment_by_support(features, features, mask, (2, 2)).argmax(1)
    assert torch.equal(found, mask.long())


def test_a_mask_on_a_grid_is_soft_at_its_border():
    mask = torch.zeros(1, 16, 16)
    mask[:, :, :6] = 1
    soft = mask_on_grid(mask, (4, 4))
    assert soft[0, 0].tolist() == [1, 0.5, 0, 0]


@pytest.mark.parametrize("name", ["resnet18", "unet", "resenc-tiny", "vit-tiny"])
def test_features_lie_on_one_grid_whatever_the_encoder(name):
    encoder = build_encoder(name, dims=2)
    embedding = GridEmbedding(encoder, 12)
    image = torch.rand(2, 1, 64, 48)
    features = embedding(encoder(image), image.shape[2:])
    assert features.shape == (2, 12, 8, 6)
    features.square().mean().backward()
    assert all(each.grad is not None for each in encoder.parameters())


def test_features_of_volumes_are_refused():
    with pytest.raises(OptionError, match="2D"):
        GridEmbedding(build_encoder("resenc-tiny", dims=3))
