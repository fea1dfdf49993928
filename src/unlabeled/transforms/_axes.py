"""Linear maps of images along one axis after the other, as matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def along_axes(image: Tensor, weights: Sequence[Tensor | None]) -> Tensor:
    """Multiply the last axes of an image by one matrix each.

    Parameters
    ----------
    image
        ``... *axes`` with as many last axes as there are matrices.
    weights
        ``new old``: what each new voxel takes of each old one; None leaves an axis as it is.

    >>> along_axes(torch.tensor([[1.0, 3.0]]), [None, torch.tensor([[0.5, 0.5]])])
    tensor([[2.]])
    """
    for place, matrix in enumerate(weights):
        if matrix is not None:
            axis = place - len(weights)
            weighed = torch.movedim(image, axis, -1) @ matrix.T.to(image.device, image.dtype)
            image = torch.movedim(weighed, -1, axis)
    return image
