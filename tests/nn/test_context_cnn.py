"""The descriptor network and heads of volume context: the published sizes, numbers and outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unlabeled.errors import OptionError
from unlabeled.nn.context_cnn import ContextCNN
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.displacement import HeatmapHead, OffsetHead, describe_patch
from unlabeled.nn.encoders import build_encoder

HEAT_LAYERS = {
    "layer1": "squeeze.0",
    "norm1": "squeeze.1",
    "layer2": "squeeze.3",
    "norm2": "squeeze.4",
    "layer2_a": "squeeze.6",
    "norm2_a": "squeeze.7",
    "layer3_0": "grow",
    "norm3_0": "grown",
    "layer3_1": "mix",
    "norm3_1": "mixed",
    "layer4_0": "spread",
    "norm4_0": "evened",
    "layer4_1": "narrow",
    "norm4_1": "narrowed",
    "layer5_0": "refine",
    "norm5_0": "refined",
    "layer5_1": "head",
}
OFFSET_LAYERS = {
    "layer1": "squeeze.0",
    "norm1": "squeeze.1",
    "layer2": "squeeze.3",
    "norm2": "squeeze.4",
    "layer3": "squeeze.6",
    "norm3": "squeeze.7",
    "layer_out": "head",
}


def parameters(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def published(golden: Path, name: str) -> dict[str, Tensor]:
    with np.load(golden / "volume-context" / f"{name}.npz") as held:
        return {key: torch.from_numpy(held[key]) for key in held}


def fill(module: nn.Module, held: dict[str, Tensor], layers: dict[str, str]) -> None:
    """Put published weights into their layers; every parameter gets one."""
    own, missing = dict(module.named_parameters()), set(dict(module.named_parameters()))
    for key, value in held.items():
        if key.startswith("w."):
            layer, _, kind = key[2:].partition(".")
            name = f"{layers[layer]}.{kind}"
            own[name].data.copy_(value)
            missing.remove(name)
    assert not missing


def test_parameters_number_as_published() -> None:
    assert parameters(ContextCNN(dims=2, in_channels=3)) == 139_744
    assert parameters(HeatmapHead(64)) == 28_189
    assert parameters(OffsetHead(64)) == 27_138


def test_a_patch_of_42_samples_is_one_position_without_padding() -> None:
    encoder = build_encoder("context-cnn", dims=2, in_channels=3)
    assert all(each.padding == (0, 0) for each in encoder.convolutions)
    assert encoder.describe(torch.rand(2, 3, 42, 42)).shape == (2, 64, 1, 1)
    assert describe_patch(encoder, torch.rand(2, 3, 42, 42)).shape == (2, 64)
    assert describe_patch(encoder, torch.rand(2, 3, 50, 46)).shape == (2, 64)
    with pytest.raises(OptionError, match="42 samples an axis, and one of 41 x 42") as fault:
        encoder.describe(torch.rand(2, 3, 41, 42))
    assert "--patch-size 42 42" in fault.value.remedy


def test_as_an_encoder_each_position_looks_around_its_own_block() -> None:
    """A voxel moves the positions whose windows of 42 samples hold it, and no other (normalisation taken out)."""
    encoder = build_encoder("context-cnn", dims=2).eval()
    encoder.norms = nn.ModuleList(nn.Identity() for _ in encoder.norms)
    image = torch.rand(1, 1, 90, 90, requires_grad=True)
    fine, coarse = encoder(image)
    for found, block, window in ((fine, 2, 4), (coarse, 4, 42)):
        place = found.shape[-1] // 2
        (slope,) = torch.autograd.grad(found[0, :, place, place].sum(), image, retain_graph=True)
        seen = slope[0, 0].any(0).nonzero().flatten()
        middle = place * block + block / 2
        assert seen[0] >= middle - window / 2
        assert seen[-1] + 1 <= middle + window / 2
        assert seen[-1] - seen[0] + 1 >= window / 2
    decoded = build_decoder(encoder, out_channels=2)([fine, coarse], (90, 90))
    assert decoded.shape == (1, 2, 90, 90)


def test_heads_answer_without_a_last_activation() -> None:
    first, second = torch.randn(2, 4, 64)
    drawn, said = HeatmapHead(64)(first, second), OffsetHead(64)(first, second)
    assert drawn.shape == (4, 1, 19, 19)
    assert said.shape == (4, 2)
    assert (drawn < 0).any()
    assert HeatmapHead(10)(first[:, :10], second[:, :10]).shape == (4, 1, 19, 19)


def test_weights_start_by_glorot_s_normal_rule_and_biases_at_zero() -> None:
    torch.manual_seed(0)
    encoder, head = ContextCNN(dims=2, in_channels=3), HeatmapHead(64)
    kernel = encoder.convolutions[3].weight.detach()
    assert float(kernel.std()) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert float(head.squeeze[0].weight.detach().std()) == pytest.approx((2 / 192) ** 0.5, rel=0.05)
    assert not head.head.bias.any()


@torch.no_grad()
def test_descriptors_match_the_published_network(golden: Path) -> None:
    held = published(golden, "convnet")
    encoder = ContextCNN(dims=2, in_channels=3)
    layers = {f"layer{n + 1}": f"convolutions.{n}" for n in range(6)}
    fill(encoder, held, layers | {f"norm{n + 1}": f"norms.{n}" for n in range(6)})
    assert torch.allclose(encoder.describe(held["in0"]), held["out"], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "head", "layers", "tolerance"),
    [("heatnet", HeatmapHead, HEAT_LAYERS, 1e-3), ("offnet", OffsetHead, OFFSET_LAYERS, 1e-4)],
)
def test_heads_match_the_published_ones(golden: Path, name, head, layers, tolerance) -> None:
    held = published(golden, name)
    made = head(64)
    fill(made, held, layers)
    found = made(held["in0"].flatten(1), held["in1"].flatten(1))
    assert torch.allclose(found, held["out"].view_as(found), atol=tolerance)
