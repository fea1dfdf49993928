"""Shuffling of voxels within small windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from unlabeled.transforms import _draws, _kernels


@dataclass(frozen=True, eq=False)
class ShufflePlan:
    """What one shuffle does, before it is applied.

    Parameters
    ----------
    windows
        One row a window, in the order of writing: start, then edge lengths, along three axes [voxel]; a picture
        has a first axis of length 1.
    sources
        For every voxel, as flat index, the voxel whose value it gets.
    """

    windows: NDArray[np.int32]
    sources: NDArray[np.int32]

    def __call__(self, image: Tensor) -> Tensor:
        """Apply the plan to every channel of ``channel *space``."""
        if image.dtype != torch.float32 or image.device.type != "cpu":
            sources = torch.from_numpy(self.sources).to(image.device)
            return image.flatten(1)[:, sources].reshape(image.shape)
        shuffled = torch.empty(image.shape)
        flat = image.detach().reshape(len(image), -1).numpy()
        _kernels.gather(flat, self.sources, shuffled.view(len(image), -1).numpy())
        return shuffled


@dataclass(frozen=True)
class LocalShuffle:
    """Shuffle the voxels within many small windows (Models Genesis, "local pixel shuffling").

    Every window is read from the image as it was, permuted, and written over what earlier windows wrote.  The
    result is no permutation of the image: some values vanish and others appear more than once.  All channels
    are shuffled alike.

    Parameters
    ----------
    p
        Probability that the image is shuffled at all.
    windows
        Windows to shuffle.
    share
        Along each axis a window is at most the image's edge divided by this, and at least one voxel.
    """

    p: float = 1.0
    windows: int = 10_000
    share: int = 10

    def draw(self, space: tuple[int, ...], rng: Generator) -> ShufflePlan:
        """Draw the windows and what each voxel receives, for an image with two or three axes of space."""
        if len(space) not in (2, 3):
            raise ValueError(f"shuffling works on 2 or 3 axes of space, not on {len(space)}")
        edges = np.array((1,) * (3 - len(space)) + tuple(space), np.int64)
        largest = np.maximum(1, edges // self.share)
        windows = np.empty((self.windows, 6), np.int32)
        _kernels.draw_windows(_draws.seed(rng), edges, largest, windows)
        sources = np.empty(int(edges.prod()), np.int32)
        _kernels.draw_sources(_draws.seed(rng), edges, windows, largest, sources)
        return ShufflePlan(windows, sources)

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Shuffle ``channel *space``."""
        if not _draws.chance(self.p, rng):
            return image.clone()
        return self.draw(tuple(image.shape[1:]), rng)(image)
