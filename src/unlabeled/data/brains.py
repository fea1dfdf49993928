"""The places of one brain on its surface: where vertices lie on sections, and how far apart they are along it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from scipy.spatial import KDTree

from unlabeled.data.positions import (
    BLOCK,
    Places,
    Plane,
    allowed,
    gather_places,
    section_gap,
)
from unlabeled.data.record import Record
from unlabeled.data.surfaces import Surface, geodesics, read_surface
from unlabeled.errors import DataError, ScanError

_FEW = 128  # vertices between which the largest distance along a surface is looked for


@dataclass(frozen=True, kw_only=True)
class Cortex:
    """Where patches of a brain are cut: at vertices of its surface, or without one at all blocks of tissue.

    Parameters
    ----------
    patch, least, cortex
        As in `gather_places`.
    surface, inflated
        Files of the brain's surface and of the same blown up.
    count, reach, seed, straight
        As in `gather_on_surface`; without `reach`, any distance.
    """

    patch: tuple[int, int]
    least: float
    cortex: Literal["tissue", "mask", "depth"]
    surface: str | None = None
    inflated: str | None = None
    count: int = 1024
    reach: float | None = None
    seed: int = 0
    straight: bool = False

    def require(self, record: Record) -> None:
        """Refuse volumes, sections without the mask that is asked for, and those where no patch fits.

        Raises
        ------
        ScanError
            The scan is such a one.
        """
        if record.dims != 2:
            raise ScanError("is a volume, and sections are pictures", "Give one picture a section.")
        if self.cortex != "tissue" and record.mask is None:
            raise ScanError(
                f"has no mask, and --cortex {self.cortex} looks for places in it",
                "Name it in the manifest's column `mask`, or give --cortex tissue.",
            )
        if Plane.of(record).is_point:
            return
        if not allowed(record, self.patch, self.least, self.cortex).any():
            raise ScanError(
                f"has no place where a patch of {' x '.join(map(str, self.patch))} pixels holds enough tissue",
                "Give a smaller --patch-size or --least-tissue, or the cortex as a mask with --cortex mask.",
            )

    def suit(self, records: Sequence[Record]) -> Self:
        """Let vertices of a surface lie as far from a section as half the gap between sections, unless it is told.

        Raises
        ------
        DataError
            A surface is given for several brains.
        """
        brains = {record.subject for record in records}
        if self.surface and len(brains) > 1:
            raise DataError(
                f"--surface is of one brain, and the sections are of {len(brains)}",
                "Give sections of one brain, or leave --surface out: distances are then straight ones.",
            )
        if self.reach is not None or not self.surface:
            return self
        gap = section_gap([Plane.of(record) for record in records])
        largest = float(np.ptp(read_surface(self.surface).vertices, axis=0).max())
        return replace(self, reach=gap / 2 if gap < float("inf") else largest)

    def extent(self, records: Sequence[Record]) -> tuple[float, tuple[float, float, float]]:
        """Measure the largest distance within a brain, and the middle of all positions; on a surface, of some vertices.

        Raises
        ------
        DataError
            As in `places`.
        """
        few = replace(self, count=min(self.count, _FEW))
        found = few.brains(records).values()
        positions = np.concatenate([places.positions for places in found])
        x, y, z = ((positions.min(0) + positions.max(0)) / 2).tolist()
        return max(places.largest for places in found), (x, y, z)

    def brains(self, records: Sequence[Record]) -> dict[str, Places]:
        """List the places of every brain, under its subject's name.

        Raises
        ------
        DataError
            As in `places`.
        """
        names = sorted({record.subject for record in records})
        return {
            name: self.places([record for record in records if record.subject == name])
            for name in names
        }

    def places(self, records: Sequence[Record]) -> Places:
        """List the places of one brain, given by its sections.

        Raises
        ------
        DataError
            A surface cannot be used, or no vertex of it lies on a section.
        """
        if self.surface is None:
            return gather_places(records, patch=self.patch, least=self.least, cortex=self.cortex)
        folded = read_surface(self.surface)
        blown = read_surface(self.inflated) if self.inflated else None
        if blown is not None and len(blown.vertices) != len(folded.vertices):
            raise DataError(
                f"the inflated surface has {len(blown.vertices)} vertices, the other {len(folded.vertices)}",
                "Give two forms of one surface.",
            )
        found = gather_on_surface(
            records, folded, patch=self.patch, least=self.least, cortex=self.cortex, count=self.count,
            reach=float("inf") if self.reach is None else self.reach, seed=self.seed, inflated=blown,
            straight=self.straight,
        )  # fmt: skip
        if not len(found):
            raise DataError(
                f"no vertex of {self.surface} lies in the tissue of a section of {records[0].subject}",
                "Surface and positions must be in one space and unit; else give a larger --reach.",
            )
        return found


def gather_on_surface(
    records: Sequence[Record],
    surface: Surface,
    *,
    patch: tuple[int, int],
    least: float,
    cortex: Literal["tissue", "mask", "depth"],
    count: int,
    reach: float,
    seed: int,
    inflated: Surface | None = None,
    straight: bool = False,
) -> Places:
    """Draw vertices of a surface evenly over its area, and cut each on the section nearest to it.

    Patches that are known by a single position stand for the vertex nearest to them.

    Parameters
    ----------
    records, patch, least, cortex
        As in `gather_places`.
    surface, inflated
        The brain's surface, and the same blown up, whose positions are then given.
    count
        Vertices that are drawn, before those far from every section are left out.
    reach
        Farthest that a vertex may lie from a section.
    seed
        Of the drawing.
    straight
        Whether distances are straight ones, on the inflated surface, rather than along the surface.
    """
    planes = tuple(Plane.of(record) for record in records)
    if all(plane.is_point for plane in planes):
        centres = np.stack([plane.frame[0] for plane in planes])
        tree: Any = KDTree(surface.vertices)  # type: ignore[no-untyped-call]
        off, chosen = tree.query(centres)
        if len(centres) > count:  # a matrix of all distances must fit into memory
            some = np.sort(np.random.default_rng(seed).choice(len(centres), count, replace=False))
        else:
            some = np.arange(len(centres))
        section = some[off[some] <= reach]
        chosen = np.asarray(chosen)[section]
        at = np.array([[(edge - 1) / 2 for edge in planes[n].space] for n in section])
        at = at.reshape(-1, 2)
    else:
        chosen = surface.draw(count, seed)
        projected = [plane.project(surface.vertices[chosen]) for plane in planes]
        section = np.stack([off for _, off in projected]).argmin(0)
        at = np.stack([where for where, _ in projected])[section, np.arange(len(chosen))]
        off = np.stack([off for _, off in projected]).min(0)
        kept = off <= reach
        for number, (record, plane) in enumerate(zip(records, planes, strict=True)):
            mine = kept & (section == number)
            if mine.any() and not plane.is_point:
                inside = ((at[mine] >= -0.5) & (at[mine] < np.array(plane.space) - 0.5)).all(1)
                blocks = allowed(record, patch, least, cortex)
                where = ((at[mine] + 0.5) // BLOCK).astype(np.int64)
                where = where.clip(0, np.array(blocks.shape) - 1)
                kept[mine] = inside & blocks[where[:, 0], where[:, 1]]
        chosen, section, at = chosen[kept], section[kept], at[kept]
    order = np.argsort(section, kind="stable")
    chosen, section, at = chosen[order], section[order], at[order]
    shown = surface if inflated is None else inflated
    return Places(
        tuple(records),
        planes,
        section,
        at,
        shown.vertices[chosen],
        np.arange(1.0, len(chosen) + 1),
        along=None if straight else geodesics(surface, chosen),
    )
