"""Channels let through as a code says."""

from __future__ import annotations

from torch import Tensor, nn


class CodeGate(nn.Module):
    """Multiply each channel of a map by a number in (0, 1) that a small network reads off a code (PCRL, official code).

    Parameters
    ----------
    code
        Length of a code.
    channels
        Channels of the map.
    hidden
        Width of the hidden layer.
    """

    def __init__(self, code: int, channels: int, *, hidden: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(code, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        """Gate ``batch channel *space`` by ``batch code``."""
        gate: Tensor = self.layers(code)
        return image * gate.view(*gate.shape, *(1,) * (image.ndim - 2))
