"""Labelled scans for a task: which can be used, whose they are, and who is trained, validated and tested on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from unlabeled.data.scan import Index, Quarantined, Source
from unlabeled.data.slices import flat_axis
from unlabeled.data.splits import split_subjects, take_fraction
from unlabeled.data.store import Record
from unlabeled.errors import DataError, OptionError
from unlabeled.nn.encoders import Encoder
from unlabeled.transfer.registry import TASKS
from unlabeled.transfer.task import FinetuneOptions, TaskName

#: Shares of subjects where the data set does not say.
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


class Labelled(Protocol):
    """What dividing reads of a scan, prepared or not."""

    @property
    def source(self) -> Source:
        """Its row of the index."""

    @property
    def subject(self) -> str:
        """Whose it is."""


Scan = TypeVar("Scan", bound=Labelled)


@dataclass(frozen=True)
class Cohort:
    """Prepared scans by what they are for; no subject and no family is in two parts.

    Parameters
    ----------
    train, val, test
        Scans. `train` holds those of the label fraction alone.
    train_subjects
        How many training subjects there were before the label fraction.
    """

    train: tuple[Record, ...]
    val: tuple[Record, ...]
    test: tuple[Record, ...]
    train_subjects: int

    def counts(self) -> dict[str, int]:
        """Count the subjects of each part."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: len({record.subject for record in part}) for name, part in parts.items()}


def usable_sources(task: TaskName, index: Index) -> tuple[tuple[Source, ...], list[Quarantined]]:
    """Choose the scans that have what a task learns from.

    Raises
    ------
    DataError
        None has; the message says what there is instead.
    """
    column = TASKS[task].column
    usable, left_out = [], []
    for source in index.sources:
        if getattr(source, column) is not None:
            usable.append(source)
        else:
            left_out.append(Quarantined(source.name, f"has no {column}", f"{task} learns from it."))
    if not usable:
        there = [
            f"{name} {other.column}"
            for name, other in TASKS.items()
            if any(getattr(source, other.column) is not None for source in index.sources)
        ]
        hint = f"There are labels for: {', '.join(there)}." if there else ""
        raise DataError(
            f"none of {len(index.sources)} scans below {index.root} has a {column}, which {task} learns from",
            hint
            or f"Give a manifest with a column `{column}`, or a folder with images/ and labels/.",
        )
    return tuple(usable), left_out


def draw_cohort(records: Sequence[Record], options: FinetuneOptions) -> Cohort:
    """Divide labelled scans by subject: as the manifest's column `split` says, else drawn; then the label fraction.

    A manifest that names training and test scans but no validation scans gives an eighth of the training subjects to
    validation.

    Raises
    ------
    DataError
        Nobody is left to train on, a subject or a family is in two parts, or fewer subjects are there than asked for.
    OptionError
        The label fraction is neither a share nor a number.
    """
    parts = divide(records, options.split_seed)
    train = parts["train"]
    if not train:
        raise DataError(
            f"none of {len(records)} labelled scans is for training",
            "Write train, val or test into the manifest's column `split`, or leave the column out.",
        )
    chosen = set(draw_fraction({record.subject for record in train}, options))
    return Cohort(
        train=tuple(record for record in train if record.subject in chosen),
        val=tuple(parts["val"]),
        test=tuple(parts["test"]),
        train_subjects=len({record.subject for record in train}),
    )


def divide(scans: Sequence[Scan], split_seed: int = 0) -> dict[str, list[Scan]]:
    """Divide scans by subject into ``train``, ``val`` and ``test``: as their column `split` says, else drawn.

    A family counts as one subject: relatives are never on two sides.

    Raises
    ------
    DataError
        A subject or a family is in two parts, or a split has another name.
    """
    told = {scan.source.split for scan in scans} - {None}
    return _told(scans) if told else _drawn(scans, split_seed)


def _told(records: Sequence[Scan]) -> dict[str, list[Scan]]:
    parts: dict[str, list[Scan]] = {name: [] for name in SHARES}
    where: dict[str, str] = {}
    for record in records:
        name = record.source.split or "train"
        if name not in parts:
            raise DataError(
                f"{record.source.name} has the split {name!r}",
                "The column `split` knows train, val and test.",
            )
        kin = record.source.kin
        if where.setdefault(kin, name) != name:
            who = "family" if record.source.family else "subject"
            raise DataError(
                f"the {who} of {record.source.name} is in {where[kin]} and in {name}",
                f"Put all scans of a {who} into one part, or leave the column `split` out.",
            )
        parts[name].append(record)
    families = sorted({record.source.kin for record in parts["train"]})
    if not parts["val"] and len(families) > 2:
        drawn = split_subjects(families, {"train": 7 / 8, "val": 1 / 8}, 0)
        parts["val"] = [r for r in parts["train"] if r.source.kin in set(drawn["val"])]
        parts["train"] = [r for r in parts["train"] if r.source.kin in set(drawn["train"])]
    return parts


def _drawn(records: Sequence[Scan], seed: int) -> dict[str, list[Scan]]:
    families = sorted({record.source.kin for record in records})
    if len(families) < len(SHARES):  # nobody to set aside
        return {"train": list(records), "val": [], "test": []}
    drawn = split_subjects(families, SHARES, seed)
    held = {name: set(families) for name, families in drawn.items()}
    return {name: [r for r in records if r.source.kin in held[name]] for name in SHARES}


def draw_fraction(subjects: Iterable[str], options: FinetuneOptions) -> tuple[str, ...]:
    """Draw the label fraction of the training subjects: a share up to 1, a number of subjects above.

    Raises
    ------
    DataError
        There are fewer subjects than asked for.
    OptionError
        The label fraction is neither a share nor a number.
    """
    asked = options.label_fraction
    if asked <= 1:
        return take_fraction(subjects, float(asked), options.seed)
    if asked != int(asked):
        raise OptionError(
            f"--label-fraction is {asked:g}, neither a share nor a number of subjects",
            "Give a share up to 1, or a whole number of subjects above 1.",
        )
    return take_fraction(subjects, int(asked), options.seed)


def plan_length(options: FinetuneOptions, scans: int) -> FinetuneOptions:
    """Cut the asked number of steps into rounds, however few scans there are.

    `epochs` and `samples_per_scan` are chosen so that a round has about ``steps / epochs`` steps.

    >>> planned = plan_length(FinetuneOptions(steps=100, epochs=10, batch_size=4), 3)
    >>> planned.samples_per_scan, planned.epochs      # 3 x 14 samples make 10 steps of 4
    (14, 10)
    """
    if options.steps is None:
        return options
    a_round = math.ceil(options.steps / options.epochs)
    samples = max(1, math.ceil(a_round * options.batch_size / scans))
    steps = max(1, scans * samples // options.batch_size)
    return replace(options, samples_per_scan=samples, epochs=math.ceil(options.steps / steps))


def fitting_patch(
    records: Sequence[Record], encoder: Encoder, largest: dict[int, int] | None = None
) -> tuple[int, ...]:
    """Choose a patch that holds the usual scan, in whole strides of the encoder, but not too large.

    Parameters
    ----------
    records
        Scans.
    encoder
        Its deepest stride divides the patch.
    largest
        Longest edge by axes of space [voxel]; ours: 256 in 2D, 64 in 3D.
    """
    limit = (largest or {2: 256, 3: 64})[encoder.dims]
    edges = []
    for axis, stride in enumerate(encoder.strides[-1]):
        lengths = sorted(_within(record, encoder.dims)[axis] for record in records)
        usual = lengths[len(lengths) // 2]
        edges.append(min(math.ceil(usual / stride), max(limit // stride, 1)) * stride)
    if all(edge == stride for edge, stride in zip(edges, encoder.strides[-1], strict=True)):
        edges = [
            2 * edge for edge in edges
        ]  # normalisation needs two positions of the coarsest map
    return tuple(edges)


def _within(record: Record, dims: int) -> tuple[int, ...]:
    """List the edges of a scan that a network sees: those of a slice where it is flat."""
    if dims == record.dims:
        return record.space
    across = flat_axis(record)
    return tuple(edge for axis, edge in enumerate(record.space) if axis != across)
