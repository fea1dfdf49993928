"""Where patches of sections lie in a brain: planes of sections, and the places of one brain that patches are cut at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter  # type: ignore[attr-defined]
from scipy.spatial.distance import pdist
from torch import Generator, rand

from unlabeled.data.record import Record

TISSUE = "tissue"  # name among the extras of a scan: percent of tissue of every block
BLOCK = 8  # edge of a block [pixel]
_STRIP = 512  # rows of a mask that are read at once
_MEASURED = 2000  # places between which the largest distance is looked for
_PAIRS = 2000  # that the mean distance is taken of


@dataclass(frozen=True, eq=False)
class Plane:
    """Where a section lies in space: the pixel at shares (a, b) of its width and height is at ``origin + a u + b v``.

    Parameters
    ----------
    frame
        ``3 3``: origin, u along the width, v along the height; both of length 0 for a small patch at a single position.
    space
        Rows and columns.
    """

    frame: NDArray[np.float64]
    space: tuple[int, int]

    @classmethod
    def of(cls, record: Record) -> Self:
        """Give the plane of a section whose row of a manifest tells it."""
        numbers = np.array(record.source.position, np.float64)
        frame = np.zeros((3, 3))
        frame.reshape(-1)[: len(numbers)] = numbers
        return cls(frame, (record.space[0], record.space[1]))

    @property
    def is_point(self) -> bool:
        """Whether a single position is known, that of the whole patch."""
        return not self.frame[1:].any()

    @cached_property
    def area(self) -> float:
        """Area of a pixel; 1 where the extent is unknown."""
        if self.is_point:
            return 1.0
        return float(np.linalg.norm(np.cross(self.frame[1], self.frame[2]))) / (
            self.space[0] * self.space[1]
        )

    def lift(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give positions in space ``... 3`` of places ``... (row, column)``, whose whole numbers are middles of pixels."""
        shares = (at[..., ::-1] + 0.5) / np.array(self.space[::-1])
        lifted: NDArray[np.float64] = self.frame[0] + shares @ self.frame[1:]
        return lifted

    def project(
        self, points: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Find the places ``point (row, column)`` nearest to points ``point 3``, and how far these are off the plane."""
        away = points - self.frame[0]
        if self.is_point:
            middle = np.array([(edge - 1) / 2 for edge in self.space])
            return np.tile(middle, (len(points), 1)), np.linalg.norm(away, axis=1)
        shares = away @ np.linalg.pinv(self.frame[1:])
        off = np.linalg.norm(away - shares @ self.frame[1:], axis=1)
        return shares[:, ::-1] * np.array(self.space) - 0.5, off


@dataclass(frozen=True, eq=False)
class Place:
    """One place of a brain: of which section, where on it [pixel], where in space, and its number."""

    section: int
    at: tuple[float, float]
    position: NDArray[np.float64]
    number: int


@dataclass(frozen=True, eq=False)
class Places:
    """All places of one brain that a patch may be cut at.

    Parameters
    ----------
    records
        Its sections.
    planes
        Where they lie.
    section
        Of each place: the number of its section, rising.
    at
        ``place (row, column)`` [pixel].
    positions
        ``place 3``: position in space, or on the inflated surface.
    ends
        Area of all places up to each one, together.
    jitter
        Farthest that a patch is cut from its place along each axis [pixel].
    along
        ``place place``: distances along a surface; without it, straight ones between positions count.
    """

    records: tuple[Record, ...]
    planes: tuple[Plane, ...]
    section: NDArray[np.int64]
    at: NDArray[np.float64]
    positions: NDArray[np.float64]
    ends: NDArray[np.float64]
    jitter: float = 0.0
    along: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.section)

    def draw(self, rng: Generator) -> Place:
        """Draw a place, evenly over the area, whatever section it lies on."""
        share, down, right = rand(3, generator=rng).tolist()
        return self._place(share, (down, right), 0, len(self))

    def draw_partner(self, place: Place, rng: Generator, *, same: bool = False) -> Place:
        """Draw a place from the whole brain, or from the section of another; never one that no way leads to."""
        share, down, right = rand(3, generator=rng).tolist()
        first, stop = 0, len(self)
        if same:
            first, stop = np.searchsorted(self.section, [place.section, place.section + 1]).tolist()
        if self.along is not None:
            there = np.flatnonzero(np.isfinite(self.along[place.number, first:stop])) + first
            number = int(there[min(int(share * len(there)), len(there) - 1)])
            return self._at(number, (down, right))
        return self._place(share, (down, right), first, stop)

    def distance(self, one: Place, other: Place) -> float:
        """Give the distance along the surface, or the straight one."""
        if self.along is not None:
            return float(self.along[one.number, other.number])
        return float(np.linalg.norm(one.position - other.position))

    @property
    def largest(self) -> float:
        """The largest distance between places; on large brains, between some of them."""
        if self.along is not None:
            return float(self.along[np.isfinite(self.along)].max())
        some = self.positions[:: max(1, len(self) // _MEASURED)]
        return float(pdist(some).max()) if len(some) > 1 else 0.0

    def _place(self, share: float, aside: tuple[float, float], first: int, stop: int) -> Place:
        before = self.ends[first - 1] if first else 0.0
        wanted = before + share * (self.ends[stop - 1] - before)
        number = int(np.searchsorted(self.ends, wanted, side="right"))
        return self._at(min(number, stop - 1), aside)

    def _at(self, number: int, aside: tuple[float, float]) -> Place:
        section, at, position = int(self.section[number]), self.at[number], self.positions[number]
        if self.jitter:
            at = at + self.jitter * (2 * np.array(aside) - 1)
            position = self.planes[section].lift(at)
        return Place(section, (float(at[0]), float(at[1])), position, number)


def mean_distance(brains: Sequence[Places], rng: Generator) -> float:
    """Average the distance of some pairs of places, each of one brain, drawn from the brains in turn."""
    drawn = [brains[number % len(brains)] for number in range(_PAIRS)]
    firsts = [places.draw(rng) for places in drawn]
    apart = [
        places.distance(first, places.draw_partner(first, rng))
        for places, first in zip(drawn, firsts, strict=True)
    ]
    return sum(apart) / len(apart)


def gather_places(
    records: Sequence[Record],
    *,
    patch: tuple[int, int],
    least: float,
    cortex: Literal["tissue", "mask", "depth"],
) -> Places:
    """List the blocks of all sections of one brain whose patch holds enough tissue.

    Parameters
    ----------
    records
        Sections of one brain.
    patch
        Edges of a patch [pixel].
    least
        Share of a patch that must be tissue.
    cortex
        What a place lies in: tissue, a mask, or the inside of a map of depth; see `allowed`.
    """
    planes = tuple(Plane.of(record) for record in records)
    sections, places, positions, areas = [], [], [], []
    for number, (record, plane) in enumerate(zip(records, planes, strict=True)):
        if plane.is_point:
            at = np.array([[(edge - 1) / 2 for edge in plane.space]])
        else:
            rows = np.argwhere(allowed(record, patch, least, cortex))
            at = (rows + 0.5) * BLOCK - 0.5
            at = at[(at < np.array(plane.space)).all(1)]
        sections.append(np.full(len(at), number))
        places.append(at)
        positions.append(plane.lift(at))
        areas.append(np.full(len(at), plane.area))
    return Places(
        tuple(records),
        planes,
        np.concatenate(sections),
        np.concatenate(places),
        np.concatenate(positions),
        np.concatenate(areas).cumsum(),
        jitter=0.0 if all(plane.is_point for plane in planes) else BLOCK / 2,
    )


def allowed(
    record: Record,
    patch: tuple[int, int],
    least: float,
    cortex: Literal["tissue", "mask", "depth"],
) -> NDArray[np.bool_]:
    """Say of every block of a section whether a patch may lie about it.

    With ``tissue``, that share of the patch must be tissue; with ``mask``, half of the block must be marked; with
    ``depth``, half of it must lie between the two ends of the map of depth, 0 and the largest number.
    """
    if cortex == "tissue":
        shares = record.extras[TISSUE].whole()[0].astype(np.float32) / 100
        size = [max(1, round(edge / BLOCK)) for edge in patch]
        held = uniform_filter(shares, size, mode="constant")
        enough: NDArray[np.bool_] = (held >= least - 1e-6) & (shares > 0.5)
        return enough
    mask = record.mask
    if mask is None:
        raise ValueError(f"{record.source.name} has no mask")
    rows, columns = record.space[0], record.space[1]
    high = int(max(record.labelled_voxels, default=0))
    blocks = np.zeros((-(-rows // BLOCK), -(-columns // BLOCK)), np.bool_)
    for first in range(0, rows, _STRIP):
        read = mask.read((first, 0), (min(_STRIP, rows - first), columns))[0]
        inside = (read > 0) & ((read < high) if cortex == "depth" else True)
        begin = first // BLOCK
        shares = block_means(inside)
        blocks[begin : begin + len(shares)] = shares >= 0.5
    return blocks


def block_means(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Average ``rows columns`` over blocks; those at the end over what there is of them."""
    rows, columns = (np.arange(0, edge, BLOCK) for edge in inside.shape)
    sums = np.add.reduceat(np.add.reduceat(inside.astype(np.int64), rows, 0), columns, 1)
    tall = np.minimum(BLOCK, inside.shape[0] - rows)
    wide = np.minimum(BLOCK, inside.shape[1] - columns)
    means: NDArray[np.float64] = sums / np.outer(tall, wide)
    return means


def section_gap(planes: Sequence[Plane]) -> float:
    """Give the median distance of the middle of a section from the nearest other plane; infinite for a single one.

    >>> sheets = [Plane(np.array([[0, z, 0], [4.0, 0, 0], [0, 0, 3.0]]), (3, 4)) for z in (0.0, 2.0, 4.0, 9.0)]
    >>> section_gap(sheets)
    2.0
    """
    sheets = [plane for plane in planes if not plane.is_point]
    if len(sheets) < 2:
        return float("inf")
    middles = np.stack([plane.frame[0] + plane.frame[1:].sum(0) / 2 for plane in sheets])
    off = np.stack([plane.project(middles)[1] for plane in sheets])
    np.fill_diagonal(off, np.inf)
    return float(np.median(off.min(0)))
