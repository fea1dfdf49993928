"""Encoders by name: networks that turn an image into feature maps, fine to coarse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class Encoder(nn.Module, ABC):
    """The contract that heads, decoders, transfer and exports rely on, and nothing else.

    Called on an image ``batch channel *space``, it returns one feature map a stage, fine to coarse; map i has
    ``channels[i]`` channels and is ``strides[i]`` times smaller along each axis of space than the image.

    Attributes
    ----------
    name
        As in ``--encoder``.
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the image.
    channels
        Channels of each feature map.
    strides
        Cumulative stride of each feature map, one number an axis.
    entry
        Name of the layer that depends on the image's channels.
    """

    name: str
    dims: int
    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    entry: ClassVar[str]

    @abstractmethod
    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute the feature maps."""


def build_encoder(name: str, *, dims: int, in_channels: int = 1) -> Encoder:
    """Build an encoder by its name, e.g. ``unet``, ``resenc-tiny``, ``resnet18``, ``vit``."""
    raise KeyError(name)
