"""Puzzles: an image cut into a grid of pieces, put into another order, turned; and sets of orders far apart."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Generator, Tensor

from unlabeled.data.record import Record
from unlabeled.data.sampling import draw_start
from unlabeled.errors import OptionError, ScanError
from unlabeled.transforms._draws import uniforms

#: Two axes of space, from 0: what a turn moves; a half turn reverses both.
Plane: TypeAlias = tuple[int, int]

MOST_PIECES = 10  # of which all 3,628,800 orders are compared within seconds


@lru_cache(maxsize=16)
def choose_permutations(
    pieces: int,
    count: int,
    rule: Literal["max-min", "max-mean"] = "max-min",
    first: tuple[int, ...] | None = None,
) -> NDArray[np.int64]:
    """Choose orders that are far apart in Hamming distance, one after the other.

    Each next order is the one farthest from those chosen so far, the first in lexicographic order among equals.
    ``max-mean`` looks at the mean distance (Noroozi and Favaro, ECCV 2016, and every published set), which lets
    near-twins in: its 100 orders of 8 pieces hold pairs a single exchange apart.  ``max-min`` looks at the distance to
    the nearest chosen one; there the nearest pair differs in 6 places.

    Parameters
    ----------
    pieces
        Pieces that are ordered, 10 at most.
    count
        Orders to choose.
    rule
        What is largest.
    first
        The order to begin with; without it, the identity.

    Returns
    -------
    ndarray
        ``count pieces``, read-only; row r puts piece ``r[q]`` into slot q.  Kept for the process.

    Raises
    ------
    OptionError
        There are no such orders.

    >>> choose_permutations(3, 3).tolist()
    [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    """
    if not 2 <= pieces <= MOST_PIECES:
        raise OptionError(
            f"orders of {pieces} pieces cannot be compared one by one",
            f"Cut the image into 2 to {MOST_PIECES} pieces.",
        )
    total = math.factorial(pieces)
    if not 1 <= count <= total:
        raise OptionError(
            f"{pieces} pieces have {total} orders, and {count} are asked for",
            f"Give --permutations 1 to {total}.",
        )
    start = tuple(range(pieces)) if first is None else first
    if sorted(start) != list(range(pieces)):
        raise ValueError(f"{start} is no order of {pieces} pieces")
    # a row a slot, so that comparing all orders with one runs along the memory, 16 or more a machine instruction
    orders = np.ascontiguousarray(_all_orders(pieces).T)
    row = int(np.flatnonzero((orders == np.array(start, np.uint8)[:, None]).all(0))[0])
    smallest = rule == "max-min"
    far = np.full(total, pieces, np.uint8) if smallest else np.zeros(total, np.int32)
    free = np.ones(total, bool)
    chosen = [row]
    apart = np.empty(total, np.uint8)
    for _ in range(count - 1):
        free[row] = False
        apart[:] = 0
        for slot in orders:
            apart += slot != slot[row]
        if smallest:
            np.minimum(far, apart, out=far)
        else:
            far += apart
        row = int(np.argmax(far * free))
        chosen.append(row)
    rows = orders[:, chosen].T.astype(np.int64)
    rows.setflags(write=False)
    return rows


def _all_orders(pieces: int) -> NDArray[np.uint8]:
    """List all orders in lexicographic order: each first piece before all orders of the others."""
    rows = np.zeros((1, 0), np.uint8)
    for count in range(1, pieces + 1):
        firsts = [
            np.column_stack([np.full(len(rows), first, np.uint8), rows + (rows >= first)])
            for first in range(count)
        ]
        rows = np.concatenate(firsts).astype(np.uint8)
    return rows


@dataclass(frozen=True)
class Cells:
    """A grid of equal cells over an image, and a smaller piece in each.

    Pieces are numbered row by row: in three axes the piece of cell (i, j, l) has number ``(i * n_1 + j) * n_2 + l``.

    Parameters
    ----------
    grid
        Cells along each axis.
    space
        Edges of the image [voxel]; what does not divide is left over at the end.
    size
        Edges of a piece [voxel].

    >>> cells = Cells((2, 2), (12, 9), (4, 3))
    >>> cells.edges, cells.slack, cells.starts()
    ((6, 4), (2, 1), ((1, 0), (1, 4), (7, 0), (7, 4)))
    """

    grid: tuple[int, ...]
    space: tuple[int, ...]
    size: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.grid) == len(self.space) == len(self.size):
            raise ValueError(f"{self.grid}, {self.space} and {self.size} differ in their axes")
        if min(self.slack) < 0:
            raise ValueError(f"a piece of {self.size} voxels is larger than a cell of {self.edges}")

    @cached_property
    def edges(self) -> tuple[int, ...]:
        """Edges of a cell [voxel]."""
        return tuple(whole // many for whole, many in zip(self.space, self.grid, strict=True))

    @cached_property
    def slack(self) -> tuple[int, ...]:
        """How much longer a cell is than its piece [voxel]: on average, what lies between neighbours."""
        return tuple(cell - edge for cell, edge in zip(self.edges, self.size, strict=True))

    @cached_property
    def corners(self) -> tuple[tuple[int, ...], ...]:
        """First voxel of each cell, in the order of their numbers."""
        along = zip(self.grid, self.edges, strict=True)
        return tuple(product(*([at * edge for at in range(many)] for many, edge in along)))

    def starts(
        self, rng: Generator | None = None, jitter: float = 1.0
    ) -> tuple[tuple[int, ...], ...]:
        """Place the pieces in their cells: the first voxel of each, in the order of their numbers.

        Parameters
        ----------
        rng
            Source of randomness, one number an axis of a piece; without it, every piece lies in the middle, the slack
            apart from its neighbours.
        jitter
            Share of the slack that a piece may move over.  With 1 each place in the cell is as likely and neighbours
            may touch; below, ``1 - jitter`` of the slack stays between them.
        """
        if rng is None:
            middle = [slack // 2 for slack in self.slack]
            return tuple(tuple(map(operator.add, corner, middle)) for corner in self.corners)
        moves = [int(jitter * slack) for slack in self.slack]
        least = [(slack - most) // 2 for slack, most in zip(self.slack, moves, strict=True)]
        numbers = iter(uniforms(len(self.corners) * len(moves), rng))
        return tuple(
            tuple(
                at + first + int(number * (most + 1))
                for at, first, most, number in zip(corner, least, moves, numbers, strict=False)
            )
            for corner in self.corners
        )


def cut(
    image: Tensor, starts: Sequence[Sequence[int]], size: Sequence[int]
) -> Float[Tensor, "piece channel *size"]:
    """Cut pieces out of an image ``channel *space`` that holds them all."""
    return torch.stack(
        [
            image[(slice(None), *(slice(at, at + e) for at, e in zip(start, size, strict=True)))]
            for start in starts
        ]
    )


def assemble(
    pieces: Float[Tensor, "piece channel *edges"], grid: Sequence[int], *, seam: int = 0
) -> Tensor:
    """Put pieces side by side, ``channel *space``, in the order of their numbers, with zero voxels between neighbours.

    >>> assemble(torch.arange(4.0).view(4, 1, 1, 1), (2, 2))
    tensor([[[0., 1.],
             [2., 3.]]])
    """
    edges = pieces.shape[2:]
    pitch = [edge + seam for edge in edges]
    whole = [many * step - seam for many, step in zip(grid, pitch, strict=True)]
    image = pieces.new_zeros((pieces.shape[1], *whole))
    for piece, cell in zip(pieces, product(*map(range, grid)), strict=True):
        corner = [at * step for at, step in zip(cell, pitch, strict=True)]
        place = (slice(at, at + edge) for at, edge in zip(corner, edges, strict=True))
        image[(slice(None), *place)] = piece
    return image


def half_turn(image: Tensor, plane: Plane, dims: int) -> Tensor:
    """Turn ``*batch *space`` by 180 degrees in a plane of its last `dims` axes: a rotation, no mirror image.

    >>> half_turn(torch.arange(6).view(2, 3), (0, 1), 2).tolist()
    [[5, 4, 3], [2, 1, 0]]
    """
    return image.flip([axis - dims for axis in plane])


@dataclass(frozen=True, eq=False)
class Disorder:
    """What one scrambling does to the pieces of an image.

    Parameters
    ----------
    permutation
        Slot q receives piece ``permutation[q]``.
    turned
        ``plane slot`` bits: which slots are turned by 180 degrees in which plane, after they were filled.
    planes
        The planes.
    """

    permutation: tuple[int, ...]
    turned: NDArray[np.bool_]
    planes: tuple[Plane, ...]

    def __call__(self, pieces: Tensor) -> Tensor:
        """Fill the slots with ``piece channel *edges``, and turn them."""
        return self._turn(pieces[list(self.permutation)])

    def undo(self, slots: Tensor) -> Tensor:
        """Turn the slots back and put each piece into its place; half turns commute and undo themselves."""
        places = np.argsort(self.permutation, kind="stable").tolist()
        return self._turn(slots)[places]

    def _turn(self, slots: Tensor) -> Tensor:
        turned = slots.clone()
        for plane, bits in zip(self.planes, self.turned, strict=True):
            for slot in np.flatnonzero(bits):
                turned[slot] = half_turn(turned[slot], plane, slots.ndim - 2)
        return turned


@dataclass(frozen=True, eq=False)
class Scramble:
    """Put pieces into one of some orders, and turn some slots by 180 degrees.

    Every order is as likely; each slot by itself is turned with probability `p_turn`, in one of the planes, each as
    likely, never in two.

    Parameters
    ----------
    orders
        ``count slot``, as `choose_permutations` gives them.
    planes
        What slots may be turned in; none means that nothing is turned.
    p_turn
        Probability that a slot is turned.
    """

    orders: NDArray[np.int64]
    planes: tuple[Plane, ...] = ()
    p_turn: float = 0.0

    def draw(self, rng: Generator) -> tuple[int, Disorder]:
        """Draw the number of an order, and what is done."""
        order = int(torch.randint(len(self.orders), (), generator=rng))
        return order, self.disorder(order, uniforms(self.orders.shape[1], rng))

    def disorder(self, order: int, numbers: Sequence[float]) -> Disorder:
        """Say what numbers in [0, 1), one a slot, mean: those below `p_turn` turn, in planes of equal shares."""
        turned = np.zeros((len(self.planes), len(numbers)), bool)
        for slot, number in enumerate(numbers):
            if number < self.p_turn and self.planes:
                which = min(int(number * len(self.planes) / self.p_turn), len(self.planes) - 1)
                turned[which, slot] = True
        return Disorder(tuple(self.orders[order].tolist()), turned, self.planes)


def stretch(pieces: Float[Tensor, "piece channel *edges"]) -> Float[Tensor, "piece channel *edges"]:
    """Stretch each channel of each piece to [-1, 1]; one of a single intensity becomes -1.

    >>> stretch(torch.tensor([[[0.0, 1.0, 4.0]], [[3.0, 3.0, 3.0]]])).tolist()
    [[[-1.0, -0.5, 1.0]], [[-1.0, -1.0, -1.0]]]
    """
    flat = pieces.flatten(2)
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    width = (high - low).clamp(min=torch.finfo(pieces.dtype).tiny)
    # the quotient is at most 1 but for rounding, which the clamp takes off
    return ((flat - low) / width).clamp(max=1.0).mul(2).sub(1).view(pieces.shape)


@dataclass(frozen=True)
class PieceCutter:
    """Cut the pieces of a puzzle out of a scan.

    The grid covers as much of the scan as pieces and gaps need, at most the whole of it; a scan that is shorter gets
    smaller gaps, down to none.

    Parameters
    ----------
    grid
        Pieces along each axis.
    size
        Edges of a piece [voxel].
    gap
        Mean distance between neighbours along each axis [voxel].
    jitter
        Share of the gap that a piece may move over, as in `Cells.starts`.
    place
        Where the grid lies in a larger scan: about the middle of the foreground, or anywhere.
    """

    grid: tuple[int, ...]
    size: tuple[int, ...]
    gap: tuple[int, ...]
    jitter: float = 1.0
    place: Literal["centre", "random"] = "centre"

    @property
    def fewest(self) -> tuple[int, ...]:
        """Shortest edges of a scan that holds all pieces [voxel]."""
        return tuple(many * edge for many, edge in zip(self.grid, self.size, strict=True))

    def require(self, space: Sequence[int]) -> None:
        """Refuse a scan that is too small.

        Raises
        ------
        ScanError
            Naming the largest pieces that it holds.
        """
        if any(have < need for have, need in zip(space, self.fewest, strict=True)):
            largest = [
                max(1, min(edge, have // many))
                for edge, have, many in zip(self.size, space, self.grid, strict=True)
            ]
            raise ScanError(
                f"has {_by(space)} voxels, and {_by(self.grid)} pieces of {_by(self.size)} need "
                f"{_by(self.fewest)}",
                f"Give --patch-size {' '.join(map(str, largest))} or less, or resample to smaller "
                "voxels with --spacing.",
            )

    def cells(self, space: Sequence[int]) -> Cells:
        """Lay the grid: as large as pieces and gaps need, as far as the scan reaches."""
        needs = zip(self.grid, self.size, self.gap, space, strict=True)
        region = tuple(min(have, many * (edge + gap)) for many, edge, gap, have in needs)
        return Cells(self.grid, region, self.size)

    def __call__(
        self, record: Record, rng: Generator | None = None
    ) -> Float[Tensor, "piece channel *size"]:
        """Read the pieces in the order of their numbers; without `rng`, all in the middle of their cells."""
        self.require(record.space)
        cells = self.cells(record.space)
        if self.place == "random" and rng is not None:
            corner = draw_start(record.space, cells.space, rng)
        else:
            corner = _around(record.foreground, cells.space, record.space)
        pieces = [
            record.patch([at + by for at, by in zip(corner, start, strict=True)], self.size)
            for start in cells.starts(rng, self.jitter)
        ]
        return torch.stack(pieces)


def _around(
    box: Sequence[tuple[int, int]], edges: Sequence[int], space: Sequence[int]
) -> tuple[int, ...]:
    """Place a region about the middle of a box, inside the scan."""
    triples = zip(box, edges, space, strict=True)
    return tuple(
        min(max((first + stop - edge) // 2, 0), have - edge)
        for (first, stop), edge, have in triples
    )


def _by(numbers: Sequence[int]) -> str:
    return " x ".join(map(str, numbers))
