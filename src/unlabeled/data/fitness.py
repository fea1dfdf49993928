"""Whether a method can learn from scans: what it asks of the data, and what each scan lacks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from unlabeled.data.scan import Source


class NeedsLike(Protocol):
    """What a method asks of the data; see `unlabeled.methods`."""

    @property
    def unit(self) -> Any:
        """What one sample is made of."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Axes of space that the method can work on."""

    @property
    def metadata(self) -> tuple[str, ...]:
        """What every scan must have."""

    @property
    def some(self) -> tuple[str, ...]:
        """What at least one scan must have."""

    @property
    def volumes(self) -> bool:
        """Whether every scan must be a volume."""

    @property
    def channels(self) -> int:
        """Fewest registered modalities or colour channels."""

    @property
    def some_channels(self) -> int:
        """Fewest channels of at least one scan."""

    @property
    def colour(self) -> bool:
        """Whether the scans must be in colour."""

    @property
    def scans_per_subject(self) -> int:
        """Fewest scans of one subject."""

    @property
    def subjects(self) -> int:
        """Fewest subjects."""


class Traits(Protocol):
    """What is known of a scan, from its header or from the store."""

    @property
    def source(self) -> Source:
        """Its row of the index."""

    @property
    def dims(self) -> int:
        """Axes of space."""

    @property
    def channels(self) -> int:
        """Registered modalities, or stored channels of a single file."""

    @property
    def colour(self) -> bool:
        """Whether the channels are red, green and blue."""

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Voxel edge lengths [mm]; None where unknown."""

    @property
    def placed(self) -> bool:
        """Whether an affine is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitness:
    """Whether a method can learn from the scans: how many it can use, and what the others lack."""

    slug: str
    usable: int
    subjects: int
    reasons: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether there is enough to start."""
        return self.usable > 0


def judge(slug: str, needs: NeedsLike, scans: Sequence[Traits]) -> Fitness:
    """Say how many scans a method can use, and what the others lack.

    A method that works on two axes takes slices of volumes; one that works on three alone cannot take pictures.
    """
    missing: Counter[str] = Counter()
    fitting: dict[str, int] = defaultdict(int)
    for each in scans:
        faults = list(lacks(needs, each))
        missing.update(faults)
        if not faults:
            fitting[each.source.subject] += 1
    total = len(scans)
    reasons = [f"{count} of {total} scans {what}" for what, count in missing.most_common()]
    if needs.scans_per_subject > 1:
        few = [subject for subject, count in fitting.items() if count < needs.scans_per_subject]
        if few:
            reasons.append(
                f"{len(few)} of {len(fitting)} subjects have fewer than {needs.scans_per_subject} scans"
            )
        for subject in few:
            del fitting[subject]
    usable = sum(fitting.values())
    for name in needs.some:
        if usable and not any(getattr(each.source, name) for each in scans):
            reasons.append(f"no scan has {name}")
            usable = 0
    if usable and all(each.channels < needs.some_channels for each in scans):
        reasons.append(f"no scan has {needs.some_channels} channels")
        usable = 0
    if len(fitting) < needs.subjects and (fitting or not reasons):
        reasons.append(f"{len(fitting)} subjects fit, and it needs {needs.subjects}")
        usable = 0
    return Fitness(slug=slug, usable=usable, subjects=len(fitting), reasons=tuple(reasons))


def lacks(needs: NeedsLike, scan: Traits) -> Iterator[str]:
    """Say what a scan lacks, in words that follow "scans"."""
    if not any(dims <= scan.dims for dims in needs.dims):
        yield f"have {scan.dims} axes of space, and it needs {' or '.join(map(str, needs.dims))}"
    if needs.volumes and scan.dims < 3:
        yield "are no volumes"
    if needs.colour and not scan.colour:
        yield "are not in colour"
    if scan.channels < needs.channels:
        yield f"have fewer than {needs.channels} channels"
    known = {"spacing": scan.spacing is not None, "affine": scan.placed}
    for name in needs.metadata:
        if name in known and not known[name]:
            yield f"have no {name}"
    yield from lacks_columns(needs, scan.source)


def lacks_columns(needs: NeedsLike, source: Source) -> Iterator[str]:
    """Say what a scan's row lacks: what can be told before any file is opened."""
    for name in needs.metadata:
        if name not in ("spacing", "affine") and getattr(source, name, None) is None:
            yield f"have no {name}"
