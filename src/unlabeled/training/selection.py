"""Which scans a run learns from: what the method needs, axes of space, channels, and who is held out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from unlabeled.data.fitness import Traits, judge, lacks, lacks_columns
from unlabeled.data.headers import Seen, look
from unlabeled.data.scan import Index, Quarantined
from unlabeled.data.splits import split_subjects
from unlabeled.data.store import Record
from unlabeled.errors import DataError, OptionError
from unlabeled.methods._base import Needs, SharedOptions
from unlabeled.methods._registry import find, slugs

HELD_OUT_SHARE = 0.1
LOOKED_AT = 16  # scans whose headers are read for naming other methods, before anything is prepared


def refuse_columns(slug: str, needs: Needs, index: Index) -> None:
    """Refuse, before any scan is prepared, scans of which none has what the method needs.

    Raises
    ------
    DataError
        Every scan lacks a column, or there are too few subjects.
    """
    lacking = Counter(fault for source in index.sources for fault in lacks_columns(needs, source))
    total = len(index.sources)
    faults = [f"all {total} scans {fault}" for fault, count in lacking.items() if count == total]
    subjects = len(index.subjects)
    if subjects < needs.subjects:
        faults.append(f"it needs {needs.subjects} subjects, and there is {subjects}")
    if faults:
        if "mask" in needs.metadata:
            faults.append("it is no self-supervised method, but learns from masks")
        some = (look(source) for source in index.sources[:LOOKED_AT])
        seen = [each for each in some if isinstance(each, Seen)]
        raise DataError(
            f"{slug} cannot learn from {index.root}: {'; '.join(faults)}",
            "\n".join(
                [*index.notes, alternatives(slug, seen, index)]
            ),  # a column with a slip of the pen
        )


def meet_needs(
    slug: str,
    needs: Needs,
    records: Sequence[Record],
    index: Index,
    left_out: list[Quarantined],
) -> tuple[Record, ...]:
    """Leave out the scans that lack what the method needs, and refuse when too few are left.

    Raises
    ------
    DataError
        The scans cannot be learnt from: what is missing, and which methods would work instead.
    """
    fitness = judge(slug, needs, records)
    if records and not fitness.fits:
        raise DataError(
            f"{slug} cannot learn from {index.root}: {'; '.join(fitness.reasons)}",
            alternatives(slug, records, index),
        )
    fitting: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        faults = list(lacks(needs, record))
        if faults:
            reason = f"scans like this {' and '.join(faults)}"
            remedy = f"{slug} needs it; other methods do not."
            left_out.append(Quarantined(record.source.name, reason, remedy))
        else:
            fitting[record.subject].append(record)
    enough = {s for s, scans in fitting.items() if len(scans) >= needs.scans_per_subject}
    kept = []
    for record in (record for scans in fitting.values() for record in scans):
        if record.subject in enough:
            kept.append(record)
        else:
            reason = f"its subject has fewer than {needs.scans_per_subject} scans"
            left_out.append(Quarantined(record.source.name, reason, f"{slug} compares them."))
    order = {record.source.name: place for place, record in enumerate(records)}
    return tuple(sorted(kept, key=lambda record: order[record.source.name]))


def alternatives(slug: str, scans: Sequence[Traits], index: Index) -> str:
    """Say which other methods could learn from scans like these."""
    fitting = [
        other for other in slugs() if other != slug and judge(other, find(other).needs, scans).fits
    ]
    check = f"`unlabeled check {index.root}` says what the scans can be used for."
    return (
        f"These methods can learn from them: {', '.join(fitting)}.\n{check}" if fitting else check
    )


def nothing_usable(index: Index, left_out: Sequence[Quarantined]) -> DataError:
    """Make the error of a run with nothing usable: the commonest reason, and how many files it holds for."""
    fact = f"none of {len(index.sources)} scans below {index.root} can be used"
    remedy = f"`unlabeled check {index.root} --deep` says why, file by file."
    if not left_out:
        return DataError(fact, remedy)
    common, count = Counter((row.reason, row.remedy) for row in left_out).most_common(1)[0]
    example = next(row for row in left_out if (row.reason, row.remedy) == common)
    named = "" if example.name in example.reason else f"{example.name}: "
    more = f" (and {count - 1} more alike)" if count > 1 else ""
    return DataError(
        f"{fact}. {named}{example.reason}{more}", f"{example.remedy}\n{remedy}".strip()
    )


def split_records(
    records: Sequence[Record],
    seed: int,
    fewest: int = 1,
    *,
    by: Literal["subject", "scan", "section"] = "subject",
    splits: Sequence[str] = ("train",),
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Hold out a tenth of the subjects for the pretext score, unless a manifest names validation scans.

    Scans whose manifest says ``test`` are not seen unless `splits` names it, and are never held out; a single subject
    leaves nothing to hold out, unless scans are held out one `by` one, or section by section: all scans of a study
    that is not the whole subject.  A family counts as one subject.  At least `fewest` are held out, but never more
    than half of them.

    Raises
    ------
    DataError
        Every scan is set aside for validation or test, or a manifest sets relatives apart.
    """
    training = tuple(r for r in records if (r.source.split or "train") in splits)
    held_out = tuple(r for r in records if r.source.split == "val")
    if not training:
        raise DataError(
            f"all {len(records)} scans are set aside for validation or test",
            "Write train into the manifest's column `split`, or leave the column out.",
        )

    def owner(record: Record) -> str:
        if by == "section" and record.study != record.subject:
            return record.study
        return record.source.kin if by == "subject" else record.source.name

    related = {record.source.family for record in training} - {""}
    for record in held_out:
        if by == "subject" and record.source.family in related:
            raise DataError(
                f"the family of {record.source.name} is in val and in train",
                "Put all scans of a family into one part, or leave the column `split` out.",
            )
    subjects = sorted({owner(record) for record in training if record.source.split != "test"})
    if held_out or len(subjects) < 2:
        return training, held_out
    share = max(HELD_OUT_SHARE, min(fewest, len(subjects) // 2) / len(subjects))
    parts = split_subjects(subjects, {"train": 1 - share, "held out": share}, seed)
    chosen = set(parts["held out"]) or {subjects[-1]}
    return (
        tuple(r for r in training if owner(r) not in chosen or r.source.split == "test"),
        tuple(r for r in training if owner(r) in chosen and r.source.split != "test"),
    )


def choose_dims(
    records: Sequence[Record],
    asked: int | None,
    able: tuple[int, ...],
    left_out: list[Quarantined],
) -> tuple[tuple[Record, ...], int]:
    """Choose 2D or 3D networks, and leave out pictures from a 3D run.

    Raises
    ------
    OptionError
        The method has no such form.
    """
    volumes = sum(record.dims == 3 for record in records)
    dims = asked or (3 if volumes * 2 > len(records) and 3 in able else min(able))
    if dims not in able:
        raise OptionError(
            f"--dims {dims}: the method works in {' and '.join(f'{d}D' for d in able)}",
            f"Give --dims {able[0]}.",
        )
    remedy = (
        "Give --dims 2 to learn from pictures and slices."
        if 2 in able
        else "The method takes volumes alone; `unlabeled methods --dims 2` lists those that take pictures."
    )
    usable = []
    for record in records:
        if record.dims >= dims:
            usable.append(record)
        else:
            left_out.append(
                Quarantined(
                    record.source.name,
                    f"a {record.dims}D picture in a {dims}D run",
                    remedy,
                )
            )
    return tuple(usable), dims


def same_channels(
    records: Sequence[Record], channels: int | None, left_out: list[Quarantined]
) -> tuple[Record, ...]:
    """Keep the scans with so many channels, or with as many as most have."""
    if not records:
        return ()
    wanted = channels or Counter(record.channels for record in records).most_common(1)[0][0]
    for record in records:
        if record.channels != wanted:
            reason = f"has {record.channels} channel(s), and the network takes {wanted}"
            left_out.append(Quarantined(record.source.name, reason, "Use it in a run of its own."))
    return tuple(record for record in records if record.channels == wanted)


def fit_dims(options: SharedOptions, dims: int) -> SharedOptions:
    """Give a patch as many edges as the networks have axes: a 2D patch takes the first two.

    Raises
    ------
    OptionError
        A 2D patch was given for volumes.
    """
    patch = tuple(options.patch_size)
    if len(patch) < dims:
        raise OptionError(
            f"--patch-size {' '.join(map(str, patch))} has {len(patch)} edges, the scans {dims} axes",
            "Give one edge an axis, or --dims 2 to learn from slices.",
        )
    return replace(options, patch_size=patch[:dims], dims=dims)  # type: ignore[arg-type]
