"""The network of shape landmarks: the published number of weights, and images of any size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unlabeled.errors import OptionError
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import build_encoder


def test_parameters_number_as_published() -> None:
    """With 1024 -> 512 -> 52 behind it, the published network has 3,199,060 weights."""
    with torch.device("meta"):
        encoder = build_encoder("landmark-cnn", dims=2, in_channels=3)
    head = (1024 + 1) * 512 + (512 + 1) * 52
    assert sum(each.numel() for each in encoder.parameters()) + head == 3_199_060


def test_the_edges_halve_where_the_published_network_halves_them() -> None:
    encoder = build_encoder("landmark-cnn", dims=2)
    with torch.no_grad():
        maps = encoder(torch.zeros(1, 1, 256, 256))
    assert [found.shape[-1] for found in maps] == [256, 128, 64, 32, 16, 8, 4, 2]
    kinds = [
        (type(layer), layer.stride)
        for scale in encoder.scales
        for layer in scale
        if not isinstance(layer, nn.ReLU)
    ]
    conv, pool = nn.Conv2d, nn.MaxPool2d
    block = [(conv, (1, 1)), (conv, (1, 1)), (pool, 2)]
    strided = [(conv, (1, 1)), (conv, (2, 2)), (conv, (1, 1)), (conv, (2, 2))]
    assert kinds == [*block, *block, *strided, (pool, 2), *strided]


@pytest.mark.parametrize("space", [(40, 33), (24, 17, 9), (1, 1)])
def test_small_images_end_in_one_position(space: tuple[int, ...]) -> None:
    encoder = build_encoder("landmark-cnn", dims=len(space))
    assert encoder(torch.rand(1, 1, *space))[-1].shape[2:] == (1,) * len(space)


def test_a_decoder_needs_two_positions_and_says_so() -> None:
    encoder = build_encoder("landmark-cnn", dims=2)
    decoder = build_decoder(encoder, out_channels=2)
    with pytest.raises(OptionError, match="halved to a single position") as refused:
        decoder(encoder(torch.rand(1, 1, 64, 64)), (64, 64))
    assert "--patch-size 128 128" in refused.value.remedy
    assert decoder(encoder(torch.rand(1, 1, 128, 65)), (128, 65)).shape == (1, 2, 128, 65)
