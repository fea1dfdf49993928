"""Decoders on the encoder contract: full resolution for every encoder, edge and stride."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unlabeled.errors import OptionError
from unlabeled.nn.decoders import (
    Deconvolutions,
    DenseUpsampling,
    SkipDecoder,
    build_decoder,
    fit,
    spread_blocks,
)
from unlabeled.nn.encoders import Encoder, build_encoder


class Pyramid(Encoder):
    """An encoder with whatever strides a test asks for, computed by average pooling."""

    entry = "mix.0"

    def __init__(self, strides: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.name, self.dims, self.in_channels = "pyramid", len(strides[0]), 1
        self.strides = strides
        self.channels = tuple(4 + level for level in range(len(strides)))
        pointwise = nn.Conv2d if self.dims == 2 else nn.Conv3d
        self.mix = nn.ModuleList(pointwise(1, channels, 1) for channels in self.channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        pool = nn.functional.avg_pool2d if self.dims == 2 else nn.functional.avg_pool3d
        return [
            mix(pool(image, stride, stride, ceil_mode=True))
            for mix, stride in zip(self.mix, self.strides, strict=True)
        ]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["unet", "resenc-tiny", "resenc-s", "resnet18", "vit-tiny"])
def test_every_encoder_is_decoded_to_full_resolution(name: str, dims: int) -> None:
    encoder = build_encoder(name, dims=dims).eval()
    decoder = build_decoder(encoder, out_channels=3).eval()
    space = tuple(2 * stride if axis == 0 else stride for axis, stride in enumerate(encoder.strides[-1]))  # fmt: skip
    with torch.no_grad():
        decoded = decoder(encoder(torch.zeros(1, 1, *space)))
    assert decoded.shape == (1, 3, *space)


@pytest.mark.parametrize("name", ["resenc-tiny", "resnet18", "vit-tiny"])
def test_a_gradient_reaches_every_parameter(name: str) -> None:
    encoder = build_encoder(name, dims=2)
    decoder = build_decoder(encoder, out_channels=2)
    decoder(encoder(torch.randn(1, 1, 64, 64))).square().mean().backward()
    assert [key for key, value in decoder.named_parameters() if value.grad is None] == []


@settings(max_examples=25, deadline=None)
@given(
    edges=st.lists(st.integers(9, 40), min_size=2, max_size=2),
    first=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 3])),
    steps=st.lists(st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 2])), max_size=2),
)
def test_any_edges_and_anisotropic_strides_come_back_whole(
    edges: list[int], first: tuple[int, int], steps: list[tuple[int, int]]
) -> None:
    strides = [first]
    for step in steps:
        strides.append((strides[-1][0] * step[0], strides[-1][1] * step[1]))
    encoder = Pyramid(tuple(strides))
    decoder = SkipDecoder(encoder, out_channels=2)
    with torch.no_grad():
        decoded = decoder(encoder(torch.zeros(1, 1, *edges)), edges)
    assert decoded.shape == (1, 2, *edges)


def test_each_skip_reaches_the_result_at_its_own_place() -> None:
    """Features are aligned: changing one voxel of the finest map changes the result around that voxel alone."""
    encoder = build_encoder("resenc-tiny", dims=2).eval()
    decoder = build_decoder(encoder, out_channels=1).eval()
    with torch.no_grad():
        maps = encoder(torch.randn(1, 1, 33, 40, generator=torch.Generator().manual_seed(0)))
        before = decoder.get_submodule("stages.2.convs.0.conv")
        captured: list[Tensor] = []
        before.register_forward_hook(lambda _m, _i, out: captured.append(out))
        decoder(maps)
        maps[0] = maps[0].clone()
        maps[0][0, :, 5, 7] += 1
        decoder(maps)
    moved = (captured[1] - captured[0]).abs().sum(1)[0].nonzero()
    assert moved.min(0).values.tolist() == [4, 6]
    assert moved.max(0).values.tolist() == [6, 8]


def test_strides_that_do_not_divide_are_refused() -> None:
    with pytest.raises(OptionError, match="do not divide"):
        SkipDecoder(Pyramid(((2, 2), (3, 2))), out_channels=1)


def test_a_decoder_without_channels_is_refused() -> None:
    with pytest.raises(OptionError, match="at least one channel"):
        build_decoder(build_encoder("resenc-tiny", dims=2), out_channels=0)


def test_fit_cuts_and_repeats() -> None:
    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert fit(image, (2, 3)) is image
    assert fit(image, (1, 4)).flatten().tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["unet", "resenc-tiny", "resnet18", "vit-tiny"])
def test_dense_upsampling_has_the_size_of_the_input(name: str, dims: int) -> None:
    encoder = build_encoder(name, dims=dims).eval()
    decoder = build_decoder(encoder, out_channels=3, kind="duc").eval()
    space = tuple(2 * stride if axis == 0 else stride for axis, stride in enumerate(encoder.strides[-1]))  # fmt: skip
    with torch.no_grad():
        maps = encoder(torch.zeros(1, 1, *space))
        assert decoder(maps).shape == (1, 3, *space)
        assert decoder(maps, tuple(edge - 1 for edge in space)).shape[2:] == tuple(edge - 1 for edge in space)  # fmt: skip


def test_dense_upsampling_speaks_of_the_block_below_each_position() -> None:
    """One position of the coarsest map decides the block of the image that it covers, and nothing else."""
    encoder = Pyramid(((1, 1, 1), (4, 2, 3)))
    decoder = DenseUpsampling(encoder, out_channels=2)
    coarse = torch.zeros(1, encoder.channels[-1], 3, 4, 2)
    with torch.no_grad():
        before = decoder([torch.zeros(1, 4, 12, 8, 6), coarse])
        coarse[0, :, 1, 2, 1] = 1.0
        after = decoder([torch.zeros(1, 4, 12, 8, 6), coarse])
    moved = (after != before)[0].all(0).nonzero()
    assert moved.min(0).values.tolist() == [4, 4, 3]
    assert moved.max(0).values.tolist() == [7, 5, 5]
    assert (after != before).any(1).sum() == 4 * 2 * 3


def test_blocks_are_spread_as_torch_does_it_in_two_axes() -> None:
    image = torch.randn(2, 18, 5, 4)
    assert torch.equal(spread_blocks(image, (3, 3)), nn.functional.pixel_shuffle(image, 3))


def test_dense_upsampling_has_few_fresh_weights() -> None:
    encoder = build_encoder("resenc-tiny", dims=3)
    count = {
        kind: sum(p.numel() for p in build_decoder(encoder, out_channels=3, kind=kind).parameters())
        for kind in ("skip", "duc")
    }
    assert count["duc"] < count["skip"]
    with pytest.raises(OptionError, match="at least one channel"):
        build_decoder(encoder, out_channels=0, kind="duc")


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["unet", "sononet-16", "resenc-tiny", "resnet18", "vit-tiny"])
def test_deconvolutions_restore_the_resolution_from_the_coarsest_map_alone(
    name: str, dims: int
) -> None:
    encoder = build_encoder(name, dims=dims).eval()
    decoder = Deconvolutions(encoder, out_channels=3).eval()
    stride = encoder.strides[-1]
    space = tuple(2 * edge if axis == 0 else edge for axis, edge in enumerate(stride))
    with torch.no_grad():
        maps = encoder(torch.rand(1, 1, *space))
        decoded = decoder(maps, space)
        assert decoded.shape == (1, 3, *space)
        assert torch.equal(decoder([maps[-1]], space), decoded)
        cut = tuple(edge - 1 for edge in space)
        assert decoder(maps, cut).shape[2:] == cut


def test_deconvolutions_of_the_widest_sononet() -> None:
    """Four layers of 256, 128, 64 and 32 channels, kernel and stride 2, batch normalisation, ReLU, and a 1x1 convolution."""
    with torch.device("meta"):
        decoder = Deconvolutions(build_encoder("sononet-64", dims=2), out_channels=1)
    kinds = [nn.ConvTranspose2d, nn.BatchNorm2d, nn.ReLU] * 4
    assert [type(layer) for layer in decoder.layers] == kinds
    enlarging = [layer for layer in decoder.layers if isinstance(layer, nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in enlarging] == [256, 128, 64, 32]
    assert all(layer.kernel_size == layer.stride == (2, 2) for layer in enlarging)
    assert decoder.head.kernel_size == (1, 1)
    with pytest.raises(OptionError, match="at least one channel"):
        Deconvolutions(build_encoder("sononet-16", dims=2), out_channels=0)
