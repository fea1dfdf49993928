"""The shallow U-Net of supervoxel inpainting."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import build_encoder


def test_published_channels_map_sizes_and_parameters() -> None:
    """16, 32 and 64 channels; every level normalises once; the last convolution has one weight a channel."""
    encoder = build_encoder("unet-shallow", dims=3, in_channels=2).eval()
    decoder = build_decoder(encoder, out_channels=2).eval()
    with torch.no_grad():
        maps = encoder(torch.zeros(1, 2, 16, 24, 8))
        assert [each.shape[1:] for each in maps] == [
            (16, 16, 24, 8), (32, 8, 12, 4), (64, 4, 6, 2),
        ]  # fmt: skip
        assert decoder(maps).shape == (1, 2, 16, 24, 8)
    assert decoder.head.weight.shape == (2, 16, 1, 1, 1)
    convolutions = [each for each in encoder.modules() if isinstance(each, nn.Conv3d)]
    norms = [
        each for each in encoder.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)
    ]
    assert (len(convolutions), len(norms)) == (6, 3)
    # by hand, with biases: pairs of 2-16, 16-32, 32-64, then 96-32 and 48-16, and 2 numbers a normalised channel
    pairs = ((2, 16), (16, 32), (32, 64), (96, 32), (48, 16))
    count = sum(27 * a * b + b + 27 * b * b + b + 2 * b for a, b in pairs) + 2 * 16 + 2
    parameters = [*encoder.parameters(), *decoder.parameters()]
    assert sum(each.numel() for each in parameters) == count


@pytest.mark.parametrize("dims", [2, 3])
def test_odd_edges_come_back_whole(dims: int) -> None:
    encoder = build_encoder("unet-shallow", dims=dims).eval()
    space = (13, 22, 9)[:dims]
    with torch.no_grad():
        decoded = build_decoder(encoder, out_channels=3).eval()(encoder(torch.zeros(1, 1, *space)))
    assert decoded.shape == (1, 3, *space)


def test_a_gradient_reaches_every_parameter() -> None:
    encoder = build_encoder("unet-shallow", dims=2)
    decoder = build_decoder(encoder, out_channels=2)
    decoder(encoder(torch.randn(2, 1, 16, 16))).square().mean().backward()
    named = [*encoder.named_parameters(), *decoder.named_parameters()]
    assert [key for key, value in named if value.grad is None] == []


def test_normalisation_follows_the_activation() -> None:
    """What a level gives is no longer cut at 0."""
    encoder = build_encoder("unet-shallow", dims=2).train()
    (finest, *_) = encoder(torch.randn(4, 1, 32, 32))
    assert finest.min() < -0.1
