"""What every downstream task shares: options, patches, the frozen start, two learning rates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeAlias

import torch
from torch import Generator, Tensor, nn

from unlabeled.data.sampling import draw_labelled_start
from unlabeled.data.scan import Unit
from unlabeled.data.slices import flat_axis, flat_edges
from unlabeled.data.store import Record
from unlabeled.methods._base import (
    Feed,
    Method,
    Needs,
    Phase,
    SharedOptions,
    Update,
    parameters,
)
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.schedules import Schedule, constant, cosine, polynomial
from unlabeled.options import Between, Count, NonNegative, Positive, Probability, Whole
from unlabeled.transfer.augment import Augmentation, Move, cut, recolour

TaskName: TypeAlias = Literal[
    "segment",
    "instances",
    "classify",
    "regress",
    "localise",
    "few-shot",
    "label-transfer",
    "zero-shot",
    "multi-task",
]


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(SharedOptions):
    """Options of every downstream task; the same for a pretrained and for a fresh network.

    Defaults are ours (tuned on neither), but for the schedule and the share of foreground patches, which are nnU-Net's.

    Parameters
    ----------
    epochs
        With `steps`: how many rounds the training is cut into, each ending with a look at the validation subjects.
        Without: passes over the labelled scans.
    steps
        Length of the training [optimiser steps], however few scans are labelled.
    batch_size
        Patches a step, over all devices.
    lr
        Learning rate at the start (for sgd, try 0.01).
    encoder
        Network; without it, that of --init (from scratch: unet).
    patch_size
        Edge lengths of a patch [voxel]; without it, that of --init (from scratch: what fits the scans).
    label_fraction
        Part of the labelled training subjects to use: a share up to 1, or a number of subjects above 1.
    optimiser
        Kind of optimiser.
    weight_decay
        Pull towards zero: AdamW's decoupled one, or the penalty of SGD (Nesterov, momentum 0.99).
    schedule
        How the learning rate falls.
    decoder
        What makes masks of the features (segment): the encoder's usual decoder, which merges all maps, or one dense
        upsampling convolution of the coarsest map, which leaves fewest weights fresh.
    carry
        What to take of a pretraining: the encoder alone, or its decoder as well where it has carried one.
    warmup
        Share of the training in which the pretrained part stands still and the new part alone learns.
    freeze
        Whether a pretrained encoder stands still from beginning to end, its running statistics included, and the rest
        alone learns; from scratch everything learns.
    encoder_lr_factor
        Learning rate of the pretrained part relative to the rest's.
    foreground
        Share of patches that are asked to hold a labelled voxel, every class of the scan alike.
    augment
        Whether patches are flipped, turned, zoomed and recoloured a little.
    flips
        Axes of space that augmentation may reverse: all, the left-right one, or none; without it, all for segment
        and left-right for classify and regress.
    labels
        What a mask means: each value a class, or any value but 0 the one class.
    clip
        Largest norm of the gradient.
    keep
        Whose weights the task ends with: the best ones on the validation subjects, or the last ones.
    tolerance
        Distance between surfaces that counts as met, for NSD [mm].
    mode
        Instances alone: what a pretrained denoiser is for: the start (finetune), the maker of the images that a fresh
        network sees (sequential), both (finetune-sequential), or neither (baseline).  Without it: finetune, from
        scratch baseline.
    class_weights
        Classify alone: whether every scan weighs alike in the loss, or every class does, however many labelled training
        scans it has (balanced: the number of scans, divided by that of classes and by that of its class).
    border_weight
        Instances alone: weight of the border in the cross entropy (VoidSeg).
    prompts
        Zero-shot alone: TOML or JSON file with a list of sentences under the name of each class; without it, built-in
        ones of chest findings.
    every
        Label-transfer alone: distance between voxels that are described, along each axis [voxel] (Blendowski et al.).
    neighbours
        Label-transfer alone: how many of the nearest labelled voxels vote (the leaves of Blendowski et al.).
    studies
        Multi-task alone: scans whose positions are learnt beside the labels; without it, all of the labelled folder but
        those of validation and test subjects.
    position_weight
        Multi-task alone: weight of the positions' loss beside the labels' (ours: 1).
    split_seed
        Draws training, validation and test subjects where the data set does not say; apart from `seed`, so that
        runs with several seeds are tested on the same subjects.
    """

    epochs: Count = 20
    steps: Count | None = 1000
    batch_size: Count = 4
    lr: Positive = 1e-3
    encoder: str = ""
    patch_size: tuple[Count, ...] = ()
    label_fraction: Annotated[float, Between(1e-9)] = 1.0
    optimiser: Literal["adamw", "sgd"] = "adamw"
    weight_decay: NonNegative = 1e-2
    schedule: Literal["polynomial", "cosine", "constant"] = "polynomial"
    decoder: Literal["skip", "duc"] = "skip"
    carry: Literal["encoder", "all"] = "all"
    warmup: Probability = 0.0
    freeze: Literal["none", "encoder"] = "none"
    encoder_lr_factor: Positive = 1.0
    foreground: Probability = 1 / 3
    augment: bool = True
    flips: Literal["all", "left-right", "none"] | None = None
    labels: Literal["each", "any"] = "each"
    clip: Positive = 12.0
    keep: Literal["best", "last"] = "best"
    tolerance: NonNegative = 1.0
    class_weights: Literal["none", "balanced"] = "none"
    mode: Literal["baseline", "finetune", "sequential", "finetune-sequential"] | None = None
    border_weight: Positive = 5.0
    prompts: str = ""
    every: Count = 4
    neighbours: Count = 15
    studies: str = ""
    position_weight: NonNegative = 1.0
    split_seed: Whole = 0


class Patch(NamedTuple):
    """A labelled patch."""

    image: Tensor  # *batch channel *space
    truth: Tensor  # *batch *space (classes), *batch (class), or *batch (standardised target)


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a task is built from.

    Parameters
    ----------
    options
        Resolved: with encoder and patch size.
    encoder
        With fresh weights.
    records
        All labelled scans: their classes count, whatever part they are in.
    train
        Those that are learnt from.
    quiet
        Keys of records that are never augmented: those of validation subjects.
    label_names
        Names of the masks' values, where the data set says.
    root
        What the person typed, for messages.
    tensors, metadata
        Weights to start from, by flat name (``encoder.*``, ``decoder.*``, ...), and what they say of themselves; empty
        from scratch.
    studies
        Scans without labels that a task learns from beside the labelled ones.
    """

    options: FinetuneOptions
    encoder: Encoder
    records: Sequence[Record]
    train: Sequence[Record]
    quiet: Collection[str] = ()
    label_names: Mapping[int, str] = field(default_factory=dict)
    root: Path = Path()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    studies: Sequence[Record] = ()


class Task(Method):
    """What all tasks share: two phases, two learning rates, patches.

    Parameters
    ----------
    options
        Resolved: with encoder and patch size.
    encoder
        Built, perhaps with pretrained weights.
    quiet
        Keys of records that are never augmented: those of validation subjects.

    Attributes
    ----------
    loaded
        Names of the parameters that came from a pretraining; set by whoever loads them.
    starts_pretrained
        Whether the given weights are what training starts from; a task may use them otherwise instead.
    """

    kind: ClassVar[str]
    column: ClassVar[Literal["mask", "label", "target"]]  # of a manifest: what is learnt from
    studies: ClassVar[bool] = False  # whether it learns from scans without labels as well
    gradients: ClassVar[bool] = True  # without, `fit` takes what it needs from the labelled scans
    mirrored: ClassVar[str] = (
        "left-right"  # axes that augmentation reverses, unless the person says
    )
    needs = Needs(unit=Unit.VOLUME, dims=(2, 3))
    options_class = FinetuneOptions

    options: FinetuneOptions

    def __init__(
        self, options: FinetuneOptions, encoder: Encoder, *, quiet: Collection[str] = ()
    ) -> None:
        super().__init__(options, encoder)
        self.keeps = options.keep
        self.quiet = frozenset(quiet)
        self.loaded: frozenset[str] = frozenset()
        self.frozen = False
        self.starts_pretrained = True

    @classmethod
    @abstractmethod
    def build(cls, given: Given) -> Self:
        """Build the task for labelled scans, with fresh weights."""

    @classmethod
    @abstractmethod
    def restore(
        cls, described: Mapping[str, Any], options: FinetuneOptions, encoder: Encoder
    ) -> Self:
        """Build the task again from what `describe` gave, with fresh weights; they are all in its child modules."""

    def load(self, given: Given, notes: list[str]) -> set[str]:
        """Take over what was carried beside the encoder; give the names of the parameters that came from there."""
        return set()

    def fit(self, records: Sequence[Record]) -> None:
        """Take from the labelled scans what a task without gradients needs."""
        raise NotImplementedError(f"{type(self).__name__} learns by gradients")

    def calibrate(self, records: Sequence[Record]) -> None:
        """Choose on the validation scans, when training has ended, what gradients cannot; by default nothing."""

    def own_logits(self, record: Record) -> Tensor | None:
        """Compute a whole scan's logits in a way of the task's own; None leaves it to windows of a patch's size."""
        return None

    def unfit(self, record: Record) -> str:
        """Say why it cannot take a scan; empty when it can."""
        if record.dims < self.encoder.dims:
            return f"is a {record.dims}D picture, and the network takes volumes"
        if record.channels != self.encoder.in_channels:
            return f"has {record.channels} channel(s), and the network takes {self.encoder.in_channels}"
        return ""

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Compute logits of ``batch channel *space``."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Give what the outputs mean, as plain values for JSON."""

    def carries(self) -> dict[str, nn.Module]:
        """Name what the next task may start from."""
        return {"encoder": self.encoder}

    def fresh(self) -> list[nn.Module]:
        """List the layers that no pretraining has seen."""
        return [
            layer
            for name, layer in self.named_modules()
            if not any(True for _ in layer.children())
            and any(True for _ in layer.parameters())
            and not any(f"{name}.{each}" in self.loaded for each, _ in layer.named_parameters())
        ]

    def phases(self) -> tuple[Phase, ...]:
        """Train the fresh part alone for the warm-up's share, then everything; or all but a frozen encoder."""
        feed = {"scans": Feed(self.views, self.options.batch_size, self.needs.unit)}
        if self.options.freeze == "encoder" and self.loaded:
            rest = [part for name, part in self.named_children() if name != "encoder"]
            return (Phase("finetune", self._step_frozen, {"main": rest}, feed),)
        whole = Phase("finetune", self.step, {"main": [self]}, feed, 1 - self.options.warmup)
        if self.options.warmup == 0 or not self.loaded:
            return (replace(whole, share=1.0),)
        warm = Phase("warmup", self._step_frozen, {"main": self.fresh()}, feed, self.options.warmup)
        return (warm,) if self.options.warmup == 1 else (warm, whole)

    def _step_frozen(self, batch: Patch) -> Iterator[Update]:
        self.frozen = True
        self.encoder.eval()  # running statistics stand still, too
        try:
            yield from self.step(batch)
        finally:
            self.frozen = False

    def encode(self, image: Tensor) -> list[Tensor]:
        """Compute the encoder's maps, without gradients while it is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps: list[Tensor] = self.encoder(image)
        return maps

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make one group for the pretrained part and one for the rest."""
        options = self.options
        carried = {id(p) for name, p in self.named_parameters() if name in self.loaded}
        every = parameters(modules)
        groups: list[dict[str, Any]] = [
            {
                "params": [p for p in every if id(p) in carried],
                "lr": options.lr * options.encoder_lr_factor,
            },
            {"params": [p for p in every if id(p) not in carried], "lr": options.lr},
        ]
        groups = [group for group in groups if group["params"]]
        schedules = {"polynomial": polynomial(), "cosine": cosine(), "constant": constant}
        made: torch.optim.Optimizer
        if options.optimiser == "sgd":
            made = torch.optim.SGD(
                groups, momentum=0.99, nesterov=True, weight_decay=options.weight_decay
            )
        else:
            made = torch.optim.AdamW(groups, weight_decay=options.weight_decay)
        return made, schedules[options.schedule]

    def cut(
        self,
        record: Record,
        rng: Generator,
        *,
        p_labelled: float = 0.0,
        masked: bool = False,
        start: Sequence[int] = (),
    ) -> tuple[Tensor, Tensor | None]:
        """Cut one patch, and its labels where `masked`; a slice of a volume where the network is flat.

        Without a `start`, which is of an axial slice, the place is drawn, around a label with the given probability.
        """
        size = tuple(self.options.patch_size)
        flat = record.dims > len(size)
        across = (record.dims - 1 if start else flat_axis(record)) if flat else record.dims
        whole = flat_edges(record, size, across)
        within = [axis for axis in range(record.dims) if axis != across]
        start = start or draw_labelled_start(record, whole, rng, p_labelled)
        move = Move()
        if self.options.augment and record.key not in self.quiet:
            spacing = record.spacing or (1.0,) * record.dims
            axes = _axes(self.options.flips or self.mirrored, record.dims)
            seen = None if axes is None else tuple(within.index(a) for a in axes if a in within)
            move = Augmentation(flip_axes=seen).draw([spacing[axis] for axis in within], rng)
            if flat:
                move = move.in_volume(within)
        image, mask = cut(record, start, whole, move, masked=masked)
        image = recolour(image, move, rng).reshape(-1, *size)
        mask = None if mask is None else mask.reshape(size)
        return image.contiguous(), None if mask is None else mask.contiguous()


def _axes(flips: str, dims: int) -> tuple[int, ...] | None:
    """Axes that may be reversed; left-right is the first axis of RAS, the last of (rows, columns)."""
    if flips == "none":
        return ()
    return None if flips == "all" else ((0,) if dims == 3 else (1,))
