"""Decoders: from an encoder's feature maps back to the image's resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.errors import OptionError
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.resenc import ConvNorm, ConvStack, initialise

#: Fewest channels of the steps finer than the encoder's finest map.
_FEWEST = 16


class SkipDecoder(nn.Module):
    """nnU-Net's decoder, and its continuation for encoders whose finest map is smaller than the image.

    Each step enlarges by a transposed convolution whose kernel is its stride, sets the encoder's map of that
    resolution beside the result and merges both in one convolution.  For a residual encoder these are nnU-Net's
    tensors, name by name (`head` is the finest of nnU-Net's `seg_layers`).  Where the finest map has a stride, steps
    without a map follow, each halving stride and channels (not below 16).  Steps between maps of equal stride
    (transformers) enlarge by one.

    Parameters
    ----------
    encoder
        Any encoder of the contract; only its channels and strides are read.
    out_channels
        Channels of the result.

    Attributes
    ----------
    head
        1x1 convolution to `out_channels`, without activation: what another task replaces.
    """

    def __init__(self, encoder: Encoder, *, out_channels: int) -> None:
        super().__init__()
        if out_channels < 1:
            raise OptionError(f"a decoder gives at least one channel, not {out_channels}")
        dims = self.dims = encoder.dims
        self.finest = encoder.strides[0]
        self.coarsest = encoder.strides[-2:][0]  # of the first step
        pointwise = nn.Conv2d if dims == 2 else nn.Conv3d
        self.transpconvs = nn.ModuleList()
        self.stages = nn.ModuleList()
        width = encoder.channels[-1]
        for below, level in zip(
            reversed(encoder.strides[1:]), range(len(encoder.channels) - 2, -1, -1), strict=True
        ):
            skip = encoder.channels[level]
            ratio = _ratio(below, encoder.strides[level])
            self.transpconvs.append(_enlarge(width, skip, ratio))
            self.stages.append(ConvStack(ConvNorm(dims, 2 * skip, skip)))
            width = skip
        for ratio in _halvings(self.finest):
            narrow = max(width // 2, min(width, _FEWEST))
            self.transpconvs.append(_enlarge(width, narrow, ratio))
            self.stages.append(ConvStack(ConvNorm(dims, narrow, narrow)))
            width = narrow
        self.head = pointwise(width, out_channels, 1)
        self.apply(initialise)

    def forward(self, features: Sequence[Tensor], space: Sequence[int] | None = None) -> Tensor:
        """Decode feature maps, fine to coarse.

        Parameters
        ----------
        features
            What the encoder returned.
        space
            Edges of the image [voxel]; without it, the finest map's times its stride, which is larger than the image
            where that is no multiple of the stride.

        Returns
        -------
        Tensor
            ``batch out_channels *space``.

        Raises
        ------
        OptionError
            When the image is so small that a step has a single position, which cannot be normalised.
        """
        *skips, out = features
        for enlarge, merge in zip(self.transpconvs, self.stages, strict=True):
            out = enlarge(out)
            if skips:
                skip = skips.pop()
                out = torch.cat([fit(out, skip.shape[2:]), skip], dim=1)
            if out[0, 0].numel() == 1:
                enough = " ".join(str(2 * edge) for edge in self.coarsest)
                raise OptionError(
                    "the image is too small for this encoder with a decoder: it is halved to a single position",
                    f"Give --patch-size {enough} or more, or a shallower network: --encoder resenc-tiny.",
                )
            out = merge(out)
        if space is not None:
            out = fit(out, space)
        decoded: Tensor = self.head(out)
        return decoded


class DenseUpsampling(nn.Module):
    """Dense upsampling convolution: the coarsest map alone says every voxel of the block of the image that it covers.

    One 1x1 convolution gives ``out_channels`` numbers for each voxel of a block as large as the stride, which are then
    laid out in space.  Few weights are fresh and none mix neighbours, so that what a pretrained encoder knows is hardly
    diluted (Wang et al., WACV 2018; in 3D Zhuang et al., MICCAI 2019, whose kernel is unconfirmed).

    Parameters
    ----------
    encoder
        Any encoder of the contract; only its last channels and stride are read.
    out_channels
        Channels of the result.

    Attributes
    ----------
    head
        The convolution, without activation: all that there is, so nothing of it is carried to another task.
    """

    def __init__(self, encoder: Encoder, *, out_channels: int) -> None:
        super().__init__()
        if out_channels < 1:
            raise OptionError(f"a decoder gives at least one channel, not {out_channels}")
        self.stride = encoder.strides[-1]
        self.out_channels = out_channels
        pointwise = nn.Conv2d if encoder.dims == 2 else nn.Conv3d
        self.head = pointwise(encoder.channels[-1], math.prod(self.stride) * out_channels, 1)
        self.apply(initialise)

    def forward(self, features: Sequence[Tensor], space: Sequence[int] | None = None) -> Tensor:
        """Decode feature maps, fine to coarse.

        Parameters
        ----------
        features
            What the encoder returned; only the last is used.
        space
            Edges of the image [voxel]; without it, the coarsest map's times its stride, which is larger than the image
            where that is no multiple of the stride.

        Returns
        -------
        Tensor
            ``batch out_channels *space``.
        """
        blocks = spread_blocks(self.head(features[-1]), self.stride)
        return blocks if space is None else fit(blocks, space)


class Deconvolutions(nn.Module):
    """A few deconvolution layers on the coarsest map alone: no links, so all that is restored has to be in that map.

    Each layer halves the stride by a transposed convolution whose kernel is its own stride, with batch normalisation and
    ReLU, and halves the channels (not below 16); a 1x1 convolution ends it.  On 512 channels at stride 16 these are
    layers of 256, 128, 64 and 32 channels.

    Parameters
    ----------
    encoder
        Any encoder of the contract; only its last channels and stride are read.
    out_channels
        Channels of the result.

    Attributes
    ----------
    head
        1x1 convolution to `out_channels`, without activation.
    """

    def __init__(self, encoder: Encoder, *, out_channels: int) -> None:
        super().__init__()
        if out_channels < 1:
            raise OptionError(f"a decoder gives at least one channel, not {out_channels}")
        flat = encoder.dims == 2
        normalise = nn.BatchNorm2d if flat else nn.BatchNorm3d
        layers: list[nn.Module] = []
        width = encoder.channels[-1]
        for ratio in _halvings(encoder.strides[-1]):
            narrow = max(width // 2, min(width, _FEWEST))
            layers += [_enlarge(width, narrow, ratio), normalise(narrow), nn.ReLU(inplace=True)]
            width = narrow
        self.layers = nn.Sequential(*layers)
        self.head = (nn.Conv2d if flat else nn.Conv3d)(width, out_channels, 1)
        self.apply(initialise)

    def forward(self, features: Sequence[Tensor], space: Sequence[int] | None = None) -> Tensor:
        """Decode feature maps, fine to coarse.

        Parameters
        ----------
        features
            What the encoder returned; only the last is used.
        space
            Edges of the image [voxel]; without it, the coarsest map's times its stride.

        Returns
        -------
        Tensor
            ``batch out_channels *space``.
        """
        decoded: Tensor = self.head(self.layers(features[-1]))
        return decoded if space is None else fit(decoded, space)


def spread_blocks(image: Tensor, stride: Sequence[int]) -> Tensor:
    """Lay channels out in space: ``batch (channel *stride) *space`` to ``batch channel *larger`` (pixel shuffle).

    >>> spread_blocks(torch.arange(4.0).view(1, 4, 1, 1), (2, 2))
    tensor([[[[0., 1.],
              [2., 3.]]]])
    """
    dims = len(stride)
    batch, channels, *space = image.shape
    image = image.view(batch, channels // math.prod(stride), *stride, *space)
    axes = [axis for at in range(dims) for axis in (2 + dims + at, 2 + at)]
    larger = [edge * by for edge, by in zip(space, stride, strict=True)]
    return image.permute(0, 1, *axes).reshape(batch, -1, *larger)


def build_decoder(
    encoder: Encoder, *, out_channels: int, kind: Literal["skip", "duc"] = "skip"
) -> nn.Module:
    """Build the decoder that belongs to an encoder, with fresh weights.

    Parameters
    ----------
    encoder
        The encoder whose feature maps it takes; ``unet``, ``unet-6``, ``unet-shallow`` and ``care-unet`` bring
        their own, every other gets a `SkipDecoder`.
    out_channels
        Channels of the result, at the image's resolution, without activation.
    kind
        That decoder, which merges all maps, or `DenseUpsampling` of the coarsest.

    Returns
    -------
    nn.Module
        Called on the encoder's list of maps; its last layer is ``head``.
    """
    if kind == "duc":
        return DenseUpsampling(encoder, out_channels=out_channels)
    if encoder.name == "unet":
        from unlabeled.nn.unet import UNetDecoder, UNetEncoder

        if isinstance(encoder, UNetEncoder):
            return UNetDecoder(encoder, out_channels=out_channels)
    if encoder.name == "unet-6":
        from unlabeled.nn.unet6 import UNet6Decoder, UNet6Encoder

        if isinstance(encoder, UNet6Encoder):
            return UNet6Decoder(encoder, out_channels=out_channels)
    if encoder.name == "unet-shallow":
        from unlabeled.nn.unet_shallow import ShallowUNetDecoder, ShallowUNetEncoder

        if isinstance(encoder, ShallowUNetEncoder):
            return ShallowUNetDecoder(encoder, out_channels=out_channels)
    if encoder.name.startswith("care-unet"):
        from unlabeled.nn.care import CareDecoder, CareEncoder

        if isinstance(encoder, CareEncoder):
            return CareDecoder(encoder, out_channels=out_channels)
    return SkipDecoder(encoder, out_channels=out_channels)


def build_first_blocks(encoder: Encoder, blocks: int) -> nn.Module:
    """Build the first blocks of the decoder that belongs to an encoder, with fresh weights.

    Their tensors have the names that they have in the whole decoder, so they can be taken over into one.

    Parameters
    ----------
    encoder
        The encoder whose feature maps they take.
    blocks
        How many, from the coarsest map on.

    Returns
    -------
    nn.Module
        Called on the encoder's last ``blocks + 1`` maps; gives a map of the size and the channels of the first of
        them.

    Raises
    ------
    OptionError
        The decoder has fewer blocks that merge a map of the encoder, or they narrow what they give.
    """
    most = len(encoder.channels) - 1
    if not 1 <= blocks <= most:
        raise OptionError(
            f"{blocks} blocks of a decoder are asked for, and that of {encoder.name} has {most}",
            f"Give --decoder-blocks 1 to {most}.",
        )
    if encoder.name.startswith("care-unet"):
        raise OptionError(
            f"the blocks of {encoder.name}'s decoder do not have the channels of the encoder's maps",
            "Give another --encoder: unet-6, for instance.",
        )
    decoder = build_decoder(encoder, out_channels=1)
    for name, part in list(decoder.named_children()):
        if isinstance(part, nn.ModuleList):
            setattr(decoder, name, part[:blocks])
    decoder.head = nn.Identity()
    return decoder


def fit(image: Tensor, space: Sequence[int]) -> Tensor:
    """Cut an image ``batch channel *axes`` to edges, or repeat its last voxels up to them.

    >>> fit(torch.arange(3.0).view(1, 1, 3, 1), (2, 2)).flatten()
    tensor([0., 0., 1., 1.])
    """
    if tuple(image.shape[2:]) == tuple(space):
        return image
    image = image[(slice(None), slice(None), *(slice(edge) for edge in space))]
    missing = [edge - have for edge, have in zip(space, image.shape[2:], strict=True)]
    if not any(missing):
        return image
    return F.pad(
        image, [side for many in reversed(missing) for side in (0, many)], mode="replicate"
    )


def _enlarge(entering: int, leaving: int, ratio: tuple[int, ...]) -> nn.Module:
    if len(ratio) == 2:
        flat = (ratio[0], ratio[1])
        return nn.ConvTranspose2d(entering, leaving, flat, flat)
    solid = (ratio[0], ratio[1], ratio[2])
    return nn.ConvTranspose3d(entering, leaving, solid, solid)


def _ratio(coarse: tuple[int, ...], fine: tuple[int, ...]) -> tuple[int, ...]:
    if any(below % above for below, above in zip(coarse, fine, strict=True)):
        raise OptionError(f"strides {fine} and {coarse} of an encoder do not divide each other")
    return tuple(below // above for below, above in zip(coarse, fine, strict=True))


def _halvings(stride: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Split a stride into steps of two; an odd rest is one step.

    >>> _halvings((4, 2))
    [(2, 2), (2, 1)]
    """
    steps = []
    while any(axis > 1 for axis in stride):
        step = tuple(2 if axis % 2 == 0 else axis for axis in stride)
        stride = tuple(axis // by for axis, by in zip(stride, step, strict=True))
        steps.append(step)
    return steps
