"""Three planes of a volume in one picture: which, where, and upright."""

from __future__ import annotations

import torch

from unlabeled.training.previews import panel
from unlabeled.transforms.planes import LINE, SEAM, three_planes


def test_the_middle_planes_of_all_axes_stand_where_they_should():
    volume = torch.rand(2, 1, 4, 6, 8)
    picture = three_planes(volume)
    assert picture.shape == (2, 1, 4 + SEAM + 6, 6 + SEAM + 8, 1)
    flat = picture[..., 0]
    assert torch.equal(flat[:, :, :4, :6], volume[..., 4]), "axial, below"
    assert torch.equal(flat[:, :, :4, 6 + SEAM :], volume[:, :, :, 3]), "coronal, above it"
    assert torch.equal(flat[:, :, 4 + SEAM :, 6 + SEAM :], volume[:, :, 2]), "sagittal, beside"
    assert flat[:, :, 4 + SEAM :, :6].eq(0).all()
    assert panel({"planes": picture})[:4] == b"\x89PNG"


def test_lines_lie_on_the_borders_of_sub_cubes_alone():
    flat = three_planes(torch.zeros(1, 1, 6, 6, 6), side=2)[0, 0, :6, :6, 0]
    line = torch.tensor([False, False, True, False, True, False])
    assert torch.equal(flat == torch.tensor(LINE), line[:, None] | line)
    white = three_planes(torch.ones(1, 1, 6, 6, 6), side=2)
    assert torch.equal(white, three_planes(torch.ones(1, 1, 6, 6, 6)))
