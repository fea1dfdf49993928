"""Shape landmarks: points that register one subject's image onto another's (Bhalodia et al., MICCAI 2020; MedIA 2021).

One network sees a source and a target image and names N points in each: the same output is the same landmark.  A
thin-plate spline takes the target's points T to the source's S; the source is warped by it and compared with the
target, ``L = L_match(warp(source), target) + alpha kappa(A)``.  Points settle where they help, on anatomy; the condition
number kappa of the spline's matrix A keeps them apart.  Afterwards the landmarks without which images match worst are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.utils.data import default_collate

from unlabeled.data.sampling import Pairing, centre_patch, centre_start, pair_scans, patch_size
from unlabeled.data.scan import Unit
from unlabeled.data.store import Record
from unlabeled.errors import DataError, OptionError
from unlabeled.losses.registration import correlation_loss, self_similarity_loss
from unlabeled.methods._base import (
    Feed,
    Method,
    Monitor,
    Needs,
    Phase,
    Product,
    SharedOptions,
    Update,
    parameters,
)
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.landmark_cnn import LandmarkHead
from unlabeled.nn.schedules import Schedule, constant
from unlabeled.nn.warp import (
    condition_number,
    corners,
    sample,
    solve_spline,
    spline_grid,
    spline_matrix,
    to_voxels,
)
from unlabeled.options import Count, NonNegative, Positive
from unlabeled.rng import generator
from unlabeled.transforms.marking import mark_images, mark_points

LEVELS = 255.0  # intensities of the official runs are 0 to 255, ours 0 to 1
MATCHES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "ncc": correlation_loss,
    "mind": self_similarity_loss,
}


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults of the official code (its run on 2D phantoms) unless another source is named.

    Parameters
    ----------
    patch_size
        Edge lengths that every image is cut or padded to around its middle [voxel]; volumes need three (only 2D was
        published); with two edges and ``--dims 2``, the middle slice is taken.
    epochs
        Passes over the scans as sources; each draws its target anew.
    batch_size
        Pairs a step.
    lr
        Learning rate of Adam, constant.
    landmarks
        Points of a spline in all, the corners among them.
    corners
        Whether the corners of the patch are fixed points (4 in 2D; 8 in 3D, ours).
    pooled
        Positions along each axis that the coarsest map is averaged to before the head; the official network has no more
        at 256 x 256.
    match
        How images are compared: mean squared or absolute error, local correlation (window 3), or self-similarity.
    regulariser
        What the loss holds of the condition number kappa: its logarithm (paper, unconfirmed) or itself (official code);
        auto takes the logarithm, in official mode kappa itself.
    alpha
        Weight of the regulariser; without it 0.01 for kappa itself at intensities from 0 to 255 (official code), which at
        ours from 0 to 1 is 0.01 / 65025, and 0.001 for the logarithm (ours).
    damping
        Kept on the diagonal of the spline's kernel, so that points may meet (ours; in official mode added to the
        whole matrix's diagonal, falling to 0 over the first epoch).
    clip
        Largest norm of the gradient; without it 1 (ours), in official mode none.
    kept
        Landmarks that remain when the redundant ones are removed.
    ranking_batches
        Most batches of pairs that the removal looks at.
    fidelity
        Mend the quirks of the official code, or reproduce them.
    """

    patch_size: tuple[Count, ...] = (256, 256)
    epochs: Count = 2000
    batch_size: Count = 20
    lr: Positive = 1e-4
    encoder: str = "landmark-cnn"
    landmarks: Count = 30
    corners: bool = True
    pooled: Count = 2
    match: Literal["mse", "l1", "ncc", "mind"] = "mse"
    regulariser: Literal["auto", "log", "plain"] = "auto"
    alpha: NonNegative | None = None
    damping: NonNegative = 1e-5
    clip: Positive | None = None
    kept: Count = 10
    ranking_batches: Count = 200
    fidelity: Literal["clean", "official"] = "clean"


class Sample(NamedTuple):
    """Two subjects' images, ``*batch channel *space`` in [0, 1]."""

    source: Tensor
    target: Tensor


class Warped(NamedTuple):
    """A source on its target's grid, both sets of points ``batch points axes`` in [-1, 1], and the spline's matrix."""

    image: Tensor
    source: Tensor
    target: Tensor
    matrix: Tensor


class ShapeLandmarks(Method):
    """Points found by one network in two subjects' images must register one image onto the other."""

    needs = Needs(unit=Unit.IMAGE, dims=(2, 3), subjects=3, held_out=2)
    options_class = Options
    monitor = Monitor("match", "lower", chance="unregistered")
    keeps = "best"
    makes = "landmarks"
    quirks: ClassVar[Mapping[str, str]] = {
        "sampler": "grids are made for aligned corners and read without, so that even the identity blurs and shifts",
        "intensities": "images are 0 to 255, with kappa itself in the loss instead of its logarithm",
        "damping": "1e-5, 0 after one epoch, on the diagonal of a matrix whose first rows are side conditions: no ridge",
        "gradients": "are not clipped",
        "pairs": "a target may be the source itself, or the same subject's",
        "redundancy": "scores are squared, so that a landmark which harms ranks as high as one which helps",
    }

    options: Options
    done: Tensor
    epoch_steps: Tensor
    usefulness: Tensor
    order: Tensor
    fixed: Tensor

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.official = options.fidelity == "official"
        self.patch = tuple(options.patch_size)[: encoder.dims]
        fixed = corners(encoder.dims) if options.corners else torch.zeros(0, encoder.dims)
        learned = options.landmarks - len(fixed)
        if learned < 1 or options.landmarks < encoder.dims + 2:
            fewest = max(len(fixed) + 1, encoder.dims + 2)
            raise OptionError(
                f"--landmarks is {options.landmarks}, of which {len(fixed)} are corners",
                f"Give --landmarks {fewest} or more.",
            )
        self.head = LandmarkHead(encoder, learned, options.pooled)
        self.register_buffer("fixed", fixed)
        self.register_buffer("done", torch.zeros((), dtype=torch.long))  # steps
        self.register_buffer("epoch_steps", torch.ones((), dtype=torch.long))
        self.register_buffer("usefulness", torch.zeros(learned))
        self.register_buffer("order", torch.arange(min(options.kept, learned)))
        self.levels = LEVELS if self.official else 1.0
        self.clip = options.clip or (None if self.official else 1.0)
        self.logarithm = options.regulariser == "log" or (
            options.regulariser == "auto" and not self.official
        )
        usual = 1e-3 if self.logarithm else 0.01 / LEVELS**2
        self.alpha = usual * self.levels**2 if options.alpha is None else options.alpha

    @classmethod
    def suit(cls, options: Options, records: Sequence[Record]) -> Options:
        """Refuse scans of which no two training subjects would be left."""
        subjects = {record.subject for record in records if record.source.split in (None, "train")}
        fewest = 2 if any(record.source.split == "val" for record in records) else 3
        if len(subjects) < fewest:
            raise DataError(
                f"shape-landmarks registers subjects onto one another, and only {len(subjects)} can be learnt from",
                "Add subjects; in a manifest, write train into the column `split` of more of them.",
            )
        return options

    def phases(self) -> tuple[Phase, ...]:
        """Train on pairs, then rank the landmarks."""
        feed = Feed(self.views, self.options.batch_size, self.needs.unit, group=self.pair)
        trains = {"main": [self.encoder, self.head]}
        before, after = self.count_steps, self.remove_redundant
        return (Phase("pretrain", self.step, trains, {"pairs": feed}, before=before, after=after),)

    def pair(self, records: Sequence[Record]) -> tuple[Pairing, ...]:
        """Set each image beside all that it may be registered onto."""
        return pair_scans(records, subjects=not self.official)

    def views(self, record: Pairing, rng: Generator) -> Sample:  # type: ignore[override]
        """Cut the middle out of an image and of a random partner's."""
        partner = record.draw(rng)
        return Sample(centre_patch(record.record, self.patch), centre_patch(partner, self.patch))

    def landmarks(self, image: Tensor) -> Tensor:
        """Find ``batch points axes`` in [-1, 1]: first the learned points, then the corners."""
        coarsest = self.encoder(image * self.levels)[-1]
        with torch.autocast(
            image.device.type, enabled=False
        ):  # half a number's digits are whole voxels of a coordinate
            learned: Tensor = self.head(coarsest.float())
        return torch.cat([learned, self.fixed.expand(len(learned), -1, -1)], dim=1)

    def register(self, source: Tensor, target: Tensor) -> Warped:
        """Find both images' points with the same weights, and warp the source by them."""
        here, there = self.landmarks(torch.cat([source, target])).chunk(2)
        return self.warp(source, here, there)

    def warp(self, source: Tensor, here: Tensor, there: Tensor) -> Warped:
        """Read the source at the places that a spline from the target's points to its own points to."""
        with torch.autocast(source.device.type, enabled=False):
            exact = torch.float32 if source.device.type == "mps" else torch.float64
            matrix = spline_matrix(there.to(exact), 0.0 if self.official else self.options.damping)
            weights = solve_spline(matrix, here.to(exact), self.falling_damping())
            grid = spline_grid(weights.float(), there.float(), source.shape[2:])
            image = sample(source, grid, aligned=not self.official)
        return Warped(image, here, there, matrix)

    def match(self, image: Tensor, target: Tensor) -> Tensor:
        """Compare images as `--match` says."""
        with torch.autocast(image.device.type, enabled=False):
            return MATCHES[self.options.match](
                image.float() * self.levels, target.float() * self.levels
            )

    def kappa(self, matrix: Tensor) -> Tensor:
        """Give the condition number, or its logarithm, of the splines of all axes: A is repeated once for each."""
        with torch.autocast(matrix.device.type, enabled=False):
            kappa = self.encoder.dims * condition_number(matrix)
            return (kappa.log() if self.logarithm else kappa).mean().float()

    def step(self, batch: Sample) -> Iterator[Update]:
        """Warp the source onto the target; the gradient reaches both sets of points."""
        warped = self.register(batch.source, batch.target)
        match, kappa = self.match(warped.image, batch.target), self.kappa(warped.matrix)
        if self.training:
            self.done += 1
        shows = {"match": match, "log kappa" if self.logarithm else "kappa": kappa}
        yield Update(match + self.alpha * kappa, shows=shows, clip=self.clip)

    def falling_damping(self) -> float:
        """Give what the official code adds to the matrix: less with every batch of the first epoch."""
        if not (self.official and self.training):
            return 0.0
        return self.options.damping * max(0.0, 1 - int(self.done) / int(self.epoch_steps))

    def count_steps(self, records: Sequence[Record]) -> None:
        """Note the steps of an epoch."""
        samples = len(self.pair(records)) * self.options.samples_per_scan
        self.epoch_steps.fill_(max(1, samples // self.options.batch_size))

    @torch.no_grad()
    def remove_redundant(self, records: Sequence[Record]) -> None:
        """Score each landmark by how much worse images match without it, and keep the most useful ones."""
        self.eval()
        options, pairs = self.options, self.pair(records)
        batches = min(options.ranking_batches, math.ceil(len(pairs) / options.batch_size))
        change = torch.zeros_like(self.usefulness)
        for number in range(batches):
            chosen = range(number * options.batch_size, (number + 1) * options.batch_size)
            rngs = (generator(options.seed, "ranking", place) for place in chosen)
            samples = [
                self.views(pairs[place % len(pairs)], rng)
                for place, rng in zip(chosen, rngs, strict=True)
            ]
            source, target = (part.to(change.device) for part in default_collate(samples))
            change += self.changes(source, target) / batches
        self.usefulness.copy_(change)
        self.order.copy_(change.argsort(descending=True, stable=True)[: len(self.order)])

    def changes(self, source: Tensor, target: Tensor) -> Tensor:
        """Measure what the match loses without each learned landmark (official: the square of it)."""
        whole = self.register(source, target)
        matched = self.match(whole.image, target)
        lost = []
        for number in range(len(self.usefulness)):
            rest = [place for place in range(whole.source.shape[1]) if place != number]
            without = self.warp(source, whole.source[:, rest], whole.target[:, rest])
            lost.append(self.match(without.image, target) - matched)
        change = torch.stack(lost).nan_to_num(0.0)  # points that met, without damping, tell nothing
        return change.square() if self.official else change

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam with a constant rate."""
        return torch.optim.Adam(parameters(modules), lr=self.options.lr), constant

    def score(self, batch: Sample) -> dict[str, Tensor]:
        """Compare the match with that of images as they lie, and say where the points went.

        ``spread`` is a landmark's deviation over images and ``nearest`` the smallest distance between two points of an
        image, both in half edges of the patch: a network that ignores its input has a spread of 0.
        """
        warped = self.register(batch.source, batch.target)
        learned = warped.target[:, : len(self.usefulness)]
        apart = torch.cdist(warped.target, warped.target)
        apart = apart + 9 * torch.eye(apart.shape[1], device=apart.device)
        return {
            "match": self.match(warped.image, batch.target),
            "unregistered": self.match(batch.source, batch.target),
            "spread": learned.std(0, correction=0).mean(),
            "nearest": apart.flatten(1).amin(1).mean(),
        }

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        """Show the same numbers in both images, the warped source, and what differs before and after."""
        warped = self.register(batch.source, batch.target)
        before, after = batch.source - batch.target, warped.image - batch.target
        return {
            "source": mark_images(batch.source, self.voxels(warped.source)),
            "target": mark_images(batch.target, self.voxels(warped.target)),
            "warped source": warped.image,
            "difference before": before.abs(),
            "difference after": after.abs(),
        }

    def voxels(self, points: Tensor) -> Tensor:
        """Turn the learned ones of points into voxels of the patch."""
        return to_voxels(points[..., : len(self.usefulness), :], self.patch)

    def product(self, record: Record) -> Product:
        """Place the landmarks that were kept, the most useful first, and show them."""
        device = self.usefulness.device
        image = centre_patch(record, self.patch).to(device)
        start = centre_start(record.space, patch_size(record, self.patch))
        inside = self.voxels(self.landmarks(image[None])[0])[self.order]
        places = F.pad(inside, (0, len(start) - inside.shape[1])).cpu() + torch.tensor(start)
        numbers = [int(number) + 1 for number in self.order]
        named = {str(number): at for number, at in zip(numbers, inside, strict=True)}
        return Product(
            points={f"landmark-{n:02d}": at for n, at in zip(numbers, places, strict=True)},
            pictures={"landmarks": mark_points(image, named, edge=480)},
        )
