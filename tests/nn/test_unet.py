"""The faithful U-Net against the published one, and its two ways of normalising."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from unlabeled.errors import OptionError
from unlabeled.nn.unet import UNetDecoder, UNetEncoder, normalise_by


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_published_size():
    encoder = UNetEncoder(dims=3)
    decoder = UNetDecoder(encoder, out_channels=1)
    assert count(encoder) == 7_027_776
    assert count(encoder) + count(decoder) == 19_073_665


def fill_as_published(network: nn.Module, names: list[str], shapes: list[str]) -> None:
    """Fill parameter i with ``amp * sin(0.37 k + 0.11 i)``, as the golden arrays' README says."""
    parameters = list(network.parameters())
    assert [str(list(each.shape)) for each in parameters] == shapes
    for i, (parameter, name) in enumerate(zip(parameters, names, strict=True)):
        if "bn" not in name:
            amplitude = 1.0 if name.startswith("out_tr") else 0.05
            wave = amplitude * np.sin(0.37 * np.arange(parameter.numel()) + 0.11 * i)
            parameter.data = torch.from_numpy(wave.astype(np.float32)).reshape(parameter.shape)


@pytest.fixture(scope="module")
def published(golden: Path):
    arrays = np.load(golden / "models-genesis" / "unet3d_forward.npz")
    encoder = UNetEncoder(dims=3)
    decoder = UNetDecoder(encoder, out_channels=1)
    names = [str(name) for name in arrays["parameter_names"]]
    shapes = [str(shape) for shape in arrays["parameter_shapes"]]
    fill_as_published(nn.Sequential(encoder, decoder), names, shapes)
    return encoder, decoder, arrays


@pytest.mark.parametrize("mode", ["training", "evaluation by the batch"])
def test_forward_equals_the_published_network(published, mode):
    encoder, decoder, arrays = published
    for network in (encoder, decoder):
        network.train(mode == "training")
        normalise_by(network, "batch")
    with torch.no_grad():
        image = torch.from_numpy(arrays["x"])
        features = encoder(image)
        restored = torch.sigmoid(decoder(features))
    np.testing.assert_allclose(features[-1].numpy(), arrays["bottleneck"], rtol=0, atol=2e-3)
    np.testing.assert_allclose(restored.numpy(), arrays["y"], rtol=0, atol=1e-4)
    error = torch.nn.functional.mse_loss(restored, image)
    assert abs(error.item() - float(arrays["mse_to_x"])) < 1e-5


@pytest.mark.parametrize(("dims", "in_channels"), [(2, 1), (2, 3), (3, 1), (3, 4)])
def test_contract(dims, in_channels):
    encoder = UNetEncoder(dims=dims, in_channels=in_channels, base_width=4)
    decoder = UNetDecoder(encoder, out_channels=2)
    space = (16, 24, 16)[:dims]
    maps = encoder(torch.rand(2, in_channels, *space))
    assert [each.shape[1] for each in maps] == list(encoder.channels) == [8, 16, 32, 64]
    for each, strides in zip(maps, encoder.strides, strict=True):
        assert tuple(each.shape[2:]) == tuple(
            edge // stride for edge, stride in zip(space, strides, strict=True)
        )
    assert decoder(maps).shape == (2, 2, *space)
    assert encoder.get_submodule(encoder.entry).in_channels == in_channels


def test_every_parameter_gets_a_gradient():
    encoder = UNetEncoder(dims=2, base_width=4)
    decoder = UNetDecoder(encoder, out_channels=1)
    decoder(encoder(torch.rand(2, 1, 16, 16))).square().mean().backward()
    for network in (encoder, decoder):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name


def test_statistics_in_evaluation():
    """By the batch, an image's features depend on its companion; by the running statistics, they do not."""
    torch.manual_seed(0)
    encoder = UNetEncoder(dims=2, base_width=4)
    first, second, third = torch.rand(3, 1, 1, 16, 16) * torch.tensor([1.0, 2.0, 9.0]).reshape(
        3, 1, 1, 1, 1
    )
    encoder.eval()
    before = {name: each.clone() for name, each in encoder.state_dict().items()}

    def of_first(companion):
        return encoder(torch.cat([first, companion]))[-1][0]

    with torch.no_grad():
        torch.testing.assert_close(of_first(second), of_first(third))
        normalise_by(encoder, "batch")
        assert (of_first(second) - of_first(third)).abs().max() > 1e-2
    for name, each in encoder.state_dict().items():
        assert torch.equal(each, before[name]), name


def test_weights_move_between_modes():
    official, clean = UNetEncoder(dims=2, base_width=4), UNetEncoder(dims=2, base_width=4)
    normalise_by(official, "batch")
    official(torch.rand(2, 1, 16, 16))
    report = clean.load_state_dict(official.state_dict())
    assert not report.missing_keys
    assert not report.unexpected_keys


def test_an_edge_that_cannot_be_halved_is_named():
    with pytest.raises(OptionError, match="multiples of 8 voxels, not 30 x 64") as fault:
        UNetEncoder(dims=2, base_width=4)(torch.rand(1, 1, 30, 64))
    assert "--patch-size 32 64" in fault.value.remedy
