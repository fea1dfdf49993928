"""The U-Net of CARE: the published layers, any size of image, the head alone apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unlabeled.errors import OptionError
from unlabeled.nn.care import CareBlock
from unlabeled.nn.decoders import build_decoder, build_first_blocks
from unlabeled.nn.encoders import build_encoder


@pytest.mark.parametrize(
    ("name", "down", "up"),
    [
        (
            "care-unet",
            [
                (1, 32),
                (32, 32),
                (32, 64),
                (64, 64),
                (64, 128),
                (128, 128),
                (128, 256),
                (256, 256),
                (256, 512),
                (512, 256),
            ],
            [
                (512, 256),
                (256, 128),
                (256, 128),
                (128, 64),
                (128, 64),
                (64, 32),
                (64, 32),
                (32, 32),
            ],
        ),
        (
            "care-unet-3",
            [(1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 128)],
            [(256, 128), (128, 64), (128, 64), (64, 32), (64, 32), (32, 32)],
        ),
    ],
)
def test_layers_are_the_published_ones(
    name: str, down: list[tuple[int, int]], up: list[tuple[int, int]]
) -> None:
    """Two convolutions a level; the middle and every level on the way up narrow for what follows."""
    encoder = build_encoder(name, dims=2)
    decoder = build_decoder(encoder, out_channels=1)
    for network, expected in ((encoder, down), (decoder, up)):
        blocks = [part for part in network.modules() if isinstance(part, CareBlock)]
        assert [(b.conv.in_channels, b.conv.out_channels) for b in blocks] == expected
        for block in blocks:
            assert block.conv.kernel_size == (3, 3)
            assert block.norm.eps == 1e-3
            assert (block.conv.bias == 0).all()
            fans = 9 * (block.conv.in_channels + block.conv.out_channels)
            assert block.conv.weight.abs().max() <= (6 / fans) ** 0.5
    assert isinstance(decoder.head, nn.Conv2d)
    assert (decoder.head.in_channels, decoder.head.kernel_size) == (32, (1, 1))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("edges", [(32, 16, 48), (37, 70, 33)])
def test_any_image_comes_back_whole(dims: int, edges: tuple[int, ...]) -> None:
    encoder = build_encoder("care-unet-tiny", dims=dims).eval()
    decoder = build_decoder(encoder, out_channels=3).eval()
    space = edges[:dims]
    with torch.no_grad():
        maps = encoder(torch.randn(1, 1, *space))
        assert decoder(maps).shape == (1, 3, *space)
    assert [each.shape[1] for each in maps] == list(encoder.channels) == [8, 16, 16]


def test_enlarging_repeats_and_the_skip_stands_behind() -> None:
    encoder = build_encoder("care-unet-tiny", dims=2).eval()
    decoder = build_decoder(encoder, out_channels=1).eval()
    seen: list[torch.Tensor] = []
    decoder.levels[0][0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        maps = encoder(torch.randn(1, 1, 16, 16))
        decoder(maps)
    repeated = maps[-1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(seen[0], torch.cat([repeated, maps[-2]], 1))


def test_a_gradient_reaches_every_parameter() -> None:
    encoder = build_encoder("care-unet-tiny", dims=2)
    decoder = build_decoder(encoder, out_channels=1)
    decoder(encoder(torch.randn(2, 1, 16, 16))).square().mean().backward()
    for network in (encoder, decoder):
        assert [key for key, value in network.named_parameters() if value.grad is None] == []


def test_first_blocks_alone_are_refused() -> None:
    with pytest.raises(OptionError, match="care-unet-tiny") as fault:
        build_first_blocks(build_encoder("care-unet-tiny", dims=2), 1)
    assert "--encoder" in fault.value.remedy
