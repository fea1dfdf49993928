"""What stands at the wrong place: voxels shuffled within small windows, patches that changed places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from unlabeled.transforms import _draws, _kernels
from unlabeled.transforms.masking import Box

_TRIES = 100  # places looked at for the second patch of a swap


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


@dataclass(frozen=True)
class SwapPlan:
    """Which patches change places, in order; a later swap may move what an earlier one moved.

    Parameters
    ----------
    swaps
        Two boxes of equal edges that have no voxel in common, one pair a swap.
    """

    swaps: tuple[tuple[Box, Box], ...]

    def __call__(self, image: Tensor) -> Tensor:
        """Give a copy of ``channel *space`` whose patches have changed places, those of all channels alike."""
        swapped = image.clone()
        for first, second in self.swaps:
            held = swapped[first.region].clone()
            swapped[first.region] = swapped[second.region]
            swapped[second.region] = held
        return swapped

    @property
    def undoing(self) -> SwapPlan:
        """The plan that puts everything back: the same swaps, the last one first."""
        return SwapPlan(self.swaps[::-1])


@dataclass(frozen=True)
class PatchSwap:
    """Let pairs of small patches change places (context restoration, Chen et al., Medical Image Analysis 2019).

    The two patches of a swap have equal edges and no voxel in common, so that every value stays and only places are
    wrong.  Swaps are done one after the other.

    Parameters
    ----------
    swaps
        Pairs of patches.
    shares
        Shortest and longest edge of a patch along each axis, as shares of the image's, rounded down; at least one
        voxel, in 3D two.  The edge is uniform between both.
    edges
        Instead, edges of every patch [voxel], one for each axis.

    Notes
    -----
    The paper gives the procedure; how many swaps and how large patches are is ours.
    """

    swaps: int = 10
    shares: tuple[float, float] = (1 / 16, 1 / 8)
    edges: tuple[int, ...] | None = None

    def edge_ranges(self, space: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """Give the shortest and the longest edge of a patch along each axis of an image [voxel].

        >>> PatchSwap().edge_ranges((64, 40)), PatchSwap().edge_ranges((64, 40, 8))
        (((4, 8), (2, 5)), ((4, 8), (2, 5), (2, 2)))

        Raises
        ------
        ValueError
            When `edges` are more or fewer than the axes, or longer than the image.
        """
        if self.edges is not None:
            fits = len(self.edges) == len(space) and all(
                edge <= extent for edge, extent in zip(self.edges, space, strict=True)
            )
            if not fits:
                raise ValueError(f"patches of {self.edges} voxels do not fit an image of {space}")
            return tuple((edge, edge) for edge in self.edges)
        fewest = 2 if len(space) == 3 else 1
        return tuple(
            (
                min(extent, max(fewest, int(extent * self.shares[0] + 1e-9))),
                min(extent, max(fewest, int(extent * self.shares[1] + 1e-9))),
            )
            for extent in space
        )

    def draw(self, space: tuple[int, ...], rng: Generator) -> SwapPlan:
        """Draw the swaps for an image; one whose second patch finds no free place in 100 tries is left out."""
        ranges = self.edge_ranges(space)
        swaps: list[tuple[Box, Box]] = []
        for _ in range(self.swaps):
            numbers = _draws.uniforms(len(space), rng)
            size = tuple(
                low + int(number * (high - low + 1))
                for number, (low, high) in zip(numbers, ranges, strict=True)
            )
            first = _place(space, size, rng)
            for _ in range(_TRIES):
                second = _place(space, size, rng)
                if _apart(first, second):
                    swaps.append((first, second))
                    break
        return SwapPlan(tuple(swaps))

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Swap patches of ``channel *space``."""
        return self.draw(tuple(image.shape[1:]), rng)(image)


def _place(space: tuple[int, ...], size: tuple[int, ...], rng: Generator) -> Box:
    """Draw a box of given edges, evenly among all places in the image."""
    numbers = _draws.uniforms(len(space), rng)
    triples = zip(numbers, space, size, strict=True)
    return Box(tuple(int(number * (edge - cut + 1)) for number, edge, cut in triples), size)


def _apart(first: Box, second: Box) -> bool:
    """Tell whether two boxes of equal edges have no voxel in common."""
    return any(
        abs(here - there) >= edge
        for here, there, edge in zip(first.start, second.start, first.size, strict=True)
    )
