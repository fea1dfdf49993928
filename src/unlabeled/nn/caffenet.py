"""The shallow encoder that predicts a brain's responses: CaffeNet's first layer and two strided convolutions.

Source: Beliy et al., NeurIPS 2019, official code; its first layer is that of the reference CaffeNet (96 filters of
11 x 11) at stride 2 instead of 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.errors import RunError
from unlabeled.nn.encoders import Encoder, check_image
from unlabeled.nn.unet import SwitchableBatchNorm

#: Mean of red, green and blue over ImageNet, of 255.
MEANS = (123.68, 116.779, 103.939)


class CaffeNetEncoder(Encoder):
    """Three convolutions: maps of 96, 32 and 32 channels at strides 2, 4 and 8.

    Takes images in [0, 1]; three channels are red, green and blue and go on as blue, green and red of 255, each less
    its mean over ImageNet, as CaffeNet has them; other numbers of channels lose the mean of the three.  Each
    convolution keeps as many positions as its stride allows (TensorFlow's SAME padding: the odd one at the end).

    Parameters
    ----------
    dims
        Axes of space, 2 or 3.
    in_channels
        Channels of the image.
    """

    entry: ClassVar[str] = "conv1"

    def __init__(self, *, dims: int, in_channels: int = 1) -> None:
        super().__init__()
        self.name, self.dims, self.in_channels = "caffenet", dims, in_channels
        self.channels = (96, 32, 32)
        self.strides = tuple((stride,) * dims for stride in (2, 4, 8))
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        self.conv1 = convolution(in_channels, 96, 11, stride=2)
        self.conv2 = convolution(96, 32, 3, stride=2)
        self.conv3 = convolution(32, 32, 3, stride=2)
        self.norms = nn.ModuleList(SwitchableBatchNorm(width) for width in self.channels)
        nn.init.kaiming_normal_(self.conv1.weight, nonlinearity="relu")
        nn.init.zeros_(self.conv1.bias)  # type: ignore[arg-type]
        for conv in (self.conv2, self.conv3):
            nn.init.xavier_normal_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute three maps from ``batch channel *space``, fine to coarse."""
        alone = self.training and image.shape[0] == 1
        check_image(self, image, positions=2 if alone else 1)
        out = self._as_caffe(image)
        maps: list[Tensor] = []
        for conv, norm in zip((self.conv1, self.conv2, self.conv3), self.norms, strict=True):
            out = norm(F.relu(conv(pad_same(out, conv.kernel_size[0], conv.stride[0]))))
            maps.append(out)
        return maps

    @property
    def kernels(self) -> list[Tensor]:
        """Weights of the strided convolutions, which are pressed to zero."""
        return [self.conv2.weight, self.conv3.weight]

    def _as_caffe(self, image: Tensor) -> Tensor:
        if self.in_channels != len(MEANS):
            return image * 255.0 - sum(MEANS) / len(MEANS)
        means = torch.tensor(MEANS[::-1], dtype=image.dtype, device=image.device)
        return image.flip(1) * 255.0 - means.view(1, -1, *(1,) * self.dims)


def pad_same(image: Tensor, edge: int, stride: int) -> Tensor:
    """Pad zeros so that a convolution gives one position a stride, rounded up; the odd one at the end.

    >>> pad_same(torch.ones(1, 1, 4, 5), 3, 2).shape
    torch.Size([1, 1, 5, 7])
    """
    sides: list[int] = []
    for length in reversed(image.shape[2:]):
        missing = max((-(-length // stride) - 1) * stride + edge - length, 0)
        sides += [missing // 2, missing - missing // 2]
    return F.pad(image, sides)


def first_layer(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Find the first layer of a CaffeNet among the tensors of a file: ``weight`` and ``bias``.

    Raises
    ------
    RunError
        No tensor has 96 filters of 3 x 11 x 11 with their biases.
    """
    for name, weight in tensors.items():
        bias = tensors.get(name.removesuffix("weight") + "bias")
        if tuple(weight.shape) == (96, 3, 11, 11) and bias is not None and bias.numel() == 96:
            return {"weight": weight.float(), "bias": bias.float().flatten()}
    raise RunError(
        f"{source} holds no first layer of a CaffeNet: 96 filters of 3 x 11 x 11 and their biases",
        "Give weights of the reference CaffeNet as safetensors or a torch checkpoint (torchvision's AlexNet has 64 "
        "filters and does not fit), or leave the option out: the layer is then learnt.",
    )
