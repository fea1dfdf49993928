"""Distances along surfaces: a metric, and arcs on bodies whose arcs are known."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from scipy.spatial import ConvexHull

from unlabeled.data.surfaces import Surface, geodesics, link, read_surface
from unlabeled.demo.sections import half_cylinder
from unlabeled.errors import DataError


def sphere(count: int = 900) -> Surface:
    """Points of a spiral over the unit sphere, and the triangles between them."""
    number = np.arange(count) + 0.5
    height = 1 - 2 * number / count
    turn = np.pi * (1 + 5**0.5) * number
    wide = np.sqrt(1 - height**2)
    points = np.stack([wide * np.cos(turn), wide * np.sin(turn), height], 1)
    return Surface(points, ConvexHull(points).simplices.astype(np.int64))


def test_must_have_2_distances_are_a_metric():
    surface = sphere(300)
    found = geodesics(surface, np.arange(0, 300, 6)).astype(np.float64)
    assert (found.diagonal() == 0).all()
    assert np.array_equal(found, found.T)
    assert (found[~np.eye(len(found), dtype=bool)] > 0).all()
    around = found[:, :, None] + found[None, :, :].transpose(0, 1, 2)
    assert (found[:, None, :] <= around.transpose(0, 1, 2) + 1e-5).all()


def test_must_have_2_arcs_on_a_sphere():
    surface = sphere()
    chosen = np.arange(0, 900, 11)
    found = geodesics(surface, chosen)
    points = surface.vertices[chosen]
    true = np.arccos((points @ points.T).clip(-1, 1))
    far = true > 0.4
    ratio = found[far] / true[far]
    assert ratio.min() > 0.95
    assert ratio.max() < 1.05


def test_must_have_2_ways_on_a_cylinder():
    surface = Surface(*half_cylinder(48, turns=1))
    chosen = np.arange(0, len(surface.vertices), 9)
    found = geodesics(surface, chosen)
    points = surface.vertices[chosen]
    angle = np.arctan2(points[:, 1], points[:, 0])
    turn = np.abs(angle[:, None] - angle)
    true = np.hypot(np.minimum(turn, 2 * np.pi - turn), points[:, None, 2] - points[:, 2])
    far = true > 0.4
    ratio = found[far] / true[far]
    assert ratio.min() > 0.95
    assert ratio.max() < 1.05


def test_must_have_3_half_around_a_cylinder_is_pi_not_two():
    surface = Surface(*half_cylinder(48, turns=1))
    first = 0
    opposite = int(
        np.linalg.norm(surface.vertices - surface.vertices[0] * [-1, -1, 1], axis=1).argmin()
    )
    found = geodesics(surface, np.array([first, opposite]))[0, 1]
    assert found == pytest.approx(np.pi, rel=0.01)


def test_along_edges_alone_ways_are_longer():
    surface = Surface(*half_cylinder(24))
    chosen = np.arange(0, len(surface.vertices), 7)
    coarse, fine = (geodesics(surface, chosen, crossed) for crossed in (0, 3))
    assert (fine <= coarse + 1e-5).all()
    assert (fine < 0.9 * coarse).any()
    assert (link(surface) != link(surface).T).nnz == 0


def test_parts_that_do_not_meet_are_infinitely_far():
    one = Surface(*half_cylinder(8))
    other = one.triangles + len(one.vertices)
    both = Surface(
        np.concatenate([one.vertices, one.vertices + 5]), np.concatenate([one.triangles, other])
    )
    found = geodesics(both, np.array([0, 3, len(one.vertices)]))
    assert np.isfinite(found[0, 1])
    assert np.isinf(found[0, 2])


def test_must_have_7_vertices_are_drawn_by_area():
    """Where triangles are small there are many of them, and no more points an area."""
    fine, coarse = Surface(*half_cylinder(64)), Surface(*half_cylinder(16))
    many = len(fine.vertices)
    both = Surface(
        np.concatenate([fine.vertices, coarse.vertices + 10]),
        np.concatenate([fine.triangles, coarse.triangles + many]),
    )
    shares = []
    for seed in range(30):
        drawn = both.draw(40, seed)
        assert len(set(drawn.tolist())) == len(drawn) == 40
        shares.append((drawn < many).mean())
    assert 0.45 < np.mean(shares) < 0.6
    assert not np.array_equal(both.draw(40, 0), both.draw(40, 1))
    assert np.array_equal(both.draw(40, 0), both.draw(40, 0))


def test_surfaces_are_read_from_three_kinds_of_files(tmp_path):
    surface = Surface(*half_cylinder(6))
    points, corners = surface.vertices, surface.triangles
    np.savez(tmp_path / "a.npz", vertices=points, triangles=corners)
    image = nibabel.gifti.GiftiImage(
        darrays=[
            nibabel.gifti.GiftiDataArray(points.astype(np.float32), "NIFTI_INTENT_POINTSET"),
            nibabel.gifti.GiftiDataArray(corners.astype(np.int32), "NIFTI_INTENT_TRIANGLE"),
        ]
    )
    nibabel.save(image, tmp_path / "a.gii")
    rows = "\n".join(" ".join(f"{n:.7f}" for n in row) for row in points)
    ends = " ".join(str(3 * n + 3) for n in range(len(corners)))
    (tmp_path / "a.obj").write_text(
        f"P 0.3 0.3 0.4 10 1 {len(points)}\n{rows}\n\n{rows}\n\n{len(corners)}\n0 1 1 1 1\n\n{ends}\n\n"
        + " ".join(map(str, corners.reshape(-1)))
    )
    for kind in ("npz", "gii", "obj"):
        found = read_surface(tmp_path / f"a.{kind}")
        assert np.allclose(found.vertices, points, atol=1e-5)
        assert np.array_equal(found.triangles, corners)


def test_wrong_surfaces_are_named(tmp_path):
    np.savez(tmp_path / "beyond.npz", vertices=np.zeros((3, 3)), triangles=[[0, 1, 3]])
    np.savez(tmp_path / "flat.npz", vertices=np.zeros((3, 2)), triangles=[[0, 1, 2]])
    np.savez(tmp_path / "other.npz", points=np.zeros((3, 3)))
    (tmp_path / "lines.obj").write_text("L 1 2")
    (tmp_path / "a.ply").write_text("ply")
    for name, fact in {
        "beyond.npz": "vertices that it lacks",
        "flat.npz": "does not hold triangles",
        "other.npz": "cannot be read",
        "lines.obj": "cannot be read",
        "a.ply": "unknown kind",
        "no.gii": "no file",
    }.items():
        with pytest.raises(DataError, match=fact) as fault:
            read_surface(tmp_path / name)
        assert ".gii" in fault.value.remedy
