"""Warps: equal to the published ones, labels along with the image, and the identity where nothing is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, map_coordinates

from unlabeled.rng import generator
from unlabeled.transforms.warping import (
    RandomWarp,
    Warp,
    bend,
    rotating,
    shearing,
    shifting,
    zooming,
)

STILL = RandomWarp(rotation=0, shift=0, shear=0, zoom=(1, 1), elastic=0)


def picture(rows: int = 24, columns: int = 30, channels: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(seed).random((channels, rows, columns)).astype(np.float32)
    )


def stripes(rows: int = 24, columns: int = 30, count: int = 4, seed: int = 0) -> torch.Tensor:
    """Labels 0 to count - 1 in blocks."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, count, (rows // 4 + 1, columns // 4 + 1))
    return torch.from_numpy(np.kron(coarse, np.ones((4, 4), int))[:rows, :columns].copy())


@pytest.mark.parametrize("name", ["rot5", "shift", "shear5", "zoom1p2"])
def test_affine_warps_equal_the_published_ones(golden, name):
    arrays = np.load(golden / "superpixel-fewshot" / "transforms.npz")
    image = torch.from_numpy(arrays["image"])[None]
    made = {
        "rot5": rotating(5, (96, 96)),
        "shift": shifting(3, -4),
        "shear5": shearing(5),
        "zoom1p2": zooming(1.2, (96, 96)),
    }[name]
    np.testing.assert_allclose(made, arrays[f"M_{name}"], rtol=0, atol=1e-5)
    warped, _ = Warp(made)(image, torch.zeros(192, 192, dtype=torch.int64))
    assert np.abs(warped[0].numpy() - arrays[f"warp_{name}"]).max() < 0.01


def test_bends_equal_the_published_ones(golden):
    arrays = np.load(golden / "superpixel-fewshot" / "transforms.npz")
    random = np.random.RandomState(7)
    across, down = (random.rand(192, 192) * 2 - 1 for _ in range(2))
    move = bend(np.stack([down, across]), 10.0, 5.0)
    assert np.abs(move[0] - arrays["elastic_dy"]).max() < 1e-5
    assert np.abs(move[1] - arrays["elastic_dx"]).max() < 1e-5
    image = torch.from_numpy(arrays["image"])[None]
    warped, _ = Warp(np.eye(3), move)(image, torch.zeros(192, 192, dtype=torch.int64))
    assert np.abs(warped[0].numpy() - arrays["elastic_seed7"]).max() < 0.05


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    width=st.floats(0, 12),
)
def test_bends_are_blurred_as_scipy_does(seed, rows, columns, width):
    noise = np.random.default_rng(seed).uniform(-1, 1, (2, rows, columns)).astype(np.float32)
    expected = [gaussian_filter(each, width, mode="mirror", truncate=2.0) for each in noise]
    np.testing.assert_allclose(bend(noise, 3.0, width), 3 * np.stack(expected), atol=1e-5)


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_without_any_range_nothing_changes(seed, rows, columns):
    image, labels = picture(rows, columns), stripes(rows, columns)
    warped, carried = STILL(image, labels, generator(seed))
    assert torch.equal(warped, image)
    assert torch.equal(carried, labels)


@given(seed=st.integers(0, 10_000))
def test_labels_are_their_own_masks_interpolated_and_rounded(seed):
    """What the published code does, label by label: one-hot channels go through the image's warp."""
    labels = stripes(seed=seed)
    warp = RandomWarp(elastic=40).draw((24, 30), generator(seed))
    _, carried = warp(picture(), labels)
    for label in range(1, 4):
        mask, _ = warp((labels == label).float()[None], labels)
        expected = mask[0] > 0.5
        unsure = (mask[0] - 0.5).abs() < 1e-4
        assert ((carried == label) == expected)[~unsure].all()


@given(seed=st.integers(0, 10_000))
def test_a_warp_reads_where_it_says_by_linear_interpolation(seed):
    image = picture(channels=2, seed=seed)
    warp = RandomWarp(rotation=30, elastic=60).draw((24, 30), generator(seed))
    warped, _ = warp(image, stripes())
    for channel, found in zip(image.numpy(), warped.numpy(), strict=True):
        expected = map_coordinates(channel, warp.places((24, 30)), order=1, mode="grid-constant")
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_ranges_are_kept_and_both_ends_are_reached():
    maps = [RandomWarp(elastic=0).draw((100, 60), generator(n)).matrix for n in range(400)]
    areas = np.array([np.linalg.det(each) for each in maps]) ** 0.5
    assert 0.9 * np.cos(np.radians(5)) < areas.min() < 0.92
    assert 1.18 < areas.max() <= 1.2
    turns = RandomWarp(shift=0, shear=0, zoom=(1, 1), elastic=0)
    angles = [
        np.degrees(np.arcsin(turns.draw((100, 60), generator(n)).matrix[0, 1])) for n in range(400)
    ]
    assert -5 <= min(angles) < -4.8
    assert 4.8 < max(angles) <= 5
    moves = RandomWarp(rotation=0, shear=0, zoom=(1, 1), elastic=0)
    shifts = np.array([moves.draw((100, 60), generator(n)).matrix[:2, 2] for n in range(400)])
    assert (np.abs(shifts) <= 5).all()
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.2  # both axes are drawn


def test_rotation_and_zoom_keep_the_middle_of_any_picture():
    for made in (rotating(17, (30, 50)), zooming(1.1, (30, 50))):
        np.testing.assert_allclose(made @ [30, 50, 1], [30, 50, 1])


def test_displacements_are_smooth_and_as_long_as_published():
    """Factor 10 and blur 5 move a pixel by about half a pixel, three at most."""
    move = RandomWarp().draw((256, 256), generator(0)).move
    assert move is not None
    assert 0.2 < move.std() < 0.6
    assert np.abs(move).max() < 4
    assert np.abs(np.diff(move)).max() < 0.5
    assert abs(np.corrcoef(move[0].ravel(), move[1].ravel())[0, 1]) < 0.2


def test_the_same_generator_gives_the_same_warp():
    first, again = (RandomWarp()(picture(), stripes(), generator(3)) for _ in range(2))
    other = RandomWarp()(picture(), stripes(), generator(4))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])


def test_an_image_without_labels_is_warped_alike():
    image = picture(channels=2)
    warp = RandomWarp(elastic=3.0).draw(image.shape[1:], generator(3))
    assert torch.equal(warp.image(image), warp(image, stripes())[0])
