"""Numbered points on pictures: where they are put, and which way up volumes stand."""

from __future__ import annotations

import pytest
import torch

from unlabeled.transforms.marking import mark_images, mark_points


def coloured(picture: torch.Tensor) -> torch.Tensor:
    """Rows and columns of the pixels that are not grey."""
    return (picture.amax(0) - picture.amin(0) > 0.3).nonzero().float()


def test_a_point_is_drawn_at_its_voxel() -> None:
    picture = mark_points(torch.zeros(1, 20, 40), {"": torch.tensor([15.0, 10.0])}, edge=400)
    assert picture.shape == (3, 200, 400)
    torch.testing.assert_close(
        coloured(picture).mean(0), torch.tensor([155.0, 105.0]), atol=1.0, rtol=0
    )


def test_volumes_stand_upright_and_points_off_the_slice_are_hollow() -> None:
    volume = torch.zeros(1, 10, 20, 8)
    volume[:, 2, 15] = 1.0
    on, off = (
        mark_points(volume, {"": torch.tensor([2.0, 15.0, depth])}, edge=400)
        for depth in (4.0, 0.0)
    )
    assert on.shape == (3, 400, 200)
    centre = coloured(on).mean(0)
    torch.testing.assert_close(centre, torch.tensor([90.0, 50.0]), atol=1.0, rtol=0)
    assert len(coloured(off)) < len(coloured(on)) / 2
    grey = mark_points(volume, {}, edge=400)
    assert float(grey[0, 90, 50]) == pytest.approx(
        1.0, abs=0.05
    )  # the point lies on the bright voxel


def test_names_stay_inside_the_picture() -> None:
    for place in ([0.0, 0.0], [0.0, 39.0], [39.0, 0.0], [39.0, 39.0]):
        bare = mark_points(torch.zeros(1, 40, 40), {"": torch.tensor(place)})
        named = mark_points(torch.zeros(1, 40, 40), {"27": torch.tensor(place)})
        assert len(coloured(named)) > len(coloured(bare)) + 15


@pytest.mark.parametrize("space", [(12, 18), (12, 18, 6)])
def test_a_batch_keeps_its_axes(space: tuple[int, ...]) -> None:
    points = torch.full((2, 3, len(space)), 3.0)
    shown = mark_images(torch.rand(2, 2, *space), points)
    assert shown.shape[:2] == (2, 3)
    assert shown.ndim == len(space) + 2
    assert max(shown.shape[2:]) == 160
    if (
        len(space) == 3
    ):  # what a panel makes of it: columns are the first axis, rows the second from its end
        upright = shown[0, ..., 0].transpose(1, 2).flip(1)
        first = mark_points(
            torch.zeros(1, *space), {str(n): at for n, at in enumerate(points[0], start=1)}
        )
        assert upright.shape == first.shape
