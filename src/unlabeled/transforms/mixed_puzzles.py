"""Puzzles of registered modalities: one grid over all of them, each piece from a modality of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unlabeled.data.sampling import draw_start
from unlabeled.data.slices import Slice
from unlabeled.errors import OptionError
from unlabeled.transforms.puzzles import Cells
from unlabeled.transforms.resizing import resize_smooth

LEAST_RANGE = 1e-4  # of intensities of deviation 1, lest a slice is blank: resizing rounds


class Mixture(NamedTuple):
    """One puzzle as it was drawn."""

    starts: Tensor  # piece 2: first pixel of each piece, whole
    modality: Tensor  # piece: which of the pool each piece is taken from, whole
    order: Tensor  # slot: the piece that lies there, whole


@dataclass(frozen=True)
class MixedPuzzle:
    """Draw where the pieces of a puzzle lie, of which modality each is, and in which order they come.

    Modalities are drawn for each piece by itself, evenly among those at hand.  The order is drawn evenly among all there
    are, the right one included; there is no table.

    Parameters
    ----------
    cells
        The grid, and the size of a piece.
    """

    cells: Cells

    @classmethod
    def of(cls, edges: Sequence[int], grid: int, gap: float, multiple: int = 1) -> MixedPuzzle:
        """Lay a grid of `grid` cells along each axis; a piece leaves `gap` of its cell free on every side.

        Edges of pieces are rounded down to a multiple, unless nothing would be left.

        Raises
        ------
        OptionError
            There are fewer pixels than cells.

        >>> MixedPuzzle.of((192, 192), 3, 0.05).cells.size
        (57, 57)
        >>> MixedPuzzle.of((192, 192), 3, 0.05, multiple=8).cells.size
        (56, 56)
        """
        if min(edges) < grid:
            raise OptionError(
                f"{' x '.join(map(str, edges))} pixels cannot be cut into {grid} x {grid} pieces",
                f"Give --patch-size {' '.join([str(32 * grid)] * len(edges))}.",
            )
        kept = [int(edge // grid * (1 - 2 * gap)) for edge in edges]
        size = tuple(edge // multiple * multiple or max(edge, 1) for edge in kept)
        return cls(Cells((grid,) * len(size), tuple(edges), size))

    @property
    def pieces(self) -> int:
        """How many there are."""
        return math.prod(self.cells.grid)

    def draw(self, pool: Sequence[int], rng: Generator, *, jittered: bool) -> Mixture:
        """Draw a puzzle; pieces lie anywhere in their cells, or in the middle where not `jittered`."""
        starts = self.cells.starts(rng if jittered else None)
        drawn = torch.randint(len(pool), (self.pieces,), generator=rng)
        order = torch.randperm(self.pieces, generator=rng)
        return Mixture(torch.tensor(starts), torch.tensor(pool)[drawn], order)

    def cut(
        self, area: Float[Tensor, "modality rows columns"], mixture: Mixture
    ) -> Float[Tensor, "piece 1 rows columns"]:
        """Cut the pieces, in their right order, each of its own modality."""
        rows, columns = self.cells.size
        places = area.unfold(1, rows, 1).unfold(2, columns, 1)  # all that there are, none copied
        chosen: Tensor = places[mixture.modality, mixture.starts[:, 0], mixture.starts[:, 1]]
        return chosen[:, None]


def read_body(
    item: Slice, edges: Sequence[int], *, fit: bool, rng: Generator
) -> Float[Tensor, "modality rows columns"]:
    """Read what a puzzle covers: the box around the body, or a part of it.

    Parameters
    ----------
    item
        A slice, all modalities of it.
    edges
        Of what comes out [pixel].
    fit
        Whether the whole box is scaled to `edges`, keeping its proportions; else pixels stay as they are, and a box that
        is larger is seen in part, at a random place.
    rng
        Source of randomness.
    """
    box = item.record.foreground[:2]
    extent = [stop - first for first, stop in box]
    size = list(edges)
    if fit:
        scale = max(whole / edge for whole, edge in zip(extent, edges, strict=True))
        size = [max(1, math.ceil(edge * scale)) for edge in edges]
    start = draw_start(extent, size, rng)
    corner = [first + at for (first, _), at in zip(box, start, strict=True)]
    return resize_smooth(item.patch(corner, size), edges)


def not_blank(area: Float[Tensor, "modality rows columns"]) -> list[int]:
    """List the modalities that show anything: where one is missing, some data sets hold a constant; never none.

    >>> not_blank(torch.tensor([[[0.0, 1.0]], [[3.0, 3.0]]]))
    [0]
    """
    levels = area.numpy()  # whose extremes cost a third of torch's
    shown = [at for at, each in enumerate(levels) if each.max() - each.min() > LEAST_RANGE]
    return shown or list(range(len(area)))
