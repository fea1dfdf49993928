"""Embeddings of regions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.errors import OptionError
from unlabeled.nn.regions import REGION, RegionProjector, grid_places, require_room


@given(edge=st.integers(8, 100))
def test_regions_of_a_grid_differ_and_lie_inside(edge: int) -> None:
    at = grid_places(edge, 5)
    assert at == sorted(set(at))
    assert at[0] == 0
    assert at[-1] + REGION <= edge


def test_places_of_the_grid_are_those_of_the_whole_map() -> None:
    torch.manual_seed(0)
    projector = RegionProjector(6, 10, 5).eval()
    features = torch.randn(3, 6, 9, 16)
    with torch.no_grad():
        grid, everywhere = projector(features), projector.everywhere(features)
    assert grid.shape == (3, 25, 10)
    rows, columns = grid_places(9, 5), grid_places(16, 5)
    picked = everywhere[:, :, rows][..., columns].flatten(2).transpose(1, 2)
    torch.testing.assert_close(grid, picked)


def test_a_map_without_room_is_refused_with_a_patch_that_has() -> None:
    require_room((32, 32), (4, 4), 5)
    with pytest.raises(OptionError, match="feature map of 8 x 6") as fault:
        require_room((32, 24), (4, 4), 5)
    assert "--patch-size 32 32" in fault.value.remedy
