"""Augmentation: identity, geometry shared by image and mask, millimetres, determinism."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.transfer.augment import Augmentation, Move, _matrix, cut, recolour

NEVER = {
    f"p_{name}": 0.0 for name in ("flip", "rotate", "scale", "gain", "offset", "gamma", "noise")
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_probability_nothing_changes(
    balls: Callable[..., Path], prepared: Callable[..., tuple]
) -> None:
    (record,) = prepared(balls(1))
    move = Augmentation(**NEVER).draw((1.0, 1.0, 1.0), generator(0))
    image, mask = cut(record, (2, 3, 1), (8, 8, 8), move, masked=True)
    assert move == Move()
    assert torch.equal(recolour(image, move, generator(0)), record.patch((2, 3, 1), (8, 8, 8)))
    assert torch.equal(mask, record.mask_patch((2, 3, 1), (8, 8, 8)))


def test_the_identity_matrix_reads_the_same_voxels(
    balls: Callable[..., Path], prepared: Callable[..., tuple]
) -> None:
    (record,) = prepared(balls(1))
    still = Move(matrix=torch.eye(3, dtype=torch.float64))
    image, mask = cut(record, (-3, 4, 9), (12, 9, 14), still, masked=True)
    assert torch.allclose(image, record.patch((-3, 4, 9), (12, 9, 14)), atol=1e-4)
    assert torch.equal(mask, record.mask_patch((-3, 4, 9), (12, 9, 14)))


@given(seed=st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_image_and_mask_move_together(seed: int) -> None:
    space = torch.stack(torch.meshgrid(*[torch.arange(20)] * 3, indexing="ij"))

    class Positions:
        """A scan whose voxels hold their first coordinate, and so do its labels."""

        def patch(self, start: tuple[int, ...], size: tuple[int, ...]) -> torch.Tensor:
            return self.mask_patch(start, size)[None].float()

        def mask_patch(self, start: tuple[int, ...], size: tuple[int, ...]) -> torch.Tensor:
            line = torch.arange(start[0], start[0] + size[0]) + 100
            return line[:, None, None].expand(size).clone()

    always = Augmentation(**{**NEVER, "p_flip": 0.5, "p_rotate": 1.0, "p_scale": 1.0})
    move = always.draw((1.0, 1.0, 2.0), generator(seed))
    image, mask = cut(Positions(), (4, 4, 4), (10, 11, 12), move, masked=True)
    assert image.shape == (1, 10, 11, 12)
    assert (image[0] - mask).abs().max() <= 0.51
    assert space.shape[0] == 3


def test_a_quarter_turn_of_an_anisotropic_voxel_is_a_turn_in_millimetres() -> None:
    matrix = _matrix((1.0, 2.0), [90.0], 1.0)
    # one voxel along the second axis is 2 mm, so two voxels along the first
    assert torch.allclose(
        matrix @ torch.tensor([0.0, 1.0]).double(), torch.tensor([-2.0, 0.0]).double()
    )


def test_zooming_in_shows_less_of_the_scan() -> None:
    assert torch.allclose(_matrix((1.0, 1.0, 1.0), None, 2.0), torch.eye(3).double() / 2)


def test_thick_slices_turn_and_stretch_in_plane_alone() -> None:
    matrix = _matrix((1.0, 1.0, 5.0), [10.0, 10.0, 10.0], 1.25)
    assert torch.allclose(matrix[2], torch.tensor([0.0, 0.0, 1.0]).double())
    assert torch.allclose(matrix[:, 2], torch.tensor([0.0, 0.0, 1.0]).double())
    assert matrix[0, 1].abs() > 0.1


def test_flips_reverse_image_and_mask(
    balls: Callable[..., Path], prepared: Callable[..., tuple]
) -> None:
    (record,) = prepared(balls(1))
    image, mask = cut(record, (0, 0, 0), (10, 10, 10), Move(flips=(0, 2)), masked=True)
    assert torch.equal(image, record.patch((0, 0, 0), (10, 10, 10)).flip(1, 3))
    assert torch.equal(mask, record.mask_patch((0, 0, 0), (10, 10, 10)).flip(0, 2))


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_colours_keep_shape_and_order_but_for_noise(seed: int) -> None:
    image = torch.rand(1, 6, 6, generator=generator(seed))
    every = {**NEVER, "p_gain": 1.0, "p_offset": 1.0, "p_gamma": 1.0}
    move = Augmentation(**every).draw((1.0, 1.0), generator(seed))
    coloured = recolour(image, move, generator(seed))
    assert torch.equal(coloured.flatten().argsort(), image.flatten().argsort())
    assert torch.isfinite(coloured).all()
    constant = recolour(torch.zeros(1, 4, 4), move, generator(seed))
    assert torch.isfinite(constant).all()


def test_the_same_generator_gives_the_same_move() -> None:
    one = Augmentation().draw((1.0, 1.0, 1.0), generator(7))
    other = Augmentation().draw((1.0, 1.0, 1.0), generator(7))
    assert str(one) == str(other)


@pytest.mark.parametrize(("axes", "allowed"), [((), set()), ((0,), {0}), (None, {0, 1, 2})])
def test_only_allowed_axes_are_reversed(axes: tuple[int, ...] | None, allowed: set[int]) -> None:
    drawn = Augmentation(flip_axes=axes)
    seen = {axis for seed in range(40) for axis in drawn.draw((1, 1, 1), generator(seed)).flips}
    assert seen == allowed
