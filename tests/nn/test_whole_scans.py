"""A scan computed part by part is as computed at once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from unlabeled.nn.whole_scans import over_tiles


def scan(*space: int, channels: int = 2) -> SimpleNamespace:
    array = torch.rand(channels, *space, generator=torch.Generator().manual_seed(1))

    def patch(start, size):
        return array[(slice(None), *(slice(a, a + n) for a, n in zip(start, size, strict=True)))]

    return SimpleNamespace(
        array=array, channels=channels, space=space, dims=len(space), patch=patch
    )


@pytest.mark.parametrize("space", [(20, 13), (9, 11, 3)])
def test_parts_with_a_margin_are_as_the_whole(space):
    weight = torch.rand(3, 2, 3, 3, generator=torch.Generator().manual_seed(0))

    def compute(image):
        return F.conv2d(image, weight, padding=1)

    held = scan(*space)
    found = over_tiles(compute, held, 2, edge=6, margin=1, device=torch.device("cpu"))
    slices = held.array.unbind(-1) if len(space) == 3 else [held.array]
    wanted = torch.stack([compute(one[None])[0] for one in slices], -1)
    assert torch.allclose(found, wanted.view(found.shape), atol=1e-6)
    assert found.shape == (3, *space)
    if len(space) == 2:
        cut = over_tiles(compute, held, 2, edge=6, margin=0, device=torch.device("cpu"))
        assert not torch.allclose(cut, found, atol=1e-6), "without a margin, edges of parts show"
