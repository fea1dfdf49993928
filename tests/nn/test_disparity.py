"""Rows read at a disparity, and heads at several scales."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.nn.disparity import DisparityHeads, image_pyramid, shift_columns
from unlabeled.rng import generator


@given(seed=st.integers(0, 2**31), columns=st.integers(2, 12), by=st.integers(-13, 13))
def test_whole_pixels_move_a_row_and_nothing_comes_from_beyond(seed, columns, by):
    image = torch.rand(1, 2, 3, columns, generator=generator(seed))
    found = shift_columns(image, torch.full((1, 1, 3, columns), by / columns))
    wanted = torch.zeros_like(image)
    for at in range(columns):
        if 0 <= at + by < columns:
            wanted[..., at] = image[..., at + by]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_gradients_reach_the_offset_and_rows_stay_apart():
    image = torch.arange(8.0).expand(1, 1, 4, 8).contiguous()
    offset = torch.full((1, 1, 4, 8), 0.05, requires_grad=True)
    shift_columns(image, offset)[..., 1:6].sum().backward()
    torch.testing.assert_close(
        offset.grad[..., 1:6], torch.full((1, 1, 4, 5), 8.0), atol=1e-3, rtol=0
    )
    rows = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 1, 4, 8)
    moved = shift_columns(rows, torch.full((1, 1, 4, 8), 0.1))
    torch.testing.assert_close(moved[..., :6], rows[..., :6])


def test_a_pyramid_halves_by_areas():
    image = torch.rand(1, 2, 8, 16, generator=generator(0))
    levels = image_pyramid(image, 3)
    assert [tuple(each.shape[2:]) for each in levels] == [(8, 16), (4, 8), (2, 4)]
    torch.testing.assert_close(levels[1], image.view(1, 2, 4, 2, 8, 2).mean((3, 5)))
    torch.testing.assert_close(levels[2].mean(), image.mean())


@pytest.mark.parametrize("scales", [1, 4])
def test_finer_scales_see_the_coarser_ones(scales):
    torch.manual_seed(0)
    heads = DisparityHeads(3, scales=scales, most=0.25)
    features = torch.randn(2, 3, 16, 24)
    found = heads(features)
    assert [tuple(each.shape) for each in found] == [
        (2, 2, 16 // 2**s, 24 // 2**s) for s in range(scales)
    ]
    assert all(bool(((each > 0) & (each < 0.25)).all()) for each in found)
    start = heads(torch.zeros_like(features))[0].mean().item()
    assert start == pytest.approx(0.25 * torch.tensor(-2.0).sigmoid().item(), rel=0.3)
    if scales > 1:
        torch.nn.init.constant_(heads.heads[-1].bias, 3.0)
        changed = heads(features)
        assert all(not torch.equal(a, b) for a, b in zip(found, changed, strict=True))
