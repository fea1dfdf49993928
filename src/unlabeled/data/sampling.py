"""Where patches are cut, and which scans are set beside one another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from unlabeled.data.record import Record

_ROUNDING = 1e-6  # planes; limits that are whole numbers of planes stay so in floating point
#: First voxel and edges of a box, along each axis [voxel].
Place: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]

_TRIES = 96  # places of two boxes that are drawn at once
_ROUNDS = 4  # after which the smaller box is put into the middle of the larger one


def draw_start(space: Sequence[int], size: Sequence[int], rng: Generator) -> tuple[int, ...]:
    """Draw the first voxel of a patch, evenly among all that keep the patch inside.

    Parameters
    ----------
    space
        Voxels of the scan along each axis.
    size
        Edge lengths of the patch [voxel].
    rng
        Source of randomness; one draw an axis, whatever the sizes.

    Returns
    -------
    tuple of int
        Negative along axes where the scan is smaller than the patch: the scan lies in its middle (padding on both
        sides equal, or one more at the end).

    >>> draw_start((5, 9), (5, 11), torch.Generator())
    (0, -1)
    """
    return tuple(
        _draw_between(0, voxels - edge, rng) if voxels >= edge else -((edge - voxels) // 2)
        for voxels, edge in zip(space, size, strict=True)
    )


def draw_labelled_start(
    record: Record, size: Sequence[int], rng: Generator, p_labelled: float
) -> tuple[int, ...]:
    """Draw the first voxel of a patch that holds a labelled voxel with at least a given probability.

    With `p_labelled`, a label of the scan is drawn evenly, then one of its voxels, then a patch evenly among those
    inside the scan that hold it; else, and when the scan has no labelled voxel, a patch as in `draw_start`.

    Parameters
    ----------
    record
        A scan with a mask, else every draw is as in `draw_start`.
    size
        Edge lengths of the patch [voxel], one for each axis of the scan (`patch_size` makes it).
    rng
        Source of randomness.
    p_labelled
        Probability of asking for a labelled voxel.
    """
    wanted = torch.rand((), generator=rng).item() < p_labelled
    voxels = record.labelled_voxels if wanted else {}
    if not voxels:
        return draw_start(record.space, size, rng)
    labels = sorted(voxels)
    rows = voxels[labels[_draw_between(0, len(labels) - 1, rng)]]
    position = rows[_draw_between(0, len(rows) - 1, rng)]
    return tuple(
        _draw_between(max(0, int(at) - edge + 1), min(int(at), extent - edge), rng)
        if extent >= edge
        else -((edge - extent) // 2)
        for at, edge, extent in zip(position, size, record.space, strict=True)
    )


def draw_start_holding(
    space: Sequence[int], size: Sequence[int], box: Sequence[tuple[int, int]], rng: Generator
) -> tuple[int, ...]:
    """Draw the first voxel of a patch, evenly among all that keep the patch inside and hold a box.

    Parameters
    ----------
    space
        Voxels of the scan along each axis.
    size
        Edge lengths of the patch [voxel].
    box
        First voxel and the one behind the last, along each axis; a patch that is too short shows its middle.
    rng
        Source of randomness; one draw an axis, whatever the sizes.

    Returns
    -------
    tuple of int
        Negative along axes where the scan is smaller than the patch, as in `draw_start`.

    >>> draw_start_holding((9, 9, 5), (4, 2, 7), [(5, 9), (0, 8), (1, 2)], torch.Generator())
    (5, 3, -1)
    """
    starts = []
    for voxels, edge, (first, stop) in zip(space, size, box, strict=True):
        low, high = max(0, stop - edge), min(first, voxels - edge)
        if voxels < edge:
            low = high = -((edge - voxels) // 2)
        elif low > high:
            low = high = min(max(0, (first + stop - edge) // 2), voxels - edge)
        starts.append(_draw_between(low, high, rng))
    return tuple(starts)


def draw_overlapping(
    space: tuple[int, ...], sizes: tuple[tuple[int, ...], ...], least: float, rng: Generator
) -> tuple[Place, Place]:
    """Draw two boxes that share much of what they cover.

    Sizes are drawn evenly among all pairs that can share enough, then places evenly among those where the boxes touch,
    until they share enough.

    Parameters
    ----------
    space
        Voxels of the scan along each axis.
    sizes
        Edges that a box may have [voxel]; along axes where the scan is shorter, its own.
    least
        What both cover over what either covers is above this, in [0, 1).
    rng
        Source of randomness.

    Returns
    -------
    tuple
        Start and edges of both boxes, inside the scan.
    """
    pairs = _sizes_that_meet(space, sizes, least)
    first, second = pairs[_draw_between(0, len(pairs) - 1, rng)]
    extent, one, other = np.array(space), np.array(first), np.array(second)
    dims = len(space)
    for _ in range(_ROUNDS):
        numbers = torch.rand(_TRIES, 2 * dims, dtype=torch.float64, generator=rng).numpy()
        starts = (numbers[:, :dims] * (extent - one + 1)).astype(np.int64)
        low = np.maximum(0, starts - other + 1)
        high = np.minimum(extent - other, starts + one - 1)
        besides = low + (numbers[:, dims:] * (high - low + 1)).astype(np.int64)
        shared = overlap(starts, one, besides, other) > least
        if shared.any():
            found = int(shared.argmax())
            return (
                (tuple(starts[found].tolist()), first),
                (tuple(besides[found].tolist()), second),
            )
    middle = (extent - one) // 2
    within = np.clip(middle + (one - other) // 2, 0, extent - other)
    return (tuple(middle.tolist()), first), (tuple(within.tolist()), second)


def overlap(
    first_start: NDArray[Any],
    first_size: NDArray[Any],
    second_start: NDArray[Any],
    second_size: NDArray[Any],
) -> NDArray[np.float64]:
    """Measure what two boxes both cover over what either covers, in [0, 1].

    Parameters
    ----------
    first_start, second_start
        First voxel, ``... axis``.
    first_size, second_size
        Edges, ``... axis`` [voxel].

    >>> overlap(np.array([[0, 0]]), np.array([[2, 2]]), np.array([[1, 0]]), np.array([[2, 2]])).round(2)
    array([0.33])
    """
    stop = np.minimum(first_start + first_size, second_start + second_size)
    both = np.maximum(0, stop - np.maximum(first_start, second_start)).prod(-1)
    shared: NDArray[np.float64] = both / (first_size.prod(-1) + second_size.prod(-1) - both)
    return shared


@lru_cache(maxsize=256)
def _sizes_that_meet(
    space: tuple[int, ...], sizes: tuple[tuple[int, ...], ...], least: float
) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """List the pairs of sizes of which one box can lie so that enough is shared: in one another, as far as they fit."""
    fitting = [
        tuple(min(edge, have) for edge, have in zip(size, space, strict=True)) for size in sizes
    ]
    start = np.zeros(len(space), np.int64)
    return tuple(
        (one, other)
        for one in fitting
        for other in fitting
        if overlap(start, np.array(one), start, np.array(other)) > least
    )


def draw_patch(record: Record, size: Sequence[int], rng: Generator) -> Tensor:
    """Read a patch from a random place.

    Parameters
    ----------
    record
        A scan.
    size
        Edge lengths [voxel]; two on a volume take a random axial slice (last axis of RAS).
    rng
        Source of randomness.

    Returns
    -------
    Tensor
        ``channel *size``, float32, under the record's intensity rule.
    """
    full = patch_size(record, size)
    patch = record.patch(draw_start(record.space, full, rng), full)
    return patch if len(full) == len(size) else patch.squeeze(-1)


def centre_start(space: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """Give the first voxel of the patch in the middle of a scan; negative along axes where the scan is smaller.

    >>> centre_start((6, 5), (4, 8))
    (1, -1)
    """
    return tuple(
        (voxels - edge) // 2 if voxels >= edge else -((edge - voxels) // 2)
        for voxels, edge in zip(space, size, strict=True)
    )


def centre_patch(record: Record, size: Sequence[int]) -> Tensor:
    """Read the patch in the middle of a scan, cut or padded to ``channel *size``; two edges on a volume, its middle slice."""
    full = patch_size(record, size)
    patch = record.patch(centre_start(record.space, full), full)
    return patch if len(full) == len(size) else patch.squeeze(-1)


@dataclass(frozen=True, slots=True)
class Pairing:
    """A scan, and the scans that its partner is drawn from.

    Parameters
    ----------
    record
        The scan.
    pool
        Scans sorted by subject, shared by all pairings of a list.
    first, stop
        Where the pool holds scans that are no partners: those of the same subject.
    """

    record: Record
    pool: tuple[Record, ...]
    first: int
    stop: int

    def draw(self, rng: Generator) -> Record:
        """Draw a partner, evenly among all."""
        own = self.stop - self.first
        place = _draw_between(0, len(self.pool) - own - 1, rng)
        return self.pool[place if place < self.first else place + own]


def pair_scans(records: Sequence[Record], *, subjects: bool = True) -> tuple[Pairing, ...]:
    """Set each scan beside those of all other subjects, or beside all scans, itself included.

    Parameters
    ----------
    records
        Scans; the pairings have their order.
    subjects
        Whether a partner is another subject's; a single subject then gives no pairing.
    """
    pool = tuple(sorted(records, key=lambda record: record.subject))
    if not subjects:
        return tuple(Pairing(record, pool, 0, 0) for record in records)
    own: dict[str, tuple[int, int]] = {}
    for place, record in enumerate(pool):
        own[record.subject] = (own.get(record.subject, (place, place))[0], place + 1)
    if len(own) < 2:
        return ()
    return tuple(Pairing(record, pool, *own[record.subject]) for record in records)


@dataclass(frozen=True, slots=True, eq=False)
class PlanePairs:
    """Pairs of planes of one volume whose distance lies within limits.

    Parameters
    ----------
    planes
        Numbers of the planes, rising.
    first
        For each plane, where in `planes` its partners above begin.
    ends
        Partners above of all planes up to each one, together.
    """

    planes: NDArray[np.int64]
    first: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def within(
        cls, planes: NDArray[np.int64], spacing: float, least: float, most: float | None = None
    ) -> Self:
        """List the pairs of two different planes.

        Parameters
        ----------
        planes
            Numbers of the planes that may be drawn, rising.
        spacing
            From one plane to the next [mm].
        least, most
            Smallest and largest distance of a pair [mm]; without a largest, any.

        >>> len(PlanePairs.within(np.array([0, 1, 2, 5]), 2.5, 5.0, 10.0))     # 0 and 2, 1 and 5, 2 and 5
        3
        """
        near = max(1, math.ceil(least / spacing - _ROUNDING))
        first = np.searchsorted(planes, planes + near)
        stop = np.full_like(first, len(planes))
        if most is not None:
            far = math.floor(most / spacing + _ROUNDING)
            stop = np.searchsorted(planes, planes + far, side="right")
        return cls(planes, first, np.cumsum(np.maximum(stop - first, 0)))

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def draw(self, rng: Generator) -> tuple[int, int]:
        """Draw a pair, evenly among all: the lower plane and the upper one."""
        number = _draw_between(0, len(self) - 1, rng)
        lower = int(np.searchsorted(self.ends, number, side="right"))
        before = int(self.ends[lower - 1]) if lower else 0
        upper = int(self.first[lower]) + number - before
        return int(self.planes[lower]), int(self.planes[upper])


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a scan with what surrounds it.

    Parameters
    ----------
    start, size
        What to read [voxel]; never beyond the scan.
    place, inner
        Where the part lies in the scan, and in what was read.
    """

    start: tuple[int, ...]
    size: tuple[int, ...]
    place: tuple[slice, ...]
    inner: tuple[slice, ...]


def tiles(space: Sequence[int], edges: Sequence[int], margins: Sequence[int]) -> Iterator[Tile]:
    """Cut a scan into parts of at most given edges, each to be read with a margin on every side where there is one.

    What a network says of a part does not depend on the cutting where the margin holds all that it looks at.

    >>> [(tile.start, tile.size, tile.inner) for tile in tiles((5,), (3,), (1,))]
    [((0,), (4,), (slice(0, 3, None),)), ((2,), (3,), (slice(1, 3, None),))]
    """
    along = [range(0, extent, edge) for extent, edge in zip(space, edges, strict=True)]
    for first in itertools.product(*along):
        last = [min(at + edge, n) for at, edge, n in zip(first, edges, space, strict=True)]
        start = tuple(max(0, at - margin) for at, margin in zip(first, margins, strict=True))
        stop = [min(n, at + m) for at, m, n in zip(last, margins, space, strict=True)]
        yield Tile(
            start=start,
            size=tuple(end - begin for begin, end in zip(start, stop, strict=True)),
            place=tuple(slice(a, b) for a, b in zip(first, last, strict=True)),
            inner=tuple(slice(a - s, b - s) for a, b, s in zip(first, last, start, strict=True)),
        )


def patch_size(record: Record, size: Sequence[int]) -> tuple[int, ...]:
    """Give a patch one edge for each axis of a scan: two edges on a volume are those of an axial slice.

    Raises
    ------
    ValueError
        If the patch has other axes.
    """
    if len(size) == record.dims:
        return tuple(size)
    if len(size) == 2 and record.dims == 3:
        return (*size, 1)
    raise ValueError(f"a patch of {len(size)} axes cannot be cut from a scan of {record.dims}")


def _draw_between(first: int, last: int, rng: Generator) -> int:
    return int(torch.randint(first, last + 1, (), generator=rng))
