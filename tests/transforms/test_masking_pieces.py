"""Voxels taken out of pieces: how many, where, and that all else stays."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from unlabeled.rng import generator
from unlabeled.transforms.masking import MaskPieces

edges = st.lists(st.integers(1, 6), min_size=2, max_size=3)
shares = st.floats(0, 1)


@given(pieces=st.integers(1, 9), edges=edges, p_mask=shares, p_drop=shares, seed=st.integers(0, 99))
def test_what_is_kept_stays_and_the_rest_is_filled(pieces, edges, p_mask, p_drop, seed):
    image = torch.rand(pieces, 2, *edges, generator=generator(seed, "image"))
    before = image.clone()
    mask = MaskPieces(p_mask, p_drop, fill=-3.0)
    hidden, masked, keep = mask(image, generator(seed))
    assert torch.equal(image, before)
    assert keep[~masked].all()
    everywhere = keep[:, None].expand_as(image)
    assert torch.equal(hidden[everywhere], image[everywhere])
    assert hidden[~everywhere].eq(-3).all()
    again = mask(image, generator(seed))
    assert all(torch.equal(a, b) for a, b in zip((hidden, masked, keep), again, strict=True))


@given(edges=edges, seed=st.integers(0, 99))
def test_nothing_and_everything(edges, seed):
    image = torch.rand(4, 1, *edges, generator=generator(seed, "image"))
    for p_mask, p_drop in ((0.0, 1.0), (1.0, 0.0)):
        assert torch.equal(MaskPieces(p_mask, p_drop, -1.0)(image, generator(seed)).pieces, image)
    gone = MaskPieces(1.0, 1.0, 7.0)(image, generator(seed))
    assert gone.masked.all()
    assert gone.pieces.eq(7).all()


@pytest.mark.parametrize(("p_mask", "p_drop"), [(0.5, 0.5), (0.2, 0.9)])
def test_pieces_and_voxels_are_masked_as_often_as_asked(p_mask, p_drop):
    mask = MaskPieces(p_mask, p_drop)
    drawn = [mask.draw(8, (5, 4, 3), generator(seed)) for seed in range(500)]
    masked = torch.stack([each for each, _ in drawn])
    assert stats.binomtest(int(masked.sum()), masked.numel(), p_mask).pvalue > 1e-4
    keep = torch.cat([keep[chosen] for chosen, keep in drawn])
    for gone in (~keep).flatten(1).sum(0).tolist():  # voxel by voxel
        assert stats.binomtest(gone, len(keep), p_drop).pvalue > 1e-5
