"""The findings of `unlabeled check` as data: groups of scans, what each method can use, and what is wrong."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unlabeled.data.fitness import Fitness, NeedsLike, judge
from unlabeled.data.headers import Seen, look_at_all
from unlabeled.data.scan import Index, Quarantined

EXAMPLES = 3
_COLUMNS = ("report", "level", "boxes", "time", "mask", "label", "target", "frame", "position")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Scans of one kind.

    Parameters
    ----------
    modality, dims, channels, colour, dtypes
        What they have in common; `dtypes` lists the types that occur.
    scans, studies, subjects
        How many.
    shape, spacing
        Smallest and largest along each axis [voxel], [mm]; spacing None where no scan knows it.
    without_spacing
        Scans whose spacing is unknown.
    """

    modality: str
    dims: int
    channels: int
    colour: bool
    dtypes: tuple[str, ...]
    scans: int
    studies: int
    subjects: int
    shape: tuple[tuple[int, int], ...]
    spacing: tuple[tuple[float, float], ...] | None
    without_spacing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault or remark that several files share: the text of the first, how many, and the first names."""

    text: str
    remedy: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything that `check` has to say.

    Parameters
    ----------
    root, layout, rule, notes, label_names
        As in `Index`.
    deep
        Whether voxels were read.
    scans, studies, subjects
        Usable ones.
    with_columns
        Scans that have a mask, a label, a report, ...
    splits
        Scans in each split that the data bring.
    groups
        Usable scans by modality, axes of space and channels, most frequent first.
    problems
        Files left out, by reason, most frequent first.
    remarks
        What is noteworthy about usable scans.
    label_counts
        With `deep`: in how many masks each value occurs.
    quarantine
        Every file left out.
    methods
        One entry a method that was asked about.
    """

    root: Path
    layout: str
    rule: str
    deep: bool
    scans: int
    studies: int
    subjects: int
    with_columns: Mapping[str, int]
    splits: Mapping[str, int]
    groups: tuple[Group, ...]
    problems: tuple[Finding, ...]
    remarks: tuple[Finding, ...]
    notes: tuple[str, ...]
    label_names: Mapping[int, str]
    label_counts: Mapping[int, int]
    quarantine: tuple[Quarantined, ...]
    methods: tuple[Fitness, ...]

    @property
    def usable(self) -> bool:
        """Whether there is anything to go on with: scans, and for a method that was asked about, fitting ones."""
        return self.scans > 0 and (not self.methods or any(each.fits for each in self.methods))

    def as_json(self) -> dict[str, Any]:
        """Give the findings as plain values."""
        return {
            "root": str(self.root),
            "layout": self.layout,
            "rule": self.rule,
            "deep": self.deep,
            "usable": self.usable,
            "scans": self.scans,
            "studies": self.studies,
            "subjects": self.subjects,
            "with": dict(self.with_columns),
            "splits": dict(self.splits),
            "groups": [asdict(group) for group in self.groups],
            "problems": [asdict(problem) for problem in self.problems],
            "remarks": [asdict(remark) for remark in self.remarks],
            "notes": list(self.notes),
            "label_names": {str(value): name for value, name in self.label_names.items()},
            "label_counts": {str(value): count for value, count in self.label_counts.items()},
            "quarantine": [asdict(row) for row in self.quarantine],
            "methods": [asdict(each) | {"fits": each.fits} for each in self.methods],
        }


def check_scans(
    index: Index,
    *,
    needs: Mapping[str, NeedsLike] | None = None,
    deep: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Findings:
    """Look at every scan of an index and say what can be used, by which method, and what is wrong with the rest.

    Parameters
    ----------
    index
        Scans as `index_scans` found them.
    needs
        What methods ask of the data, by slug.
    deep
        Read every voxel: NaN, constant scans, masks that do not fit, values of masks.
    progress
        Called with the number of scans looked at so far.
    """
    seen: list[Seen] = []
    quarantine = list(index.quarantine)
    for result in look_at_all(index.sources, deep=deep, progress=progress):
        if isinstance(result, Seen):
            seen.append(result)
        else:
            quarantine.append(result)
    sources = [each.source for each in seen]
    columns = {name: sum(getattr(s, name) is not None for s in sources) for name in _COLUMNS}
    label_counts = Counter(value for each in seen for value in each.labels or ())
    notes = list(index.notes)
    unnamed = sorted(set(label_counts) - set(index.label_names))
    if index.label_names and unnamed:
        notes.append(f"masks hold values without a name: {', '.join(map(str, unnamed[:10]))}")
    return Findings(
        root=index.root,
        layout=index.layout,
        rule=index.rule,
        deep=deep,
        scans=len(seen),
        studies=len({source.study for source in sources}),
        subjects=len({source.subject for source in sources}),
        with_columns={name: count for name, count in columns.items() if count},
        splits=dict(sorted(Counter(s.split for s in sources if s.split is not None).items())),
        groups=group_scans(seen),
        problems=_alike((row.name, row.reason, row.remedy) for row in quarantine),
        remarks=_alike((each.source.name, note, "") for each in seen for note in each.notes),
        notes=tuple(notes),
        label_names=index.label_names,
        label_counts=dict(sorted(label_counts.items())),
        quarantine=tuple(sorted(quarantine, key=lambda row: row.name)),
        methods=tuple(judge(slug, each, seen) for slug, each in (needs or {}).items()),
    )


def group_scans(seen: Sequence[Seen]) -> tuple[Group, ...]:
    """Group scans by modality, axes of space and channels, most frequent first."""
    kinds: dict[tuple[str, int, int, bool], list[Seen]] = defaultdict(list)
    for each in seen:
        kinds[each.modality, each.dims, each.channels, each.colour].append(each)
    groups = []
    for (modality, dims, channels, colour), members in kinds.items():
        spacings = [each.spacing for each in members if each.spacing is not None]
        groups.append(
            Group(
                modality=modality,
                dims=dims,
                channels=channels,
                colour=colour,
                dtypes=tuple(sorted({each.dtype for each in members})),
                scans=len(members),
                studies=len({each.source.study for each in members}),
                subjects=len({each.source.subject for each in members}),
                shape=tuple(
                    (min(axis), max(axis)) for axis in zip(*(m.shape for m in members), strict=True)
                ),
                spacing=tuple((min(axis), max(axis)) for axis in zip(*spacings, strict=True))
                or None,
                without_spacing=len(members) - len(spacings),
            )
        )
    return tuple(sorted(groups, key=lambda g: (-g.scans, g.modality, g.dims, g.channels)))


def _alike(rows: Iterable[tuple[str, str, str]]) -> tuple[Finding, ...]:
    """Join texts that differ in names and numbers alone."""
    groups: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for name, text, remedy in rows:
        groups[_kind(text)].append((name, text, remedy))
    return tuple(
        Finding(
            text=members[0][1],
            remedy=members[0][2],
            count=len(members),
            examples=tuple(name for name, _, _ in members[:EXAMPLES]),
        )
        for members in sorted(groups.values(), key=lambda members: (-len(members), members[0]))
    )


def _kind(text: str) -> str:
    """Reduce a text to what it says whatever file it says it of: paths and numbers are left out."""
    words = (word for word in text.split() if "/" not in word and "." not in word.rstrip(".,;:"))
    return re.sub(r"\d+", "#", " ".join(words))
