"""Likelihoods of whole pictures: any size, any tiling, and networks that are left as they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unlabeled.nn import foreground
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.foreground import evaluating, likelihood


@pytest.mark.parametrize("name", ["unet", "resenc-tiny", "resnet18"])
def test_any_network_and_size(name):
    encoder = build_encoder(name, dims=2, in_channels=2)
    decoder = build_decoder(encoder, out_channels=1)
    with torch.no_grad():
        likely = likelihood(encoder, decoder, torch.rand(2, 35, 50))
    assert likely.shape == (35, 50)
    assert 0 <= likely.min() <= likely.max() <= 1
    assert encoder.training


def test_tiles_are_put_where_they_belong(monkeypatch):
    class Same(nn.Module):
        strides = ((1, 1),)

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            return [self.weight * image]

    class Last(nn.Module):
        def forward(self, maps: list[torch.Tensor], space: object) -> torch.Tensor:
            return maps[-1]

    picture = torch.randn(1, 41, 57)
    monkeypatch.setattr(foreground, "EDGE", 16)
    monkeypatch.setattr(foreground, "MARGIN", 4)
    with torch.no_grad():
        likely = likelihood(Same(), Last(), picture)
    torch.testing.assert_close(likely, picture[0].sigmoid())


def test_modules_are_given_back_as_they_were_after_a_fault():
    first, second = nn.Dropout(), nn.Dropout().eval()

    def fail() -> None:
        with evaluating(first, second):
            assert not first.training
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert first.training
    assert not second.training
