"""Angles of depth, the turn that follows from them, and where a section is tissue."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unlabeled.data.positions import TISSUE
from unlabeled.data.scan import Grid, Scan
from unlabeled.transforms.orientation import depth_angle, larger, turned
from unlabeled.transforms.tissue import TissueShare


def ramp(degrees: float, edge: int) -> np.ndarray:
    """Numbers that rise in a direction, from columns towards rows."""
    rows, columns = np.indices((edge, edge)) - (edge - 1) / 2
    way = math.radians(degrees)
    return columns * math.cos(way) + rows * math.sin(way)


def test_must_have_11_angles_match_the_published_arrays(golden):
    held = np.load(golden / "cytoarchitectonic-siamese" / "laplace_angle.npz")
    found = [depth_angle(field) for field in held["field"]]
    assert np.allclose(found, held["angle"], atol=1e-6)


def test_unsigned_maps_are_made_signed_and_flat_ones_turn_nothing():
    falling = (100 - ramp(30, 25)).astype(np.uint8)
    assert depth_angle(falling) == pytest.approx(depth_angle(falling.astype(np.int64)))
    assert depth_angle(falling) == pytest.approx(math.radians(150), abs=0.1)
    assert depth_angle(np.full((5, 5), 7)) == 0.0


@pytest.mark.parametrize("degrees", [0, 30, 90, 135, -120])
def test_after_the_turn_depth_rises_to_the_right(degrees):
    edges = (20, 31)
    whole = larger(edges)
    field = ramp(degrees, max(whole))[: whole[0], : whole[1]]
    image = torch.from_numpy(field).float()[None]
    out = turned(image, depth_angle(field), edges)[0]
    assert out.shape == edges
    assert torch.allclose(out.diff(dim=1), torch.ones(20, 30), atol=1e-3)
    assert out.diff(dim=0).abs().max() < 1e-3


def plainly_turned(image: torch.Tensor, angle: float, edges: tuple[int, int]) -> torch.Tensor:
    """`turned`, operation by operation."""
    (rows, columns), (tall, wide) = image.shape[1:], edges
    down = torch.arange(tall, dtype=torch.float32)[:, None] - (tall - 1) / 2
    right = torch.arange(wide, dtype=torch.float32)[None] - (wide - 1) / 2
    at_row = down * math.cos(angle) - right * math.sin(angle)
    at_column = down * math.sin(angle) + right * math.cos(angle)
    grid = torch.stack(
        [at_column * (2 / max(1, columns - 1)), at_row * (2 / max(1, rows - 1))], dim=-1
    )
    return F.grid_sample(image[None], grid[None], align_corners=True, padding_mode="zeros")[0]


@pytest.mark.parametrize("edges", [(20, 20), (21, 34), (7, 30)])
def test_turns_are_those_of_the_plain_form_bit_for_bit(edges):
    image = torch.randn(2, *larger(edges), generator=torch.Generator().manual_seed(0))
    for angle in np.linspace(-math.pi, math.pi, 9):
        assert torch.equal(turned(image, angle, edges), plainly_turned(image, angle, edges))


@pytest.mark.parametrize("shape", [(25, 25), (2, 3), (3, 2)])
def test_angles_are_those_of_the_mean_gradient_bit_for_bit(shape):
    draw = np.random.default_rng(0)
    for _ in range(20):
        depth = draw.integers(0, 256, shape).astype(np.uint8)
        rows, columns = (part.mean() for part in np.gradient(depth.astype(np.float64)))
        assert depth_angle(depth) == -math.atan2(rows, columns)
    assert depth_angle(np.full(shape, 0.1)) == 0.0


@pytest.mark.parametrize("edges", [(20, 20), (21, 20), (7, 30)])
def test_what_is_read_for_a_turn_has_the_patch_in_its_middle(edges):
    whole = larger(edges)
    assert min(whole) >= math.hypot(*edges)
    image = torch.randn(2, *whole, generator=torch.Generator().manual_seed(0))
    begin = [(outer - inner) // 2 for outer, inner in zip(whole, edges, strict=True)]
    middle = image[:, begin[0] : begin[0] + edges[0], begin[1] : begin[1] + edges[1]]
    assert torch.allclose(turned(image, 0.0, edges), middle, atol=1e-4)


@pytest.mark.parametrize("bright", [True, False])
def test_tissue_is_what_differs_from_the_glass(bright):
    picture = np.full((40, 50), 240 if bright else 10, np.uint8)
    picture[8:32, 16:40] = 120
    scan = Scan(
        array=picture[None], spacing=None, affine=None, modality="", grid=Grid((40, 50), None)
    )
    shares = TissueShare()(scan).extras[TISSUE][0]
    assert shares.shape == (5, 7)
    expected = np.zeros((5, 7))
    expected[1:4, 2:5] = 100
    assert np.array_equal(shares, expected)
