"""The narrow U-Net of six levels, and the first blocks of any decoder."""

from __future__ import annotations

import pytest
import torch

from unlabeled.errors import OptionError
from unlabeled.nn.decoders import build_decoder, build_first_blocks
from unlabeled.nn.encoders import build_encoder


def test_published_channels_and_map_sizes() -> None:
    """At 192 x 192 the coarsest map has 6 x 6 positions, and three blocks lead to 64 channels at 48 x 48."""
    encoder = build_encoder("unet-6", dims=2).eval()
    blocks = build_first_blocks(encoder, 3).eval()
    with torch.no_grad():
        maps = encoder(torch.zeros(1, 1, 192, 192))
        assert [each.shape[1:] for each in maps] == [
            (16, 192, 192), (32, 96, 96), (64, 48, 48), (128, 24, 24), (128, 12, 12), (128, 6, 6),
        ]  # fmt: skip
        assert blocks(maps[-4:]).shape == (1, 64, 48, 48)


@pytest.mark.parametrize("dims", [2, 3])
def test_odd_edges_come_back_whole(dims: int) -> None:
    encoder = build_encoder("unet-6", dims=dims).eval()
    space = (37, 70, 33)[:dims]
    with torch.no_grad():
        decoded = build_decoder(encoder, out_channels=3).eval()(encoder(torch.zeros(1, 1, *space)))
    assert decoded.shape == (1, 3, *space)


def test_a_gradient_reaches_every_parameter_of_the_decoder() -> None:
    encoder = build_encoder("unet-6", dims=2)
    decoder = build_decoder(encoder, out_channels=2)
    decoder(encoder(torch.randn(2, 1, 64, 64))).square().mean().backward()
    assert [key for key, value in decoder.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize("name", ["unet", "unet-6", "resenc-tiny", "resnet18", "vit-tiny"])
@pytest.mark.parametrize("blocks", [1, 3])
def test_first_blocks_are_those_of_the_whole_decoder(name: str, blocks: int) -> None:
    """With the whole decoder's weights they give what it computes on its way."""
    encoder = build_encoder(name, dims=2).eval()
    whole = build_decoder(encoder, out_channels=1).eval()
    first = build_first_blocks(encoder, blocks).eval()
    report = first.load_state_dict(whole.state_dict(), strict=False)
    assert report.missing_keys == []
    assert any(key.startswith("head.") for key in report.unexpected_keys)
    seen = []
    part = (whole.levels if hasattr(whole, "levels") else whole.stages)[blocks - 1]
    part.register_forward_hook(lambda _module, _given, out: seen.append(out))
    with torch.no_grad():
        maps = encoder(torch.randn(1, 1, 64, 64))
        whole(maps)
        given = first(maps[-blocks - 1 :])
    assert torch.equal(given, seen[0])
    assert given.shape[1] == encoder.channels[-blocks - 1]


@pytest.mark.parametrize("blocks", [0, 6])
def test_more_blocks_than_there_are_are_refused(blocks: int) -> None:
    with pytest.raises(OptionError, match="unet-6 has 5") as fault:
        build_first_blocks(build_encoder("unet-6", dims=2), blocks)
    assert "1 to 5" in fault.value.remedy
