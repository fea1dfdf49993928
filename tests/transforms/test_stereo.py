"""Stereo pairs: what is kept of them, mirrored and coloured alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.data.scan import Grid, Scan
from unlabeled.errors import ScanError
from unlabeled.rng import generator
from unlabeled.transforms.stereo import VIEWS, KeepViews, SharedColour, StereoFlip, flip_views


def scan(array: np.ndarray) -> Scan:
    grid = Grid(array.shape[1:], None)
    return Scan(array=array, spacing=None, affine=None, modality="", grid=grid)


def levels(channels: int, rows: int = 6, columns: int = 8) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 256, (channels, rows, columns), np.uint8)


@given(seed=st.integers(0, 2**31), count=st.sampled_from([3, 6]), columns=st.integers(1, 9))
def test_mirroring_twice_gives_the_pair_back(seed, count, columns):
    views = torch.rand(count, 4, columns, generator=generator(seed))
    assert torch.equal(flip_views(flip_views(views)), views)
    first, last = views[:3], views[-3:]
    assert torch.equal(flip_views(views)[:3], last.flip(-1))
    assert torch.equal(flip_views(views)[-3:], first.flip(-1))


def test_as_many_are_mirrored_as_asked():
    views = torch.rand(6, 2, 3, generator=generator(0))
    for p in (0.0, 0.3, 1.0):
        flipped = [
            not torch.equal(StereoFlip(p)(views, generator(seed)), views) for seed in range(400)
        ]
        assert abs(np.mean(flipped) - p) < 0.08


@given(seed=st.integers(0, 2**31), p=st.sampled_from([0.0, 1.0]))
def test_colours_change_both_pictures_by_the_same_map_and_stay_in_range(seed, p):
    left = torch.rand(3, 5, 4, generator=generator(seed))
    changed = SharedColour(p)(torch.cat([left, left.flip(-1)]), generator(seed))
    torch.testing.assert_close(changed[:3], changed[3:].flip(-1), atol=1e-6, rtol=0)
    assert 0 <= changed.min() <= changed.max() <= 1
    assert torch.equal(changed[:3], left) == (p == 0)


def test_gamma_brightness_and_colours_lie_in_their_ranges():
    """Of a picture of one level, what comes out tells the product of the factors."""
    grey = torch.full((3, 1, 1), 0.25)
    found = torch.stack([SharedColour(1.0)(grey, generator(seed)) for seed in range(300)])
    assert found.min() >= 0.25**1.2 * 0.5 * 0.8
    assert found.max() <= 0.25**0.8 * 2.0 * 1.2
    assert found.min() < 0.25 * 0.55
    assert found.max() > 0.25 * 1.9
    assert (found.flatten(1).std(1) > 1e-4).all(), "colours differ"


def test_pictures_are_kept_in_the_size_of_the_networks_on_one_scale():
    pair = levels(6)
    kept = KeepViews(6, 8)(scan(pair)).extras[VIEWS]
    assert np.array_equal(kept, pair)
    assert KeepViews(12, 4)(scan(pair)).extras[VIEWS].shape == (6, 12, 4)
    alone = KeepViews(6, 8)(scan(pair[:3])).extras[VIEWS]
    assert np.array_equal(alone, pair[:3])
    dark = np.concatenate([pair[:3] // 2, pair[3:]])
    assert np.array_equal(KeepViews(6, 8)(scan(dark)).extras[VIEWS][3:], pair[3:])


def test_grey_pictures_have_three_equal_colours():
    for count, wanted in ((1, 3), (2, 6)):
        grey = levels(count)
        kept = KeepViews(6, 8)(scan(grey)).extras[VIEWS]
        assert kept.shape == (wanted, 6, 8)
        assert np.array_equal(kept, grey.repeat(3, axis=0))


@pytest.mark.parametrize("array", [levels(4), np.zeros((1, 4, 4, 4), np.uint8)])
def test_what_is_neither_a_picture_nor_a_pair_is_refused(array):
    with pytest.raises(ScanError, match="neither a picture nor a stereo pair") as refusal:
        KeepViews(8, 8)(scan(array))
    assert "left.png;right.png" in refusal.value.remedy
