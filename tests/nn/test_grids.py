"""Maps of any encoder on one grid."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from unlabeled.errors import OptionError
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.grids import FeatureGrid
from unlabeled.nn.heads import DenseHead, DenseProjector


@pytest.mark.parametrize(
    ("name", "stride", "used", "edge"),
    [
        ("unet", 8, [8], 8),
        ("resenc-tiny", 8, [8], 8),
        ("resenc-tiny", 4, [4, 8], 4),
        ("resenc-s", 8, [8, 16, 32], 8),
        ("unet-shallow", 8, [4], 4),
    ],
)
def test_maps_as_coarse_as_the_grid_or_coarser_are_joined(name, stride, used, edge):
    encoder = build_encoder(name, dims=3)
    grid = FeatureGrid.of(encoder, stride)
    assert grid.stride == edge
    assert [encoder.strides[n][0] for n in grid.used] == used
    patch = (64, 32, 32)
    rng = torch.Generator().manual_seed(0)
    maps = [
        torch.rand(2, channels, *(edge // s for edge, s in zip(patch, strides, strict=True)), generator=rng)
        for channels, strides in zip(encoder.channels, encoder.strides, strict=True)
    ]  # fmt: skip
    joined = grid(maps, grid.cells(patch))
    assert joined.shape == (2, grid.channels, *(each // edge for each in patch))
    finest, *coarser = grid.used
    if encoder.strides[finest][0] == edge:
        assert torch.equal(joined[:, : encoder.channels[finest]], maps[finest])
    if coarser:
        last = F.interpolate(maps[-1], joined.shape[2:], mode="trilinear", align_corners=False)
        assert torch.equal(joined[:, -encoder.channels[-1] :], last)


@pytest.mark.parametrize(
    ("patch", "typed"),
    [((96, 96, 20), "96 96 16"), ((30, 33, 4), "32 32 8"), ((8, 8, 8), "16 16 16")],
)
def test_patches_of_several_whole_cells(patch, typed):
    grid = FeatureGrid.of(build_encoder("resenc-tiny", dims=3), 8)
    with pytest.raises(OptionError, match="cells of 8 voxels") as fault:
        grid.cells(patch)
    assert fault.value.remedy.endswith(f"--patch-size {typed}.")
    assert grid.cells(tuple(map(int, typed.split())))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_dense_head_looks_at_one_cell_at_a_time(dims):
    head = DenseHead(dims, 4, 8, 3).eval()
    features = torch.rand(2, 4, *(5, 4, 3)[:dims])
    out = head(features)
    assert out.shape == (2, 3, *(5, 4, 3)[:dims])
    changed = features.clone()
    changed[..., 0] += 1
    same = (head(changed) == out).flatten(0, -2).all(0)
    assert same.tolist() == [False] + [True] * (same.numel() - 1)
    kinds = [type(each).__name__.rstrip("123d") for each in head.layers]
    assert kinds == ["Conv", "BatchNorm", "ReLU", "Conv"]


def test_a_dense_projector_embeds_the_cells_of_its_patch():
    encoder = build_encoder("resenc-tiny", dims=3)
    projector = DenseProjector(encoder, (16, 24, 16), 4, hidden=8, features=5)
    embedded = projector(encoder(torch.rand(2, 1, 16, 24, 16)))
    assert embedded.shape == (2, 5, 4, 6, 4)
    embedded.square().mean().backward()
    assert all(each.grad is not None for each in encoder.parameters())
