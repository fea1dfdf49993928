"""Decoders on the encoder contract: full resolution for every encoder, edge and stride."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unlabeled.errors import OptionError
from unlabeled.nn.decoders import SkipDecoder, build_decoder, fit
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
