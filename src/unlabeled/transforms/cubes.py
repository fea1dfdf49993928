"""Rubik's cube: eight cubes of a volume, put into another order, some turned by 180 degrees; how it is played and shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from unlabeled.data.record import Record
from unlabeled.transforms.puzzles import (
    Disorder,
    PieceCutter,
    Plane,
    Scramble,
    assemble,
    choose_permutations,
    stretch,
)

GRID = (2, 2, 2)
SLOTS = 8
HORIZONTAL: Plane = (1, 2)  # a half turn about the first axis (third-party code)
VERTICAL: Plane = (0, 1)  # about the last axis (third-party code)
PLANES = (HORIZONTAL, VERTICAL)
FIRST = {"max-min": None, "max-mean": (5, 7, 4, 0, 6, 1, 3, 2)}  # that of the published file


class Scrambled(NamedTuple):
    """The cubes of a scan after scrambling, and what was done to them."""

    cubes: Tensor  # slot channel *space; in [-1, 1] or [0, 1]
    order: Tensor  # number of the order, whole
    horizontal: Tensor  # slot: 1 where the slot is turned, else 0
    vertical: Tensor  # slot


def cube_cutter(
    size: tuple[int, ...],
    gap: tuple[int, ...],
    jitter: float = 1.0,
    place: Literal["centre", "random"] = "centre",
) -> PieceCutter:
    """Say how the eight cubes are cut: `size` and `gap` [voxel], a single gap for all axes or one for each."""
    return PieceCutter(GRID, size, gap * 3 if len(gap) == 1 else gap, jitter, place)


@dataclass(frozen=True, eq=False)
class CubePuzzle:
    """Cut the cubes of a scan, put them into another order, turn some.

    Parameters
    ----------
    cutter
        Cuts eight cubes.
    scramble
        Orders, and half turns in `PLANES`.
    normalise
        Stretch each cube to [-1, 1], or leave the scan's own [0, 1].

    Notes
    -----
    Source: Zhuang et al., MICCAI 2019.
    """

    cutter: PieceCutter
    scramble: Scramble
    normalise: Literal["cube", "scan"] = "cube"

    @classmethod
    def of(
        cls,
        cutter: PieceCutter,
        permutations: int,
        rule: Literal["max-min", "max-mean"],
        p_rotate: float,
        normalise: Literal["cube", "scan"] = "cube",
    ) -> CubePuzzle:
        """Make a puzzle of so many orders that are far apart by a rule; a cube is turned with probability `p_rotate`."""
        orders = choose_permutations(SLOTS, permutations, rule, FIRST[rule])
        return cls(cutter, Scramble(orders, PLANES, p_rotate), normalise)

    @property
    def background(self) -> float:
        """Intensity of what is darkest in a normalised cube."""
        return -1.0 if self.normalise == "cube" else 0.0

    def __call__(self, record: Record, rng: Generator, *, jittered: bool) -> Scrambled:
        """Scramble the cubes of a scan; each lies somewhere in its cell, or in its middle where not `jittered`."""
        cubes = self.cutter(record, rng if jittered else None)
        if self.normalise == "cube":
            cubes = stretch(cubes)
        order, disorder = self.scramble.draw(rng)
        horizontal, vertical = torch.from_numpy(disorder.turned).float()
        return Scrambled(disorder(cubes), torch.tensor(order), horizontal, vertical)

    def pictures(
        self,
        cubes: Tensor,
        told: Mapping[str, Tensor],
        order: Tensor,
        horizontal: Tensor,
        vertical: Tensor,
    ) -> dict[str, Tensor]:
        """Show the cubes as they are given, as the network would put them back, and as they were.

        Parameters
        ----------
        cubes
            ``batch slot channel *space``.
        told
            Logits: ``order`` ``batch order``, ``horizontal`` and ``vertical`` ``batch slot``.
        order, horizontal, vertical
            What was done, a batch of each.

        Returns
        -------
        dict
            ``batch channel *space`` in [0, 1] by caption, all eight cubes in one slice.
        """
        shown: dict[str, list[Tensor]] = {"given": [], "put back": [], "as it was": []}
        low = self.background
        for at, slots in enumerate(((cubes - low) / (1 - low)).float().cpu()):
            said = torch.stack([told["horizontal"][at], told["vertical"][at]]) > 0
            true = torch.stack([horizontal[at], vertical[at]]) > 0.5
            shown["given"].append(spread(slots))
            for caption, number, turned in (
                ("put back", told["order"][at].argmax(), said),
                ("as it was", order[at], true),
            ):
                row = tuple(self.scramble.orders[int(number)].tolist())
                done = Disorder(row, turned.cpu().numpy(), PLANES)
                shown[caption].append(spread(done.undo(slots)))
        return {caption: torch.stack(images) for caption, images in shown.items()}


def spread(cubes: Tensor) -> Tensor:
    """Lay the lower four cubes beside the upper four, so that one slice ``channel *space`` shows all eight."""
    layers = cubes.view(2, 2, 2, *cubes.shape[1:])
    seam = 1
    lower, upper = (
        assemble(layers[:, :, level].flatten(0, 1), (2, 2, 1), seam=seam) for level in (0, 1)
    )
    return torch.cat(
        [lower, lower.new_zeros(*lower.shape[:1], 3 * seam, *lower.shape[2:]), upper], dim=1
    )
