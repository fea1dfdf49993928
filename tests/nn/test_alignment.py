"""The shared region of two views, against a third party's boxes, grid sampling, and what a hand gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.nn.alignment import (
    align,
    cells_shared,
    corresponding_cells,
    count_found,
    shared_box,
    shared_places,
)
from unlabeled.rng import generator


def pairs(count: int, dims: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw boxes that overlap, ``count 2 dims 2``, and flips ``count 2 dims``."""
    rng = generator(seed)
    low = 20 * torch.rand(count, 2, dims, generator=rng)
    high = low + 25 + 20 * torch.rand(count, 2, dims, generator=rng)
    return torch.stack([low, high], -1), torch.rand(count, 2, dims, generator=rng) < 0.5


def by_grid_sampling(features, place, flips):
    """Mirror, cut and scale sample by sample with torch's own sampling."""
    made = []
    for one, where, mirrored in zip(features, place, flips, strict=True):
        axes = [axis for axis, flipped in enumerate(mirrored, start=1) if flipped]
        upright = one.flip(axes)
        lines = [
            2 * (low + (high - low) * (torch.arange(edge) + 0.5) / edge) - 1
            for (low, high), edge in zip(where, one.shape[1:], strict=True)
        ]
        grid = torch.stack(torch.meshgrid(*lines, indexing="ij")[::-1], -1)
        made.append(
            F.grid_sample(upright[None], grid[None], padding_mode="border", align_corners=False)[0]
        )
    return torch.stack(made)


@pytest.mark.parametrize("cells", [(5, 4), (6, 5, 2)])
def test_equals_grid_sampling(cells):
    views, flips = pairs(6, len(cells), 1)
    features = torch.randn(6, 3, *cells, generator=generator(2))
    for view in range(2):
        place = shared_places(views)[:, view]
        found = align(features, place, flips[:, view])
        expected = by_grid_sampling(features, place, flips[:, view])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_shared_regions_of_a_third_party(golden):
    """40 pairs of boxes and where they overlap, in the volume and in either view."""
    held = np.load(golden / "pgl" / "overlap_geometry.npz")
    arrays = {name: torch.from_numpy(values).double() for name, values in held.items()}
    boxes = [torch.stack([arrays[f"crop{n}_lower"], arrays[f"crop{n}_upper"]], -1) for n in (1, 2)]
    views = torch.stack(boxes, 1)
    shared = torch.stack([arrays["overlap_lower"], arrays["overlap_upper"]], -1)
    torch.testing.assert_close(shared_box(views), shared, rtol=0, atol=1e-6)
    places = shared_places(views) * arrays["view_shape"][:, None]
    for n in (1, 2):
        expected = [arrays[f"overlap_in_view{n}_{end}"] for end in ("lower", "upper")]
        found = places[:, n - 1]
        # the arrays are of single precision: 1e-6 of 96 voxels is less than they hold
        torch.testing.assert_close(found, torch.stack(expected, -1), rtol=1e-6, atol=1e-6)
    areas = (views[..., :, 1] - views[..., :, 0])[..., 1:].prod(-1)
    both = (shared[..., 1] - shared[..., 0])[:, 1:].prod(-1)
    torch.testing.assert_close(
        both / (areas.sum(1) - both), arrays["inplane_iou"], rtol=0, atol=1e-6
    )


def test_the_example_of_one_axis_by_hand():
    """Boxes [10, 130) and [50, 160), scaled to 96 voxels, in cells of 16: 2 to 6, and 0 to 4.3636."""
    views = torch.tensor([[[[10.0, 130.0]], [[50.0, 160.0]]]])
    cells = 6 * shared_places(views)[0, :, 0]
    torch.testing.assert_close(cells, torch.tensor([[2.0, 6.0], [0.0, 4.363636]]))
    counted = cells_shared(shared_places(views), (6,))
    torch.testing.assert_close(counted[0, :, 0], torch.tensor([4.0, 4.363636]))


def test_the_whole_of_an_upright_view_is_the_map():
    features = torch.randn(2, 3, 6, 5, 2)
    whole = torch.tensor([0.0, 1.0]).expand(2, 3, 2)
    found = align(features, whole, torch.zeros(2, 3, dtype=torch.bool))
    torch.testing.assert_close(found, features, rtol=0, atol=1e-5)


@given(seed=st.integers(0, 10**6))
def test_mirroring_a_map_and_saying_so_changes_nothing(seed):
    views, flips = pairs(3, 3, seed)
    features = torch.randn(3, 2, 5, 4, 3, generator=generator(seed, "map"))
    place = shared_places(views)[:, 0]
    for axis in range(3):
        other = flips[:, 0].clone()
        other[:, axis] ^= True
        found = align(features.flip(axis + 2), place, other)
        torch.testing.assert_close(found, align(features, place, flips[:, 0]), rtol=0, atol=1e-5)


def test_gradients_reach_every_cell_of_the_shared_region_and_none_beyond():
    features = torch.randn(1, 1, 8, requires_grad=True)
    place = torch.tensor([[[0.5, 1.0]]])
    align(features, place, torch.zeros(1, 1, dtype=torch.bool)).sum().backward()
    reached = features.grad[0, 0] != 0
    assert reached.tolist() == [False] * 3 + [True] * 5  # the neighbour across the border as well


def test_half_precision_comes_back_single():
    features = torch.randn(1, 2, 4, 4).bfloat16()
    whole = torch.tensor([0.0, 1.0]).expand(1, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = align(features, whole, torch.zeros(1, 2, dtype=torch.bool))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, features.float(), rtol=0, atol=1e-5)


@given(seed=st.integers(0, 10**6))
def test_corresponding_cells_lie_at_the_same_voxel(seed):
    cells = (6, 5, 3)
    views, flips = pairs(2, 3, seed)
    at, inside = corresponding_cells(views, flips, cells)
    grid = torch.stack(torch.meshgrid(*map(torch.arange, cells), indexing="ij"), -1).flatten(0, 2)
    edges = torch.tensor(cells)
    for pair in range(2):
        voxels = []
        for view, position in enumerate((grid + 0.5, at[pair] + 0.5)):
            share = position / edges
            share = torch.where(flips[pair, view], 1 - share, share)
            low, high = views[pair, view].unbind(-1)
            voxels.append(low + share * (high - low))
        torch.testing.assert_close(*voxels, rtol=0, atol=1e-3)
        low, high = views[pair, 1].unbind(-1)
        clearly = ((voxels[0] > low + 1e-3) & (voxels[0] < high - 1e-3)).all(-1)
        beyond = ((voxels[0] < low - 1e-3) | (voxels[0] > high + 1e-3)).any(-1)
        assert inside[pair][clearly].all()
        assert not inside[pair][beyond].any()


def test_found_cells_by_hand():
    """A line of five cells; the target is the query moved by one cell, so cell i lies at i - 1."""
    query = torch.eye(5)
    at = torch.arange(5.0)[:, None] - 1
    inside = torch.tensor([False, True, True, True, True])
    target = torch.eye(5).roll(-1, 1)
    found, chance = count_found(query, target, at, inside).tolist()
    assert found == 4
    assert chance == pytest.approx((2 + 3 + 3 + 3) / 5)  # cells within one of 0, 1, 2 and 3
    off = count_found(query, target.roll(3, 1), at, inside)
    assert float(off[0]) == 0
    assert float(count_found(query, target, at, inside & False)[1]) == 0
