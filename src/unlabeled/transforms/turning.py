"""Quarter turns and flips, which move no value off the grid: of squares, of layers as of a Rubik's cube, and with a code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from unlabeled.errors import OptionError
from unlabeled.transforms._draws import uniforms


@dataclass(frozen=True)
class SquareTurn:
    """Turn an image by a random number of quarters in the plane of its first two axes, and flip it half of the time.

    No value is interpolated, so noise that is independent from voxel to voxel stays so.  Where the two edges differ,
    half turns alone are drawn, as the image's shape stays.
    """

    def draw(self, space: tuple[int, ...], rng: Generator) -> int:
        """Draw one of the eight ways of `turn_square`, or one of the four that keep unequal edges."""
        number = int(torch.randint(8, (), generator=rng))
        return number if space[0] == space[1] else number // 2 * 2

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Turn ``channel *space``."""
        return turn_square(image, self.draw(tuple(image.shape[1:]), rng))


def turn_square(image: Tensor, number: int) -> Tensor:
    """Lay ``channel *space`` in one of eight ways: ``number % 4`` quarter turns, from 4 on flipped along the first axis.

    >>> turn_square(torch.tensor([[[1, 2], [3, 4]]]), 1)
    tensor([[[2, 4],
             [1, 3]]])
    >>> turn_square(torch.tensor([[[1, 2], [3, 4]]]), 4)
    tensor([[[3, 4],
             [1, 2]]])
    """
    turned = torch.rot90(image, number % 4, (1, 2))
    return (turned.flip(1) if number >= 4 else turned).contiguous()


class LayerTurn(NamedTuple):
    """Turn one layer by quarters in the plane of the other two axes, as `torch.rot90` does with them in order."""

    axis: int  # of space, from 0: what the layer is cut along
    layer: int
    quarters: int  # 1 to 3


@dataclass(frozen=True)
class LayerPlan:
    """Which layers of a volume are turned, one after the other.

    A layer is a slab of voxels: its sub-cubes change places and their contents turn with them.

    Parameters
    ----------
    side
        Thickness of a layer [voxel].
    turns
        What is turned, in order; a later turn may move what an earlier one moved.

    >>> LayerPlan(1, (LayerTurn(0, 0, 1),))(torch.arange(8).view(1, 2, 2, 2)).flatten().tolist()
    [1, 3, 0, 2, 4, 5, 6, 7]
    """

    side: int
    turns: tuple[LayerTurn, ...]

    def __call__(self, image: Tensor) -> Tensor:
        """Give a turned copy of ``channel *space``, all channels alike."""
        turned = image.clone()
        for axis, layer, quarters in self.turns:
            slab = turned.narrow(axis + 1, layer * self.side, self.side)
            slab.copy_(slab.rot90(quarters, _plane(axis, first=1)))
        return turned

    @property
    def undoing(self) -> LayerPlan:
        """The plan that puts everything back: the opposite turns, the last one first."""
        back = (turn._replace(quarters=-turn.quarters % 4) for turn in reversed(self.turns))
        return LayerPlan(self.side, tuple(back))


@dataclass(frozen=True)
class LayerTurns:
    """Turn random layers of a volume, as a Rubik's cube is turned.

    Each turn draws an axis, a layer along it and one, two or three quarters, all as likely.  Where the two other edges
    differ a quarter would not fit: there layers turn by halves alone.

    Parameters
    ----------
    side
        Edge of a sub-cube, the thickness of a layer [voxel].
    count
        Turns; without it, as many as there are layers along an axis, on average over the axes.

    Notes
    -----
    Source: Tao et al., MICCAI 2020, whose number of turns is not known to us.
    """

    side: int = 7
    count: int | None = None

    def check(self, space: Sequence[int]) -> None:
        """Refuse a volume that sub-cubes do not fill.

        Raises
        ------
        OptionError
            Naming the nearest edge of a sub-cube that does, or the nearest volume.
        """
        if not any(edge % self.side for edge in space):
            return
        common = math.gcd(*space)
        sides = [edge for edge in range(2, common + 1) if common % edge == 0]
        nearest = min(sides, key=lambda edge: abs(edge - self.side), default=None)
        fitting = " ".join(str(max(1, round(edge / self.side)) * self.side) for edge in space)
        raise OptionError(
            f"sub-cubes of {self.side} voxels do not fill a patch of {' x '.join(map(str, space))}",
            f"Give --side {nearest}." if nearest else f"Give --patch-size {fitting}.",
        )

    def draw(self, space: Sequence[int], rng: Generator) -> LayerPlan:
        """Draw the turns of a volume ``*space``; three numbers a turn."""
        self.check(space)
        layers = [edge // self.side for edge in space]
        count = round(sum(layers) / len(layers)) if self.count is None else self.count
        numbers = iter(uniforms(3 * count, rng))
        turns = []
        for _ in range(count):
            axis = int(next(numbers) * len(layers))
            layer = int(next(numbers) * layers[axis])
            quarters = 1 + int(next(numbers) * 3)
            rows, columns = _plane(axis)
            square = space[rows] == space[columns]
            turns.append(LayerTurn(axis, layer, quarters if square else 2))
        return LayerPlan(self.side, tuple(turns))

    def __call__(self, image: Tensor, rng: Generator) -> Tensor:
        """Turn layers of ``channel *space`` in a copy."""
        return self.draw(image.shape[1:], rng)(image)


def _plane(axis: int, first: int = 0) -> list[int]:
    """List the two axes that a layer along `axis` lies in, counted from `first`."""
    return [first + other for other in range(3) if other != axis]


@dataclass(frozen=True)
class FlipTurn:
    """Flips along axes of space, then quarter turns in the plane of the first two.

    Parameters
    ----------
    flips
        For each axis of space, whether it is flipped.
    quarters
        Quarter turns, from the first axis towards the second.

    Notes
    -----
    Order and code are those of the official code of PCRL (Zhou et al., ICCV 2021).

    >>> turn = FlipTurn((True, False), 1)
    >>> turn(torch.tensor([[[1, 2], [3, 4]]])), turn.code.tolist()
    (tensor([[[4, 2],
             [3, 1]]]), [1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    """

    flips: tuple[bool, ...]
    quarters: int

    @classmethod
    def draw(cls, space: tuple[int, ...], rng: Generator) -> FlipTurn:
        """Flip each axis half of the time; any number of quarters is as likely.

        Where the first two edges differ, half turns alone are drawn, as the image's shape stays.
        """
        *flips, turn = uniforms(len(space) + 1, rng)
        quarters = int(4 * turn) if space[0] == space[1] else 2 * int(2 * turn)
        return cls(tuple(number < 0.5 for number in flips), quarters)

    @classmethod
    def from_code(cls, code: Tensor) -> FlipTurn:
        """Read a code, ``axes + 4``."""
        return cls(tuple(bool(bit) for bit in code[:-4]), int(code[-4:].argmax()))

    @property
    def code(self) -> Tensor:
        """Tell what is done, ``axes + 4``: one number an axis, 1 where it is flipped, then one-hot the quarters."""
        return torch.tensor(
            [*map(float, self.flips), *(float(self.quarters == count) for count in range(4))]
        )

    def __call__(self, image: Tensor) -> Tensor:
        """Flip and turn ``channel *space``."""
        axes = [axis for axis, flipped in enumerate(self.flips, start=1) if flipped]
        return torch.rot90(image.flip(axes), self.quarters, (1, 2)).contiguous()
