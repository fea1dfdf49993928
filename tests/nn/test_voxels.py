"""Between maps and voxels: the read-out, the embedding, the decoder of pictures, and CaffeNet's first layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from unlabeled.errors import RunError
from unlabeled.nn.caffenet import MEANS, CaffeNetEncoder, first_layer, pad_same
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.voxels import READ, PictureDecoder, VoxelEmbedding, VoxelReadout


def test_the_readout_is_dense_over_the_coarsest_map():
    encoder = CaffeNetEncoder(dims=2, in_channels=3)
    readout = VoxelReadout(encoder, (112, 112), 7)
    assert readout.weight.shape == (7, 32, 14, 14)
    features = torch.randn(2, 32, 14, 14)
    expected = torch.einsum("nchw,vchw->nv", features, readout.weight) + readout.bias
    torch.testing.assert_close(readout(features), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resenc-tiny", "vit-tiny"])
def test_other_encoders_are_narrowed(name):
    encoder = build_encoder(name, dims=2, in_channels=3)
    readout = VoxelReadout(encoder, (40, 32), 5).eval()
    assert readout.weight.shape[1] == READ
    assert readout(encoder.eval()(torch.rand(1, 3, 40, 32))[-1]).shape == (1, 5)


def test_dropout_is_asked_for():
    readout = VoxelReadout(CaffeNetEncoder(dims=2), (32, 32), 5)
    features = torch.randn(1, 32, 4, 4)
    assert torch.equal(readout(features), readout(features))
    assert not torch.equal(readout(features, 0.5), readout(features, 0.5))


def test_the_embedding_is_dense_with_a_bias_for_each_unit():
    embed = VoxelEmbedding(6, 4, (3, 5))
    response = torch.randn(2, 6)
    expected = torch.einsum("nv,vchw->nchw", response, embed.weight) + embed.bias
    torch.testing.assert_close(embed(response), expected, atol=1e-5, rtol=1e-5)
    assert embed.bias.std() > 0


def test_the_decoder_starts_at_an_eighth_and_ends_in_the_unit_interval():
    decoder = PictureDecoder(9, (112, 112))
    maps = []
    decoder.embed.register_forward_hook(lambda *each: maps.append(each[-1]))
    drawn = decoder(5 * torch.randn(2, 9))
    assert maps[0].shape == (2, 64, 14, 14)
    assert drawn.shape == (2, 3, 112, 112)
    assert 0 < drawn.min() < drawn.max() < 1
    assert [tuple(each.shape) for each in decoder.kernels] == [(64, 64, 3, 3)] * 3 + [(3, 64, 3, 3)]


@pytest.mark.parametrize(
    ("length", "edge", "stride"), [(112, 11, 2), (113, 11, 2), (56, 3, 2), (7, 3, 2)]
)
def test_same_padding_is_tensorflows(length, edge, stride):
    image = torch.zeros(1, 1, length, length)
    image[..., 0, 0] = 1
    padded = pad_same(image, edge, stride)
    total = max((-(-length // stride) - 1) * stride + edge - length, 0)
    assert padded.shape[2] == length + total
    assert float(padded[..., total // 2, total // 2]) == 1
    kernel = torch.ones(1, 1, edge, edge)
    assert F.conv2d(padded, kernel, stride=stride).shape[2] == -(-length // stride)


def test_colours_go_to_caffenet_as_blue_green_red_less_their_own_means():
    encoder = CaffeNetEncoder(dims=2, in_channels=3).eval()
    seen = []
    encoder.conv1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    grey = torch.tensor(MEANS).view(1, 3, 1, 1).expand(1, 3, 32, 32) / 255
    encoder(grey)
    assert float(seen[0].abs().max()) < 1e-4
    red = grey.clone()
    red[:, 0] = 1
    encoder(red)
    inner = seen[1][0, :, 16, 16]
    torch.testing.assert_close(inner, torch.tensor([0, 0, 255 - MEANS[0]]), atol=1e-3, rtol=0)


def test_the_first_layer_is_found_by_its_shape_alone():
    weight, bias = torch.randn(96, 3, 11, 11), torch.randn(1, 1, 1, 96)
    tensors = {"fc.weight": torch.zeros(3, 3), "net.conv1.weight": weight, "net.conv1.bias": bias}
    found = first_layer(tensors, "caffenet.pth")
    CaffeNetEncoder(dims=2, in_channels=3).conv1.load_state_dict(found)
    assert torch.equal(found["weight"], weight)
    for missing in ("net.conv1.weight", "net.conv1.bias"):
        rest = {name: value for name, value in tensors.items() if name != missing}
        with pytest.raises(RunError, match=r"caffenet\.pth holds no first layer") as refused:
            first_layer(rest, "caffenet.pth")
        assert "64 filters" in refused.value.remedy
