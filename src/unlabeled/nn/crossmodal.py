"""One space for images and texts: local and global vectors of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.errors import OptionError
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.heads import pool
from unlabeled.nn.text import TextEncoder, as_buffer, last_levels


class Seen(NamedTuple):
    """An image: ``batch region width``, row by row, and ``batch width``; rows and columns of regions."""

    regions: Tensor
    whole: Tensor
    grid: tuple[int, ...]


class Read(NamedTuple):
    """A text: ``batch word width``, zeros after the stop, and ``batch width``."""

    words: Tensor
    whole: Tensor


class Projection(nn.Module):
    """Regions and whole of an image, in a space of so many numbers.

    Regions are the map before the coarsest (stride 16 of a residual network) through a 1x1 convolution without bias; the
    whole image is the mean of the coarsest map through a linear layer.  Source: official code of GLoRIA (Huang et al.,
    ICCV 2021).

    Parameters
    ----------
    encoder
        Whose maps come in.
    width
        Length of a vector.
    """

    def __init__(self, encoder: Encoder, width: int) -> None:
        super().__init__()
        if len(encoder.channels) < 2:
            raise OptionError(
                f"{encoder.name} has one feature map, and regions come from the one before the last",
                "Give --encoder resnet50, or another with several.",
            )
        convolution = nn.Conv2d if encoder.dims == 2 else nn.Conv3d
        self.local = convolution(encoder.channels[-2], width, 1, bias=False)
        self.whole = nn.Linear(encoder.channels[-1], width)

    def see(self, maps: Sequence[Tensor]) -> Seen:
        """Project an image's feature maps, fine to coarse."""
        local = self.local(maps[-2])
        regions = local.flatten(2).transpose(1, 2)
        return Seen(regions, self.whole(pool(maps)), tuple(local.shape[2:]))


class SharedSpace(Projection):
    """The space of a text encoder's vectors, with images projected into it.

    Words and sentences are sums of the text encoder's last four states, pieces of a word added, and have no projection.

    Parameters
    ----------
    encoder
        Whose maps come in.
    text
        Reads texts; its width is that of the space.
    habits
        How images and texts are brought into it, as plain values for JSON; kept beside the weights for whoever uses them.

    Attributes
    ----------
    about
        `habits`, in a buffer.
    """

    def __init__(self, encoder: Encoder, text: TextEncoder, habits: Mapping[str, Any]) -> None:
        super().__init__(encoder, text.shape.width)
        self.text = text
        self.register_buffer("about", as_buffer(habits))

    def read(self, ids: Tensor, words: Tensor) -> Read:
        """Read texts: ``batch piece`` as `Tokens` holds them.

        The mean that makes a sentence runs over all places, empty ones too: cosines do not see it.
        """
        length, longest = ids.shape[1], int((words >= 0).sum(1).max())
        merged = last_levels(self.text(ids[:, :longest]), words[:, :longest])
        return Read(F.pad(merged, (0, 0, 0, length - longest)), merged.sum(1) / length)
