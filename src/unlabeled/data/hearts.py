"""Studies of a heart: which of their images lie across the left ventricle and which along it, told by name or by place.

The anatomy that cannot be read from planes alone (which end of a line is the right ventricle's) is told apart in the
world of the patient, never by how an image lies in its file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from unlabeled.data.landmarks import Triple, read_landmarks
from unlabeled.data.planes import Plane, Vector, cut, meet
from unlabeled.data.slices import slice_axis
from unlabeled.data.store import Record
from unlabeled.errors import ScanError

View: TypeAlias = Literal["short-axis", "2-chamber", "4-chamber"]

VIEWS: tuple[View, ...] = ("short-axis", "2-chamber", "4-chamber")
_NAMED = {
    "short-axis": r"sax?|short.?axis",
    "2-chamber": r"(la.?)?2.?(ch|chamber)",
    "4-chamber": r"(la.?)?4.?(ch|chamber)",
    "other": r"(la.?)?3.?(ch|chamber)|lvot|rvot",
}
_STACK = 3  # planes that make a stack
_UPRIGHT = 0.26  # cosine between a long-axis plane's normal and the short-axis one's, at most: 75 degrees apart
_UNCLEAR = 0.1  # cosine below which no side of a line can be told


@dataclass(frozen=True)
class Toward:
    """Where parts of a heart lie, seen from the middle of the left ventricle: any lengths, RAS+ world."""

    right_ventricle: Triple = (1.0, 1.0, 0.0)
    anterior: Triple = (0.0, 1.0, 1.0)
    apex: Triple = (-1.0, 1.0, -1.0)


@dataclass(frozen=True, eq=False)
class Heart:
    """Three planes through a left ventricle.

    Parameters
    ----------
    short
        Across it, in the middle of the stack.
    two, four
        Along it: the 2-chamber plane, through its anterior and its inferior wall, and the 4-chamber plane, through both
        ventricles.
    toward
        Where its parts lie.
    """

    short: Plane
    two: Plane
    four: Plane
    toward: Toward = Toward()

    def cross(self, plane: Plane, view: View) -> Cross:
        """Find where the other two planes cut an image of this heart.

        Parameters
        ----------
        plane
            The image's.
        view
            What it shows.

        Returns
        -------
        Cross
            In a short-axis image the first line is the 2-chamber one, to the anterior wall, and the second the
            4-chamber one, to the right ventricle; in a long-axis image the first is the other long-axis one, to the base,
            and the second the short-axis one, to the anterior wall (2-chamber) or the right ventricle (4-chamber).

        Raises
        ------
        ParallelPlanesError
            Two of the planes are parallel, or nearly so.
        ScanError
            A line runs so that its ends cannot be told apart.
        """
        toward = self.toward
        base = tuple(-edge for edge in toward.apex)
        lines = {
            "short-axis": ((self.two, toward.anterior), (self.four, toward.right_ventricle)),
            "2-chamber": ((self.four, base), (self.short, toward.anterior)),
            "4-chamber": ((self.two, base), (self.short, toward.right_ventricle)),
        }[view]
        ways = []
        for other, side in lines:
            along = cut(plane, other, plane.origin).direction
            wanted = np.asarray(side) / np.linalg.norm(side)
            lean = float(along @ wanted)
            if abs(lean) < _UNCLEAR:
                raise ScanError(
                    "has a line between two planes whose ends cannot be told apart in the patient",
                    "See that the scanner knew how the patient lay, or leave the study out.",
                )
            along = along if lean > 0 else -along
            ways.append((along @ plane.first, along @ plane.second))
        return Cross(plane.pixel(meet(plane, lines[0][0], lines[1][0])), np.array(ways))


class Cross(NamedTuple):
    """Two lines in an image.

    Parameters
    ----------
    centre
        Where they cross: index along the image's two axes.
    ways
        Their directions, ``line axis``, each of length 1 in mm.
    """

    centre: Vector
    ways: Vector


class HeartImage(NamedTuple):
    """Slices of one scan that show a heart in the same view, and where the planes of other views cut them.

    Parameters
    ----------
    record
        The scan.
    across
        Its axis along which the slices are counted.
    places
        Numbers of the slices.
    crosses
        Where the other two planes cut each of them.
    spacing
        From one pixel to the next along a slice's axes [mm].
    view
        What they show.
    """

    record: Record
    across: int
    places: tuple[int, ...]
    crosses: tuple[Cross, ...]
    spacing: tuple[float, float]
    view: View


class _Slice(NamedTuple):
    record: Record
    across: int
    place: int

    @property
    def plane(self) -> Plane:
        return _plane(self.record, self.across, self.place)


@dataclass(frozen=True)
class HeartViews:
    """How the images of a study are sorted.

    Parameters
    ----------
    view
        Which images are wanted.
    middle
        Share of a stack's slices, in its middle, that are wanted.
    lone_plane
        What to do with a study that has planes of only one of both long axes: refuse it, or set a plane at right angles
        to it and to the short axis, through the point of their line that is nearest to the middle of the stack.
    landmarks
        CSV file with a point in the left and one in the right ventricle of a study [mm, RAS+]: columns ``study`` (or
        the subject's name), ``lv_x`` to ``rv_z``.  They then make the long-axis planes.
    """

    view: View = "short-axis"
    middle: float = 1.0
    lone_plane: Literal["refuse", "perpendicular"] = "refuse"
    landmarks: str = ""

    def images(self, records: Sequence[Record]) -> list[HeartImage]:
        """List the wanted images of all studies whose planes are known, scan by scan."""
        found: list[HeartImage] = []
        for study in studies(records).values():
            try:
                found += self._images(study)
            except ScanError:
                continue
        return found

    def refuse(self, records: Sequence[Record]) -> dict[str, ScanError]:
        """Say of the scans of every other study why it cannot be used, by the names of the scans."""
        refused: dict[str, ScanError] = {}
        for name, study in studies(records).items():
            try:
                self._images(study)
            except ScanError as fault:
                error = type(fault)(f"study {name} {fault.fact}", fault.remedy)
                refused |= {record.source.name: error for record in study}
        return refused

    def _images(self, study: Sequence[Record]) -> list[HeartImage]:
        """List the wanted images of one study.

        Raises
        ------
        ScanError
            Planes are missing or parallel, or the sides of a line cannot be told.
        """
        heart, bundles = self.sort(study)
        wanted = bundles.get(self.view, [])
        if self.view == "short-axis":
            wanted = self._middle(wanted)
        elif wanted:
            best = _nearest(wanted, heart.short.middle).plane
            wanted = [each for each in wanted if abs(best.distance(each.plane.origin)) < 1e-3]
        if not wanted:
            raise ScanError(f"has no {self.view} image", "Choose another --view, or leave it out.")
        by_scan: dict[str, list[_Slice]] = {}
        for each in wanted:
            by_scan.setdefault(each.record.source.name, []).append(each)
        return [
            HeartImage(
                record=slices[0].record,
                across=slices[0].across,
                places=tuple(each.place for each in slices),
                crosses=tuple(heart.cross(each.plane, self.view) for each in slices),
                spacing=slices[0].plane.spacing,
                view=self.view,
            )
            for slices in by_scan.values()
        ]

    def sort(self, study: Sequence[Record]) -> tuple[Heart, dict[str, list[_Slice]]]:
        """Tell the views of one study apart, and find its three planes.

        Raises
        ------
        ScanError
            A plane is missing.
        """
        bundles = _bundles(study)
        short = bundles.get("short-axis") or _short_stack(bundles)
        if not short:
            seen = ", ".join(name for name in VIEWS if name in bundles) or "none of them by name"
            raise ScanError(
                f"has no stack of short-axis slices ({len(study)} scans, {seen})",
                "Put short axis (sa), 2ch and 4ch into the names of the files.",
            )
        middle = np.mean([each.plane.middle for each in short], axis=0)
        across = _nearest(short, middle).plane
        toward = Toward()
        marked = read_landmarks(self.landmarks) if self.landmarks else {}
        points = marked.get(study[0].study) or marked.get(study[0].subject)
        if points is not None:
            left, right = (np.asarray(point) for point in points)
            away = (right - left) - across.normal * ((right - left) @ across.normal)
            if np.linalg.norm(away) < 1.0:
                raise ScanError(
                    "has landmarks that lie behind one another, seen along its long axis",
                    f"Set them apart in {self.landmarks}.",
                )
            rightward: Triple = (float(away[0]), float(away[1]), float(away[2]))
            two, four = (
                Plane.through(left, normal) for normal in (away, np.cross(away, across.normal))
            )
            heart = Heart(across, two, four, replace(toward, right_ventricle=rightward))
            return heart, {**bundles, "short-axis": short}
        long = _long_axes(bundles, across, toward)
        planes = {name: _nearest(slices, middle).plane for name, slices in long.items()}
        missing = [name for name in VIEWS[1:] if name not in planes]
        if len(missing) == 1 and self.lone_plane == "perpendicular":
            (there,) = planes.values()
            line = cut(across, there, middle)
            planes[missing[0]] = Plane.through(line.point, line.direction)
        elif missing:
            more = (
                "give --lone-plane perpendicular, " if len(missing) == 1 else "give --landmarks, "
            )
            raise ScanError(
                f"has no {' and no '.join(missing)} plane beside its short-axis stack",
                f"Put 2ch and 4ch into the names of the files, {more}or leave the study out.",
            )
        heart = Heart(across, planes["2-chamber"], planes["4-chamber"], toward)
        return heart, {**bundles, **long, "short-axis": short}

    def _middle(self, slices: Sequence[_Slice]) -> list[_Slice]:
        """Keep the slices in the middle of a stack, all frames of them."""
        upright = slices[0].plane.normal
        heights = [round(float(each.plane.origin @ upright), 2) for each in slices]
        levels = sorted(set(heights))
        kept = max(1, round(self.middle * len(levels)))
        first = (len(levels) - kept) // 2
        wanted = set(levels[first : first + kept])
        return [each for each, height in zip(slices, heights, strict=True) if height in wanted]


def studies(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Group scans by subject and study, in their order, under names that people read."""
    found: dict[str, list[Record]] = {}
    for record in records:
        told = record.study and not record.study.startswith(record.subject)
        name = f"{record.subject}/{record.study}" if told else record.study or record.subject
        found.setdefault(name, []).append(record)
    return found


def view_named(name: str) -> str:
    """Tell from a file's path which view it shows; ``other`` for views that are not needed, empty where it does not say.

    >>> view_named("p01/la_2ch.nii.gz"), view_named("p01/sa.nii.gz"), view_named("sample/7.nii.gz")
    ('2-chamber', 'short-axis', '')
    """
    for part in reversed(name.lower().split("/")):
        for view, pattern in _NAMED.items():
            if re.search(rf"(?<![a-z0-9])({pattern})(?![a-z0-9])", part.replace("_", " ")):
                return view
    return ""


def _plane(record: Record, across: int, place: int) -> Plane:
    affine = record.affine
    if affine is None:
        raise ScanError("has no affine", "Export it again with its geometry.")
    return Plane.of(affine, record.space, across, place)


def _bundles(study: Sequence[Record]) -> dict[str, list[_Slice]]:
    """Put slices together that show one view by name, or where no name tells it, that are parallel."""
    bundles: dict[str, list[_Slice]] = {}
    unnamed: list[tuple[Vector, str]] = []
    for record in study:
        axis = slice_axis(record)
        slices = [
            _Slice(record, axis, place)
            for place in range(record.space[axis] if record.dims == 3 else 1)
        ]
        view = view_named(record.source.name)
        if not view:
            normal = slices[0].plane.normal
            like = (name for other, name in unnamed if abs(float(other @ normal)) > 0.995)
            view = next(like, "") or f"planes {len(unnamed) + 1}"
            if view not in bundles:
                unnamed.append((normal, view))
        bundles.setdefault(view, []).extend(slices)
    return bundles


def _short_stack(bundles: Mapping[str, list[_Slice]]) -> list[_Slice]:
    """Choose, where no name tells it, the stack that lies most squarely across the usual long axis."""
    apex = np.asarray(Toward().apex) / np.linalg.norm(Toward().apex)
    able = {
        abs(float(slices[0].plane.normal @ apex)): slices
        for name, slices in bundles.items()
        if name not in _NAMED and len({_height(each) for each in slices}) >= _STACK
    }
    return able[max(able)] if able else []


def _long_axes(
    bundles: Mapping[str, list[_Slice]], short: Plane, toward: Toward
) -> dict[str, list[_Slice]]:
    """Tell the two long axes apart: by name, else by the line in which they cut the short-axis plane."""
    long: dict[str, list[_Slice]] = {name: bundles[name] for name in VIEWS[1:] if name in bundles}
    leans: dict[str, float] = {}
    for name, slices in bundles.items():
        plane = slices[0].plane
        if name in _NAMED or abs(float(plane.normal @ short.normal)) > _UPRIGHT:
            continue
        along = cut(short, plane, short.middle).direction
        across, up = (
            abs(float(along @ side)) / np.linalg.norm(side)
            for side in (np.asarray(toward.right_ventricle), np.asarray(toward.anterior))
        )
        leans[name] = float(across - up)
    ordered = sorted(leans, key=lambda name: leans[name])
    wanted = [name for name in VIEWS[1:] if name not in long]
    if len(wanted) == 2 and len(ordered) == 1:  # the only one there is
        wanted = wanted[:1] if leans[ordered[0]] < 0 else wanted[1:]
    for name in wanted:
        if ordered:
            long[name] = bundles[ordered.pop(0 if name == "2-chamber" else -1)]
    return long


def _height(each: _Slice) -> float:
    return round(float(each.plane.origin @ each.plane.normal), 2)


def _nearest(slices: Sequence[_Slice], point: Vector) -> _Slice:
    return min(slices, key=lambda each: abs(each.plane.distance(point)))
