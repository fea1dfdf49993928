"""Self-loop uncertainty: pseudo-labels of one network that a jigsaw keeps moving (Li et al., MICCAI 2020).

Few images have masks, many have none.  In each iteration a jigsaw, which every image offers, moves the encoder E and the
jigsaw head h Q times, ``CE(h(E(P_q(x))), k_q)``; after each of these updates the segmenter f predicts the unlabelled images
anew, p_q = f_q(x).  The average ``u = sum_q a_q p_q`` is their pseudo-label: one network serves as an ensemble of Q.  Then f
learns once from ``L_SEG`` on labelled images plus ``lambda(t) L_UG`` on unlabelled ones, which u supervises.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.data.scan import Unit
from unlabeled.data.store import Record
from unlabeled.errors import OptionError
from unlabeled.losses.pseudo_labels import (
    average_predictions,
    certain_cross_entropy,
    entropy,
    label_scores,
    risen,
    squared_difference,
)
from unlabeled.losses.segmentation import dice_cross_entropy
from unlabeled.methods._base import (
    Feed,
    Monitor,
    Needs,
    Phase,
    SharedOptions,
    Update,
    parameters,
)
from unlabeled.methods._few_masks import FewMaskMethod, FewMaskOptions, show_answer
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.modes import keeping_statistics, looking_on
from unlabeled.nn.puzzles import LayoutHead
from unlabeled.nn.schedules import Schedule, constant
from unlabeled.options import Between, Count, NonNegative, Probability, Whole
from unlabeled.transforms.jigsaw import Jigsaw, draw_orders, least_distance
from unlabeled.transforms.masked_views import Labelled, Paced, streams
from unlabeled.transforms.puzzles import choose_permutations

HALF = 0.5  # share of cross entropy, and of Dice, in L_SEG (ours)
PROBES = 4  # orders that each held-out image is put into


@dataclass(frozen=True, kw_only=True)
class Options(FewMaskOptions):
    """Defaults are ours unless another source is named: no code was published, and the paper's numbers are unconfirmed.

    Parameters
    ----------
    epochs
        Passes over the unlabelled images.
    batch_size
        Unlabelled images a step, and as many labelled ones.
    lr
        Learning rate of the segmentation (encoder and decoder), Adam.
    jigsaw_lr
        Learning rate of the jigsaw (encoder and head), Adam; 0 leaves the encoder where it is.
    encoder
        Network that is carried to the task, and has the decoder that goes with it (paper: of a residual U-Net, unconfirmed).
    patch_size
        Edges of an image or of a part of it [voxel]; multiples of the grid's.
    grid
        Tiles along each axis (another implementation; Noroozi and Favaro, ECCV 2016).
    permutations
        Orders of the tiles that are told apart (another implementation, after the paper).
    updates
        Q, jigsaw updates before each of the segmentation (another implementation, after the paper); 0 leaves the jigsaw out.
    jigsaw_images
        Which images are puzzles (paper: labelled and unlabelled ones).
    hidden
        Width of the jigsaw head's hidden layer.
    uncertainty_weight
        Largest weight lambda of the loss on unlabelled images; 0 leaves it out.
    ramp
        Share of the training over which lambda rises from 0.
    prediction
        What is predicted after each update: the image as it is, or the puzzle, whose tiles are then put back.
    averaging
        Weights a_q: alike, or the softmax of minus the jigsaw's loss.
    uncertainty_loss
        Cross entropy to u, weighed by how certain u is, or the plain squared difference.
    """

    jigsaw_lr: NonNegative = 5e-4
    encoder: str = "resnet18"
    patch_size: tuple[Count, ...] = (255, 255)
    grid: Annotated[int, Between(2, 3)] = 3
    permutations: Annotated[int, Between(2)] = 100
    updates: Whole = 10
    jigsaw_images: Literal["all", "unlabelled"] = "all"
    hidden: Count = 256
    uncertainty_weight: NonNegative = 1.0
    ramp: Probability = 0.5
    prediction: Literal["whole", "restored"] = "whole"
    averaging: Literal["uniform", "by-loss"] = "uniform"
    uncertainty_loss: Literal["certain", "squared"] = "certain"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.updates > self.permutations:
            raise OptionError(
                f"--updates {self.updates} different puzzles of an image need as many orders, and there are "
                f"{self.permutations}",
                f"Give --updates {self.permutations} or less, or more --permutations.",
            )
        if not self.updates and self.learns_masks and self.uncertainty_weight:
            raise OptionError(
                "--updates 0 leaves no predictions to make pseudo-labels of",
                "Give --updates 10, or --uncertainty-weight 0 with it to learn from masks alone.",
            )
        if not self.updates and not self.learns_masks:
            raise OptionError(
                "--label-fraction 0 learns the jigsaw alone, and --updates 0 leaves it out",
                "Give --updates 10, or a --label-fraction above 0.",
            )

    @property
    def averages(self) -> bool:
        """Whether pseudo-labels are made."""
        return self.learns_masks and self.uncertainty_weight > 0


class SelfLoopUncertainty(FewMaskMethod):
    """A segmenter learns from masks, and from what it predicts while a jigsaw moves its encoder."""

    needs: ClassVar[Needs] = Needs(unit=Unit.SLICE, dims=(2,), some=("mask",))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("jigsaw", "higher", chance="chance")
    makes: ClassVar[str] = "the segmentation that it learnt, and how uncertain it is"

    options: Options
    orders: Tensor

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        if options.updates:
            self.jigsaw = Jigsaw((options.grid,) * encoder.dims)
            self.jigsaw.check(self.patch)
            orders = choose_permutations(self.jigsaw.pieces, options.permutations)
            self.register_buffer("orders", torch.from_numpy(orders.copy()))
            self.head = LayoutHead(
                encoder, self.patch, self.jigsaw.grid, len(orders), hidden=options.hidden
            )
        self.add_decoder()

    @classmethod
    def needs_with(cls, options: Any) -> Needs:
        """Leave it to `suit` to ask for masks: the jigsaw alone does without."""
        return replace(cls.needs, some=())

    @classmethod
    def suit(cls, options: Options, records: Sequence[Record]) -> Options:
        """Settle the classes; refuse an archive without masks, and one where no image is left unlabelled."""
        return options.settled(
            "self-loop-uncertainty",
            records,
            instead="--label-fraction 0 to learn the jigsaw alone",
            others=options.averages,
        )

    def notes(self) -> tuple[str, ...]:
        """Say whose masks are read, and how unlike the orders of the jigsaw are."""
        said = ["no mask is read: the encoder learns the jigsaw alone"]
        if self.options.learns_masks:
            said = [self.masks.note()]
        if self.options.updates:
            said.append(
                f"any two of the {len(self.orders)} orders of the jigsaw differ in "
                f"{least_distance(self.orders.cpu().numpy())} tiles or more"
            )
        return tuple(said)

    def phases(self) -> tuple[Phase, ...]:
        """Train the encoder with the jigsaw's head and with the decoder, each pair by an optimiser of its own."""
        o, unit = self.options, self.needs.unit
        trains: dict[str, Iterable[nn.Module]] = {}
        feeds: dict[str, Feed] = {}
        if o.updates:
            trains["jigsaw"] = [self.encoder, self.head]
            feeds["unlabelled"] = Feed(
                self.unlabelled, o.batch_size, unit, group=self.masks.unlabelled, pace=Paced
            )
        if not o.learns_masks:
            return (Phase("jigsaw", self.step, trains, feeds),)
        trains["main"] = [self.encoder, self.decoder]
        feeds["labelled"] = Feed(self.views, o.batch_size, unit, group=self.masks.labelled)
        monitor = Monitor("dice", "higher", chance="dice_everything")
        return (Phase("pretrain", self.step, trains, feeds, monitor=monitor),)

    def step(self, batch: Any) -> Iterator[Update]:
        """Move the encoder by the jigsaw Q times and predict after each, then learn from masks and pseudo-labels."""
        o, given = self.options, streams(batch)
        labelled, unlabelled = given.get("labelled"), given.get("unlabelled")
        predicted: list[Tensor] = []
        losses: list[Tensor] = []
        if unlabelled is not None:
            whole = [unlabelled.image]
            if labelled is not None and o.jigsaw_images == "all":
                whole.append(labelled.image)
            images = torch.cat(whole)
            drawn = draw_orders(len(self.orders), len(images), o.updates, images.device)
            for which in drawn:
                update = self.put_together(images, which)
                losses.append(update.loss.detach())
                yield update
                if labelled is not None:
                    orders = self.orders[which[: len(unlabelled.image)]]
                    predicted.append(self.predict(unlabelled.image, orders))
        if labelled is None:
            return
        if unlabelled is None or not o.averages:
            logits = self.segment(labelled.image)
            yield Update(HALF * dice_cross_entropy(logits, labelled.labels))
            return
        maps = torch.stack(predicted)
        weights = torch.stack(losses) if o.averaging == "by-loss" else None
        soft = average_predictions(maps, weights)
        count = len(labelled.image)
        logits = self.segment(torch.cat([labelled.image, unlabelled.image]))
        segmentation = HALF * dice_cross_entropy(logits[:count], labelled.labels)
        learn = certain_cross_entropy if o.uncertainty_loss == "certain" else squared_difference
        uncertain = learn(logits[count:], soft)
        weight = o.uncertainty_weight * risen(unlabelled.over.mean(), o.ramp)
        shows = {
            "segmentation": segmentation,
            "uncertainty": uncertain,
            "weight": weight,
            "spread": maps.std(0, correction=0).mean(),
            "entropy": entropy(soft).mean(),
        }
        yield Update(segmentation + weight * uncertain, shows=shows)

    def put_together(self, images: Tensor, which: Tensor) -> Update:
        """Ask which order the tiles of each image lie in; puzzles leave the running statistics to whole images."""
        alone = not self.options.learns_masks
        with nullcontext() if alone else keeping_statistics(self.encoder):
            told = self.head(self.encoder(self.jigsaw(images, self.orders[which])))
        right = (told.argmax(1) == which).float().mean()
        shows = {"jigsaw": right, "chance": torch.full_like(right, 1 / len(self.orders))}
        return Update(F.cross_entropy(told.float(), which), "jigsaw", shows)

    def predict(self, image: Tensor, orders: Tensor) -> Tensor:
        """Compute class probabilities without gradient: p_q.

        The encoder moves Q + 1 times an iteration, faster than running statistics follow; predictions by them are those of
        no network, and learning from these goes astray.  So whole images are normalised by their own, which are remembered.
        """
        both = [self.encoder, self.decoder]
        with looking_on(both, remembering=True):
            likely = self.segment(image).float().softmax(1)
            if self.options.prediction == "whole":
                return likely
            with keeping_statistics(self.encoder), keeping_statistics(self.decoder):
                puzzled = self.segment(self.jigsaw(image, orders)).float().softmax(1)
            return self.jigsaw.undo(puzzled, orders)

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam with a constant rate, one for each of the two tasks."""
        lr = self.options.jigsaw_lr if name == "jigsaw" else self.options.lr
        return torch.optim.Adam(parameters(modules), lr=lr), constant

    def score(self, batch: Any) -> dict[str, Tensor]:
        """Measure how many puzzles are told, and on held-out masks the overlap and how well calibrated probabilities are."""
        given, scores = streams(batch), dict[str, Tensor]()
        if self.options.updates:
            images = given["unlabelled"].image.repeat_interleave(PROBES, 0)
            which = torch.arange(len(images), device=images.device) * 7 % len(self.orders)
            scores |= self.put_together(images, which).shows
        if "labelled" in given:
            image, labels = given["labelled"]
            scores |= label_scores(self.segment(image).float().softmax(1), labels)
        return scores

    def preview(self, batch: Any) -> dict[str, Tensor]:
        """Show what is segmented and how uncertain that is, and a puzzle put back as the head says."""
        given = streams(batch)
        seen = given.get("labelled", given.get("unlabelled"))
        shown = {"image": seen.image.float().clamp(0, 1)}
        if isinstance(seen, Labelled):
            shown = show_answer(seen, self.segment(seen.image).float().softmax(1))
        if self.options.updates:
            steps = torch.arange(len(seen.image), device=self.orders.device) * 7
            orders = self.orders[1 + steps % (len(self.orders) - 1)]  # order 0 moves no tile
            puzzle = self.jigsaw(seen.image, orders)
            told = self.head(self.encoder(puzzle)).argmax(1)
            shown["puzzle"] = puzzle.float().clamp(0, 1)
            shown["put back"] = self.jigsaw.undo(shown["puzzle"], self.orders[told])
        return shown

    def carries(self) -> dict[str, nn.Module]:
        """Carry the encoder, and the decoder where there is one; a segmenter replaces the last convolution alone."""
        decoder = {"decoder": self.decoder} if self.options.learns_masks else {}
        return {"encoder": self.encoder, **decoder}
