"""Task-specific last layers, and the networks of a downstream task built from encoder, decoder and head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unlabeled.errors import OptionError
from unlabeled.nn.decoders import fit
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.grids import FeatureGrid


class ClassificationHead(nn.Module):
    """Mean of the coarsest map over space, then a linear layer; a hidden layer with ReLU on demand.

    Parameters
    ----------
    encoder
        Whose feature maps come in.
    classes
        Numbers that come out (logits, or targets of a regression).
    hidden
        Width of a hidden layer; without it, the head is linear.
    p_dropout
        Probability to drop a feature in training.
    """

    def __init__(
        self, encoder: Encoder, classes: int, *, hidden: int | None = None, p_dropout: float = 0.0
    ) -> None:
        super().__init__()
        if classes < 1:
            raise OptionError(f"a head gives at least one number, not {classes}")
        width = encoder.channels[-1]
        self.hidden = None if hidden is None else nn.Sequential(nn.Linear(width, hidden), nn.ReLU())
        self.dropout = nn.Dropout(p_dropout)
        self.linear = nn.Linear(width if hidden is None else hidden, classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Compute ``batch classes`` from feature maps, fine to coarse."""
        pooled = pool(features)
        if self.hidden is not None:
            pooled = self.hidden(pooled)
        logits: Tensor = self.linear(self.dropout(pooled))
        return logits


class OrderHead(nn.Module):
    """Say which of two images comes first on a scale, by logits of "the second one" and "the first one".

    Parameters
    ----------
    width
        Features of an image.
    hidden
        Width of the hidden layer on the features of both, side by side; without it, each image has a score, its logit:
        swapping the images then swaps the logits exactly, and the score is a coordinate by itself.

    Notes
    -----
    Last layers start at normal numbers of deviation 0.01, so that fresh logits are near 0.
    """

    def __init__(self, width: int, hidden: int | None = None) -> None:
        super().__init__()
        self.joint = hidden is not None
        last = nn.Linear(width, 1, bias=False) if hidden is None else nn.Linear(hidden, 2)
        nn.init.normal_(last.weight, std=0.01)
        self.layers = (
            last if hidden is None else nn.Sequential(nn.Linear(2 * width, hidden), nn.ReLU(), last)
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute ``batch 2`` from features ``batch width`` of each."""
        logits: Tensor
        if self.joint:
            logits = self.layers(torch.cat([first, second], 1))
        else:
            logits = torch.cat([self.layers(second), self.layers(first)], 1)
        return logits


class SegmentationHead(nn.Module):
    """1x1 convolution from a decoder's channels to classes, without activation.

    Parameters
    ----------
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the decoded map.
    classes
        Classes, background included.
    """

    def __init__(self, dims: int, in_channels: int, classes: int) -> None:
        super().__init__()
        if classes < 1:
            raise OptionError(f"a head gives at least one class, not {classes}")
        pointwise = nn.Conv2d if dims == 2 else nn.Conv3d
        self.conv = pointwise(in_channels, classes, 1)

    def forward(self, decoded: Tensor) -> Tensor:
        """Compute ``batch classes *space``."""
        logits: Tensor = self.conv(decoded)
        return logits


class Segmenter(nn.Module):
    """Encoder, decoder and, on demand, a further head: logits of a class at every voxel of the image.

    Parameters
    ----------
    encoder, decoder
        As `build_encoder` and `build_decoder` make them; the decoder's own last layer may already give the classes.
    head
        Applied to what the decoder gives.
    """

    def __init__(self, encoder: Encoder, decoder: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.head = head

    def forward(self, image: Tensor) -> Tensor:
        """Compute ``batch classes *space`` on the grid of ``batch channel *space``, whatever its edges."""
        decoded = fit(self.decoder(self.encoder(image)), image.shape[2:])
        logits: Tensor = decoded if self.head is None else self.head(decoded)
        return logits


class Classifier(nn.Module):
    """Encoder and head: one row of logits an image.

    Parameters
    ----------
    encoder
        As `build_encoder` makes it.
    head
        Takes the encoder's feature maps.
    """

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, image: Tensor) -> Tensor:
        """Compute ``batch classes`` from ``batch channel *space``."""
        logits: Tensor = self.head(self.encoder(image))
        return logits


def pool(features: Sequence[Tensor]) -> Tensor:
    """Average the coarsest feature map over space: ``batch channel``, what probes and heads see."""
    return features[-1].flatten(2).mean(dim=2)


class DenseHead(nn.Module):
    """Two pointwise convolutions at every cell of a map, the first with batch normalisation and ReLU.

    Parameters
    ----------
    dims
        Axes of space, 2 or 3.
    in_channels, hidden, out_channels
        Channels of the map, in between, and of the result.

    Notes
    -----
    Source: the projector and predictor of BYOL (Grill et al., NeurIPS 2020) with convolutions for linear layers.
    """

    def __init__(self, dims: int, in_channels: int, hidden: int, out_channels: int) -> None:
        super().__init__()
        pointwise = nn.Conv2d if dims == 2 else nn.Conv3d
        normalise = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
        self.layers = nn.Sequential(
            pointwise(in_channels, hidden, 1),
            normalise(hidden),
            nn.ReLU(inplace=True),
            pointwise(hidden, out_channels, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Compute ``batch out_channels *cells`` from ``batch in_channels *cells``."""
        out: Tensor = self.layers(features)
        return out


class DenseProjector(nn.Module):
    """Embeds every cell of a grid over a patch: an encoder's maps, joined on that grid, then a `DenseHead`.

    Parameters
    ----------
    encoder
        Whose maps come in.
    patch
        Edges of the patch [voxel].
    stride
        Edge of a cell [voxel], as `FeatureGrid.of` takes it.
    hidden, features
        Channels in between, and of an embedding.

    Raises
    ------
    OptionError
        The patch does not consist of several whole cells.
    """

    def __init__(
        self, encoder: Encoder, patch: Sequence[int], stride: int, *, hidden: int, features: int
    ) -> None:
        super().__init__()
        self.grid = FeatureGrid.of(encoder, stride)
        self.cells = self.grid.cells(patch)
        self.head = DenseHead(encoder.dims, self.grid.channels, hidden, features)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Embed the cells, ``batch features *cells``."""
        embedded: Tensor = self.head(self.grid(maps, self.cells))
        return embedded
