"""Sliding windows: coverage, and the same answer as a pass over the whole scan where that is defined."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.transfer.windows import (
    mean_over_windows,
    sliding_window,
    window_starts,
    window_weights,
)


@given(
    space=st.lists(st.integers(1, 40), min_size=2, max_size=3),
    edge=st.integers(1, 24),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
)
@settings(max_examples=60, deadline=None)
def test_windows_cover_every_voxel_and_stay_inside(
    space: list[int], edge: int, overlap: float
) -> None:
    size = [edge] * len(space)
    heard = torch.zeros(space)
    for start in window_starts(space, size, overlap=overlap):
        for first, n in zip(start, space, strict=True):
            assert first <= 0 if n <= edge else 0 <= first <= n - edge
        heard[tuple(slice(max(first, 0), first + edge) for first in start)] += 1
    assert heard.min() > 0


@given(n=st.integers(9, 60), edge=st.integers(2, 8), overlap=st.sampled_from([0.25, 0.5]))
@settings(max_examples=40, deadline=None)
def test_neighbours_overlap_by_what_was_asked(n: int, edge: int, overlap: float) -> None:
    starts = [start[0] for start in window_starts((n,), (edge,), overlap=overlap)]
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert max(steps) <= max(1, int(edge * (1 - overlap)))
    assert min(steps) > 0


def test_weights_are_largest_in_the_middle_and_never_zero() -> None:
    weights = window_weights((9, 16))
    assert weights.argmax().item() // 16 == 4
    assert weights.max() == 1
    assert weights.min() >= 1e-3


@pytest.mark.parametrize("size", [(8, 8, 8), (32, 7, 16), (64, 64, 64)])
def test_a_pointwise_network_gives_the_same_as_one_pass(
    balls: Callable[..., Path], prepared: Callable[..., tuple], size: tuple[int, ...]
) -> None:
    (record,) = prepared(balls(1))
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 5, 1), torch.nn.Tanh(), torch.nn.Conv3d(5, 3, 1)
    )
    with torch.no_grad():
        whole = network(record.patch((0, 0, 0), record.space)[None])[0]
        pieced = sliding_window(record, network, size, batch_size=3)
    assert pieced.shape == (3, *record.space)
    assert torch.allclose(pieced, whole, atol=1e-5)


def test_a_flat_network_goes_through_a_volume_plane_by_plane(
    balls: Callable[..., Path], prepared: Callable[..., tuple]
) -> None:
    (record,) = prepared(balls(1))
    network = torch.nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        pieced = sliding_window(record, network, (8, 8), batch_size=16)
        volume = record.patch((0, 0, 0), record.space)
        planes = torch.stack(
            [network(volume[..., z][None])[0] for z in range(volume.shape[-1])], -1
        )
    assert torch.allclose(pieced, planes, atol=1e-5)


def test_equals_monai_with_gaussian_weights_where_both_place_windows_alike(
    balls: Callable[..., Path], prepared: Callable[..., tuple]
) -> None:
    from monai.inferers.utils import sliding_window_inference

    (record,) = prepared(balls(1, space=(22, 22, 22)))
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 2, 3, padding=1)
    with torch.no_grad():
        ours = sliding_window(record, network, (15, 15, 15))
        theirs = sliding_window_inference(
            record.patch((0, 0, 0), record.space)[None],
            (15, 15, 15),
            4,
            network,
            overlap=0.5,
            mode="gaussian",
            sigma_scale=0.125,
        )
    assert (ours - theirs[0]).abs().max() < 1e-4


def test_the_mean_over_windows_of_a_mean_is_the_mean_where_windows_tile(
    balls: Callable[..., Path], prepared: Callable[..., tuple]
) -> None:
    (record,) = prepared(balls(1, space=(16, 24, 16)))

    def mean(image: torch.Tensor) -> torch.Tensor:
        return image.flatten(2).mean(2)

    found = mean_over_windows(record, mean, (8, 8, 8), batch_size=5)
    assert torch.allclose(found, record.patch((0, 0, 0), record.space).mean()[None], atol=1e-6)
