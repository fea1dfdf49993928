"""Regions that may be blanked: supervoxels of a scan, columns of a grid, and which of them are large enough."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.data.scan import Grid, Scan
from unlabeled.errors import ScanError
from unlabeled.transforms.supervoxel_maps import (
    SUPERVOXELS,
    SupervoxelMap,
    column_grid,
    find_regions,
)


def scan(array: np.ndarray, modality: str = "MR") -> Scan:
    return Scan(
        array=array,
        spacing=(1.0,) * 3,
        affine=np.eye(4),
        modality=modality,
        grid=Grid(array.shape[1:], np.eye(4)),
    )


def halves(low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """A volume dark to the left and bright to the right, by another border in each of two channels."""
    array = np.full((2, 20, 20, 20), low, np.float32)
    array[0, 9:], array[1, 12:] = high, high
    return array


@pytest.mark.parametrize("channel", [0, 1])
def test_supervoxels_follow_borders_of_the_chosen_channel_and_begin_at_1(channel):
    array = halves()
    made = SupervoxelMap(voxels=500, compactness=0.15, channel=channel)(scan(array))
    labels = made.extras[SUPERVOXELS]
    assert labels.shape == (20, 20, 20)
    assert labels.min() == 1
    assert 8 <= len(np.unique(labels)) <= 27
    mixed = [len(np.unique(array[channel][labels == one])) for one in np.unique(labels)]
    other = [len(np.unique(array[1 - channel][labels == one])) for one in np.unique(labels)]
    assert set(mixed) == {1}
    assert 2 in other


def test_the_range_of_intensities_changes_nothing():
    plain, wide = (SupervoxelMap(voxels=500)(scan(halves(*ends))) for ends in ((0, 1), (-40, 900)))
    assert np.array_equal(plain.extras[SUPERVOXELS], wide.extras[SUPERVOXELS])


def test_ct_is_clipped_to_its_window_before():
    """A metal implant does not flatten the contrast of all tissue."""
    array = halves(-80, 80)
    metal = array.copy()
    metal[0, 0, 0, 0] = 30_000
    clipped, raw = (SupervoxelMap(voxels=500)(scan(metal, kind)) for kind in ("CT", "MR"))
    for made, follows in ((clipped, True), (raw, False)):
        labels = made.extras[SUPERVOXELS]
        mixed = {len(np.unique(array[0][labels == one])) for one in np.unique(labels)}
        assert (mixed == {1}) == follows


def test_a_channel_that_is_not_there_is_refused():
    with pytest.raises(ScanError, match="has 2 channels, and supervoxels are cut on channel 2"):
        SupervoxelMap(voxels=500, channel=2)(scan(halves()))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 40))
def test_columns_are_constant_along_slices_and_no_wider_than_their_side(rows, columns, side):
    grid = column_grid((rows, columns, 3), side)
    assert (grid == grid[..., :1]).all()
    assert np.array_equal(np.unique(grid), np.arange(1, grid.max() + 1))
    for region in find_regions(grid, 0):
        assert all(0 < stop - first <= side for first, stop in region.box[:2])
        assert region.box[2] == (0, 3)


@given(st.integers(0, 2**31), st.integers(0, 12))
def test_regions_are_those_that_counting_finds(seed, least):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 9, (6, 5, 4)).astype(np.int16)
    mask = rng.random((6, 5, 4)) < 0.7
    window = (slice(1, 3), slice(2, 4))
    for cut, where in ((None, None), (mask, None), (None, window), (mask, window)):
        kept = labels if cut is None else labels * cut
        found = find_regions(labels, least, mask=cut, window=where)
        want = [
            one
            for one in range(1, 9)
            if (kept == one).sum() > least and (where is None or (kept[where] == one).any())
        ]
        assert [region.label for region in found] == want
        for region in found:
            places = np.argwhere(kept == region.label)
            assert region.box == tuple(zip(places.min(0), places.max(0) + 1, strict=True))
