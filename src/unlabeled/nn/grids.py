"""Feature maps of an encoder on one regular grid, whatever the encoder's strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.errors import OptionError
from unlabeled.nn.encoders import Encoder


@dataclass(frozen=True)
class FeatureGrid:
    """Puts an encoder's maps that are as coarse as a grid, or coarser, on that grid; coarser ones are interpolated.

    Maps finer than the grid have fed the coarser ones.

    Parameters
    ----------
    stride
        Edge of a cell [voxel].
    used
        Which of the encoder's maps, fine to coarse.
    channels
        Of all these together.
    """

    stride: int
    used: tuple[int, ...]
    channels: int

    @classmethod
    def of(cls, encoder: Encoder, stride: int = 8) -> FeatureGrid:
        """Make cells of so many voxels an edge; of as many as the coarsest map's where that is finer.

        Only the channels and strides of the encoder are read.
        """
        strides = [max(each) for each in encoder.strides]
        edge = min(stride, strides[-1])
        used = tuple(n for n, each in enumerate(strides) if each >= edge)
        return cls(edge, used, sum(encoder.channels[n] for n in used))

    def __call__(self, maps: Sequence[Tensor], cells: Sequence[int]) -> Tensor:
        """Join the maps: ``batch channels *cells``."""
        mode = "bilinear" if len(cells) == 2 else "trilinear"
        resized = [
            maps[n]
            if tuple(maps[n].shape[2:]) == tuple(cells)
            else F.interpolate(maps[n], size=list(cells), mode=mode, align_corners=False)
            for n in self.used
        ]
        return torch.cat(resized, 1) if len(resized) > 1 else resized[0]

    def cells(self, patch: Sequence[int]) -> tuple[int, ...]:
        """Count the cells of a patch [voxel], which must be whole and at least two along one of its axes.

        Raises
        ------
        OptionError
            Naming the nearest patch that is.
        """
        if any(edge % self.stride for edge in patch) or max(patch) < 2 * self.stride:
            nearest = [max(1, round(edge / self.stride)) * self.stride for edge in patch]
            if max(nearest) < 2 * self.stride:
                nearest = [2 * self.stride] * len(nearest)
            raise OptionError(
                f"--patch-size is {' '.join(map(str, patch))}, and its features are compared in cells of "
                f"{self.stride} voxels",
                f"Give whole cells, several of them: --patch-size {' '.join(map(str, nearest))}.",
            )
        return tuple(edge // self.stride for edge in patch)
