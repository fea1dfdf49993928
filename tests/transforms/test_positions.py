"""Nine boxes keep their size, their places and their numbers, and go with the image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.data.hearts import Cross
from unlabeled.rng import generator
from unlabeled.transforms.positions import NineBoxes, TurnZoom, coloured, ruled


def cross(row: float, column: float, degrees: float = 0.0, between: float = 90.0) -> Cross:
    angles = (math.radians(degrees), math.radians(degrees + between))
    return Cross(np.array([row, column]), np.array([[math.cos(a), math.sin(a)] for a in angles]))


def test_boxes_lie_in_order_along_the_lines() -> None:
    """1 at the crossing, 2 and 3 along the first line, 4 and 5 against it, 6 to 9 likewise along the second."""
    boxes = NineBoxes(10.0, 18.0)(cross(100, 80), (1.0, 1.0), (200, 200))
    steps = [(0, 0), (1, 0), (2, 0), (-1, 0), (-2, 0), (0, 1), (0, 2), (0, -1), (0, -2)]
    for number, (down, right) in enumerate(steps, start=1):
        pixels = (boxes == number).nonzero().double()
        assert len(pixels) == 100  # 10 x 10 mm
        middle = torch.tensor([100.0 + 18 * down, 80.0 + 18 * right])
        assert (pixels.mean(0) - middle).abs().max() <= 0.5
    assert boxes.unique().tolist() == list(range(10))


@given(degrees=st.floats(0, 360), rows=st.floats(0.4, 3.0), columns=st.floats(0.4, 3.0))
def test_boxes_keep_their_size_in_mm(degrees, rows, columns) -> None:
    """Whatever the spacing along either axis, a box covers its 20 x 20 mm, and lies as far out."""
    spacing = (rows, columns)
    space = (round(240 / rows), round(240 / columns))
    centre = np.array(space) / 2
    made = cross(*centre, degrees)
    boxes = NineBoxes(20.0, 45.0)(made, spacing, space)
    edge = 2 * 20 * max(spacing)  # pixels that the border cuts through [mm^2]
    for number, times in ((1, 0), (2, 1), (4, -1)):
        pixels = (boxes == number).nonzero().double().numpy()
        assert abs(len(pixels) * rows * columns - 400) <= edge + 4
        place = (pixels.mean(0) - centre) * spacing
        np.testing.assert_allclose(place, 45 * times * made.ways[0], atol=max(spacing))


def test_swapped_axes_transpose_the_map() -> None:
    one = cross(40, 60, 25.0, 80.0)
    other = Cross(one.centre[::-1].copy(), one.ways[:, ::-1].copy())
    boxes = NineBoxes(9.0, 18.0)
    first, second = boxes(one, (1.5, 2.0), (90, 110)), boxes(other, (2.0, 1.5), (110, 90))
    assert (second != first.T).float().mean() < 2e-3  # a pixel on a border may go to either side


def test_what_lies_outside_is_dropped_and_earlier_boxes_stay() -> None:
    boxes = NineBoxes(10.0, 18.0)(cross(2, 2), (1.0, 1.0), (60, 60))
    assert set(boxes.unique().tolist()) == {0, 1, 2, 3, 6, 7}
    crowded = NineBoxes(20.0, 12.0)(cross(50, 50), (1.0, 1.0), (100, 100))
    assert (crowded == 1).sum() == 400  # the next ones, which overlap it, leave it whole
    assert (crowded == 2).sum() < 400


def test_no_magnitude_changes_nothing() -> None:
    image, labels = torch.rand(1, 33, 40), torch.randint(0, 10, (33, 40))
    warp = TurnZoom(0.0, 0.0).draw((33, 40), (1.3, 2.0), generator(0, 1))
    moved, carried = warp.nearest(image, labels)
    assert torch.equal(moved, image)
    assert torch.equal(carried, labels)


@given(seed=st.integers(0, 2**31), rows=st.floats(0.8, 2.0))
def test_image_and_boxes_are_warped_by_the_same_matrix(seed, rows) -> None:
    """Where the image shows the boxes themselves, both agree but at borders; and the lines follow."""
    spacing = (rows, 1.2)
    boxes = NineBoxes(14.0, 20.0)(cross(45, 45, 30), spacing, (90, 90))
    warp = TurnZoom().draw((90, 90), spacing, generator(seed))
    image, carried = warp.nearest((boxes > 0).float()[None], boxes)
    inside = image[0]
    sure = (inside < 1e-6) | (inside > 1 - 1e-6)
    assert torch.equal((carried > 0)[sure], (inside > 0.5)[sure])
    assert sure.float().mean() > 0.5
    place = warp.matrix @ np.array([45.0, 45.0, 1.0])
    pixels = (carried == 1).nonzero().double()
    if len(pixels) > 20 and (place[:2] > 15).all() and (place[:2] < 75).all():
        np.testing.assert_allclose(pixels.mean(0), place[1::-1], atol=1.0)


def test_draws_are_clipped_and_turn_in_mm() -> None:
    """Angles stay below 30 degrees, magnifications between 0.4 and 1.6, and squares in mm stay squares."""
    spacing = np.array([2.0, 0.5])
    angles, sizes = [], []
    for seed in range(400):
        matrix = TurnZoom().draw((64, 64), spacing, generator(seed)).matrix[:2, :2]
        edges = spacing[::-1]
        turned = matrix * edges[:, None] / edges[None, :]
        size = math.sqrt(np.linalg.det(turned))
        np.testing.assert_allclose(turned.T @ turned, size**2 * np.eye(2), atol=1e-9)
        angles.append(math.degrees(math.asin(turned[0, 1] / size)))
        sizes.append(size)
    assert max(map(abs, angles)) <= 30 + 1e-6
    assert min(sizes) >= 0.4 - 1e-9
    assert max(sizes) <= 1.6 + 1e-9
    assert np.std(angles) == pytest.approx(10, abs=1)
    assert np.std(sizes) == pytest.approx(0.2, abs=0.02)


def test_pictures_show_boxes_and_lines() -> None:
    image, boxes = torch.zeros(2, 1, 20, 20), torch.zeros(2, 20, 20, dtype=torch.int64)
    boxes[1, 4, 4] = 9
    shown = coloured(image, boxes)
    assert shown.shape == (2, 3, 20, 20)
    assert not shown[0].any()
    assert (shown[1].amax(0) > 0).nonzero().tolist() == [[4, 4]]
    lines = torch.tensor([[[[2.0, 2], [2, 17]], [[2, 2], [17, 2]]]])
    drawn = ruled(image[:1], lines)[0]
    assert drawn[0, 2, 10] > drawn[2, 2, 10]  # the first is red
    assert drawn[2, 10, 2] > drawn[0, 10, 2]
    assert not drawn[:, 10, 10].any()
