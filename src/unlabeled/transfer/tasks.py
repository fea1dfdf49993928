"""Downstream tasks as methods: the one loop trains them with the same checkpoints, resume and logs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.labels import Labels, find_labels
from unlabeled.data.store import Record
from unlabeled.errors import DataError
from unlabeled.losses.segmentation import dice_cross_entropy, dice_of_classes
from unlabeled.methods._base import Monitor, Update
from unlabeled.nn.decoders import DenseUpsampling, build_decoder, fit
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.heads import ClassificationHead
from unlabeled.nn.weights import load_weights
from unlabeled.transfer.task import FinetuneOptions, Given, Patch, Task


class Masks(Task):
    """A task whose answer is the class of every voxel."""

    column = "mask"
    classes: Labels


class UntrainedMasks(Masks):
    """A task that only looks at the labelled scans (`Task.fit`): nothing is learnt by gradients."""

    def views(self, record: Record, rng: Generator) -> Patch:
        """Refuse: nothing is trained."""
        raise self._untrained()

    def step(self, batch: Patch) -> Iterator[Update]:
        """Refuse: nothing is trained."""
        raise self._untrained()

    def score(self, batch: Patch) -> dict[str, Tensor]:
        """Refuse: nothing is trained."""
        raise self._untrained()

    def preview(self, batch: Patch) -> dict[str, Tensor]:
        """Refuse: nothing is trained."""
        raise self._untrained()

    def _untrained(self) -> NotImplementedError:
        return NotImplementedError(f"{self.kind} learns nothing by gradients")


class Classes(Task):
    """A task whose answer is the class of a scan."""

    column = "label"
    classes: tuple[str, ...]

    @property
    def number(self) -> dict[str, int]:
        """Place of each class by name."""
        return {name: place for place, name in enumerate(self.classes)}


class Segment(Masks):
    """A decoder says the class of every voxel; Dice + cross entropy.

    Parameters
    ----------
    options, encoder, quiet
        As in `Task`.
    classes
        What the masks hold.
    """

    kind = "segment"
    beside: ClassVar[int] = 0  # outputs of another head, behind those of the classes
    mirrored = "all"
    monitor = Monitor("dice", "higher")

    def __init__(
        self,
        options: FinetuneOptions,
        encoder: Encoder,
        classes: Labels,
        *,
        quiet: Collection[str] = (),
    ) -> None:
        super().__init__(options, encoder, quiet=quiet)
        self.classes = classes
        outputs = len(classes.values) + self.beside
        self.decoder = build_decoder(encoder, out_channels=outputs, kind=options.decoder)

    @classmethod
    def build(cls, given: Given) -> Self:
        """Find the classes in the masks."""
        classes = find_labels(given.records, given.label_names, mode=given.options.labels)
        return cls(given.options, given.encoder, classes, quiet=given.quiet)

    @classmethod
    def restore(
        cls, described: Mapping[str, Any], options: FinetuneOptions, encoder: Encoder
    ) -> Self:
        """Build the task with the classes that it learnt."""
        options = replace(options, decoder=described.get("decoder", "skip"))
        return cls(options, encoder, Labels.from_metadata(described["labels"]))

    def load(self, given: Given, notes: list[str]) -> set[str]:
        """Load the decoder where the pretraining carried one, but for its last layer."""
        return load_decoder(self.decoder, given, notes)

    def forward(self, image: Tensor) -> Tensor:
        """Compute ``batch class *space`` from ``batch channel *space``."""
        logits: Tensor = fit(self.decoder(self.encode(image)), image.shape[2:])
        return logits

    def views(self, record: Record, rng: Generator) -> Patch:
        """Cut a labelled patch; `foreground` of them around a labelled voxel, every class alike."""
        image, mask = self.cut(record, rng, p_labelled=self.options.foreground, masked=True)
        if mask is None:
            raise RuntimeError(f"record {record.key} has no mask")
        return Patch(image, self.classes.encode(mask))

    def step(self, batch: Patch) -> Iterator[Update]:
        """Learn from the labels."""
        yield Update(
            dice_cross_entropy(self(batch.image), batch.truth, batch=True), clip=self.options.clip
        )

    def score(self, batch: Patch) -> dict[str, Tensor]:
        """Count Dice over the whole batch, mean over the classes that are there."""
        logits = self(batch.image)
        dice = dice_of_classes(logits.argmax(1), batch.truth)
        return {"dice": dice, "loss": dice_cross_entropy(logits, batch.truth, batch=True)}

    def preview(self, batch: Patch) -> dict[str, Tensor]:
        """Show image, truth and prediction."""
        most = max(1, len(self.classes.values) - 1)
        found = self(batch.image).argmax(1)
        return {
            "image": unit_range(batch.image),
            "truth": batch.truth[:, None].float() / most,
            "predicted": found[:, None].float() / most,
        }

    def describe(self) -> dict[str, Any]:
        """Give the classes."""
        labels = self.classes.as_metadata()
        return {"kind": self.kind, "labels": labels, "decoder": self.options.decoder}


class Classify(Classes):
    """A linear layer on the mean of the coarsest map says the class of a patch; a scan's is the mean of its patches.

    Parameters
    ----------
    options, encoder, quiet
        As in `Task`.
    classes
        Names of the classes, sorted.
    weights
        Of each class in the loss; without it, one each.
    """

    kind = "classify"
    weights: Tensor
    monitor = Monitor("loss", "lower")

    def __init__(
        self,
        options: FinetuneOptions,
        encoder: Encoder,
        classes: Sequence[str],
        *,
        weights: Tensor | None = None,
        quiet: Collection[str] = (),
    ) -> None:
        super().__init__(options, encoder, quiet=quiet)
        self.classes = tuple(classes)
        self.head = ClassificationHead(encoder, len(self.classes))
        weights = torch.ones(len(self.classes)) if weights is None else weights
        self.register_buffer("weights", weights, persistent=False)

    @classmethod
    def build(cls, given: Given) -> Self:
        """Find the classes among the labels, and how many training scans each has."""
        classes = classes_among(given)
        labels = [str(record.source.label) for record in given.train]
        balanced = given.options.class_weights == "balanced"
        weights = balance(labels, classes) if balanced else None
        return cls(given.options, given.encoder, classes, weights=weights, quiet=given.quiet)

    @classmethod
    def restore(
        cls, described: Mapping[str, Any], options: FinetuneOptions, encoder: Encoder
    ) -> Self:
        """Build the task with the classes that it learnt."""
        return cls(options, encoder, described["classes"])

    def forward(self, image: Tensor) -> Tensor:
        """Compute ``batch class`` from ``batch channel *space``."""
        logits: Tensor = self.head(self.encode(image))
        return logits

    def views(self, record: Record, rng: Generator) -> Patch:
        """Cut a patch anywhere; its class is the scan's."""
        image, _ = self.cut(record, rng)
        return Patch(image, torch.tensor(self.number[str(record.source.label)]))

    def step(self, batch: Patch) -> Iterator[Update]:
        """Learn from the labels."""
        yield Update(self._loss(self(batch.image).float(), batch.truth), clip=self.options.clip)

    def _loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Average the cross entropy over scans, each times the weight of its class."""
        return F.cross_entropy(logits, truth, self.weights, reduction="sum") / len(truth)

    def score(self, batch: Patch) -> dict[str, Tensor]:
        """Count right answers; chance is one over the number of classes."""
        logits = self(batch.image).float()
        return {
            "accuracy": (logits.argmax(1) == batch.truth).float().mean(),
            "accuracy chance": torch.tensor(1 / len(self.classes)),
            "loss": self._loss(logits, batch.truth),
        }

    def preview(self, batch: Patch) -> dict[str, Tensor]:
        """Show the patches."""
        return {"image": unit_range(batch.image)}

    def describe(self) -> dict[str, Any]:
        """Give the classes."""
        return {"kind": self.kind, "classes": list(self.classes)}


class Regress(Task):
    """A linear layer on the mean of the coarsest map estimates a number; a scan's is the mean of its patches.

    Parameters
    ----------
    options, encoder, quiet
        As in `Task`.
    centre, scale
        Mean and standard deviation of the training targets: the network sees standardised ones.
    """

    kind = "regress"
    column = "target"
    monitor = Monitor("absolute error", "lower", chance="absolute error chance")

    def __init__(
        self,
        options: FinetuneOptions,
        encoder: Encoder,
        centre: float,
        scale: float,
        *,
        quiet: Collection[str] = (),
    ) -> None:
        super().__init__(options, encoder, quiet=quiet)
        self.centre, self.scale = centre, scale
        self.head = ClassificationHead(encoder, 1)

    @classmethod
    def build(cls, given: Given) -> Self:
        """Measure centre and scale of the training targets."""
        targets = torch.tensor([float(r.source.target or 0.0) for r in given.train])
        scale = float(targets.std()) if len(targets) > 1 else 1.0
        centre = float(targets.mean())
        return cls(given.options, given.encoder, centre, scale or 1.0, quiet=given.quiet)

    @classmethod
    def restore(
        cls, described: Mapping[str, Any], options: FinetuneOptions, encoder: Encoder
    ) -> Self:
        """Build the task with the unit that it learnt."""
        return cls(options, encoder, described["centre"], described["scale"])

    def forward(self, image: Tensor) -> Tensor:
        """Estimate ``batch 1`` in the target's own unit from ``batch channel *space``."""
        return self._standard(image) * self.scale + self.centre

    def _standard(self, image: Tensor) -> Tensor:
        estimate: Tensor = self.head(self.encode(image))
        return estimate.float()

    def views(self, record: Record, rng: Generator) -> Patch:
        """Cut a patch anywhere; its target is the scan's."""
        image, _ = self.cut(record, rng)
        target = float(record.source.target if record.source.target is not None else "nan")
        return Patch(image, torch.tensor((target - self.centre) / self.scale))

    def step(self, batch: Patch) -> Iterator[Update]:
        """Learn from the targets: smooth absolute error of the standardised target."""
        loss = F.smooth_l1_loss(self._standard(batch.image)[:, 0], batch.truth)
        yield Update(loss, clip=self.options.clip)

    def score(self, batch: Patch) -> dict[str, Tensor]:
        """Measure the mean absolute error in the target's unit; chance says the training mean."""
        error = (self._standard(batch.image)[:, 0] - batch.truth).abs().mean()
        chance = batch.truth.abs().mean()
        return {"absolute error": error * self.scale, "absolute error chance": chance * self.scale}

    def preview(self, batch: Patch) -> dict[str, Tensor]:
        """Show the patches."""
        return {"image": unit_range(batch.image)}

    def describe(self) -> dict[str, Any]:
        """Give the unit's scale."""
        return {"kind": self.kind, "centre": self.centre, "scale": self.scale}


def balance(labels: Sequence[str], classes: Sequence[str]) -> Tensor:
    """Weigh classes so that those among the labels count alike and a scan weighs one on average; others weigh one.

    >>> balance(["ap", "ap", "ap", "pa"], ("ap", "lateral", "pa"))
    tensor([0.6667, 1.0000, 2.0000])
    """
    counts = torch.tensor([labels.count(name) for name in classes])
    return torch.where(
        counts > 0, len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1)), 1.0
    )


def load_decoder(decoder: nn.Module, given: Given, notes: list[str]) -> set[str]:
    """Load the decoder that a pretraining carried, but for its last layer; give the names of what was loaded."""
    held = {
        name: tensor
        for name, tensor in given.tensors.items()
        if name.startswith("decoder.") and not name.startswith("decoder.head.")
    }
    if not held or given.options.carry != "all":
        return set()
    if isinstance(decoder, DenseUpsampling):
        notes.append("decoder: fresh, as --decoder duc takes none of a pretraining")
        return set()
    source = f"the decoder of {given.metadata.get('slug', 'a pretraining')}"
    report = load_weights(decoder, held, source=source, least=0.0)
    notes.append(f"decoder: {report}")
    return {f"decoder.{name}" for name in (*report.matched, *(a.name for a in report.adapted))}


def classes_among(given: Given) -> tuple[str, ...]:
    """Find the classes among the labels of all scans.

    Raises
    ------
    DataError
        There is only one.
    """
    classes = tuple(sorted({str(record.source.label) for record in given.records}))
    if len(classes) < 2:
        raise DataError(
            f"all labelled scans below {given.root} have the one label {classes[0]!r}",
            "Classifying takes at least two classes: check the column `label`.",
        )
    return classes


def unit_range(image: Tensor) -> Tensor:
    """Stretch each sample to [0, 1] for a preview."""
    flat = image.float().flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    shape = (-1, *[1] * (image.ndim - 1))
    return (image.float() - low.view(shape)) / (high - low).clamp(min=1e-6).view(shape)
