"""The cubes of a volume: what is done to them, and that it is undone in the pictures."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from unlabeled.rng import generator
from unlabeled.transforms.cubes import CubePuzzle, cube_cutter, spread


def scan(*space: int) -> SimpleNamespace:
    """A record in memory whose voxels all differ."""
    image = torch.rand(1, *space, generator=generator(0))

    def patch(start, size):
        return image[(slice(None), *(slice(a, a + e) for a, e in zip(start, size, strict=True)))]

    return SimpleNamespace(space=space, patch=patch, foreground=tuple((0, e) for e in space))


def test_one_gap_stands_for_three():
    assert cube_cutter((4, 5, 6), (3,)) == cube_cutter((4, 5, 6), (3, 3, 3))
    assert cube_cutter((4, 5, 6), (1, 2, 3)).gap == (1, 2, 3)


@pytest.mark.parametrize(("normalise", "background"), [("cube", -1.0), ("scan", 0.0)])
def test_right_answers_put_the_cubes_back(normalise, background):
    puzzle = CubePuzzle.of(cube_cutter((6, 4, 5), (2,)), 20, "max-min", 2 / 3, normalise)
    assert puzzle.background == background
    record = scan(16, 12, 14)
    still = CubePuzzle.of(puzzle.cutter, 20, "max-min", 0.0, normalise)
    for seed in range(10):
        cubes, order, horizontal, vertical = puzzle(record, generator(seed), jittered=False)
        told = {
            "order": torch.nn.functional.one_hot(order, 20)[None].float(),
            "horizontal": horizontal[None] - 0.5,
            "vertical": vertical[None] - 0.5,
        }
        shown = puzzle.pictures(cubes[None], told, order[None], horizontal[None], vertical[None])
        assert torch.equal(shown["put back"], shown["as it was"])
        whole = still.cutter(record)
        if normalise == "cube":
            low, high = whole.flatten(1).amin(1), whole.flatten(1).amax(1)
            whole = (whole - low.view(8, 1, 1, 1, 1)) / (high - low).view(8, 1, 1, 1, 1)
        torch.testing.assert_close(shown["as it was"][0], spread(whole))


def test_places_move_only_where_they_may():
    puzzle = CubePuzzle.of(cube_cutter((4, 4, 4), (4,)), 2, "max-min", 0.0, "scan")
    record = scan(16, 16, 16)

    def sets(jittered: bool) -> int:
        drawn = [puzzle(record, generator(seed), jittered=jittered).cubes for seed in range(8)]
        return len({tuple(sorted(each.flatten().tolist())) for each in drawn})

    assert sets(jittered=False) == 1
    assert sets(jittered=True) == 8
