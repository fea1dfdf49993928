"""Boxes around parts of a scan that have a name: vertebral bodies by level, or parts by their place along the body."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from unlabeled.data.record import Record
from unlabeled.data.scan import Source
from unlabeled.errors import ScanError

#: Where a box begins and ends along each axis of space, in edges of voxels: 0 is the first voxel's outer edge.
Bounds: TypeAlias = tuple[tuple[float, float], ...]

_SPINE = "CTLS"  # cervical, thoracic, lumbar, sacral: from head to foot
_HOW = 'Write names and boxes in the same order, parted by ";": level "L4;L5", boxes "10 40 3 60 90 12; ...".'


@dataclass(frozen=True, slots=True)
class Body:
    """A named part of a scan.

    Parameters
    ----------
    record
        The scan.
    level
        Its name: ``L4``, or a number from the lowest place on.
    bounds
        Of the box around it on the record's grid.
    """

    record: Record
    level: str
    bounds: Bounds


def bodies_by_level(record: Record) -> tuple[Body, ...]:
    """Read the columns `level` and `boxes` of a scan: names and boxes in the same order, parted by semicolons.

    A box is the first voxel along each axis of the file's own array, then the one behind the last along each axis.

    Raises
    ------
    ScanError
        The scan has no levels or boxes, or they are no boxes inside the scan.
    """
    found = []
    for level, corners in named_boxes(record.source, len(record.grid.shape)):
        bounds = _on_record(record, corners)
        if any(
            stop <= 0 or start >= edge
            for (start, stop), edge in zip(bounds, record.space, strict=True)
        ):
            shape = " x ".join(map(str, record.grid.shape))
            raise ScanError(
                f"has a box of {level} that lies outside its {shape} voxels",
                "Give boxes in voxels of the file's own array, from 0.",
            )
        found.append(Body(record, level, bounds))
    return tuple(found)


def named_boxes(source: Source, axes: int) -> list[tuple[str, NDArray[np.float64]]]:
    """Read names and boxes ``2 axis`` (first voxel, the one behind the last) of a row.

    Raises
    ------
    ScanError
        A column is missing or cannot be read; the fact names what.
    """
    missing = [
        name for name, cell in (("level", source.level), ("boxes", source.boxes)) if not cell
    ]
    if missing or not (source.level and source.boxes):
        raise ScanError(
            f"has no {' and no '.join(missing)}",
            f"Add to the manifest, from a detector or by hand, the columns `level` and `boxes`. {_HOW}\n"
            "Without them, --pairing position is a weaker stand-in.",
        )
    levels = [name.strip() for name in source.level.split(";") if name.strip()]
    cells = [cell.strip() for cell in source.boxes.split(";") if cell.strip()]
    if len(levels) != len(cells):
        raise ScanError(f"has {len(levels)} levels and {len(cells)} boxes", _HOW)
    twice = sorted({name for name in levels if levels.count(name) > 1})
    if twice:
        raise ScanError(f"names the level {twice[0]} twice", "Keep one box a level.")
    return [(name, _corners(name, cell, axes)) for name, cell in zip(levels, cells, strict=True)]


def bodies_by_position(record: Record, places: int) -> tuple[Body, ...]:
    """Cut the foreground into parts of equal height, from foot to head (of a picture, from the top down).

    They stand in for levels where nobody drew any: two scans of one person show about the same at the same place, as
    far as both show the same part of the body.  A part is as deep as it is high, in mm where the spacing is known, and
    lies in the middle; along the first axis of a volume it has the foreground's whole width.
    """
    along = record.dims - 1 if record.dims == 3 else 0
    spacing = record.spacing or (1.0,) * record.dims
    low, high = record.foreground[along]
    height = (high - low) / places
    found = []
    for place in range(places):
        bounds: list[tuple[float, float]] = []
        for axis, (start, stop) in enumerate(record.foreground):
            half = height * spacing[along] / spacing[axis] / 2
            if axis == along:
                bounds.append((low + place * height, low + (place + 1) * height))
            elif record.dims == 3 and axis == 0:
                bounds.append((float(start), float(stop)))
            else:
                bounds.append(((start + stop) / 2 - half, (start + stop) / 2 + half))
        found.append(Body(record, str(place + 1), tuple(bounds)))
    return tuple(found)


def in_order(levels: Iterable[str]) -> tuple[str, ...]:
    """Sort names of levels, each once: the spine's from head to foot, others by name, numbers in them by size.

    >>> in_order(["S1", "L5", "T12", "L10", "L5", "C2"])
    ('C2', 'T12', 'L5', 'L10', 'S1')
    """

    def key(level: str) -> tuple[int, list[tuple[int, str]]]:
        region = _SPINE.find(level[:1].upper()) if re.fullmatch(r"[A-Za-z]\d+", level) else -1
        parts = re.findall(r"\d+|\D+", level)
        return region, [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

    return tuple(sorted(set(levels), key=key))


def _corners(level: str, cell: str, axes: int) -> NDArray[np.float64]:
    try:
        numbers = [float(each) for each in re.split(r"[\s,]+", cell)]
    except ValueError:
        numbers = []
    corners = np.array(numbers)
    if len(numbers) != 2 * axes or not np.isfinite(corners).all():
        raise ScanError(
            f"has the box {cell[:60]!r} of {level}, and a box here is {2 * axes} numbers",
            f"Give the first voxel along each of the {axes} axes, then the one behind the last.",
        )
    corners = corners.reshape(2, axes)
    if not (corners[0] < corners[1]).all():
        raise ScanError(
            f"has the box {cell[:60]!r} of {level}, which ends before it begins",
            "Give the first voxel along each axis, then the one behind the last.",
        )
    return corners


def _on_record(record: Record, corners: NDArray[np.float64]) -> Bounds:
    """Bring a box from the file's array to the record's, which is reoriented and perhaps resampled."""
    grid = record.grid
    if record.affine is None or grid.affine is None or len(grid.shape) < 3:
        ratio: Sequence[float] = [
            now / then for now, then in zip(record.space, grid.shape, strict=True)
        ]
        moved = corners * np.array(ratio)
    else:
        there = np.linalg.inv(record.affine) @ grid.affine
        moved = (corners - 0.5) @ there[:3, :3].T + there[:3, 3] + 0.5  # through voxels' middles
    return tuple(
        (float(min(ends)), float(max(ends))) for ends in zip(moved[0], moved[1], strict=True)
    )
