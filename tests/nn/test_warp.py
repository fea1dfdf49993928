"""Thin-plate splines and sampling: interpolation, affine maps, side conditions, and slow references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator

from unlabeled.nn.warp import (
    condition_number,
    identity_grid,
    radial,
    sample,
    solve_spline,
    spline_grid,
    spline_matrix,
    to_voxels,
)

SPACES = {2: (9, 12), 3: (6, 7, 8)}
both = pytest.mark.parametrize("dims", [2, 3])
seeds = st.integers(0, 2**31)


def drawn(seed: int, dims: int, count: int = 9) -> torch.Tensor:
    """Points at least 0.1 apart, so that no system is nearly singular."""
    rng = np.random.default_rng(seed)
    kept: list[np.ndarray] = []
    while len(kept) < count:
        point = rng.uniform(-1, 1, dims)
        if all(np.linalg.norm(point - other) > 0.1 for other in kept):
            kept.append(point)
    return torch.from_numpy(np.stack(kept))[None]


@both
@given(seed=seeds)
def test_a_spline_meets_its_values_and_obeys_the_side_conditions(dims: int, seed: int) -> None:
    points, values = drawn(seed, dims), drawn(seed + 1, dims)
    weights = solve_spline(spline_matrix(points), values)
    count = points.shape[1]
    distance = (points[:, :, None] - points[:, None]).square().sum(-1)
    met = (
        radial(distance, dims) @ weights[:, :count]
        + points @ weights[:, count:-1]
        + weights[:, -1:]
    )
    torch.testing.assert_close(met, values, atol=1e-8, rtol=0)
    assert weights[:, :count].sum(1).abs().max() < 1e-8
    assert (points.transpose(1, 2) @ weights[:, :count]).abs().max() < 1e-8


@both
@given(seed=seeds)
def test_an_affine_map_needs_no_kernel(dims: int, seed: int) -> None:
    points = drawn(seed, dims)
    rng = torch.Generator().manual_seed(seed)
    linear = torch.randn(dims, dims, generator=rng, dtype=torch.float64)
    offset = torch.randn(dims, generator=rng, dtype=torch.float64)
    weights = solve_spline(spline_matrix(points), points @ linear + offset)
    assert weights[:, : points.shape[1]].abs().max() < 1e-6
    grid = spline_grid(weights, points, SPACES[dims])
    expected = identity_grid(SPACES[dims], dtype=torch.float64) @ linear + offset
    torch.testing.assert_close(grid[0], expected, atol=1e-6, rtol=0)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_that_stay_give_the_image_back(dims: int, dtype: torch.dtype) -> None:
    points = drawn(0, dims).to(dtype)
    grid = spline_grid(solve_spline(spline_matrix(points), points), points, SPACES[dims])
    torch.testing.assert_close(grid[0], identity_grid(SPACES[dims], dtype=dtype), atol=1e-5, rtol=0)
    image = torch.rand(1, 2, *SPACES[dims], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sample(image, grid).float(), image, atol=1e-4, rtol=0)


@both
def test_the_grid_equals_a_loop_over_voxels(dims: int) -> None:
    points, values = drawn(3, dims, 6), drawn(4, dims, 6)
    weights = solve_spline(spline_matrix(points), values)
    space = (4, 5, 3)[:dims]
    grid = spline_grid(weights, points, space)
    for voxel in np.ndindex(*space):
        at = torch.tensor(
            [2 * i / (edge - 1) - 1 for i, edge in zip(voxel, space, strict=True)][::-1],
            dtype=torch.float64,
        )
        parts = [*radial((points[0] - at).square().sum(-1), dims).tolist(), *at.tolist(), 1.0]
        by_hand = torch.tensor(parts, dtype=torch.float64) @ weights[0]
        torch.testing.assert_close(grid[0][voxel], by_hand, atol=1e-10, rtol=0)


@both
def test_the_spline_is_scipys(dims: int) -> None:
    """Their kernels are not smoothed, so the two agree where points lie well apart."""
    points, values = drawn(5, dims), drawn(6, dims)
    kernel = "thin_plate_spline" if dims == 2 else "linear"
    theirs = RBFInterpolator(points[0].numpy(), values[0].numpy(), kernel=kernel, degree=1)
    grid = spline_grid(solve_spline(spline_matrix(points), values), points, SPACES[dims])
    expected = theirs(identity_grid(SPACES[dims], dtype=torch.float64).flatten(0, -2).numpy())
    assert np.abs(grid[0].flatten(0, -2).numpy() - expected).max() < (2e-3 if dims == 2 else 2e-2)


def test_the_kernel_by_hand() -> None:
    assert float(radial(torch.tensor(0.25), 2)) == pytest.approx(-0.17324, abs=1e-5)
    assert float(radial(torch.tensor(0.0), 2)) == 0
    assert float(radial(torch.tensor(0.25), 3)) == pytest.approx(-0.5, abs=2e-4)
    squared = torch.zeros(1, requires_grad=True)
    for dims in (2, 3):
        (slope,) = torch.autograd.grad(radial(squared, dims).sum(), squared)
        assert slope.isfinite()


@both
def test_a_ridge_keeps_points_that_meet_solvable(dims: int) -> None:
    points = drawn(7, dims)
    points[:, 1] = points[:, 0]
    values = drawn(8, dims)
    free = solve_spline(spline_matrix(points), values)
    assert not free.isfinite().all() or free.abs().max() > 1e6
    held = solve_spline(spline_matrix(points, ridge=1e-5), values)
    assert held.isfinite().all()
    assert condition_number(spline_matrix(points, ridge=1e-5)).isfinite().all()
    # both points take the mean of their values
    count = points.shape[1]
    distance = (points[:, :, None] - points[:, None]).square().sum(-1)
    met = radial(distance, dims) @ held[:, :count] + points @ held[:, count:-1] + held[:, -1:]
    torch.testing.assert_close(met[0, 0], values[0, :2].mean(0), atol=1e-2, rtol=0)


@both
def test_a_ridge_is_missed_by_so_many_weights(dims: int) -> None:
    points, values = drawn(9, dims), drawn(10, dims)
    weights = solve_spline(spline_matrix(points, ridge=0.01), values)
    count = points.shape[1]
    distance = (points[:, :, None] - points[:, None]).square().sum(-1)
    met = radial(distance, dims) @ weights[:, :count]
    met = met + points @ weights[:, count:-1] + weights[:, -1:]
    torch.testing.assert_close(met + 0.01 * weights[:, :count], values, atol=1e-8, rtol=0)


@both
def test_the_condition_number_is_numpys_and_has_a_gradient(dims: int) -> None:
    points = drawn(11, dims).requires_grad_()
    kappa = condition_number(spline_matrix(points))
    expected = np.linalg.cond(spline_matrix(points).detach()[0].numpy(), "fro")
    assert float(kappa.detach()) == pytest.approx(expected, rel=1e-9)
    assert torch.autograd.gradcheck(
        lambda at: condition_number(spline_matrix(at)).log(), points, atol=1e-4
    )


@both
def test_gradients_of_the_warp_are_those_of_small_changes(dims: int) -> None:
    points, values = drawn(12, dims, 6), drawn(13, dims, 6)

    def grid(at: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        return spline_grid(solve_spline(spline_matrix(at), to), at, (3, 4, 3)[:dims])

    assert torch.autograd.gradcheck(grid, (points.requires_grad_(), values.requires_grad_()))


def test_sampling_moves_by_whole_voxels() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    shift = torch.tensor([2 / 3, 0.0])  # one column
    grid = identity_grid((3, 4))[None] + shift
    zeros = sample(image, grid)
    torch.testing.assert_close(zeros[..., :3], image[..., 1:])
    assert (zeros[..., 3] == 0).all()
    repeated = sample(image, grid, border=True)
    torch.testing.assert_close(repeated[..., 3], image[..., 3])


def test_without_alignment_even_the_identity_blurs() -> None:
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    grid = identity_grid((8, 8))[None]
    assert (sample(image, grid) - image).abs().max() < 1e-5
    assert (sample(image, grid, aligned=False) - image).abs().max() > 0.1


@given(rows=st.integers(2, 30), columns=st.integers(2, 30))
def test_positions_turn_into_the_voxels_that_they_are_of(rows: int, columns: int) -> None:
    found = to_voxels(identity_grid((rows, columns), dtype=torch.float64), (rows, columns))
    index = torch.stack(
        torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1
    )
    torch.testing.assert_close(found, index.double(), atol=1e-9, rtol=0)
    assert math.prod(found.shape[:2]) == rows * columns
