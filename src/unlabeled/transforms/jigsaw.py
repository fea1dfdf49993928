"""Jigsaws: images cut into tiles that change places within the image, many images at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.errors import OptionError


@dataclass(frozen=True)
class Jigsaw:
    """Put the tiles of images into other orders; the tiles touch, so the result is an image as large as before.

    Tiles are numbered row by row.  Every value is kept bit for bit, on the device where it is.

    Parameters
    ----------
    grid
        Tiles along each axis.

    >>> row = Jigsaw((1, 3))
    >>> row(torch.tensor([[[[10, 20, 30]]]]), torch.tensor([[2, 0, 1]])).flatten().tolist()
    [30, 10, 20]
    """

    grid: tuple[int, ...]

    @property
    def pieces(self) -> int:
        """Number of tiles."""
        return math.prod(self.grid)

    def check(self, space: Sequence[int]) -> None:
        """Refuse images that tiles of equal edges do not fill.

        Raises
        ------
        OptionError
            Naming the nearest images that they fill.
        """
        if any(edge % many for edge, many in zip(space, self.grid, strict=True)):
            near = [
                max(1, round(edge / many)) * many
                for edge, many in zip(space, self.grid, strict=True)
            ]
            raise OptionError(
                f"a patch of {' x '.join(map(str, space))} voxels cannot be cut into "
                f"{' x '.join(map(str, self.grid))} equal tiles",
                f"Give --patch-size {' '.join(map(str, near))}.",
            )

    def __call__(self, images: Tensor, orders: Int[Tensor, "batch piece"]) -> Tensor:
        """Put tile ``orders[n, q]`` of image n into slot q; ``batch channel *space``."""
        tiles = self._cut(images)
        rows = torch.arange(len(images), device=images.device)[:, None]
        return self._join(tiles[rows, orders.to(images.device)])

    def undo(self, images: Tensor, orders: Int[Tensor, "batch piece"]) -> Tensor:
        """Put every tile back into its place: ``undo(jigsaw(x, orders), orders)`` is x."""
        return self(images, orders.argsort(dim=1))

    def _cut(self, images: Tensor) -> Tensor:
        """Cut ``batch channel *space`` into ``batch piece channel *edges``."""
        batch, channels, *space = images.shape
        dims = len(space)
        pairs = [
            number
            for edge, many in zip(space, self.grid, strict=True)
            for number in (many, edge // many)
        ]
        cells, inner = range(2, 2 + 2 * dims, 2), range(3, 3 + 2 * dims, 2)
        split = images.reshape(batch, channels, *pairs).permute(0, *cells, 1, *inner)
        return split.reshape(batch, self.pieces, channels, *split.shape[2 + dims :])

    def _join(self, tiles: Tensor) -> Tensor:
        """Lay ``batch piece channel *edges`` side by side in the order of their numbers."""
        batch, _, channels, *edges = tiles.shape
        dims = len(edges)
        order = [axis for at in range(dims) for axis in (1 + at, 2 + dims + at)]
        laid = tiles.reshape(batch, *self.grid, channels, *edges).permute(0, 1 + dims, *order)
        space = [many * edge for many, edge in zip(self.grid, edges, strict=True)]
        return laid.reshape(batch, channels, *space)


def least_distance(orders: NDArray[np.int64]) -> int:
    """Count the places in which the two orders differ that are most alike: their Hamming distance.

    Parameters
    ----------
    orders
        ``count piece``, two or more.

    >>> least_distance(np.array([[0, 1, 2], [1, 2, 0], [0, 2, 1]]))
    2
    """
    apart = (orders[:, None] != orders[None]).sum(2)
    np.fill_diagonal(apart, orders.shape[1] + 1)
    return int(apart.min())


def draw_orders(
    count: int, images: int, draws: int, device: torch.device | None = None
) -> Int[Tensor, "draw image"]:
    """Draw for each image several of so many orders, evenly and none twice, with torch's global generator.

    Raises
    ------
    ValueError
        More are drawn than there are.
    """
    if draws > count:
        raise ValueError(f"{draws} different orders cannot be drawn of {count}")
    return torch.rand(images, count, device=device).argsort(dim=1)[:, :draws].T
