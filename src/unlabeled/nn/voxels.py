"""Between feature maps and the voxels of a brain: read-out, embedding, and the decoder of pictures.

Source: Beliy et al., NeurIPS 2019, official code.  Both dense layers keep their weights as ``voxels channel rows
columns``, so that a group of them (the channels at one place for one voxel) can be pressed to zero together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.errors import OptionError
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.unet import SwitchableBatchNorm

READ = 32  # channels of the map that voxels are read from
GROWTH = 8  # how much larger a picture is than the map that voxels are spread over


class VoxelReadout(nn.Module):
    """Dense layer from an encoder's coarsest map to voxels; a map of other than 32 channels is first made one (ours).

    Parameters
    ----------
    encoder
        Whose map is read.
    edges
        Rows and columns of its images [pixel].
    voxels
        Of a response.
    """

    def __init__(self, encoder: Encoder, edges: tuple[int, int], voxels: int) -> None:
        super().__init__()
        deep = encoder.channels[-1]
        steps = zip(edges, encoder.strides[-1], strict=True)
        space = [-(-edge // stride) for edge, stride in steps]
        self.narrow = nn.Identity() if deep == READ else nn.Conv2d(deep, READ, 1)
        self.weight = nn.Parameter(torch.empty(voxels, READ, *space))
        self.bias = nn.Parameter(torch.empty(voxels))
        with torch.no_grad():
            self.weight.normal_(std=_glorot(READ * math.prod(space), voxels))
            self.bias.normal_(std=_glorot(voxels, voxels))

    def forward(self, features: Tensor, dropout: float = 0.0) -> Tensor:
        """Predict ``batch voxels`` from ``batch channel rows columns``, of whose numbers a share is dropped."""
        kept = F.dropout(self.narrow(features), dropout)
        return F.linear(kept.flatten(1), self.weight.flatten(1), self.bias).float()


class VoxelEmbedding(nn.Module):
    """Dense layer from voxels to a map, with a bias for each of its units.

    Parameters
    ----------
    voxels
        Of a response.
    channels
        Of the map.
    space
        Rows and columns of the map.
    """

    def __init__(self, voxels: int, channels: int, space: tuple[int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(voxels, channels, *space))
        self.bias = nn.Parameter(torch.empty(channels, *space))
        places = channels * math.prod(space)
        with torch.no_grad():
            self.weight.normal_(std=_glorot(voxels, places))
            self.bias.normal_(std=_glorot(places, places))

    def forward(self, response: Tensor) -> Tensor:
        """Spread ``batch voxels`` over ``batch channel rows columns``."""
        spread = response @ self.weight.flatten(1) + self.bias.flatten()
        return spread.view(-1, *self.bias.shape)


class PictureDecoder(nn.Module):
    """From a response to a picture in (0, 1): embed, enlarge eightfold in three steps, convolve to three colours.

    Parameters
    ----------
    voxels
        Of a response.
    edges
        Rows and columns of the picture [pixel]; multiples of 8.
    width
        Channels of all maps.
    """

    def __init__(self, voxels: int, edges: tuple[int, int], width: int = 64) -> None:
        super().__init__()
        self.embed = VoxelEmbedding(voxels, width, (edges[0] // GROWTH, edges[1] // GROWTH))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(SwitchableBatchNorm(width) for _ in range(3))
        self.head = nn.Conv2d(width, 3, 3, padding=1)
        for conv in (*self.convs, self.head):
            nn.init.xavier_normal_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, response: Tensor) -> Tensor:
        """Decode ``batch 3 rows columns`` from ``batch voxels``."""
        out: Tensor = self.embed(response)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            out = norm(F.interpolate(F.relu(conv(out)), scale_factor=2, mode="nearest"))
        return torch.sigmoid(self.head(out).float())

    @property
    def kernels(self) -> list[Tensor]:
        """Weights of the convolutions."""
        return [conv.get_parameter("weight") for conv in (*self.convs, self.head)]


def require_growth(edges: Sequence[int]) -> None:
    """Refuse pictures that a map cannot grow to.

    Raises
    ------
    OptionError
        Rows or columns are no multiple of 8; the nearest ones that are.
    """
    if any(edge % GROWTH for edge in edges):
        typed = " ".join(map(str, edges))
        nearest = " ".join(str(max(GROWTH, round(edge / GROWTH) * GROWTH)) for edge in edges)
        raise OptionError(
            f"--patch-size {typed} holds no multiple of {GROWTH}, and pictures grow eightfold",
            f"Give --patch-size {nearest}.",
        )


def _glorot(entering: int, leaving: int) -> float:
    return math.sqrt(2.0 / (entering + leaving))
