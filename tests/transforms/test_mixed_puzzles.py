"""Puzzles of several modalities: what is drawn, what is cut, what is read."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from unlabeled.data.slices import Slice
from unlabeled.rng import generator
from unlabeled.transforms._draws import uniforms
from unlabeled.transforms.mixed_puzzles import LEAST_RANGE, MixedPuzzle, not_blank, read_body
from unlabeled.transforms.puzzles import Cells, cut


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


def plain_starts(cells: Cells, rng, jitter: float):
    """Say axis by axis and piece by piece where each lies, as one would write it first."""
    placed = []
    numbers = iter(uniforms(len(cells.grid) * int(np.prod(cells.grid)), rng))
    for cell in product(*map(range, cells.grid)):
        start = []
        for at, many, whole, edge in zip(cell, cells.grid, cells.space, cells.size, strict=True):
            slack = whole // many - edge
            most = int(jitter * slack)
            offset = (slack - most) // 2 + int(next(numbers) * (most + 1))
            start.append(at * (whole // many) + offset)
        placed.append(tuple(start))
    return tuple(placed)


@pytest.mark.parametrize("jitter", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(
    ("grid", "space", "size"), [((3, 3), (96, 96), (28, 28)), ((2, 3, 2), (13, 17, 9), (4, 5, 3))]
)
def test_starts_are_those_of_the_plain_version(grid, space, size, jitter):
    cells = Cells(grid, space, size)
    for seed in range(20):
        plain = plain_starts(cells, generator(seed), jitter)
        assert cells.starts(generator(seed), jitter) == plain
    corners = tuple(tuple(np.multiply(at, cells.edges)) for at in product(*map(range, grid)))
    assert cells.corners == corners
    middles = tuple(tuple(np.add(at, np.floor_divide(cells.slack, 2))) for at in corners)
    assert cells.starts() == middles


def test_pieces_are_those_of_cutting_every_modality():
    area = torch.rand(3, 40, 52, generator=generator(1))
    puzzle = MixedPuzzle.of((40, 52), 3, 0.1)
    for seed in range(20):
        mixture = puzzle.draw([0, 2, 1], generator(seed), jittered=True)
        every = cut(area, mixture.starts.tolist(), puzzle.cells.size)
        plain = every[torch.arange(9), mixture.modality, None]
        found = puzzle.cut(area, mixture)
        assert torch.equal(found, plain)
        assert found.is_contiguous()


def test_blank_ones_are_those_of_the_plain_version():
    for seed in range(20):
        area = torch.rand(4, 6, 5, generator=generator(seed))
        area[seed % 4] = 0.5
        area[(seed + 1) % 4] = 0.5
        area[(seed + 1) % 4, 2, 3] += 2 * LEAST_RANGE if seed % 2 else LEAST_RANGE / 2
        low, high = area.flatten(1).aminmax(dim=1)
        assert not_blank(area) == (high - low > LEAST_RANGE).nonzero()[:, 0].tolist()


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
