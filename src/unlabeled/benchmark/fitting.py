"""Whether methods, networks, label fractions and data of a comparison go together: told before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from unlabeled.data.fitness import judge
from unlabeled.data.headers import Seen, look_at_all
from unlabeled.data.scan import Index, Source
from unlabeled.errors import DataError, OptionError, UnlabeledError
from unlabeled.methods._base import Method, SharedOptions
from unlabeled.methods._registry import find
from unlabeled.training.pretrain import build_method
from unlabeled.training.selection import alternatives, fit_dims
from unlabeled.transfer.cohort import divide, draw_fraction
from unlabeled.transfer.registry import TASKS
from unlabeled.transfer.task import FinetuneOptions, TaskName

LOOKED_AT = 256  # scans whose headers are read: whole subjects, until there are so many
_GUESSES: tuple[TaskName, ...] = ("segment", "classify", "regress")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A labelled scan before it is prepared."""

    source: Source

    @property
    def subject(self) -> str:
        """Whose it is."""
        return self.source.subject


def look_at_some(index: Index) -> tuple[Seen, ...]:
    """Read the headers of the first subjects' scans."""
    chosen: dict[str, list[Source]] = {}
    count = 0
    for source in index.sources:
        if count >= LOOKED_AT and source.subject not in chosen:
            continue
        chosen.setdefault(source.subject, []).append(source)
        count += 1
    some = [source for scans in chosen.values() for source in scans]
    return tuple(each for each in look_at_all(some) if isinstance(each, Seen))


def guess_task(index: Index) -> TaskName:
    """Guess the task from what the labelled scans have: masks, labels or targets.

    Raises
    ------
    DataError
        They have none, or several.
    """
    there = [
        name
        for name in _GUESSES
        if any(getattr(source, TASKS[name].column) is not None for source in index.sources)
    ]
    if len(there) == 1:
        return there[0]
    has = " and ".join(f"{TASKS[name].column}s" for name in there) or "neither masks nor labels"
    choices = ", ".join(there or _GUESSES)
    raise DataError(
        f"the scans of {index.root} have {has}, so the task cannot be guessed",
        f"Give --task with one of {choices}.",
    )


def choose_dims(asked: int | None, seen: Sequence[Seen], kinds: Mapping[str, type[Method]]) -> int:
    """Choose the axes of space of all networks: what most scans have, or else what every method can."""
    if asked:
        return asked
    volumes = 2 * sum(each.dims == 3 for each in seen) > len(seen)
    usual = 3 if volumes else 2
    if volumes and all(kind.needs.dims == (2,) for kind in kinds.values()):
        return 2  # slices
    return usual


def require_axes(dims: int, seen: Sequence[Seen], root: Path) -> None:
    """Refuse pictures where the networks have three axes.

    Raises
    ------
    DataError
        None of the scans has so many.
    """
    if seen and all(each.dims < dims for each in seen):
        raise DataError(
            f"the scans of {root} have {seen[0].dims} axes of space, and this comparison {dims}",
            f"Give --dims {seen[0].dims}, with scans to pretrain on that have as many.",
        )


def require_fit(
    slug: str,
    kind: type[Method],
    options: SharedOptions,
    *,
    dims: int,
    seen: Sequence[Seen],
    index: Index,
) -> None:
    """Refuse a method that the scans do not suit, or that cannot use the network.

    Raises
    ------
    UnlabeledError
        Why, and what to type.
    """
    if dims not in kind.needs.dims:
        able = " and ".join(f"{each}D" for each in kind.needs.dims)
        raise OptionError(
            f"{slug} works in {able}, and this comparison in {dims}D",
            f"Give --dims {kind.needs.dims[0]} to compare in {kind.needs.dims[0]}D, or leave {slug} out.",
        )
    fitness = judge(slug, kind.needs_with(options), seen)
    if seen and not fitness.fits:
        raise DataError(
            f"{slug} cannot learn from {index.root}: {'; '.join(fitness.reasons)}",
            alternatives(slug, seen, index),
        )
    suited = fit_dims(options, dims)
    channels = Counter(each.channels for each in seen).most_common(1)[0][0] if seen else 1
    try:
        with torch.random.fork_rng(devices=[]):
            build_method(kind, suited, dims=dims, channels=channels)
    except UnlabeledError as fault:
        if "suit" in vars(kind):  # prepared scans may complete its options yet
            return
        raise OptionError(
            f"{slug} cannot use {options.encoder} in {dims}D: {fault.fact}", fault.remedy
        ) from None


def require_subjects(
    index: Index,
    sources: Sequence[Source],
    fractions: Sequence[float],
    part: str,
    options: FinetuneOptions,
) -> tuple[int, int, tuple[str, ...]]:
    """Refuse label fractions that the subjects do not give, and a part that holds nobody.

    Returns
    -------
    tuple[int, int, tuple[str, ...]]
        Subjects to train and to measure on, and what a person should know.

    Raises
    ------
    UnlabeledError
        Nobody is there to train or to measure on, or a fraction is none or too large.
    """
    parts = divide([Labelled(source) for source in sources], options.split_seed)
    subjects = {name: sorted({each.subject for each in scans}) for name, scans in parts.items()}
    counts = {name: len(who) for name, who in subjects.items()}
    for needed in ("train", part):
        if not counts[needed]:
            told = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise DataError(
                f"{index.root} has no {needed} subjects ({told})",
                f"Write {needed} into the column `split` of some subjects, or leave the column out of at least "
                "three subjects' manifest, so that parts are drawn.",
            )
    drawn: dict[tuple[str, ...], list[float]] = {}
    for fraction in fractions:
        if not fraction > 0:
            raise OptionError(
                f"--label-fractions holds {fraction:g}",
                "Give shares above 0 up to 1, or whole numbers of subjects above 1.",
            )
        try:
            of = FinetuneOptions(label_fraction=fraction, split_seed=options.split_seed)
            who = draw_fraction(subjects["train"], of)
        except UnlabeledError as fault:
            text = fault.fact.replace("--label-fraction is", "--label-fractions holds")
            raise type(fault)(f"--label-fractions {fraction:g}: {text}", fault.remedy) from None
        drawn.setdefault(who, []).append(fraction)
    notes = [
        f"label fractions {' and '.join(f'{each:g}' for each in alike)} come to the same "
        f"{len(who)} of {counts['train']} training subjects"
        for who, alike in drawn.items()
        if len(alike) > 1
    ]
    if counts[part] < 2:
        notes.append(
            f"one {part} subject alone: no interval can be given, and nothing can be significant"
        )
    elif counts[part] < 6:
        notes.append(
            f"{counts[part]} {part} subjects: p is at least {2 ** (1 - counts[part]):.2g} before correction, "
            "so that nothing can be significant"
        )
    return counts["train"], counts[part], tuple(notes)


def find_all(slugs: Sequence[str]) -> dict[str, type[Method]]:
    """Import the methods of slugs."""
    return {slug: find(slug) for slug in slugs}
