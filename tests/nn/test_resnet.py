"""Residual networks: the names and shapes of torchvision's checkpoints, and MONAI's numbers."""

from __future__ import annotations

import pytest
import torch

from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.resnet import monai_resnet


def torchvision_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Write out, from He et al.'s table 1, the tensors of torchvision's checkpoint without the classifier."""
    wide, layers = (1, (2, 2, 2, 2)) if name == "resnet18" else (4, (3, 4, 6, 3))
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(at: str, channels: int) -> None:
        for key in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{at}.{key}"] = (channels,)
        shapes[f"{at}.num_batches_tracked"] = ()

    norm("bn1", 64)
    entering = 64
    for stage, blocks in enumerate(layers):
        width = 64 * 2**stage
        for block in range(blocks):
            at = f"layer{stage + 1}.{block}"
            if wide == 1:
                kernels = [(width, entering, 3), (width, width, 3)]
            else:
                kernels = [(width, entering, 1), (width, width, 3), (4 * width, width, 1)]
            for place, (leaving, coming, edge) in enumerate(kernels, start=1):
                shapes[f"{at}.conv{place}.weight"] = (leaving, coming, edge, edge)
                norm(f"{at}.bn{place}", leaving)
            if block == 0 and (entering != wide * width or stage > 0):
                shapes[f"{at}.downsample.0.weight"] = (wide * width, entering, 1, 1)
                norm(f"{at}.downsample.1", wide * width)
            entering = wide * width
    return shapes


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_2d_tensors_are_those_of_torchvision(name: str) -> None:
    with torch.device("meta"):
        state = build_encoder(name, dims=2, in_channels=3).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == torchvision_shapes(name)


@pytest.mark.parametrize(("name", "millions"), [("resnet18", 11.689512), ("resnet50", 25.557032)])
def test_parameters_number_as_published(name: str, millions: float) -> None:
    with torch.device("meta"):
        encoder = build_encoder(name, dims=2, in_channels=3)
    classifier = 1000 * (encoder.channels[-1] + 1)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count + classifier == round(millions * 1e6)


@pytest.mark.parametrize("dims", [2, 3])
def test_maps_are_monais(dims: int) -> None:
    encoder = build_encoder("resnet18", dims=dims).eval()
    network = monai_resnet("resnet18", dims=dims, in_channels=1).eval()
    network.load_state_dict(encoder.state_dict(), strict=True)
    image = torch.randn(2, 1, *(33,) * dims, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pooled = encoder(image)[-1].flatten(2).mean(2)
        torch.testing.assert_close(pooled, network(image))


def test_an_image_of_one_position_works_with_running_statistics() -> None:
    encoder = build_encoder("resnet18", dims=2).eval()
    with torch.no_grad():
        assert encoder(torch.zeros(1, 1, 32, 32))[-1].shape == (1, 512, 1, 1)


def test_finer_maps_are_not_overwritten_by_deeper_layers() -> None:
    encoder = build_encoder("resnet50", dims=2).eval()
    image = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    kept: list[torch.Tensor] = []
    for layer in ("act", "layer1", "layer2", "layer3"):
        module = encoder.get_submodule(layer)
        if layer == "act":
            continue
        module.register_forward_hook(lambda _m, _i, out: kept.append(out.clone()))
    with torch.no_grad():
        maps = encoder(image)
    assert all(torch.equal(one, other) for one, other in zip(kept, maps[1:4], strict=True))
