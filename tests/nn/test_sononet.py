"""SonoNet: the published layers, in order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unlabeled.nn.encoders import build_encoder

WIDTHS = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]


@pytest.mark.parametrize("width", [16, 32, 64])
def test_layers_are_the_published_ones(width):
    with torch.device("meta"):
        encoder = build_encoder(f"sononet-{width}", dims=2)
    layers = [part for part in encoder.modules() if not list(part.children())]
    convolutions = [part for part in layers if isinstance(part, nn.Conv2d)]
    assert [part.out_channels for part in convolutions] == [each * width // 64 for each in WIDTHS]
    assert all(part.bias is None and part.kernel_size == (3, 3) for part in convolutions)
    norms = layers[1::3]
    assert [part.num_features for part in norms] == [each * width // 64 for each in WIDTHS]
    assert {part.eps for part in norms} == {1e-4}
    assert all(isinstance(part, nn.ReLU) for part in layers[2::3])


def test_levels_have_two_or_three_convolutions_between_maxima():
    encoder = build_encoder("sononet-16", dims=2).eval()
    assert [len(level) // 3 for level in encoder.levels] == [2, 2, 3, 3, 3]
    assert encoder.strides == ((1, 1), (2, 2), (4, 4), (8, 8), (16, 16))
    with torch.no_grad():
        maps = encoder(torch.rand(1, 1, 36, 32))
        assert torch.equal(maps[1], encoder.levels[1](nn.functional.max_pool2d(maps[0], 2)))
    assert [tuple(each.shape[2:]) for each in maps][-1] == (3, 2)
