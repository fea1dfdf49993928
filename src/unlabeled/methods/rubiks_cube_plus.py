"""Rubik's cube+: order and turns of eight cubes, and which of them lost voxels (Zhu et al., MedIA 2020).

As in Rubik's cube, a volume is cut into 2 x 2 x 2 cubes, which are put into one of K orders and partly turned.  Then
single voxels are taken out of some cubes.  One encoder looks at every cube; heads that see all eight say the order
(softmax over K) and, of every slot, whether it is turned in either way and whether it is masked (sigmoids).  The loss
is ``a L_order + b (L_horizontal + L_vertical) + c L_mask``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from unlabeled.data.scan import Unit
from unlabeled.data.store import Record
from unlabeled.errors import OptionError
from unlabeled.losses.puzzles import scramble_losses, scramble_scores, slot_loss
from unlabeled.methods._base import Monitor, Needs, SharedOptions, Update
from unlabeled.methods._cubes import CubeMethod, CubeOptions
from unlabeled.nn.encoders import Encoder
from unlabeled.options import NonNegative, Probability
from unlabeled.transforms.cubes import spread
from unlabeled.transforms.masking import MaskPieces


@dataclass(frozen=True, kw_only=True)
class Options(CubeOptions):
    """Defaults of the paper where known, else of a third-party implementation (there is no official code).

    Parameters
    ----------
    p_mask
        Probability that a cube is masked (third-party code; the paper's is unconfirmed).
    p_drop
        Share of a masked cube's voxels that are taken (third-party code; the paper's is unconfirmed).
    fill
        What stands in their place: the darkest intensity of a normalised cube (ours), or 0 (third-party code), which is
        a middle grey in cubes of [-1, 1].
    order_weight, rotation_weight, mask_weight
        Weights of the three losses (third-party code; the paper's tuned ones are unconfirmed).
    rotation_reduction
        Over the eight cubes, of turns and masks: the mean (third-party code) or the sum (paper).
    """

    p_mask: Probability = 0.5
    p_drop: Probability = 0.5
    fill: Literal["background", "zero"] = "background"
    order_weight: NonNegative = 1.0
    rotation_weight: NonNegative = 1.0
    mask_weight: NonNegative = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order_weight == self.rotation_weight == self.mask_weight == 0:
            raise OptionError("all weights of the loss are 0", "Give --order-weight 1.")


class Sample(NamedTuple):
    """The cubes of a scan as the network sees them, and what was done to them."""

    cubes: Tensor  # *batch slot channel *space; in [-1, 1] or [0, 1]
    order: Tensor  # *batch: number of the order, whole
    horizontal: Tensor  # *batch slot: 1 where the slot is turned, else 0
    vertical: Tensor  # *batch slot
    masked: Tensor  # *batch slot: 1 where the slot lost voxels
    counts: Tensor  # *batch slot: 0 where a cube held only what fills, and nobody could tell


class RubiksCubePlus(CubeMethod):
    """One encoder looks at eight cubes; heads say their order, which are turned, and which are masked."""

    needs: ClassVar[Needs] = Needs(unit=Unit.VOLUME, dims=(3,))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("accuracy", "higher", chance="chance")
    asks: ClassVar[tuple[str, ...]] = ("horizontal", "vertical", "masked")

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        fill = self.puzzle.background if options.fill == "background" else 0.0
        self.mask = MaskPieces(options.p_mask, options.p_drop, fill)

    def views(self, record: Record, rng: Generator) -> Sample:
        """Cut, order and turn the cubes, then take voxels out of some: last, so that the labels speak of slots."""
        scrambled = self.puzzle(record, rng, jittered=self.training)
        hidden, masked, _ = self.mask(scrambled.cubes, rng)
        counts = (scrambled.cubes != self.mask.fill).flatten(1).any(1)
        return Sample(hidden, *scrambled[1:], masked.float(), counts.float())

    def losses(self, told: Mapping[str, Tensor], batch: Sample) -> dict[str, Tensor]:
        """Compare with what was done: ``order``, ``rotation``, the sum of both ways, and ``mask`` [nat]."""
        reduction = self.options.rotation_reduction
        return {
            **scramble_losses(told, *batch[1:4], reduction),
            "mask": slot_loss(told["masked"], batch.masked, reduction, batch.counts),
        }

    def step(self, batch: Sample) -> Iterator[Update]:
        """Weigh the three questions."""
        each = self.losses(self.answers(batch.cubes), batch)
        order, rotation = self.options.order_weight, self.options.rotation_weight
        loss = order * each["order"] + rotation * each["rotation"]
        yield Update(loss + self.options.mask_weight * each["mask"], shows=each)

    def score(self, batch: Sample) -> dict[str, Tensor]:
        """Count right answers, beside what is right by chance: any order, and the commoner answer about slots."""
        told = self.answers(batch.cubes)
        counted = scramble_scores(told, *batch[1:4], self.options.p_rotate / 2)
        right = ((told["masked"] > 0) == (batch.masked > 0.5)) * batch.counts
        mask = right.sum() / batch.counts.sum().clamp(min=1)
        mask_chance = torch.tensor(max(self.options.p_mask, 1 - self.options.p_mask))
        turns = (counted["horizontal"] + counted["vertical"]) / 2
        return {
            "accuracy": (counted["order"] + turns + mask) / 3,
            "chance": (counted["order chance"] + counted["rotation chance"] + mask_chance) / 3,
            **counted,
            "masked": mask,
            "mask chance": mask_chance,
            **{f"{name} loss": loss for name, loss in self.losses(told, batch).items()},
        }

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        """Show the cubes as given, how surely each is said to be masked and which are (bright), put back and as before."""
        told = self.answers(batch.cubes)
        shown = self.puzzle.pictures(batch.cubes, told, *batch[1:4])
        bits = {"said to be masked": told["masked"].sigmoid(), "masked": batch.masked}
        flat = {
            caption: torch.stack([spread(each) for each in _even(bit.float().cpu(), batch.cubes)])
            for caption, bit in bits.items()
        }
        return {"given": shown.pop("given"), **flat, **shown}


def _even(bits: Tensor, cubes: Tensor) -> Tensor:
    """Make cubes of one intensity each, shaped like `cubes`, from ``batch slot`` numbers."""
    return bits.view(*bits.shape, *(1,) * (cubes.ndim - 2)).expand(cubes.shape)
