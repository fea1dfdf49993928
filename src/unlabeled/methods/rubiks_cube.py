"""Rubik's cube: say in which order eight cubes of a volume lie and which are turned (Zhuang et al., MICCAI 2019).

A volume is cut into 2 x 2 x 2 cubes with gaps between them.  The cubes are put into one of K orders that are far apart,
and some slots are turned by 180 degrees, horizontally or vertically.  One encoder looks at every cube; heads that see
all eight say the order (softmax over K) and, of every slot, whether it is turned in either way (sigmoids).  The loss is
``alpha L_order + beta (L_horizontal + L_vertical)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.scan import Unit
from unlabeled.data.store import Record
from unlabeled.errors import OptionError
from unlabeled.losses.puzzles import slot_loss
from unlabeled.methods._base import Method, Monitor, Needs, SharedOptions, Update, parameters
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.heads import pool
from unlabeled.nn.puzzles import PieceHeads
from unlabeled.nn.schedules import Schedule, halving
from unlabeled.nn.unet import UNetEncoder
from unlabeled.options import Between, Count, NonNegative, Probability, Whole
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


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults of the paper where known, else of a third-party implementation (there is no official code).

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
    order_weight, rotation_weight
        Alpha and beta of the loss (best in the paper).
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
    order_weight: NonNegative = 0.5
    rotation_weight: NonNegative = 0.5
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
        if self.order_weight == self.rotation_weight == 0:
            raise OptionError("both weights of the loss are 0", "Give --order-weight 0.5.")


class Sample(NamedTuple):
    """The cubes of a scan as the network sees them, and what was done to them."""

    cubes: Tensor  # *batch slot channel *space; in [-1, 1] or [0, 1]
    order: Tensor  # *batch: number of the order, whole
    horizontal: Tensor  # *batch slot: 1 where the slot is turned, else 0
    vertical: Tensor  # *batch slot


class RubiksCube(Method):
    """One encoder looks at eight cubes; heads say their order and which are turned."""

    needs: ClassVar[Needs] = Needs(unit=Unit.VOLUME, dims=(3,))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("accuracy", "higher", chance="chance")
    keeps = "best"

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.cutter = cutter(options)
        if isinstance(encoder, UNetEncoder):
            encoder.check(options.patch_size)
        rule = options.permutation_rule
        orders = choose_permutations(SLOTS, options.permutations, rule, FIRST[rule])
        self.scramble = Scramble(orders, PLANES, options.p_rotate)
        heads = {
            "order": (options.permutations, 2),
            "horizontal": (SLOTS, 1),
            "vertical": (SLOTS, 1),
        }
        self.heads = PieceHeads(
            encoder.channels[-1], SLOTS, heads, features=options.features, width=options.head_width
        )

    @classmethod
    def require(cls, record: Record, options: Options) -> None:
        """Refuse scans shorter than two cubes: constant padding would tell where a cube was."""
        cutter(options).require(record.space)

    def views(self, record: Record, rng: Generator) -> Sample:
        """Cut the cubes, put them into another order, turn some; in evaluation each is cut from its cell's middle."""
        cubes = self.cutter(record, rng if self.training else None)
        if self.options.normalise == "cube":
            cubes = stretch(cubes)
        order, disorder = self.scramble.draw(rng)
        horizontal, vertical = torch.from_numpy(disorder.turned).float()
        return Sample(disorder(cubes), torch.tensor(order), horizontal, vertical)

    def pooled(self, cubes: Tensor) -> Tensor:
        """Compute ``batch slot feature``, the mean of each cube's coarsest map: the same weights for every cube."""
        return pool(self.encoder(cubes.flatten(0, 1))).view(*cubes.shape[:2], -1)

    def answers(self, cubes: Tensor) -> dict[str, Tensor]:
        """Compute logits: ``order`` ``batch order``, ``horizontal`` and ``vertical`` ``batch slot``."""
        return {name: told.float() for name, told in self.heads(self.pooled(cubes)).items()}

    def losses(self, told: Mapping[str, Tensor], batch: Sample) -> dict[str, Tensor]:
        """Compare with what was done: ``order``, and ``rotation``, the sum of both directions [nat]."""
        reduction = self.options.rotation_reduction
        return {
            "order": F.cross_entropy(told["order"], batch.order),
            "rotation": slot_loss(told["horizontal"], batch.horizontal, reduction)
            + slot_loss(told["vertical"], batch.vertical, reduction),
        }

    def step(self, batch: Sample) -> Iterator[Update]:
        """Weigh both questions."""
        each = self.losses(self.answers(batch.cubes), batch)
        alpha, beta = self.options.order_weight, self.options.rotation_weight
        yield Update(alpha * each["order"] + beta * each["rotation"], shows=each)

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam; the rate falls to a tenth every so many epochs."""
        lr, pull = self.options.lr, self.options.weight_decay
        return (
            torch.optim.Adam(parameters(modules), lr=lr, weight_decay=pull),
            halving(self.options.drop_every, 0.1),
        )

    def score(self, batch: Sample) -> dict[str, Tensor]:
        """Count right answers, beside what is right by chance: any order, and the commoner answer about turns."""
        told = self.answers(batch.cubes)
        turned = torch.stack([batch.horizontal, batch.vertical])
        said = torch.stack([told["horizontal"], told["vertical"]]) > 0
        horizontal, vertical = (said == (turned > 0.5)).float().mean((1, 2))
        order = (told["order"].argmax(1) == batch.order).float().mean()
        often = self.options.p_rotate / 2
        rotation_chance = torch.tensor(max(often, 1 - often))
        order_chance = torch.tensor(1 / self.options.permutations)
        losses = self.losses(told, batch)
        return {
            "accuracy": (order + (horizontal + vertical) / 2) / 2,
            "chance": (order_chance + rotation_chance) / 2,
            "order": order,
            "order chance": order_chance,
            "horizontal": horizontal,
            "vertical": vertical,
            "rotation chance": rotation_chance,
            "order loss": losses["order"],
            "rotation loss": losses["rotation"],
        }

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        """Show the cubes as they are given, as the network would put them back, and as they were."""
        told = self.answers(batch.cubes)
        orders = self.scramble.orders
        shown: dict[str, list[Tensor]] = {"given": [], "put back": [], "as it was": []}
        cubes = (batch.cubes + 1) / 2 if self.options.normalise == "cube" else batch.cubes
        for at, slots in enumerate(cubes.float().cpu()):
            said = torch.stack([told["horizontal"][at], told["vertical"][at]]) > 0
            true = torch.stack([batch.horizontal[at], batch.vertical[at]]) > 0.5
            shown["given"].append(spread(slots))
            for caption, order, turned in (
                ("put back", told["order"][at].argmax(), said),
                ("as it was", batch.order[at], true),
            ):
                done = Disorder(tuple(orders[int(order)].tolist()), turned.cpu().numpy(), PLANES)
                shown[caption].append(spread(done.undo(slots)))
        return {caption: torch.stack(images) for caption, images in shown.items()}


def cutter(options: Options) -> PieceCutter:
    """Say how cubes are cut."""
    size, gap = tuple(options.patch_size), tuple(options.gap)
    return PieceCutter(GRID, size, gap * 3 if len(gap) == 1 else gap, options.jitter, options.place)


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
