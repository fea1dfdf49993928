"""A network that gives an image the contrast of another modality."""

from __future__ import annotations

from torch import Tensor, nn

from unlabeled.nn.decoders import fit


class ResidualBlock(nn.Module):
    """Two convolutions of edge 3, each normalised over its image, added to what came in; nothing is padded with zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(width, width), nn.ReLU(), *_convolution(width, width)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Compute ``batch width rows columns``."""
        added: Tensor = maps + self.layers(maps)
        return added


class Translator(nn.Module):
    """Convolutions, halved twice, residual blocks, and back: what comes out is added to the image (ours).

    Source of the layout: the generator of CycleGAN (Zhu et al., ICCV 2017), there with an activation at the end.

    Parameters
    ----------
    width
        Channels of the first convolution; they double with each halving.
    blocks
        Residual blocks.
    """

    def __init__(self, width: int = 32, blocks: int = 6) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(1, width, edge=7),
            nn.ReLU(),
            *_convolution(width, 2 * width, stride=2),
            nn.ReLU(),
            *_convolution(2 * width, 4 * width, stride=2),
            nn.ReLU(),
            *(ResidualBlock(4 * width) for _ in range(blocks)),
            nn.Upsample(scale_factor=2),
            *_convolution(4 * width, 2 * width),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            *_convolution(2 * width, width),
            nn.ReLU(),
        )
        self.last = nn.Conv2d(width, 1, 7, padding=3, bias=False, padding_mode="replicate")
        nn.init.zeros_(self.last.weight)

    def forward(self, image: Tensor) -> Tensor:
        """Translate ``batch 1 rows columns``; a fresh network gives the image back."""
        change: Tensor = self.last(fit(self.layers(image), image.shape[2:]))
        return image + change


def _convolution(
    entering: int, leaving: int, *, edge: int = 3, stride: int = 1
) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(
        entering, leaving, edge, stride, edge // 2, bias=False, padding_mode="replicate"
    )
    return convolution, nn.InstanceNorm2d(leaving, affine=True)
