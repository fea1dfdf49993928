"""Rubik's cube: say in which order eight cubes of a volume lie and which are turned (Zhuang et al., MICCAI 2019).

A volume is cut into 2 x 2 x 2 cubes with gaps between them.  The cubes are put into one of K orders that are far apart,
and some slots are turned by 180 degrees, horizontally or vertically.  One encoder looks at every cube; heads that see
all eight say the order (softmax over K) and, of every slot, whether it is turned in either way (sigmoids).  The loss is
``alpha L_order + beta (L_horizontal + L_vertical)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from unlabeled.data.scan import Unit
from unlabeled.data.store import Record
from unlabeled.errors import OptionError
from unlabeled.losses.puzzles import scramble_losses, scramble_scores
from unlabeled.methods._base import Monitor, Needs, SharedOptions, Update
from unlabeled.methods._cubes import CubeMethod, CubeOptions
from unlabeled.options import NonNegative
from unlabeled.transforms.cubes import Scrambled


@dataclass(frozen=True, kw_only=True)
class Options(CubeOptions):
    """Defaults of the paper where known, else of a third-party implementation (there is no official code).

    Parameters
    ----------
    order_weight, rotation_weight
        Alpha and beta of the loss (best in the paper).
    """

    order_weight: NonNegative = 0.5
    rotation_weight: NonNegative = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order_weight == self.rotation_weight == 0:
            raise OptionError("both weights of the loss are 0", "Give --order-weight 0.5.")


class RubiksCube(CubeMethod):
    """One encoder looks at eight cubes; heads say their order and which are turned."""

    needs: ClassVar[Needs] = Needs(unit=Unit.VOLUME, dims=(3,))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("accuracy", "higher", chance="chance")
    asks: ClassVar[tuple[str, ...]] = ("horizontal", "vertical")

    options: Options

    def views(self, record: Record, rng: Generator) -> Scrambled:
        """Cut the cubes, put them into another order, turn some; in evaluation each is cut from its cell's middle."""
        return self.puzzle(record, rng, jittered=self.training)

    def losses(self, told: Mapping[str, Tensor], batch: Scrambled) -> dict[str, Tensor]:
        """Compare with what was done: ``order``, and ``rotation``, the sum of both directions [nat]."""
        return scramble_losses(told, *batch[1:], self.options.rotation_reduction)

    def step(self, batch: Scrambled) -> Iterator[Update]:
        """Weigh both questions."""
        each = self.losses(self.answers(batch.cubes), batch)
        alpha, beta = self.options.order_weight, self.options.rotation_weight
        yield Update(alpha * each["order"] + beta * each["rotation"], shows=each)

    def score(self, batch: Scrambled) -> dict[str, Tensor]:
        """Count right answers, beside what is right by chance: any order, and the commoner answer about turns."""
        told = self.answers(batch.cubes)
        counted = scramble_scores(told, *batch[1:], self.options.p_rotate / 2)
        losses = self.losses(told, batch)
        turns = (counted["horizontal"] + counted["vertical"]) / 2
        return {
            "accuracy": (counted["order"] + turns) / 2,
            "chance": (counted["order chance"] + counted["rotation chance"]) / 2,
            **counted,
            "order loss": losses["order"],
            "rotation loss": losses["rotation"],
        }

    def preview(self, batch: Scrambled) -> dict[str, Tensor]:
        """Show the cubes as they are given, as the network would put them back, and as they were."""
        return self.puzzle.pictures(batch.cubes, self.answers(batch.cubes), *batch[1:])
