"""Blobs on a grid: where their peaks are, how they fall, what the best constant map is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.transforms.heatmaps import draw_blobs, find_blobs, mean_blob


@pytest.mark.parametrize(
    ("place", "row", "column"), [((0.0, 0.0), 9, 9), ((0.25, -0.3), 6, 11), ((-0.7, 0.7), 15, 3)]
)
def test_peaks_are_where_they_belong(place, row, column):
    (drawn,) = draw_blobs(torch.tensor([place]))[:, 0]
    assert divmod(int(drawn.argmax()), 19) == (row, column)


def test_the_peak_is_ten_and_a_cell_away_it_is_10_exp_15_81():
    drawn = draw_blobs(torch.zeros(1, 2))[0, 0]
    assert float(drawn[9, 9]) == drawn.max() == 10
    assert float(drawn[9, 10]) == pytest.approx(8.3095, abs=1e-4)


@given(column=st.floats(-1, 1), row=st.floats(-1, 1))
def test_the_largest_cell_is_the_nearest(column, row):
    place = torch.tensor([[column, row]])
    found = find_blobs(draw_blobs(place))
    assert (found - place).abs().max() <= 1 / 18 + 1e-6
    assert torch.allclose(draw_blobs(-place), draw_blobs(place).flip(2, 3), atol=1e-6)


def test_no_constant_map_has_a_smaller_error_than_the_mean():
    rng = torch.Generator().manual_seed(0)
    places = (torch.rand(20_000, 2, generator=rng) * 2 - 1) * 0.7
    drawn = draw_blobs(places)
    mean = mean_blob(0.0, 0.7)
    assert torch.allclose(mean[0, 0], drawn.mean(0)[0], atol=0.08)
    error = float((mean - drawn).square().mean())
    assert error == pytest.approx(1.98, abs=0.02)
    assert float(drawn.square().mean()) == pytest.approx(2.35, abs=0.02)
    away = mean_blob(0.5, 0.7)[0, 0]
    assert away[9, 9] < 0.1 * away.max()


def test_published_maps(golden):
    with np.load(golden / "volume-context" / "heatmap.npz") as held:
        places = torch.from_numpy(np.stack([held["xdelta"], held["ydelta"]], 1))
        assert torch.allclose(draw_blobs(places), torch.from_numpy(held["heatmap"]), atol=1e-5)
