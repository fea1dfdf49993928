"""The U-Net whose way up ends early."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from unlabeled.errors import OptionError
from unlabeled.nn.asymmetric import QuarterDecoder
from unlabeled.nn.encoders import build_encoder


@pytest.mark.parametrize("name", ["asym-unet", "resenc-tiny", "resnet18", "unet"])
def test_the_way_up_ends_at_a_quarter_whatever_the_encoder(name):
    encoder = build_encoder(name, dims=2)
    decoder = QuarterDecoder(encoder, classes=3)
    maps = encoder(torch.rand(1, 1, 64, 72))
    decoded, logits = decoder(maps)
    assert decoded.shape == maps[decoder.level].shape == (1, decoder.width, 16, 18)
    assert logits.shape == (1, 3, 16, 18)


def test_the_published_network_has_its_widths():
    encoder = build_encoder("asym-unet", dims=3)
    decoder = QuarterDecoder(encoder, classes=3)
    assert encoder.channels == (32, 64, 128, 256, 512)
    assert [stride[0] for stride in encoder.strides] == [2, 4, 8, 16, 32]
    assert [step[1].conv.out_channels for step in decoder.steps] == [256, 128, 64]
    assert encoder.stem[0].conv.kernel_size == (5, 5, 5)
    assert all(level[0].conv.dilation == (2, 2, 2) for level in encoder.levels)
    assert (decoder.head[0].conv.out_channels, decoder.head[1].out_channels) == (32, 3)


def test_an_encoder_that_is_too_shallow_is_refused():
    shallow = SimpleNamespace(name="shallow", strides=((1, 1), (2, 2)), channels=(4, 8), dims=2)
    with pytest.raises(OptionError, match="quarter") as told:
        QuarterDecoder(shallow, classes=2)
    assert "resenc-tiny" in told.value.remedy
