"""Encoders by name: networks that turn an image into feature maps, fine to coarse."""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from unlabeled.errors import OptionError

_NAMES = (
    "unet",
    "unet-6",
    "unet-shallow",
    "care-unet",
    "care-unet-3",
    "care-unet-tiny",
    "resenc-tiny",
    "resenc-s",
    "resenc-m",
    "resenc-l",
    "resnet18",
    "resnet50",
    "vit-tiny",
    "vit-s",
    "vit",
    "landmark-cnn",
    "caffenet",
    "context-cnn",
    "asym-unet",
    "section-cnn",
    "sononet-16",
    "sononet-32",
    "sononet-64",
    "thin-cnn",
    "thin-cnn-16",
)


class Encoder(nn.Module, ABC):
    """The contract that heads, decoders, transfer and exports rely on, and nothing else.

    Called on an image ``batch channel *space``, it returns one feature map a stage, fine to coarse; map i has
    ``channels[i]`` channels and is ``strides[i]`` times smaller along each axis of space than the image, rounded up
    where the image is no multiple (``unet`` refuses such images instead).

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

    def check(self, space: Sequence[int]) -> None:
        """Refuse an image of these edges [voxel]; by default none is refused.

        Raises
        ------
        OptionError
            The network cannot take such an image.
        """


def encoder_names() -> tuple[str, ...]:
    """List every encoder, as typed after ``--encoder``.

    >>> "resenc-tiny" in encoder_names()
    True
    """
    return _NAMES


def require_encoder(name: str) -> None:
    """Refuse a name that no encoder has.

    Raises
    ------
    OptionError
        Naming the nearest one.
    """
    if name not in _NAMES:
        near = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise OptionError(
            f"unknown encoder {name!r}", f"{hint}--encoder takes one of {', '.join(_NAMES)}."
        )


def build_encoder(name: str, *, dims: int, in_channels: int = 1) -> Encoder:
    """Build an encoder with fresh weights, drawn from torch's global generator (which the engine seeds).

    ===============  ==============================================================================================
    name             network
    ===============  ==============================================================================================
    ``unet``         the contracting half of the U-Net of Models Genesis
    ``unet-6``       the contracting half of a narrow U-Net of six levels, for slices
    ``unet-shallow`` the contracting half of a narrow U-Net of three levels, which keeps fine detail
    ``care-unet``    the contracting half of the U-Net of CARE and Noise2Void, halved 4 times; ``-3``: 3 times; ``-tiny``:
                     twice, narrow
    ``resenc-tiny``  nnU-Net's residual encoder in 4 narrow stages, for CPUs and demonstrations
    ``resenc-s``     ``resenc-m`` with half the channels and half the blocks
    ``resenc-m``     nnU-Net's ResEnc M: 6 stages in 3D (plan of 128^3 voxels), 8 in 2D (plan of 512^2)
    ``resenc-l``     nnU-Net's ResEnc L: the tensors of M; nnU-Net's planner gives it larger patches
    ``resnet18/50``  residual networks with the tensors of torchvision's; convolutions of one more axis in 3D
    ``vit-tiny/-s``  vision transformers of width 192 and 384, patch 16 (2D) or 8 (3D)
    ``vit``          vision transformer B/16
    ``landmark-cnn`` twelve convolutions without normalisation, halved seven times: the network of shape landmarks
    ``caffenet``     CaffeNet's first layer at stride 2 and two strided convolutions: predicts a brain's responses
    ``context-cnn``  six small convolutions without padding: 42 x 42 samples of three planes become 64 numbers
    ``asym-unet``    the contracting half of a U-Net with dilated convolutions, whose way up ends early
    ``section-cnn``  thirteen convolutions in six blocks, without padding where patches of sections are described
    ``sononet-64``   SonoNet, the convolutions of VGG-16 with normalisation; ``-32``, ``-16``: with fewer channels
    ``thin-cnn``     four convolutions for a few thick slices along the first axis, none of which is skipped; ``-16``: narrow
    ===============  ==============================================================================================

    Parameters
    ----------
    name
        One of `encoder_names`.
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the image.

    Raises
    ------
    OptionError
        For an unknown name, other dimensions, or no channel.
    """
    require_encoder(name)
    if dims not in (2, 3):
        raise OptionError(
            f"an encoder works on 2 or 3 axes of space, not {dims}", "Give --dims 2 or 3."
        )
    if in_channels < 1:
        raise OptionError(f"an encoder needs at least one channel, not {in_channels}")
    family = name.split("-")[0]
    if name == "unet-6":
        from unlabeled.nn.unet6 import UNet6Encoder

        return UNet6Encoder(dims=dims, in_channels=in_channels)
    if name == "unet-shallow":
        from unlabeled.nn.unet_shallow import ShallowUNetEncoder

        return ShallowUNetEncoder(dims=dims, in_channels=in_channels)
    if family == "care":
        from unlabeled.nn.care import CareEncoder

        return CareEncoder(name, dims=dims, in_channels=in_channels)
    if family == "unet":
        from unlabeled.nn.unet import UNetEncoder

        return UNetEncoder(dims=dims, in_channels=in_channels)
    if family == "resenc":
        from unlabeled.nn.resenc import ResidualEncoder

        return ResidualEncoder(name, dims=dims, in_channels=in_channels)
    if family == "vit":
        from unlabeled.nn.vit import VisionTransformer

        return VisionTransformer(name, dims=dims, in_channels=in_channels)
    if family == "caffenet":
        from unlabeled.nn.caffenet import CaffeNetEncoder

        return CaffeNetEncoder(dims=dims, in_channels=in_channels)
    if family == "context":
        from unlabeled.nn.context_cnn import ContextCNN

        return ContextCNN(dims=dims, in_channels=in_channels)
    if family == "asym":
        from unlabeled.nn.asymmetric import AsymmetricEncoder

        return AsymmetricEncoder(dims=dims, in_channels=in_channels)
    if family == "section":
        from unlabeled.nn.section_cnn import SectionCNN

        return SectionCNN(dims=dims, in_channels=in_channels)
    if family == "sononet":
        from unlabeled.nn.sononet import SonoNetEncoder

        return SonoNetEncoder(name, dims=dims, in_channels=in_channels)
    if family == "thin":
        from unlabeled.nn.thin_cnn import ThinCNN

        return ThinCNN(name, dims=dims, in_channels=in_channels)
    if family == "landmark":
        from unlabeled.nn.landmark_cnn import LandmarkCNN

        return LandmarkCNN(dims=dims, in_channels=in_channels)
    from unlabeled.nn.resnet import ResNetEncoder

    return ResNetEncoder(name, dims=dims, in_channels=in_channels)


def check_image(encoder: Encoder, image: Tensor, positions: int = 1) -> None:
    """Refuse an image that an encoder cannot take.

    Parameters
    ----------
    encoder
        The encoder that is called.
    image
        Its input, ``batch channel *space``.
    positions
        Fewest positions that the coarsest feature map must have (normalisation needs two).

    Raises
    ------
    OptionError
        When axes or channels differ, or the coarsest map would have too few positions.
    """
    space = tuple(image.shape[2:])
    if len(space) != encoder.dims:
        raise OptionError(
            f"{encoder.name} was built for {encoder.dims} axes of space, and the image has {len(space)}",
            f"Give --dims {len(space)}." if len(space) in (2, 3) else "",
        )
    if image.shape[1] != encoder.in_channels:
        raise OptionError(
            f"{encoder.name} was built for {encoder.in_channels} channels, and the image has {image.shape[1]}",
            "Use scans with the same modalities, or pretrain an encoder for these.",
        )
    coarsest = [
        math.ceil(edge / stride) for edge, stride in zip(space, encoder.strides[-1], strict=True)
    ]
    if math.prod(coarsest) < positions:
        enough = " ".join(str(2 * stride) for stride in encoder.strides[-1])
        raise OptionError(
            f"an image of {' x '.join(map(str, space))} voxels is too small for {encoder.name}: its coarsest "
            f"feature map is {max(encoder.strides[-1])} times smaller, a single position",
            f"Give --patch-size {enough}, or a shallower network: --encoder resenc-tiny.",
        )
