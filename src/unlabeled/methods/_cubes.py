"""What Rubik's cube and cube+ share: the options, and eight cubes of a scan that one encoder looks at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from unlabeled.data.store import Record
from unlabeled.errors import OptionError
from unlabeled.methods._base import Method, SharedOptions, parameters
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.puzzles import PieceHeads, pool_pieces
from unlabeled.nn.schedules import Schedule, halving
from unlabeled.options import Between, Count, NonNegative, Probability, Whole
from unlabeled.transforms.cubes import SLOTS, CubePuzzle, cube_cutter
from unlabeled.transforms.puzzles import PieceCutter


@dataclass(frozen=True, kw_only=True)
class CubeOptions(SharedOptions):
    """Defaults of the papers where known, else of a third-party implementation (there is no official code).

    Parameters
    ----------
    patch_size
        Edge lengths of a cube [voxel] (for brain tumours; unconfirmed); a scan needs twice as many along each axis.
    epochs
        Passes over the scans (third-party code); `patience` ends the training long before.
    lr
        Learning rate at the start, of Adam (third-party code).
    weight_decay
        Pull towards zero (third-party code).
    drop_every
        Epochs after which the learning rate falls to a tenth (third-party code).
    patience
        Scores without improvement after which the training ends (third-party code; there: epochs).
    gap
        Mean distance between neighbouring cubes, one number for all axes or one for each [voxel] (paper: about 10).
    jitter
        Share of the gap that a cube moves over in training, as in the third-party code; 0 keeps the gap exact.
    place
        Where the cubes lie in a larger scan: about the middle of the foreground as in the third-party code, or
        anywhere (ours).
    normalise
        Stretch each cube to [-1, 1] (paper), or leave the scan's own [0, 1] (third-party code).
    permutations
        Orders to tell apart (third-party code; the paper's number is unconfirmed).
    permutation_rule
        Choose orders by the distance to the nearest other (what the paper says in words), or by the mean distance
        (the third-party file).
    p_rotate
        Probability that a cube is turned, half of them horizontally (third-party code).
    rotation_reduction
        Over the eight cubes: the mean (third-party code) or the sum (paper).
    features
        Features of a cube that the heads see (third-party code).
    head_width
        Width of the heads' hidden layers (third-party code).
    """

    patch_size: tuple[Count, ...] = (64, 64, 64)
    epochs: Count = 1000
    batch_size: Count = 8
    weight_decay: NonNegative = 1e-6
    drop_every: Count = 250
    patience: Count = 40
    gap: tuple[Whole, ...] = (10,)
    jitter: Probability = 1.0
    place: Literal["centre", "random"] = "centre"
    normalise: Literal["cube", "scan"] = "cube"
    permutations: Annotated[int, Between(2, 40320)] = 100
    permutation_rule: Literal["max-min", "max-mean"] = "max-min"
    p_rotate: Probability = 2 / 3
    rotation_reduction: Literal["mean", "sum"] = "mean"
    features: Count = 64
    head_width: Count = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.gap) not in (1, 3):
            raise OptionError(
                f"--gap has {len(self.gap)} numbers, and a cube 3 axes",
                f"Give --gap {self.gap[0] if self.gap else 10}, or one number an axis.",
            )

    @property
    def cutter(self) -> PieceCutter:
        """How cubes are cut."""
        return cube_cutter(tuple(self.patch_size), tuple(self.gap), self.jitter, self.place)

    @property
    def puzzle(self) -> CubePuzzle:
        """How cubes are cut, ordered and turned."""
        return CubePuzzle.of(
            self.cutter, self.permutations, self.permutation_rule, self.p_rotate, self.normalise
        )


class CubeMethod(Method):
    """One encoder looks at eight cubes; heads that see all of them say their order, and answer further questions.

    Attributes
    ----------
    asks
        Names of the questions that have an answer for every slot.
    puzzle
        How cubes are cut, ordered and turned.
    heads
        Answer from the features of eight cubes.
    """

    keeps = "best"
    asks: ClassVar[tuple[str, ...]]

    options: CubeOptions

    def __init__(self, options: CubeOptions, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.puzzle = options.puzzle
        encoder.check(options.patch_size)
        answers = {"order": (options.permutations, 2), **dict.fromkeys(self.asks, (SLOTS, 1))}
        self.heads = PieceHeads(
            encoder.channels[-1],
            SLOTS,
            answers,
            features=options.features,
            width=options.head_width,
        )

    @classmethod
    def require(cls, record: Record, options: CubeOptions) -> None:
        """Refuse scans shorter than two cubes: constant padding would tell where a cube was."""
        options.cutter.require(record.space)

    def pooled(self, cubes: Tensor) -> Tensor:
        """Compute ``batch slot feature``, the mean of each cube's coarsest map: the same weights for every cube."""
        return pool_pieces(self.encoder, cubes)

    def answers(self, cubes: Tensor) -> dict[str, Tensor]:
        """Compute logits: ``order`` ``batch order``, every other ``batch slot``."""
        return {name: told.float() for name, told in self.heads(self.pooled(cubes)).items()}

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam; the rate falls to a tenth every `drop_every` epochs (third-party code)."""
        rate, decay = self.options.lr, self.options.weight_decay
        adam = torch.optim.Adam(parameters(modules), lr=rate, weight_decay=decay)
        return adam, halving(self.options.drop_every, 0.1)
