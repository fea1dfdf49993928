"""The encoder contract, over every name and both dimensions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from unlabeled.errors import OptionError
from unlabeled.nn.encoders import Encoder, build_encoder, encoder_names

BIG = {"resenc-s", "resenc-m", "resenc-l", "resnet50", "vit", "vit-s"}
ANY_SIZE = {"landmark-cnn", "context-cnn"}  # one position is enough
EVERY = [
    pytest.param(name, dims, marks=pytest.mark.slow if name in BIG else ())
    for name in encoder_names()
    for dims in (2, 3)
]


def build(name: str, dims: int, in_channels: int = 1) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(name, dims=dims, in_channels=in_channels)


def smallest(encoder: Encoder, odd: bool = False) -> tuple[int, ...]:
    """Edges that give the coarsest map two positions and no more, `odd` ones where the encoder takes them."""
    stride = encoder.strides[-1] if encoder.name not in ANY_SIZE else (16,) * encoder.dims
    edges = [step + 1 if odd else 2 * step for step in stride[:1]]
    return (*edges, *(max(3, step - 1) if odd else step for step in stride[1:]))


def image(encoder: Encoder, odd: bool = False) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(1, encoder.in_channels, *smallest(encoder, odd), generator=rng)


@pytest.mark.parametrize(("name", "dims"), EVERY)
class TestContract:
    def test_maps_have_the_channels_and_strides_that_are_declared(
        self, name: str, dims: int
    ) -> None:
        encoder = build(name, dims, in_channels=2)
        assert (encoder.name, encoder.dims, encoder.in_channels) == (name, dims, 2)
        for odd in (False,) if name == "unet" else (False, True):
            given = image(encoder, odd)
            with torch.no_grad():
                maps = encoder(given)
            assert len(maps) == len(encoder.channels) == len(encoder.strides)
            for found, channels, strides in zip(
                maps, encoder.channels, encoder.strides, strict=True
            ):
                space = [
                    math.ceil(edge / by) for edge, by in zip(given.shape[2:], strides, strict=True)
                ]
                assert list(found.shape) == [1, channels, *space]
                assert found.isfinite().all()

    def test_the_entry_layer_alone_depends_on_the_image_channels(
        self, name: str, dims: int
    ) -> None:
        with torch.device("meta"):  # shapes without numbers
            one = {key: value.shape for key, value in build(name, dims).state_dict().items()}
            three = {key: value.shape for key, value in build(name, dims, 3).state_dict().items()}
            entry = build(name, dims).entry
        assert one.keys() == three.keys()
        differing = {key for key in one if one[key] != three[key]}
        assert differing == {f"{entry}.weight"}

    def test_a_gradient_reaches_every_parameter(self, name: str, dims: int) -> None:
        encoder = build(name, dims)
        maps = encoder(image(encoder))
        sum(found.square().mean() for found in maps).backward()
        without = [key for key, value in encoder.named_parameters() if value.grad is None]
        assert without == []

    def test_the_same_seed_gives_the_same_maps(self, name: str, dims: int) -> None:
        with torch.no_grad():
            first, again = (
                encoder(image(encoder)) for encoder in (build(name, dims), build(name, dims))
            )
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))

    def test_images_of_other_channels_or_axes_are_refused(self, name: str, dims: int) -> None:
        if name == "unet":
            pytest.skip("the U-Net checks its edges alone")
        encoder = build(name, dims)
        with pytest.raises(OptionError, match="built for 1 channels, and the image has 2"):
            encoder(image(encoder).repeat_interleave(2, dim=1))
        with pytest.raises(OptionError, match="axes of space"):
            encoder(image(encoder)[..., None])

    def test_an_image_of_one_position_is_refused_with_a_size_that_works(
        self, name: str, dims: int
    ) -> None:
        if name == "unet" or name in ANY_SIZE:
            pytest.skip("the U-Net names the multiples that it needs; others take any image")
        encoder = build(name, dims)
        tiny = torch.zeros(1, 1, *encoder.strides[-1])
        with pytest.raises(OptionError, match="too small for") as refused:
            encoder(tiny)
        typed = refused.value.remedy.split("--patch-size ")[1].split(",")[0]
        enough = [int(edge) for edge in typed.split()]
        assert enough == [2 * step for step in encoder.strides[-1]]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(OptionError, match="unknown encoder 'resnet-18'") as refused:
        build_encoder("resnet-18", dims=3)
    assert "Did you mean resnet18?" in refused.value.remedy


@pytest.mark.parametrize(("dims", "channels"), [(1, 1), (4, 1), (2, 0)])
def test_impossible_dimensions_and_channels_are_refused(dims: int, channels: int) -> None:
    with pytest.raises(OptionError):
        build_encoder("resenc-tiny", dims=dims, in_channels=channels)


def test_every_layer_named_as_entry_exists() -> None:
    for name in encoder_names():
        with torch.device("meta"):
            encoder = build_encoder(name, dims=2, in_channels=5)
        layer = encoder.get_submodule(encoder.entry)
        assert isinstance(layer, nn.Conv2d)
        assert layer.in_channels == 5
