"""Heads and task networks."""

from __future__ import annotations

import pytest
import torch

from unlabeled.errors import OptionError
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.heads import (
    ClassificationHead,
    Classifier,
    OrderHead,
    SegmentationHead,
    Segmenter,
    pool,
)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["resenc-tiny", "resnet18", "unet"])
def test_a_segmenter_answers_on_the_grid_of_the_image(name: str, dims: int) -> None:
    encoder = build_encoder(name, dims=dims, in_channels=2)
    space = (40, 48, 16)[:dims] if name == "unet" else (37, 41, 35)[:dims]
    with torch.no_grad():
        plain = Segmenter(encoder, build_decoder(encoder, out_channels=4)).eval()
        assert plain(torch.zeros(1, 2, *space)).shape == (1, 4, *space)
        headed = Segmenter(
            encoder, build_decoder(encoder, out_channels=8), SegmentationHead(dims, 8, 3)
        ).eval()
        assert headed(torch.zeros(1, 2, *space)).shape == (1, 3, *space)


@pytest.mark.parametrize("hidden", [None, 5])
def test_a_classifier_gives_one_row_an_image(hidden: int | None) -> None:
    encoder = build_encoder("resenc-tiny", dims=3)
    network = Classifier(encoder, ClassificationHead(encoder, 3, hidden=hidden))
    logits = network(torch.randn(2, 1, 16, 16, 16))
    assert logits.shape == (2, 3)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_pooling_is_the_mean_of_the_coarsest_map() -> None:
    fine, coarse = torch.zeros(1, 2, 4, 4), torch.arange(8.0).view(1, 2, 2, 2)
    assert pool([fine, coarse]).tolist() == [[1.5, 5.5]]


def test_dropout_acts_in_training_alone() -> None:
    encoder = build_encoder("resenc-tiny", dims=2)
    head = ClassificationHead(encoder, 2, p_dropout=0.5)
    features = [torch.ones(1, 128, 2, 2)]
    assert torch.equal(head.eval()(features), head(features))


def test_heads_without_classes_are_refused() -> None:
    with pytest.raises(OptionError):
        ClassificationHead(build_encoder("resenc-tiny", dims=2), 0)
    with pytest.raises(OptionError):
        SegmentationHead(2, 4, 0)


def test_a_score_tells_the_order_of_two_images_and_swaps_with_them() -> None:
    head = OrderHead(3)
    with torch.no_grad():
        head.layers.weight.copy_(torch.tensor([[1.0, 0.0, -1.0]]))
    first, second = torch.tensor([[2.0, 5.0, 1.0]]), torch.tensor([[0.5, 7.0, 0.0]])
    assert head(first, second).tolist() == [[0.5, 1.0]]
    assert head(second, first).tolist() == [[1.0, 0.5]]


@pytest.mark.parametrize("hidden", [None, 16])
def test_a_fresh_order_head_is_undecided(hidden: int | None) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 50, 64)
    logits = OrderHead(64, hidden)(first, second).detach()
    assert logits.shape == (50, 2)
    assert float(logits.diff(dim=1).abs().max()) < 0.5
