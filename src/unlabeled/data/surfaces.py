"""Surfaces of brains: triangles in space, points drawn evenly over them, and distances along them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import dijkstra

from unlabeled.errors import DataError

CROSSED = 3  # edges that a straight line of the graph crosses at most (ours)
_COLOURS = {0: 1, 1: 2, 2: 3}  # of an MNI object: for the whole, each triangle, each vertex


@dataclass(frozen=True, eq=False)
class Surface:
    """Triangles in space.

    Parameters
    ----------
    vertices
        ``vertex 3``, in the unit of the brain's reference space.
    triangles
        ``triangle 3``, numbers of vertices.
    """

    vertices: NDArray[np.float64]
    triangles: NDArray[np.int64]

    @property
    def areas(self) -> NDArray[np.float64]:
        """Area of every triangle."""
        one, two, three = (self.vertices[self.triangles[:, n]] for n in range(3))
        areas: NDArray[np.float64] = np.linalg.norm(np.cross(two - one, three - one), axis=1) / 2
        return areas

    def draw(self, count: int, seed: int) -> NDArray[np.int64]:
        """Draw vertices: a point evenly over the area, then the corner that is nearest to it.

        Parameters
        ----------
        count
            How many, one vertex at most once: fewer where the surface has fewer.
        seed
            Another seed, other vertices.
        """
        rng = np.random.default_rng(seed)
        areas = self.areas
        # corners repeat on coarse surfaces, and a vertex is kept once
        drawn = rng.choice(len(areas), 2 * count, p=areas / areas.sum())
        shares = rng.dirichlet((1.0, 1.0, 1.0), len(drawn))
        corners = self.triangles[drawn, shares.argmax(1)]
        _, first = np.unique(corners, return_index=True)
        kept: NDArray[np.int64] = corners[np.sort(first)][:count]
        return kept


def read_surface(path: str | Path) -> Surface:
    """Read a surface: GIFTI (``.gii``), an MNI object (``.obj``, as CIVET writes it), or ``.npz``.

    Raises
    ------
    DataError
        The file is absent, of another kind, or does not hold triangles of its own vertices.
    """
    place = Path(path)
    remedy = "Give GIFTI (.gii), an MNI object (.obj), or an .npz with vertices and triangles."
    if not place.is_file():
        raise DataError(f"the surface {path} is no file", remedy)
    try:
        if place.suffix == ".gii":
            vertices, triangles = nibabel.load(place).agg_data(("pointset", "triangle"))  # type: ignore[attr-defined]
        elif place.suffix == ".npz":
            with np.load(place) as held:
                vertices, triangles = held["vertices"], held["triangles"]
        elif place.suffix == ".obj":
            vertices, triangles = _read_object(place.read_text())
        else:
            raise DataError(f"the surface {path} is of an unknown kind", remedy)
        points = np.ascontiguousarray(vertices, np.float64)
        corners = np.ascontiguousarray(triangles, np.int64)
    except DataError:
        raise
    except Exception as fault:  # parsers of three kinds raise what they like
        raise DataError(
            f"the surface {path} cannot be read ({type(fault).__name__})", remedy
        ) from None
    whole = points.ndim == corners.ndim == 2 and points.shape[1] == corners.shape[1] == 3
    if not whole or not len(corners) or not np.isfinite(points).all():
        raise DataError(f"the surface {path} does not hold triangles in space", remedy)
    if corners.min() < 0 or corners.max() >= len(points):
        raise DataError(f"the surface {path} has triangles of vertices that it lacks", remedy)
    return Surface(points, corners)


def _read_object(text: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Read an MNI object of triangles, as text: points, normals, colours, ends of the triangles, their corners."""
    words = text.split()
    if words[0] != "P":
        raise ValueError("no polygons")
    many = int(words[6])
    at = 7
    points = np.array(words[at : at + 3 * many], np.float64).reshape(-1, 3)
    at += 6 * many  # normals follow
    faces, colours = int(words[at]), _COLOURS[int(words[at + 1])]
    at += 2 + 4 * {1: 1, 2: faces, 3: many}[colours] + faces
    return points, np.array(words[at : at + 3 * faces], np.int64).reshape(-1, 3)


def link(surface: Surface, crossed: int = CROSSED) -> csr_matrix:
    """Link each vertex with those that a straight line along the surface reaches, across a few edges.

    From a vertex, the triangles behind its opposite edges are folded out into the plane, one after the other; a corner
    that is seen through all edges in between is linked by its straight distance.  A shortest path in this graph is a
    metric, and never shorter than the one along the surface; along edges alone it would be up to 15 % longer.

    Parameters
    ----------
    surface
        Its triangles.
    crossed
        Edges that a line may cross; 0 leaves the edges of the triangles.
    """
    corners, points = surface.triangles, surface.vertices
    behind = _behind(corners)
    # as seen from vertex `a`: the edge (p, q) of triangle `t`, its ends in the plane about a
    a, p, q = (np.concatenate([np.roll(corners, -n, 1)[:, k] for n in range(3)]) for k in range(3))
    t = np.tile(np.arange(len(corners)), 3)
    near, far = (np.linalg.norm(points[end] - points[a], axis=1) for end in (p, q))
    along = np.einsum("nc,nc->n", points[p] - points[a], points[q] - points[a]) / near.clip(1e-12)
    at_p = np.stack([near, np.zeros_like(near)], 1)
    at_q = np.stack([along, np.sqrt((far**2 - along**2).clip(0))], 1)
    low, high = at_p, at_q  # what is seen lies between these directions
    rows, columns, lengths = [a, a], [p, q], [near, far]
    for _ in range(crossed):
        t, c = _across(behind, t, p, q, corners)
        there = t >= 0
        a, p, q, t, c = (each[there] for each in (a, p, q, t, c))
        at_p, at_q, low, high = (each[there] for each in (at_p, at_q, low, high))
        at_c = _fold_out(at_p, at_q, points[p], points[q], points[c])
        left, right = _turn(low, at_c), _turn(at_c, high)
        seen = (left >= 0) & (right >= 0)
        rows.append(a[seen])
        columns.append(c[seen])
        lengths.append(np.linalg.norm(at_c[seen], axis=1))
        # on through (p, c), whose far end is c or the old limit, and through (c, q)
        one, two = left > 0, right > 0
        parts = [
            (a[one], p[one], c[one], t[one], at_p[one], at_c[one], low[one],
             np.where((right >= 0)[one, None], at_c[one], high[one])),
            (a[two], c[two], q[two], t[two], at_c[two], at_q[two],
             np.where((left >= 0)[two, None], at_c[two], low[two]), high[two]),
        ]  # fmt: skip
        a, p, q, t, at_p, at_q, low, high = (
            np.concatenate(pair) for pair in zip(*parts, strict=True)
        )
    row, column, length = (np.concatenate(each) for each in (rows, columns, lengths))
    one, two = np.minimum(row, column), np.maximum(row, column)
    order = np.lexsort((length, two, one))
    one, two, length = one[order], two[order], length[order]
    first = np.r_[True, (np.diff(one) != 0) | (np.diff(two) != 0)] & (one != two)
    size = len(points)
    half: Any = coo_matrix(  # type: ignore[no-untyped-call]
        (length[first].clip(1e-12), (one[first], two[first])), (size, size)
    )
    lattice: csr_matrix = (half + half.T).tocsr()
    return lattice


def geodesics(
    surface: Surface, chosen: NDArray[np.int64], crossed: int = CROSSED
) -> NDArray[np.float32]:
    """Measure the distances along a surface between chosen vertices, ``chosen chosen``; infinite between its parts.

    >>> square = Surface(np.array([[0, 0, 0], [1.0, 0, 0], [1, 1, 0], [0, 1, 0]]), np.array([[0, 1, 2], [0, 2, 3]]))
    >>> geodesics(square, np.array([1, 3])).round(3).tolist()
    [[0.0, 1.4140000343322754], [1.4140000343322754, 0.0]]
    """
    linked = link(surface, crossed)
    found = np.empty((len(chosen), len(chosen)), np.float32)
    for place, vertex in enumerate(chosen):
        found[place] = dijkstra(linked, indices=int(vertex))[chosen]
    return np.minimum(found, found.T)  # both ways are summed in another order


def _behind(corners: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Sort the edges of all triangles: their codes, and of each its triangle and the corner opposite."""
    size = int(corners.max()) + 1
    one = corners.T.reshape(-1)
    two, opposite = (np.roll(corners, -n, 1).T.reshape(-1) for n in (1, 2))
    codes = np.minimum(one, two) * size + np.maximum(one, two)
    order = np.argsort(codes, kind="stable")
    triangle = np.tile(np.arange(len(corners)), 3)
    return {
        "codes": codes[order],
        "triangle": triangle[order],
        "corner": opposite[order],
        "size": np.array(size),
    }


def _across(
    behind: dict[str, NDArray[np.int64]],
    t: NDArray[np.int64],
    p: NDArray[np.int64],
    q: NDArray[np.int64],
    corners: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the triangle beyond the edge (p, q) of triangle t, -1 at a border, and its third corner."""
    codes = np.minimum(p, q) * int(behind["size"]) + np.maximum(p, q)
    first = np.searchsorted(behind["codes"], codes)
    last = np.minimum(first + 1, len(behind["codes"]) - 1)
    shared = behind["codes"][last] == codes
    place = np.where(behind["triangle"][first] == t, last, first)
    found = np.where(shared, behind["triangle"][place], -1)
    return found, behind["corner"][place]


def _fold_out(
    at_p: NDArray[np.float64],
    at_q: NDArray[np.float64],
    p: NDArray[np.float64],
    q: NDArray[np.float64],
    c: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Lay a triangle beyond an edge into the plane: where its third corner comes to lie."""
    edge = np.linalg.norm(q - p, axis=1, keepdims=True).clip(1e-12)
    along = np.einsum("nc,nc->n", c - p, q - p)[:, None] / edge
    off = np.sqrt((np.square(c - p).sum(1, keepdims=True) - along**2).clip(0))
    way = (at_q - at_p) / edge
    laid: NDArray[np.float64] = at_p + along * way + off * np.stack([way[:, 1], -way[:, 0]], 1)
    return laid


def _turn(one: NDArray[np.float64], two: NDArray[np.float64]) -> NDArray[np.float64]:
    """Say whether the second direction lies to the left of the first: positive, or not."""
    turn: NDArray[np.float64] = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
    return turn
