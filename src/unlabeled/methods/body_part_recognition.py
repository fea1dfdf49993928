"""Body part recognition: say which of two slices of one volume lies higher (Zhang, Wang and Zheng, ISBI 2017).

Two axial slices a and b of one volume, some millimetres apart, are shown in random order.  One encoder sees both; from its
pooled features F a head says whether the first lies above the second: softmax(W [F_a; F_b]), or, with a score s = w F for
each slice, sigma(s_a - s_b).  The loss is the cross entropy.  To answer, the encoder must know what part of the body a
slice shows, which is what it is carried over for: to say where in the body a single slice lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.sampling import PlanePairs
from unlabeled.data.scan import Unit
from unlabeled.data.slices import Slice, middle_view, planes_with
from unlabeled.data.store import Record
from unlabeled.errors import OptionError, ScanError
from unlabeled.methods._base import (
    Method,
    Monitor,
    Needs,
    Product,
    SharedOptions,
    Update,
    parameters,
    patch_for,
)
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.heads import OrderHead, pool
from unlabeled.nn.schedules import Schedule, stepping
from unlabeled.options import Count, NonNegative, Positive, Probability
from unlabeled.transforms.bodies import BODY_PIXELS, BodyCount
from unlabeled.transforms.intensity import GainOffset
from unlabeled.transforms.overlay import upright
from unlabeled.transforms.profiles import draw_profile
from unlabeled.transforms.spatial import RepeatedFlip
from unlabeled.transforms.warping import RandomWarp

BATCH = 64  # slices at once, of a whole scan
FLIPPED = (0,)  # axis of a slice from left to right


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults are ours: the paper gives the task, and none of its numbers is known to us.

    Parameters
    ----------
    epochs
        Passes over the volumes (ours).
    batch_size
        Pairs a step (ours).
    samples_per_scan
        Pairs that each volume gives an epoch, a long one as many as a short one (ours).
    lr
        Learning rate at the start; a tenth from 60 % of the training on, a hundredth from 80 % on (ours).
    encoder
        Network that sees each slice (paper: a CNN of 2017, unconfirmed).
    patch_size
        Edges of the middle of a slice that is seen, from left to right and from back to front [pixel] (ours).
    spacing
        Resample to these voxel edge lengths [mm], the last from slice to slice (ours).
    least_gap, most_gap
        Smallest and largest distance of the two slices [mm]; nearer slices look alike, and without a largest any goes (ours).
    least_body
        Share of a slice that must be body, lest it is left out (ours).
    head
        Joint: a hidden layer on the features of both slices; score: a number for each slice, and their difference (ours).
    hidden
        Width of the joint head's hidden layer (ours).
    rotation
        Largest turn of a slice, to either side [degree]; each slice is changed by itself (ours).
    shift
        Largest move along each axis, as a share of the shorter edge (ours).
    zoom
        Smallest and largest magnification (ours).
    gain
        Smallest and largest factor of the intensities (ours).
    offset
        Largest number added to the intensities, of 0 to 1, or taken away (ours).
    p_flip
        Probability of changing left and right; never top and bottom of the body (ours).
    """

    epochs: Count = 100
    batch_size: Count = 64
    samples_per_scan: Count = 20
    lr: Positive = 1e-3
    encoder: str = "resnet18"
    patch_size: tuple[Count, ...] = (128, 128)
    spacing: tuple[Positive, ...] | None = (3.0, 3.0, 3.0)
    least_gap: NonNegative = 8.0
    most_gap: Positive | None = None
    least_body: Probability = 0.01
    head: Literal["joint", "score"] = "joint"
    hidden: Count = 256
    rotation: NonNegative = 10.0
    shift: Probability = 0.05
    zoom: tuple[Positive, Positive] = (0.9, 1.1)
    gain: tuple[Positive, Positive] = (0.9, 1.1)
    offset: NonNegative = 0.05
    p_flip: Probability = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, (low, high) in (("--zoom", self.zoom), ("--gain", self.gain)):
            if low > high:
                raise OptionError(
                    f"{name} {low:g} {high:g} falls", f"Give {name} {high:g} {low:g}."
                )
        if self.most_gap is not None and self.most_gap < self.least_gap:
            raise OptionError(
                f"--most-gap is {self.most_gap:g} mm, less than --least-gap {self.least_gap:g}",
                f"Give --least-gap {self.most_gap:g} --most-gap {self.least_gap:g}, or leave one out.",
            )


class Pair(NamedTuple):
    """Two slices of one volume, ``*batch channel rows columns``; 1 if the first lies above, else 0; their distance [mm]."""

    first: Tensor
    second: Tensor
    above: Tensor
    gap: Tensor


class BodyPartRecognition(Method):
    """One encoder sees two slices; a head says which of them lies higher in the body."""

    needs: ClassVar[Needs] = Needs(
        unit=Unit.SLICE, dims=(2,), metadata=("spacing", "affine"), volumes=True
    )
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("accuracy", "higher", chance="chance")
    keeps = "best"
    makes: ClassVar[str] = "the order of a volume's slices, as the network sees it"

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        rows, columns = patch_for(encoder, options.patch_size)
        self.patch = rows, columns
        encoder.check(self.patch)
        joint = options.head == "joint"
        self.head = OrderHead(encoder.channels[-1], options.hidden if joint else None)
        shift = options.shift * min(self.patch)
        self.warp = RandomWarp(options.rotation, shift, 0.0, options.zoom, elastic=0.0)
        self.recolour = GainOffset(options.gain, options.offset)
        self.flip = RepeatedFlip(options.p_flip, FLIPPED, most=1)

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Scale CT by one window of all tissues, others from the 1st to the 99th percentile."""
        return IntensityRule(percentiles=(1.0, 99.0))

    @classmethod
    def preparation(cls, options: SharedOptions) -> BodyCount:
        """Count once how much of every slice is body."""
        return BodyCount()

    @classmethod
    def require(cls, record: Record, options: SharedOptions) -> None:
        """Refuse a volume without two slices that could be told apart."""
        own = cast(Options, options)
        if not len(pairs_of(record, own)):
            far = "" if own.most_gap is None else f" to {own.most_gap:g}"
            raise ScanError(
                f"has no two slices with a body that lie {own.least_gap:g}{far} mm apart",
                "Give a smaller --least-gap, a smaller --least-body, or finer slices with --spacing.",
            )

    def views(self, record: Record, rng: Generator) -> Pair:
        """Draw two slices, put them in random order, and change each by itself."""
        lower, upper = pairs_of(record, self.options).draw(rng)
        above = torch.randint(2, (), generator=rng)
        order = (upper, lower) if above else (lower, upper)
        first, second = (self.view(Slice(record, plane), rng) for plane in order)
        return Pair(first, second, above, torch.tensor((upper - lower) * thickness(record)))

    def view(self, item: Slice, rng: Generator) -> Tensor:
        """Read the middle of a slice; in training, move it and change its intensities a little."""
        image = item.centre(self.patch)
        if not self.training:
            return image
        warped = self.warp.draw(self.patch, rng).image(image)
        return self.flip(self.recolour(warped, rng), rng)

    def describe(self, image: Tensor) -> Tensor:
        """Compute ``batch width`` of slices ``batch channel rows columns``."""
        return pool(self.encoder(image)).float()

    def compare(self, batch: Pair) -> Tensor:
        """Compute logits of "below" and "above", ``batch 2``, from both slices seen by the same encoder."""
        first, second = self.describe(torch.cat([batch.first, batch.second])).chunk(2)
        logits: Tensor = self.head(first, second)
        return logits.float()

    def step(self, batch: Pair) -> Iterator[Update]:
        """Say whether the first slice lies above the second."""
        logits = self.compare(batch)
        right = (logits.argmax(1) == batch.above).float().mean()
        yield Update(F.cross_entropy(logits, batch.above), shows={"accuracy": right})

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam; its rate falls to a tenth at 60 % and again at 80 % of the training."""
        adam = torch.optim.Adam(parameters(modules), lr=self.options.lr)
        return adam, stepping((60, 80), of=100)

    def above(self, first: Tensor, second: Tensor) -> Tensor:
        """Give the probability that the first of two slices lies above, from features ``batch width`` of both.

        The answers to both orders of presentation count alike, so that the two probabilities of a pair sum to 1.
        """
        one, other = (
            self.head(*pair).float().softmax(1) for pair in ((first, second), (second, first))
        )
        likely: Tensor = (one[:, 1] + other[:, 0]) / 2
        return likely

    def score(self, batch: Pair) -> dict[str, Tensor]:
        """Count right answers, over all pairs and over thirds of them by distance, nearest first.

        ``near gap``, ``middle gap`` and ``far gap`` are the mean distances of the thirds [mm].
        """
        first, second = self.describe(torch.cat([batch.first, batch.second])).chunk(2)
        right = ((self.above(first, second) > 0.5) == (batch.above == 1)).float()
        scores = {"accuracy": right.mean(), "chance": right.new_tensor(0.5)}
        by_gap = batch.gap.argsort(stable=True)
        for third, name in enumerate(("near", "middle", "far")):
            begin = min(third * len(by_gap) // 3, len(by_gap) - 1)
            chosen = by_gap[begin : max((third + 1) * len(by_gap) // 3, begin + 1)]
            scores |= {name: right[chosen].mean(), f"{name} gap": batch.gap[chosen].mean()}
        return scores

    def preview(self, batch: Pair) -> dict[str, Tensor]:
        """Show both slices upright, then the one that is taken for the upper one and the one that is."""
        found = self.compare(batch).argmax(1)
        one, other = (upright(each).clamp(0, 1) for each in batch[:2])
        return {
            "first": one,
            "second": other,
            "upper, found": torch.where(found.view(-1, 1, 1, 1) == 1, one, other),
            "upper, true": torch.where(batch.above.view(-1, 1, 1, 1) == 1, one, other),
        }

    def product(self, record: Record) -> Product:
        """Set every slice of a volume against all others: how surely it is the upper one, and how often rightly."""
        planes = body_planes(record, self.options)
        if len(planes) < 2:
            raise ScanError("has fewer than two slices with a body", "Leave it out.")
        device = next(self.parameters()).device
        images = [Slice(record, int(plane)).centre(self.patch) for plane in planes]
        features = torch.cat(
            [
                self.describe(torch.stack(images[begin : begin + BATCH]).to(device))
                for begin in range(0, len(images), BATCH)
            ]
        )
        likely = torch.stack([self.above(each.expand_as(features), features) for each in features])
        likely = likely.cpu()
        higher = torch.from_numpy(planes[:, None] - planes[None, :]) * thickness(record)
        apart = higher.abs() >= max(self.options.least_gap, 1e-6)
        right = ((likely > 0.5) == (higher > 0))[apart].float()
        view, aspect = middle_view(record)
        picture = draw_profile(
            view,
            [(plane + 0.5) / record.space[2] for plane in planes],
            ((likely.sum(1) - likely.diagonal()) / (len(planes) - 1)).tolist(),
            span=(0.0, 1.0),
            caption="mean probability of lying above another slice",
            aspect=aspect,
        )
        values = {"slices": float(len(planes)), "order": float(right.mean())}
        return Product(pictures={"profile": picture}, values=values)


def body_planes(record: Record, options: Options) -> NDArray[np.int64]:
    """List the planes of a volume that show enough of a body, from the lowest to the highest."""
    return planes_with(record, BODY_PIXELS, options.least_body * record.space[0] * record.space[1])


def pairs_of(record: Record, options: Options) -> PlanePairs:
    """List the pairs of slices that may be drawn from a volume."""
    planes = body_planes(record, options)
    return PlanePairs.within(planes, thickness(record), options.least_gap, options.most_gap)


def thickness(record: Record) -> float:
    """Give the distance from one axial slice to the next [mm]."""
    if record.dims < 3 or record.spacing is None:
        what = "is no volume" if record.dims < 3 else "has no voxel spacing"
        raise ScanError(what, "Leave it out: its slices cannot be set in order.")
    return record.spacing[2]
