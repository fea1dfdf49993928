"""The network for thick slices keeps them all; the encoder contract is tested for it beside the others."""

from __future__ import annotations

import pytest
import torch

from unlabeled.nn.encoders import build_encoder


@pytest.mark.parametrize(("name", "width"), [("thin-cnn", 64), ("thin-cnn-16", 16)])
def test_slices_are_never_skipped(name, width):
    encoder = build_encoder(name, dims=3).eval()
    assert encoder.channels == (width, 2 * width, 4 * width, 8 * width)
    assert encoder.strides == ((1, 2, 2), (1, 4, 4), (1, 8, 8), (1, 16, 16))
    with torch.no_grad():
        for slices in (1, 5, 9):
            maps = encoder(torch.rand(1, 1, slices, 33, 32))
            assert [tuple(each.shape[2:]) for each in maps] == [
                (slices, 17, 16), (slices, 9, 8), (slices, 5, 4), (slices, 3, 2)
            ]  # fmt: skip


def test_the_first_layer_alone_looks_across_slices():
    encoder = build_encoder("thin-cnn-16", dims=3).eval()
    image = torch.rand(1, 1, 9, 32, 32)
    changed = image.clone()
    changed[:, :, 4] += 1
    with torch.no_grad():
        one, other = encoder(image)[-1], encoder(changed)[-1]
    touched = [not torch.equal(one[:, :, z], other[:, :, z]) for z in range(9)]
    assert touched == [False] * 3 + [True] * 3 + [False] * 3


def test_in_2d_it_is_the_same_network_without_that_axis():
    flat, deep = build_encoder("thin-cnn-16", dims=2), build_encoder("thin-cnn-16", dims=3)
    for (name, one), (_, other) in zip(
        flat.named_parameters(), deep.named_parameters(), strict=True
    ):
        assert one.numel() * (3 if name == "levels.0.0.weight" else 1) == other.numel()
