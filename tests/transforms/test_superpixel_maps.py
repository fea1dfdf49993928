"""Superpixels of every slice: within the body, numbered as asked, published numbers reproduced."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.data.scan import Grid, Scan
from unlabeled.rng import generator
from unlabeled.transforms.superpixel_maps import (
    COUNTS,
    REGIONS,
    SuperpixelMap,
    as_levels,
    draw_as_published,
    draw_shared_region,
    number_as_published,
    number_regions,
)


def scan(array: np.ndarray, modality: str = "MR", **more) -> Scan:
    return Scan(
        array=array,
        spacing=None,
        affine=None,
        modality=modality,
        grid=Grid(array.shape[1:], None),
        **more,
    )


def body(rows: int = 60, columns: int = 50, seed: int = 0) -> np.ndarray:
    """A bright disc with structure on a dark ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    inside = ((y - rows / 2) / (0.42 * rows)) ** 2 + ((x - columns / 2) / (0.42 * columns)) ** 2 < 1
    texture = 120 + 60 * np.sin(x / 5) * np.cos(y / 6) + rng.normal(0, 4, (rows, columns))
    return np.where(inside, texture, 0).astype(np.float32)


def test_numbers_equal_the_published_ones_with_their_mistake(golden):
    arrays = np.load(golden / "superpixel-fewshot" / "superpixels.npz")
    for raw, inside, expected in zip(
        arrays["raw_felzenszwalb"],
        arrays["fg_mask"].astype(bool),
        arrays["pseudolabel"],
        strict=True,
    ):
        assert (number_as_published(raw, inside) == expected).all()
        assert raw.max() not in expected  # the empty number
        mended = number_regions(raw, inside)
        assert sorted(np.unique(mended)) == list(range(mended.max() + 1))
        for number in range(
            1, expected.max() + 1
        ):  # the same partition, but for the lost raw region 0
            here = expected == number
            if here.any():
                assert len(np.unique(mended[here])) == 1
                assert (mended == mended[here][0]).sum() == here.sum()
        assert (mended[inside] > 0).all()


def test_the_whole_map_equals_the_published_one(golden):
    arrays = np.load(golden / "superpixel-fewshot" / "superpixels.npz")
    make = SuperpixelMap(body_threshold=1e-4, least=1, official=True)
    for image, expected in zip(arrays["image"], arrays["pseudolabel"], strict=True):
        made = make(scan(image[None], intercept=0.0)).extras
        same = (made[REGIONS] > 0) == (expected > 0)
        assert same.mean() > 0.98  # here the brightest 0.5 % are cut, which moves borders a little


@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 12),
    least=st.integers(1, 40),
    full=st.booleans(),
)
def test_numbered_regions_lie_within_the_body_and_are_large_enough(seed, count, least, full):
    rng = np.random.default_rng(seed)
    raw = np.kron(rng.integers(0, count, (5, 6)), np.ones((4, 4), int)).astype(np.int32)
    inside = np.ones(raw.shape, bool) if full else rng.random(raw.shape) < 0.7
    numbered = number_regions(raw, inside, least)
    assert (numbered[~inside] == 0).all()
    sizes = np.bincount(numbered[numbered > 0])[1:]
    assert (sizes >= least).all()
    wanted = np.bincount(raw[inside], minlength=count)
    assert len(sizes) == (wanted >= least).sum()


@pytest.mark.parametrize("planes", [0, 3])
def test_every_slice_is_cut_within_its_body(planes):
    pictures = [body(seed=n) for n in range(max(planes, 1))]
    array = np.stack(pictures, -1)[None] if planes else pictures[0][None]
    if planes:
        array[..., 1] = 0  # an empty slice
    made = SuperpixelMap(min_size=60, least=30)(scan(array)).extras
    assert made[REGIONS].shape == array.shape[1:]
    assert made[COUNTS].shape == (1, max(planes, 1))
    if planes:
        assert made[COUNTS][0, 1] == 0
        assert not made[REGIONS][..., 1].any()
    assert (made[REGIONS][array[0] == 0] == 0).all()
    first = made[REGIONS][..., 0] if planes else made[REGIONS]
    assert made[COUNTS][0, 0] == first.max() > 3
    assert np.bincount(first.reshape(-1))[1:].min() >= 30


def test_a_slice_with_one_region_is_no_use_to_the_published_draw():
    flat = np.full((1, 20, 20), 5.0, np.float32)
    flat[:, 0] = 0
    for official, count in ((False, 1), (True, 0)):
        make = SuperpixelMap(min_size=400, least=1, body_threshold=1.0, sigma=0, official=official)
        assert make(scan(flat)).extras[COUNTS][0, 0] == count


def test_ct_is_cut_to_soft_tissue_and_others_lose_their_brightest():
    units = np.array([[[-1000, -125, 75, 275, 900]]], np.int16)
    np.testing.assert_allclose(as_levels(scan(units, "CT"))[0, 0], [0, 0, 127.5, 255, 255])
    other = np.arange(1000, dtype=np.float32).reshape(1, 10, 100)
    other[0, -1, -1] = 1e6
    levels = as_levels(scan(other))
    assert levels.min() == 0
    assert levels.max() == pytest.approx(255)
    assert (levels == levels.max()).sum() == 5
    assert (as_levels(scan(np.full((1, 4, 4), 7.0, np.float32))) == 0).all()


def test_the_preparation_names_what_it_does():
    assert repr(SuperpixelMap()) != repr(SuperpixelMap(min_size=100))
    assert "official=True" in repr(SuperpixelMap(official=True))


def test_a_region_is_drawn_evenly_among_those_that_both_views_keep():
    first = torch.tensor([[1, 1, 2, 2, 3, 0], [1, 1, 2, 2, 4, 4]])
    second = torch.tensor([[1, 0, 2, 2, 3, 4], [1, 0, 2, 2, 4, 4]])
    drawn = [draw_shared_region(first, second, 2, generator(n)) for n in range(300)]
    assert set(drawn) == {1, 2, 4}
    assert all(70 < drawn.count(region) < 130 for region in (1, 2, 4))
    assert draw_shared_region(first, second, 5, generator(0)) == 0
    assert draw_shared_region(first * 0, second, 1, generator(0)) == 0


def test_the_published_draw_knows_neither_the_highest_nor_what_a_view_lost():
    first = torch.tensor([[1, 2, 5]])
    second = torch.tensor([[1, 0, 5]])
    drawn = {draw_as_published(5, first, second, generator(n)) for n in range(200)}
    assert drawn == {0, 1}  # 2 is lost, 3 and 4 are empty, 5 is never asked for
