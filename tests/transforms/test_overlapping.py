"""Two boxes overlap as much as they must, and a view shows what its box holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.rng import generator
from unlabeled.transforms.overlapping import Box, OverlappingBoxes, make_view

edges = st.integers(6, 60)


def iou(first: Box, second: Box) -> float:
    """Intersection over union in the plane of the first two axes."""
    both = 1
    for axis in range(2):
        begin = max(first.start[axis], second.start[axis])
        both *= max(0, min(first.stop[axis], second.stop[axis]) - begin)
    areas = sum(box.edges[0] * box.edges[1] for box in (first, second))
    return both / (areas - both)


@given(
    seed=st.integers(0, 10**6),
    space=st.tuples(edges, edges, edges),
    size=st.tuples(edges, edges, edges),
    least=st.sampled_from([0.0, 0.1, 0.4]),
)
def test_boxes_lie_in_the_scan_and_overlap_enough(seed, space, size, least):
    first, second = OverlappingBoxes(size, least=least).draw(space, generator(seed))
    for box in (first, second):
        for start, stop, extent in zip(*box, space, strict=True):
            assert 0 <= start < stop <= extent
        for edge, asked, extent in zip(box.edges[:2], size, space, strict=False):
            assert min(extent, round(1.1 * asked)) <= edge <= min(extent, round(1.4 * asked))
        assert box.edges[2] == min(size[2], space[2])
    assert first.start[2] == second.start[2]
    assert iou(first, second) >= least - 1e-9
    assert iou(first, second) > 0


def test_second_boxes_are_drawn_evenly_among_all_that_overlap_enough():
    """Numbers in the middle of equal parts of [0, 1] name every allowed place once."""
    boxes, space, shape = OverlappingBoxes((8, 8), least=0.25), (30, 21), (9, 10)
    first = Box((12, 3), (22, 12))
    allowed = {
        (row, column)
        for row in range(space[0] - shape[0] + 1)
        for column in range(space[1] - shape[1] + 1)
        if iou(first, Box((row, column), (row + shape[0], column + shape[1]))) >= 0.25
    }
    count = len(allowed)
    drawn = [boxes._beside(first, shape, space, (place + 0.5) / count) for place in range(count)]
    assert len(drawn) == len(set(drawn)) == count > 50
    assert set(drawn) == allowed


def test_an_overlap_that_rounded_edges_cannot_reach_is_as_large_as_can_be():
    boxes = OverlappingBoxes((3, 3, 3), scale=(1.0, 2.0), least=0.9)
    found = [iou(*boxes.draw((20, 20, 20), generator(seed))) for seed in range(200)]
    assert min(found) < 0.9
    for seed in range(200):
        first, second = boxes.draw((20, 20, 20), generator(seed))
        shared = [min(a, b) for a, b in zip(first.edges[:2], second.edges[:2], strict=True)]
        areas = sum(box.edges[0] * box.edges[1] for box in (first, second))
        best = shared[0] * shared[1] / (areas - shared[0] * shared[1])
        assert iou(first, second) >= min(0.9, best) - 1e-9


def test_overlaps_are_of_all_sizes_and_boxes_everywhere():
    boxes = OverlappingBoxes((32, 32, 8))
    drawn = [boxes.draw((90, 100, 20), generator(seed)) for seed in range(500)]
    shares = np.array([iou(*pair) for pair in drawn])
    assert shares.min() < 0.15
    assert shares.max() > 0.6
    starts = np.array([box.start for pair in drawn for box in pair])
    stops = np.array([box.stop for pair in drawn for box in pair])
    assert starts.min(0).tolist() == [0, 0, 0]
    assert (stops.max(0) >= [89, 99, 20]).all()


@given(
    old=st.tuples(st.integers(2, 30), st.integers(2, 30), st.integers(2, 30)),
    new=st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30)),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_a_view_reads_its_box_at_the_middle_of_each_of_its_voxels(old, new, flips):
    """Every axis of a volume that holds its own positions, to which the view adds no other."""
    lines = [torch.arange(edge, dtype=torch.float32) for edge in old]
    held = torch.stack(torch.meshgrid(*lines, indexing="ij"))
    view = make_view(held, new, flips)
    assert view.shape[1:] == new
    for axis, (before, after) in enumerate(zip(old, new, strict=True)):
        at = (torch.arange(after) + 0.5) * before / after - 0.5
        at = at.clamp(0, before - 1)
        line = at.flip(0) if flips[axis] else at
        shown = view[axis].movedim(axis, -1)
        torch.testing.assert_close(shown, line.expand_as(shown), rtol=0, atol=1e-4)


def test_pictures_are_scaled_alike():
    picture = torch.rand(2, 9, 7)
    view = make_view(picture, (6, 5), (False, True))
    volume = make_view(picture[..., None], (6, 5, 1), (False, True, False))
    torch.testing.assert_close(view, volume[..., 0])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flips_come_after_scaling(axis):
    image = torch.rand(1, 9, 8, 7)
    flips = [axis == each for each in range(3)]
    plain = make_view(image, (6, 6, 6), (False,) * 3)
    assert torch.equal(make_view(image, (6, 6, 6), flips), plain.flip(axis + 1))
