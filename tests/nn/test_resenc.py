"""The residual encoder against the package that nnU-Net uses: same names, same shapes, same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unlabeled.nn.decoders import SkipDecoder, build_decoder
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.resenc import plan

SIZES = ("resenc-tiny", "resenc-s")
BIG = ("resenc-m", "resenc-l")
EVERY = [(name, dims) for name in SIZES for dims in (2, 3)]


def theirs(name: str, dims: int, classes: int = 2, in_channels: int = 1) -> nn.Module:
    unet: Any = pytest.importorskip(
        "dynamic_network_architectures.architectures.unet",
        reason="pip install --no-deps dynamic-network-architectures compares with nnU-Net's network",
    )
    stages = plan(name, dims)
    count = len(stages.features)
    network: nn.Module = unet.ResidualEncoderUNet(
        in_channels, count, stages.features, nn.Conv2d if dims == 2 else nn.Conv3d,
        [[3] * dims] * count, [[1] * dims] + [[2] * dims] * (count - 1), stages.blocks, classes,
        [1] * (count - 1), conv_bias=True,
        norm_op=nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    )  # fmt: skip
    return network


def single(names: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the second names of the same tensors."""
    return {name: value for name, value in names.items() if ".all_modules." not in name}


def shaken(module: nn.Module) -> None:
    """Give every parameter a value of its own, so that no two tensors can be mistaken for each other."""
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        *EVERY,
        *((name, dims) for name in BIG for dims in (2, 3)),
    ],
)
def test_tensors_have_the_names_and_shapes_of_nnunet(name: str, dims: int) -> None:
    with torch.device("meta"):
        ours = build_encoder(name, dims=dims).state_dict()
        expected = single(theirs(name, dims).encoder.state_dict())
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in expected.items()
    }


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        pytest.param(name, dims, marks=pytest.mark.slow if name == "resenc-s" else ())
        for name, dims in EVERY
    ],
)
def test_encoder_and_decoder_give_the_numbers_of_nnunet_either_way(name: str, dims: int) -> None:
    network = theirs(name, dims, classes=3).eval()
    shaken(network)
    encoder = build_encoder(name, dims=dims).eval()
    decoder = build_decoder(encoder, out_channels=3).eval()
    edge = 2 * encoder.strides[-1][0]
    space = (edge, *(edge // 2,) * (dims - 1))
    image = torch.randn(1, 1, *space, generator=torch.Generator().manual_seed(2))

    # theirs into ours
    encoder.load_state_dict(single(network.encoder.state_dict()))
    last = len(plan(name, dims).features) - 2
    own = {
        key.replace(f"seg_layers.{last}.", "head."): value
        for key, value in single(network.decoder.state_dict()).items()
        if not key.startswith("encoder.")
        and (not key.startswith("seg_layers.") or f".{last}." in key)
    }
    decoder.load_state_dict(own)
    with torch.no_grad():
        torch.testing.assert_close(decoder(encoder(image)), network(image), rtol=1e-6, atol=1e-6)
        for one, other in zip(encoder(image), network.encoder(image), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)

    # ours into theirs
    shaken(encoder)
    aliases = {
        key: encoder.state_dict()[
            key.replace("all_modules.0.", "conv.").replace("all_modules.1.", "norm.")
        ]
        for key in network.encoder.state_dict()
    }
    network.encoder.load_state_dict(aliases, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(decoder(encoder(image)), network(image), rtol=1e-6, atol=1e-6)


def test_plans_follow_the_patch_that_nnunet_plans_for() -> None:
    """Stages are added while an edge has at least 8 voxels: 128 voxels give 6, 512 pixels give 8."""
    for dims, edges in ((3, (128, 192)), (2, (512, 768))):
        for edge in edges:
            halvings, rest = 0, edge
            while rest >= 8:
                halvings, rest = halvings + 1, -(-rest // 2)
            assert len(plan("resenc-m", dims).features) == halvings + 1
    assert plan("resenc-l", 3) == plan("resenc-m", 3)
    assert max(plan("resenc-m", 2).features) == 512
    assert max(plan("resenc-m", 3).features) == 320


def test_each_block_starts_as_its_shortcut() -> None:
    encoder = build_encoder("resenc-tiny", dims=2).eval()
    block = encoder.get_submodule("stages.1.blocks.0")
    image = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = nn.functional.leaky_relu(block.get_submodule("skip")(image), 0.01)
        torch.testing.assert_close(block(image), expected)


def test_the_default_decoder_is_nnunets() -> None:
    encoder = build_encoder("resenc-tiny", dims=2)
    decoder = build_decoder(encoder, out_channels=2)
    assert isinstance(decoder, SkipDecoder)
    expected = single(theirs("resenc-tiny", 2).decoder.state_dict())
    shapes = {
        key: value.shape
        for key, value in expected.items()
        if not key.startswith(("encoder.", "seg_layers."))
    }
    ours = {key: v.shape for key, v in decoder.state_dict().items() if not key.startswith("head.")}
    assert ours == shapes
