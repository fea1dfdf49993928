"""Puzzles of several modalities: what is drawn, what is cut, what is read."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from unlabeled.data.slices import Slice
from unlabeled.rng import generator
from unlabeled.transforms.mixed_puzzles import MixedPuzzle, not_blank, read_body


def numbered(*space: int, box=None) -> SimpleNamespace:
    """A scan whose pixels hold their own place, 10000 more in the second modality; -1 beyond it."""
    first = torch.arange(float(np.prod(space))).view(1, *space)
    image = torch.cat([first, first + 10_000])

    def patch(start, size):
        out = torch.full((2, *size), -1.0)
        own, theirs = [slice(None)], [slice(None)]
        for at, edge, extent in zip(start, size, space, strict=True):
            low, high = max(at, 0), min(at + edge, extent)
            own.append(slice(low - at, high - at))
            theirs.append(slice(low, high))
        out[tuple(own)] = image[tuple(theirs)]
        return out

    foreground = box or tuple((0, edge) for edge in space)
    return SimpleNamespace(space=space, dims=len(space), patch=patch, foreground=foreground)


@given(seed=st.integers(0, 2**31), grid=st.integers(2, 5), edge=st.integers(40, 70))
def test_each_piece_lies_in_its_cell_and_is_of_the_modality_drawn(seed, grid, edge):
    area = numbered(edge, edge).patch((0, 0), (edge, edge))
    puzzle = MixedPuzzle.of((edge, edge), grid, 0.1)
    mixture = puzzle.draw([0, 1], generator(seed), jittered=True)
    pieces = puzzle.cut(area, mixture)
    assert pieces.shape == (grid**2, 1, *puzzle.cells.size)
    cell = edge // grid
    for number, piece in enumerate(pieces):
        place = int(piece.flatten()[0]) - 10_000 * int(mixture.modality[number])
        assert (place // edge) // cell == number // grid
        assert (place % edge) // cell == number % grid
    assert sorted(mixture.order.tolist()) == list(range(grid**2))


def test_all_orders_are_as_likely():
    puzzle = MixedPuzzle.of((8, 8), 2, 0.0)
    drawn = [
        tuple(puzzle.draw([0], generator(seed), jittered=True).order.tolist())
        for seed in range(2400)
    ]
    counts = list({order: drawn.count(order) for order in set(drawn)}.values())
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_reads_the_body_scaled_or_as_it_is():
    item = Slice(numbered(40, 30, box=((10, 30), (5, 15))), 0)
    fitted = read_body(item, (10, 10), fit=True, rng=generator(0))
    assert fitted.shape == (2, 10, 10)
    whole = item.record.patch((10, 0), (20, 20))  # the box, square about its middle
    means = whole[0].view(10, 2, 10, 2).mean((1, 3))
    assert (fitted[0] - means)[1:-1, 1:-1].abs().max() < 1e-3
    plain = read_body(item, (8, 6), fit=False, rng=generator(0))
    row, column = divmod(int(plain[0, 0, 0]), 30)
    assert 10 <= row <= 22
    assert 5 <= column <= 9
    assert torch.equal(plain, item.record.patch((row, column), (8, 6)))
    small = read_body(item, (30, 16), fit=False, rng=generator(0))
    assert torch.equal(small, item.record.patch((5, 2), (30, 16)))


def test_blank_modalities_are_not_at_hand():
    area = torch.rand(4, 5, 5)
    area[1], area[3] = 2.0, 0.0
    assert not_blank(area) == [0, 2]
    assert not_blank(torch.zeros(2, 5, 5)) == [0, 1]
