"""Critics: networks that tell real images from made ones, patch by patch or as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from monai.networks.nets.patchgan_discriminator import PatchDiscriminator
from torch import Tensor, nn

from unlabeled.errors import OptionError


class PatchCritic(nn.Module):
    """Convolutions of edge 4 that give one number for each patch of an image, not one for the whole.

    With three `layers` a number looks at 70 x 70 pixels: strides of 2 up to the last but one, batch normalisation
    except in the first and last convolution, LeakyReLU of 0.2.
    Source: the patch discriminator of Isola et al., CVPR 2017 (MONAI's).

    Parameters
    ----------
    in_channels
        Of condition and image together.
    dims
        Axes of space.
    width
        Channels of the first convolution; they double with each layer.
    layers
        Convolutions between the first and the last.
    norm
        How they are normalised: over the batch as published, or each image by itself, so that a verdict on an image
        depends on no other and nothing but weights is kept.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        dims: int = 2,
        width: int = 64,
        layers: int = 3,
        norm: Literal["batch", "instance"] = "batch",
    ) -> None:
        super().__init__()
        if layers < 1:
            raise OptionError(f"a critic has at least one layer, not {layers}")
        self.layers = layers
        self.net = PatchDiscriminator(
            spatial_dims=dims,
            channels=width,
            in_channels=in_channels,
            num_layers_d=layers,
            norm="BATCH" if norm == "batch" else ("INSTANCE", {"affine": True}),
        )

    def check(self, space: Sequence[int]) -> None:
        """Refuse images [voxel] so small that nothing is left of them after the convolutions.

        Raises
        ------
        OptionError
            Naming how many layers they allow.
        """
        if min(space) >= 3 * 2**self.layers:  # 3 places before two convolutions that take one each
            return
        fewer = [layers for layers in range(1, self.layers) if min(space) >= 3 * 2**layers]
        least = " ".join([str(3 * 2**self.layers)] * len(space))
        raise OptionError(
            f"an image of {' x '.join(map(str, space))} is too small for a critic of {self.layers} layers",
            f"Give --critic-layers {fewer[-1]}." if fewer else f"Give --patch-size {least}.",
        )

    def forward(self, image: Tensor) -> Tensor:
        """Compute logits ``batch 1 *places`` of being real."""
        logits: Tensor = self.net(image)[-1]
        return logits


@contextmanager
def standing_still(module: nn.Module) -> Iterator[None]:
    """Let gradients through a module that get none itself: the graph built within leaves its weights alone."""
    held = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


class ImageCritic(nn.Module):
    """Strided convolutions that give one number without bounds for a whole image.

    Convolutions of edge 4 and stride 2 with LeakyReLU of 0.2, the mean over space, and a linear layer.  Nothing is
    normalised, so that the number of an image depends on no other and its slope can be penalised; nothing works in
    place, so that it can be differentiated twice.
    Source: the shape of Radford et al., ICLR 2016, without normalisation as Gulrajani et al., NeurIPS 2017, ask for.

    Parameters
    ----------
    in_channels
        Of the image.
    dims
        Axes of space.
    width
        Channels of the first convolution; they double with each layer.
    layers
        Convolutions; each halves the image.
    """

    def __init__(
        self, in_channels: int, *, dims: int = 2, width: int = 32, layers: int = 4
    ) -> None:
        super().__init__()
        if layers < 1:
            raise OptionError(f"a critic has at least one layer, not {layers}")
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        widths = [in_channels, *(width * 2**layer for layer in range(layers))]
        parts: list[nn.Module] = []
        for entering, leaving in itertools.pairwise(widths):
            parts += [convolution(entering, leaving, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*parts)
        self.linear = nn.Linear(widths[-1], 1)

    def forward(self, image: Tensor) -> Tensor:
        """Compute a number an image, ``batch``."""
        verdict: Tensor = self.linear(self.layers(image).flatten(2).mean(2))
        return verdict[:, 0]
