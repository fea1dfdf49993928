"""Views of bodies: the box in the middle, of one size, turned and moved as drawn."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from unlabeled.data.bodies import Body
from unlabeled.data.index import index_scans
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.store import Store
from unlabeled.rng import generator
from unlabeled.transforms.body_views import BodyView, Pose

BOUNDS = ((1.0, 4.0), (8.0, 16.0), (20.0, 28.0))


@pytest.fixture
def body(tmp_path) -> Body:
    """Five slices of different brightness, a bright square of 8 x 8 with a corner of its own, on a dim ground."""
    array = np.full((5, 30, 40), 50, np.int16)
    array[:, 8:16, 20:28] = 200
    array[:, 8:12, 20:24] = 400
    array += np.arange(0, 50, 10, dtype=np.int16)[:, None, None]
    return save(tmp_path, array)


def save(folder: Path, array: np.ndarray, steps=(4.0, 1.0, 1.0), bounds=BOUNDS) -> Body:
    (folder / "scans").mkdir()
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = -3.0
    nibabel.save(nibabel.Nifti1Image(array, affine), folder / "scans" / "p.nii.gz")
    sources = index_scans(folder / "scans").sources
    done = Store(folder / "cache").prepare(sources, rule=IntensityRule(kind="range"))
    return Body(done.records[0], "L4", bounds)


def test_a_view_as_large_as_the_box_is_the_patch(body):
    view = BodyView((3, 8, 8), surround=0.0)(body)
    torch.testing.assert_close(view, body.record.patch((1, 8, 20), (3, 8, 8)), atol=1e-5, rtol=0)


def test_surroundings_are_shares_of_the_longer_edge(body):
    view = BodyView((3, 24, 24), surround=1.0)(body)
    wide = body.record.patch((1, 0, 12), (3, 24, 24))
    torch.testing.assert_close(view, wide, atol=1e-5, rtol=0)


def test_every_body_fills_the_view_alike(tmp_path, body):
    (tmp_path / "large").mkdir()
    array = np.full((5, 60, 80), 50, np.int16)
    array[:, 16:32, 40:56] = 200
    array[:, 16:24, 40:48] = 400
    array += np.arange(0, 50, 10, dtype=np.int16)[:, None, None]
    large = save(tmp_path / "large", array, bounds=(BOUNDS[0], (16.0, 32.0), (40.0, 56.0)))
    look = BodyView((3, 8, 8), surround=0.0)
    inner = (..., slice(1, 3), slice(1, 3))
    torch.testing.assert_close(look(large)[inner], look(body)[inner], atol=1e-5, rtol=0)


def test_pixels_that_are_no_squares_give_a_square_view(tmp_path):
    array = np.full((5, 30, 40), 50, np.int16)
    array[:, 8:16, 20:24] = 200
    body = save(
        tmp_path, array, steps=(4.0, 1.0, 2.0), bounds=(BOUNDS[0], (8.0, 16.0), (20.0, 24.0))
    )
    view = BodyView((1, 16, 16), surround=0.5)(body)[0, 0]
    bright = view > (view.min() + view.max()) / 2
    assert bright[4:12, 4:12].all()
    assert bright.sum() == 64


def test_a_quarter_turn_turns_the_view(body):
    look = BodyView((3, 8, 8), surround=0.0)
    plain, turned = look(body), look(body, Pose(degrees=90))
    candidates = [torch.rot90(plain, times, (-2, -1)) for times in (1, 3)]
    assert any(torch.allclose(turned, each, atol=1e-4) for each in candidates)


def test_moves_zooms_slices_and_mirrors(body):
    look = BodyView((3, 8, 8), surround=0.0)
    plain = look(body)
    moved = look(body, Pose(shift=(0.25, -0.125)))
    torch.testing.assert_close(moved, body.record.patch((1, 10, 19), (3, 8, 8)), atol=1e-5, rtol=0)
    assert torch.equal(look(body, Pose(mirrored=True)), plain.flip(1))
    deeper = look(body, Pose(slices=1))
    torch.testing.assert_close(deeper, body.record.patch((2, 8, 20), (3, 8, 8)), atol=1e-5, rtol=0)
    smaller = BodyView((1, 8, 8), surround=0.5)(body, Pose(zoom=2.0))
    torch.testing.assert_close(smaller, BodyView((1, 8, 8), surround=0.0)(body))


def test_a_body_at_the_border_is_padded(body):
    corner = Body(body.record, "S1", ((0.0, 1.0), (-4.0, 4.0), (36.0, 44.0)))
    view = BodyView((3, 8, 8), surround=0.0)(corner)
    assert view.shape == (1, 3, 8, 8)
    assert (view[:, 0] == 0).all()
    assert (view[:, :, :3] == 0).all()
    assert (view[:, :, :, 5:] == 0).all()
    assert (view[:, 1:, 4:, :4] > 0).any()


def test_one_plane_of_a_volume(body):
    view = BodyView((8, 8), surround=0.0)(body)
    torch.testing.assert_close(
        view, body.record.patch((2, 8, 20), (1, 8, 8))[:, 0], atol=1e-5, rtol=0
    )


def test_poses_keep_their_limits_and_depend_on_the_generator_alone():
    look = BodyView((3, 8, 8), rotation=10, zoom=(0.8, 1.5), shift=0.1, slices=2, p_mirror=0.3)
    poses = [look.draw(generator(number)) for number in range(500)]
    assert poses == [look.draw(generator(number)) for number in range(500)]
    assert max(abs(pose.degrees) for pose in poses) <= 10
    assert min(pose.zoom for pose in poses) >= 0.8
    assert max(pose.zoom for pose in poses) <= 1.5
    assert max(abs(move) for pose in poses for move in pose.shift) <= 0.1
    assert {pose.slices for pose in poses} == {-2, -1, 0, 1, 2}
    assert 0.2 < np.mean([pose.mirrored for pose in poses]) < 0.4
