"""The network that changes the contrast of an image."""

from __future__ import annotations

import pytest
import torch

from unlabeled.nn.translation import Translator


@pytest.mark.parametrize("edges", [(16, 16), (17, 13)])
def test_a_fresh_network_gives_the_image_back_and_then_learns_another_contrast(edges):
    torch.manual_seed(0)
    network = Translator(8, 1)
    image = torch.randn(2, 1, *edges)
    assert torch.equal(network(image), image)
    adam = torch.optim.Adam(network.parameters(), lr=0.01)
    errors = []
    for _ in range(40):
        error = (network(image) + image).square().mean()  # bright and dark exchanged
        adam.zero_grad()
        error.backward()
        adam.step()
        errors.append(error.item())
    assert errors[-1] < 0.2 * errors[0]
