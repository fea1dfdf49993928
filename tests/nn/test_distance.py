"""Features and distances of patches: the worked example, the published arrays, the published network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unlabeled.errors import OptionError
from unlabeled.nn.distance import DistanceHead, PatchFeature
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.section_cnn import SectionCNN


@pytest.mark.parametrize(
    ("kind", "expected"), [("l1_weighted", 1.4), ("l2_weighted", 0.67), ("l2_sum", 0.41)]
)
def test_the_worked_example(kind, expected):
    head = DistanceHead(2, kind)
    if head.weights is not None:
        head.load_state_dict(
            {"weights.weight": torch.tensor([[2.0, 1.0]]), "weights.bias": torch.tensor([0.1])}
        )
    first, second = torch.tensor([[0.2, 0.9]]), torch.tensor([[0.6, 0.4]])
    assert head(first, second).item() == pytest.approx(expected)
    assert head(second, first).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("l1_weighted", "dist_l1_vector"),
        ("l2_weighted", "dist_l2_vector"),
        ("l2_sum", "dist_l2_sum"),
    ],
)
def test_heads_match_the_published_arrays(golden, kind, name):
    held = np.load(golden / "cytoarchitectonic-siamese" / "heads.npz")
    head = DistanceHead(500, kind)
    if head.weights is not None:
        head.load_state_dict(
            {
                "weights.weight": torch.from_numpy(held["w"].T.copy()),
                "weights.bias": torch.from_numpy(held["b"].reshape(1)),
            }
        )
    with torch.no_grad():
        found = head(torch.from_numpy(held["f1"]), torch.from_numpy(held["f2"]))
    assert np.allclose(found.numpy(), held[name].reshape(-1), rtol=1e-5, atol=1e-5)


def test_positions_match_the_published_arrays(golden):
    held = np.load(golden / "cytoarchitectonic-siamese" / "heads.npz")
    layer = torch.nn.Linear(500, 3)
    layer.load_state_dict(
        {
            "weight": torch.from_numpy(held["w_coord"].T.copy()),
            "bias": torch.from_numpy(held["b_coord"].reshape(-1)),
        }
    )
    with torch.no_grad():
        both = torch.cat([layer(torch.from_numpy(held[name])) for name in ("f1", "f2")], 1)
    assert np.allclose(both.numpy(), held["coords"], rtol=1e-5, atol=1e-5)


def test_1019_pixels_become_4_by_4_and_a_branch_has_the_published_parameters():
    encoder = SectionCNN(dims=2)
    assert encoder.described((1019, 1019)) == (4, 4)
    feature = PatchFeature(encoder, (1019, 1019), 500)
    trained = sum(p.numel() for part in (encoder, feature) for p in part.parameters())
    moving = 2 * sum(norm.num_features for norm in encoder.norms)
    assert trained + moving == 1_415_348


def test_a_small_patch_is_described_without_padding():
    encoder = SectionCNN(dims=2).eval()
    image = torch.randn(1, 1, 635, 641, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = encoder.describe(image)
        assert found.shape == (1, 128, *encoder.described((635, 641)))
        feature = PatchFeature(encoder, (635, 641), 7)(encoder, image)
    assert feature.shape == (1, 7)
    assert 0 < feature.min() < feature.max() < 1
    with pytest.raises(OptionError, match="635 pixels or more"):
        encoder.described((634, 700))


def test_padded_and_unpadded_agree_in_the_middle():
    """The U-Net's half computes the same numbers, away from the borders."""
    encoder = SectionCNN(dims=2).eval()
    image = torch.randn(1, 1, 69, 69, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        padded = encoder(image)[0]
    with torch.no_grad():
        stem = torch.relu(encoder.first(image))
        for number in range(2):
            stem = torch.relu(encoder.norms[number](encoder.convolutions[number](stem)))
    # without padding the map begins 1 (stem) + 2 (two convolutions) positions later
    assert torch.allclose(padded[..., 3:-3, 3:-3], stem, atol=1e-5)


def test_other_encoders_are_averaged():
    encoder = build_encoder("resenc-tiny", dims=2)
    feature = PatchFeature(encoder, (32, 32), 5)
    assert feature(encoder, torch.randn(2, 1, 32, 32)).shape == (2, 5)
    assert feature.dense.in_features == encoder.channels[-1]
