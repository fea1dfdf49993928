"""The places of one brain on its surface: where vertices lie on sections, and how far apart they are along it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy.spatial import KDTree

from unlabeled.data.positions import BLOCK, Places, Plane, allowed, gather_places
from unlabeled.data.record import Record
from unlabeled.data.surfaces import Surface, geodesics, read_surface
from unlabeled.errors import DataError


def places_of(
    records: Sequence[Record],
    *,
    surface: str | None,
    inflated: str | None,
    patch: tuple[int, int],
    least: float,
    cortex: Literal["tissue", "mask", "depth"],
    count: int,
    reach: float,
    seed: int,
    straight: bool,
) -> Places:
    """List the places of one brain: vertices of its surface, or without one blocks of tissue.

    Parameters
    ----------
    records, patch, least, cortex
        As in `gather_places`.
    surface, inflated
        Files.
    count, reach, seed, straight
        As in `gather_on_surface`.

    Raises
    ------
    DataError
        A surface cannot be used, or no vertex of it lies on a section.
    """
    if surface is None:
        return gather_places(records, patch=patch, least=least, cortex=cortex)
    folded = read_surface(surface)
    blown = read_surface(inflated) if inflated else None
    if blown is not None and len(blown.vertices) != len(folded.vertices):
        raise DataError(
            f"the inflated surface has {len(blown.vertices)} vertices, the other {len(folded.vertices)}",
            "Give two forms of one surface.",
        )
    found = gather_on_surface(
        records, folded, patch=patch, least=least, cortex=cortex, count=count, reach=reach,
        seed=seed, inflated=blown, straight=straight,
    )  # fmt: skip
    if not len(found):
        raise DataError(
            f"no vertex of {surface} lies in the tissue of a section of {records[0].subject}",
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
