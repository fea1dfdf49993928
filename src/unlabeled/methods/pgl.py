"""Prior-Guided Local learning: two overlapping patches agree voxel by voxel on what both show (Xie et al., 2020).

Two boxes U and V of a volume overlap; each is scaled to a patch, mirrored and changed in intensity.  How they were cut is
the prior: it says which part of either feature map shows the shared region.  A student (encoder f, projector g,
predictor h) predicts what its teacher (f', g': moving averages) says of the other patch.  With A, which mirrors a map
back, cuts the shared region out of it and scales that to one size:

    q_U  = A(h(g(f(u)))),   z_V = A(g'(f'(v)))
    L_UV = mean over voxels of |q_U / |q_U| - z_V / |z_V||^2  =  mean (2 - 2 cos(q_U, z_V))
    L    = L_UV + L_VU
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Unit
from unlabeled.data.store import Record
from unlabeled.errors import OptionError, ScanError
from unlabeled.losses.consistency import spread, voxelwise_consistency
from unlabeled.methods._base import (
    Feed,
    Method,
    Monitor,
    Needs,
    Phase,
    SharedOptions,
    Update,
    parameters,
    patch_for,
)
from unlabeled.nn.alignment import (
    align,
    cells_shared,
    corresponding_cells,
    count_found,
    shared_places,
)
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.heads import DenseHead, DenseProjector
from unlabeled.nn.momentum import Teacher, rising
from unlabeled.nn.optimisers import LARS
from unlabeled.nn.schedules import Schedule, warm_cosine
from unlabeled.options import Count, NonNegative, Positive, Probability, flag
from unlabeled.transforms.brightness import Gain
from unlabeled.transforms.degrading import GaussianBlur, GaussianNoise
from unlabeled.transforms.intensity import RandomGamma
from unlabeled.transforms.overlapping import Box, OverlappingBoxes, make_view
from unlabeled.transforms.overlay import in_range

MOST_STRETCH = 2  # of a scan that is shorter than a patch (ours)
MOST_ADAPTIVE = 0.1  # rate above which AdamW learns nothing (ours)


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults of a third-party implementation that quotes the paper (no official code exists) unless another source is named.

    Parameters
    ----------
    patch_size
        Edges of a patch [voxel].
    epochs
        Passes over the scans.
    batch_size
        Pairs of patches a step.
    lr
        Learning rate; 0.2 goes with LARS, 0.01 with SGD, 0.001 with AdamW (ours).
    encoder
        The paper's residual U-Net is not known in detail; the cells of unet are blocks of voxels, which mirroring
        moves onto each other (ours).
    optimiser
        LARS, SGD with momentum 0.9, or AdamW (ours).
    weight_decay
        Pull towards zero (that of BYOL; unconfirmed).
    warmup
        Epochs over which the rate rises, at most half of all.
    stride
        Edge of a cell whose feature is compared [voxel]; maps that are coarser are interpolated (ours: 16 slices leave
        two cells).
    scale
        Edges of a box over those of the patch, along the first two axes.
    least_overlap
        Intersection over union of the two boxes, at least.
    alignment
        Compare the shared region; without, features at the same cell of either patch, which is BYOL on dense maps
        without prior, as an ablation.
    hidden, features
        Width of projector and predictor, and length of an embedding.
    momentum
        Share of the teacher's weights that a step keeps (that of BYOL; unconfirmed. The third-party code has 0.999).
    momentum_schedule
        Whether it rises to 1 on half a cosine (that of BYOL; unconfirmed) or is constant (third-party code).
    ct_window
        Window of CT scans [HU].
    p_flip
        Probability of mirroring each axis.
    p_noise
        Probability of noise of a variance of up to 0.1 [squared deviation of the scan].
    p_blur
        Probability of blur by 0.5 to 1 voxel.
    p_gain
        Probability of multiplying intensities by 0.75 to 1.25, within their range.
    p_gamma
        Probability of raising intensities to a power of 0.7 to 1.5, within their range.
    """

    patch_size: tuple[Count, ...] = (96, 96, 16)
    epochs: Count = 500
    batch_size: Count = 128
    lr: Positive = 0.2
    encoder: str = "unet"
    optimiser: Literal["lars", "sgd", "adamw"] = "lars"
    weight_decay: NonNegative = 1.5e-6
    warmup: NonNegative = 2.0
    stride: Count = 8
    scale: tuple[Positive, Positive] = (1.1, 1.4)
    least_overlap: Probability = 0.1
    alignment: bool = True
    hidden: Count = 4096
    features: Count = 256
    momentum: Probability = 0.99
    momentum_schedule: Literal["rising", "constant"] = "rising"
    ct_window: tuple[float, float] = (-1024.0, 325.0)
    p_flip: Probability = 0.5
    p_noise: Probability = 0.1
    p_blur: Probability = 0.2
    p_gain: Probability = 0.5
    p_gamma: Probability = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scale", "ct_window"):
            low, high = getattr(self, name)
            if low > high:
                typed = flag(name)
                fact = f"{typed} is {low:g} {high:g}, which falls"
                raise OptionError(fact, f"Give {typed} {high:g} {low:g}.")
        reach = (self.scale[0] / self.scale[1]) ** 2
        if self.least_overlap > reach:
            raise OptionError(
                f"--least-overlap is {self.least_overlap}, and boxes of {self.scale[0]:g} to {self.scale[1]:g} patches "
                f"may overlap by no more than {reach:.2f}",
                f"Give --least-overlap {int(100 * reach) / 100:g} or less.",
            )
        if self.optimiser == "adamw" and self.lr > MOST_ADAPTIVE:
            raise OptionError(
                f"--lr is {self.lr}, with which AdamW learns nothing", "Give --lr 0.001 with it."
            )


class Sample(NamedTuple):
    """Two views of a volume, and how they were cut: what the prior is made of."""

    first: Tensor  # *batch channel *space; mean 0 and deviation 1 over a scan's foreground
    second: Tensor  # the same
    boxes: Tensor  # *batch view axis 2: first voxel and the one behind the last [voxel of the scan]
    flips: Tensor  # *batch view axis: whether it was mirrored


class PriorGuidedLocal(Method):
    """A student predicts, at every voxel that two patches share, what its teacher says of the other one."""

    needs: ClassVar[Needs] = Needs(unit=Unit.VOLUME, dims=(3,))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("found", "higher", chance="chance")

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.patch = patch_for(encoder, options.patch_size)
        sizes = {"hidden": options.hidden, "features": options.features}
        self.projector = DenseProjector(encoder, self.patch, options.stride, **sizes)
        self.predictor = DenseHead(encoder.dims, options.features, options.hidden, options.features)
        self.teacher = Teacher(encoder, self.projector)
        self.steps: Tensor  # done, and planned
        self.register_buffer("steps", torch.tensor([0, 1]))
        self.boxes = OverlappingBoxes(self.patch, options.scale, options.least_overlap)
        self.changes = (
            GaussianNoise(0.1, options.p_noise),
            GaussianBlur(0.5, 1.0, options.p_blur),
            Gain(0.25, options.p_gain),
            RandomGamma(0.7, 1.5, options.p_gamma),
        )

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Clip CT to a window, subtract the mean and divide by the deviation."""
        return IntensityRule(kind="zscore", ct=cast(Options, options).ct_window)

    @classmethod
    def require(cls, record: Record, options: Options) -> None:
        """Refuse scans so short that views of them would be stretched beyond likeness."""
        pairs = list(zip(record.space, options.patch_size, strict=False))
        short = [axis for axis, (extent, edge) in enumerate(pairs) if extent * MOST_STRETCH < edge]
        if short:
            cell = options.stride
            fitting = [min(edge, max(cell, e // cell * cell)) for e, edge in pairs]
            fits = all(e * MOST_STRETCH >= f for (e, _), f in zip(pairs, fitting, strict=True))
            extent, edge = pairs[short[0]]
            raise ScanError(
                f"has {extent} voxels along axis {short[0] + 1}, less than half of a patch's {edge}",
                f"Give --patch-size {' '.join(map(str, fitting))}." if fits else "Leave it out.",
            )

    def phases(self) -> tuple[Phase, ...]:
        """Train the student in one stage; the teacher starts as its copy, whatever it started from."""
        feed = Feed(self.views, self.options.batch_size, self.needs.unit)
        return (Phase("pretrain", self.step, {"main": [self]}, {"scans": feed}, before=self.begin),)

    def begin(self, records: Sequence[Record]) -> None:
        """Copy the student, and plan the steps that the momentum rises over."""
        self.teacher.follow(self.encoder, self.projector, momentum=0)
        made = self.options
        an_epoch = max(1, len(records) * made.samples_per_scan // made.batch_size)
        planned = min(made.epochs * an_epoch, made.steps or made.epochs * an_epoch)
        self.steps.copy_(torch.tensor([0, planned]))

    def views(self, record: Record, rng: Generator) -> Sample:
        """Cut two overlapping boxes, scale and mirror them, then change their intensities."""
        boxes = self.boxes.draw(record.space, rng)
        flips = torch.rand(len(boxes), len(self.patch), generator=rng) < self.options.p_flip
        first, second = (
            self.change(self.cut(record, *each), rng) for each in zip(boxes, flips, strict=True)
        )
        where = torch.tensor([list(zip(*box, strict=True)) for box in boxes], dtype=torch.float32)
        return Sample(first, second, where, flips)

    def cut(self, record: Record, box: Box, flips: Tensor) -> Tensor:
        """Make a view ``channel *space`` of a box: what its geometry says, and no change of intensity."""
        return make_view(record.patch(box.start, box.edges), self.patch, flips.tolist())

    def change(self, view: Tensor, rng: Generator) -> Tensor:
        """Add noise, blur, multiply, raise to a power: each by chance."""
        for each in self.changes:
            view = each(view, rng)
        return view

    def student(self, views: Tensor) -> Tensor:
        """Predict the teacher's embeddings, ``batch features *cells``."""
        predicted: Tensor = self.predictor(self.projector(self.encoder(views)))
        return predicted

    def overlap(self, batch: Sample) -> tuple[Tensor, Tensor, Tensor]:
        """Say where the shared region lies in the views, how to mirror them back, and which pairs count.

        A pair counts where the region covers at least a cell of either map along every axis.
        """
        if self.options.alignment:
            places = shared_places(batch.boxes)
            enough = cells_shared(places, self.projector.cells).flatten(1).amin(1) >= 1
            return places, batch.flips, enough.float()
        whole = torch.tensor([0.0, 1.0], device=batch.boxes.device).expand_as(batch.boxes)
        return whole, torch.zeros_like(batch.flips), whole.new_ones(len(whole))

    def compare(self, batch: Sample) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss, the mean over pairs that count, and what to tell of it."""
        places, flips, counts = self.overlap(batch)
        cut = [(places[:, view], flips[:, view]) for view in range(2)]
        first = align(self.student(batch.first), *cut[0])
        second = align(self.student(batch.second), *cut[1])
        apart = voxelwise_consistency(first, align(self.teacher(batch.second), *cut[1]))
        apart = apart + voxelwise_consistency(second, align(self.teacher(batch.first), *cut[0]))
        loss = (apart * counts).sum() / counts.sum().clamp(min=1)
        told = {
            "cosine": 1 - (apart.detach() / 4).mean(),
            "spread": spread(first.detach()),
            "overlap": (places[..., 1] - places[..., 0]).prod(-1).mean(),
            "skipped": 1 - counts.mean(),
        }
        return loss, told

    def step(self, batch: Sample) -> Iterator[Update]:
        """Predict in both directions; then the teacher follows."""
        loss, told = self.compare(batch)
        yield Update(loss, shows=told)
        done, planned = self.steps.tolist()
        first = self.options.momentum
        risen = self.options.momentum_schedule == "rising"
        momentum = rising(first, done / planned) if risen else first
        self.teacher.follow(self.encoder, self.projector, momentum=momentum)
        self.steps[0] += 1

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make LARS, SGD or AdamW; the rate rises over some epochs, then falls on half a cosine."""
        moved, lr, pull = parameters(modules), self.options.lr, self.options.weight_decay
        made: torch.optim.Optimizer
        if self.options.optimiser == "lars":
            made = LARS(moved, lr=lr, weight_decay=pull)
        elif self.options.optimiser == "sgd":
            made = torch.optim.SGD(moved, lr=lr, momentum=0.9, weight_decay=pull)
        else:
            made = torch.optim.AdamW(moved, lr=lr, weight_decay=pull)
        return made, warm_cosine(self.options.warmup)

    def score(self, batch: Sample) -> dict[str, Tensor]:
        """Look for the cells of the first views in the second ones.

        ``found`` is the share whose most similar cell lies within one cell of the right place, and ``chance`` that of
        guessing; ``cosine`` is the similarity at right places and ``shifted`` that with the shared region of the target
        one cell further; ``spread`` is 0 where all voxels of a view have the same feature.
        """
        predicted, target = self.student(batch.first), self.teacher(batch.second)
        cells = self.projector.cells
        at, inside = corresponding_cells(batch.boxes, batch.flips, cells)
        each = zip(predicted, target, at, inside, strict=True)
        found = torch.stack([count_found(*one) for one in each]).sum(0) / inside.sum().clamp(min=1)
        places = shared_places(batch.boxes)
        here = align(predicted, places[:, 0], batch.flips[:, 0])
        further = torch.tensor([[1 / n if n > 1 else 0.0] for n in cells], device=here.device)
        alike = [
            1 - voxelwise_consistency(here, align(target, place, batch.flips[:, 1])).mean() / 2
            for place in (places[:, 1], places[:, 1] + further)
        ]
        return {
            "found": found[0],
            "chance": found[1],
            "cosine": alike[0],
            "shifted": alike[1],
            "spread": spread(predicted),
            "loss": self.compare(batch)[0],
        }

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        """Show both views, the region that they share cut out of each, and how alike its features are (bright: alike)."""
        views, places = (batch.first, batch.second), shared_places(batch.boxes)
        cut = [(places[:, view], batch.flips[:, view]) for view in range(2)]
        shared = [align(view, *each) for view, each in zip(views, cut, strict=True)]
        here = align(self.student(batch.first), *cut[0])
        there = align(self.teacher(batch.second), *cut[1])
        alike = F.cosine_similarity(here, there, dim=1)[:, None].clamp(min=0)
        captions = ("view", "other view", "shared, of view", "shared, of other")
        images = [in_range(each) for each in (*views, *shared)]
        shown = dict(zip(captions, images, strict=True))
        return {**shown, "features alike": F.interpolate(alike, self.patch)}
