"""A few prepared scans that stand for all: what preparing the archive will take, and records to try a run with."""

from __future__ import annotations

import math
import os
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Quarantined, Source
from unlabeled.data.store import Prepared, Record, Store
from unlabeled.data.workforce import crew_size
from unlabeled.methods._base import Method, SharedOptions
from unlabeled.training.pretrain import open_store
from unlabeled.training.settings import Settings

FEWEST, MOST = 4, 32  # scans that are prepared, where so many are missing


@dataclass(frozen=True, kw_only=True)
class PreparationTrial:
    """What preparing all scans takes, from a few of them.

    Parameters
    ----------
    held, fresh
        Scans that the store holds, and those that are yet to be prepared.
    tried
        How many of these were prepared.
    looking
        Time to look every scan up [s].
    once
        Time that the first scan took longer than when it was prepared again [s].
    work
        Time of one process for all fresh scans [s].
    crew
        Processes that share it; 0 where this one does it.
    gathering
        Time to start them [s].
    held_bytes, fresh_bytes
        Size in the store [byte].
    """

    held: int
    fresh: int
    tried: int = 0
    looking: float = 0.0
    once: float = 0.0
    work: float = 0.0
    crew: int = 0
    gathering: float = 0.0
    held_bytes: int = 0
    fresh_bytes: int = 0


@dataclass(frozen=True)
class _Tried:
    """One scan that was prepared: its files' size, how long it took, and what came of it."""

    source: Source
    size: float
    seconds: float
    outcome: Record | Quarantined
    stored: int


class Excerpt:
    """Prepares few scans where a run prepares all; the others borrow what was prepared of the nearest in size.

    Scans are alike when they have the same formats and columns; among these, few are chosen so that their sizes are
    spread as those of all, the largest with them.  Time and room of a scan are those of its nearest, in proportion to
    the size of their files: bytes are known without opening a file, and both reading and packing go with them.

    Parameters
    ----------
    place
        Folder for what is prepared.
    seconds
        When to stop preparing further ones [s].
    """

    def __init__(self, place: Path, seconds: float) -> None:
        self.place, self.seconds = place, seconds
        self.measured = PreparationTrial(held=0, fresh=0)

    def prepare(
        self,
        kind: type[Method],
        options: SharedOptions,
        sources: Sequence[Source],
        settings: Settings,
        cache: Path | None,
    ) -> Prepared:
        """Give records for all scans, as `training.pretrain.prepare_all` does, and measure."""
        rule = kind.intensity(options)
        began = time.perf_counter()
        found: list[Record | Quarantined | None] = list(
            open_store(kind, options, cache).find(sources, rule=rule)
        )
        looking = time.perf_counter() - began
        held = [each for each in found if isinstance(each, Record)]
        sizes = file_sizes(sources)
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for number, each in enumerate(found):
            if each is None:
                groups[traits(sources[number]), kind.role(sources[number])].append(number)
        fresh = sum(map(len, groups.values()))
        store = open_store(kind, options, self.place / "store")
        tried: dict[int, _Tried] = {}
        once = 0.0
        began = time.perf_counter()
        for number in choose(groups, sizes):
            seen = {(traits(sources[n]), kind.role(sources[n])) for n in tried}
            enough = len(tried) >= FEWEST and seen == set(groups)
            spent = time.perf_counter() - began > self.seconds
            if len(tried) >= MOST or (enough and spent):
                break
            source = sources[number]
            tried[number] = _try(store, source, sizes[number], rule)
            if len(tried) == 1:
                again = open_store(kind, options, self.place / "again")
                first, tried[number] = tried[number], _try(again, source, sizes[number], rule)
                tried[number] = replace(tried[number], outcome=first.outcome)
                once = max(0.0, first.seconds - tried[number].seconds)
        work = stored = 0.0
        for members in groups.values():
            models = [tried[number] for number in members if number in tried]
            models = sorted(models or tried.values(), key=lambda one: one.size)
            good = [one for one in models if isinstance(one.outcome, Record)]
            for number in members:
                own = tried.get(number)
                one = own or nearest(good or models, sizes[number])
                scale = sizes[number] / one.size if one.size else 1.0
                work += one.seconds * scale
                stored += one.stored * scale
                found[number] = _lend(one, sources[number])
        crew = crew_size(settings.workers or 0, fresh)
        gathering = 0.0
        if crew:
            alone = sum(one.seconds for one in tried.values())
            few = crew_size(crew, len(tried)) or 1
            began = time.perf_counter()
            open_store(kind, options, self.place / "crew").prepare(
                [sources[number] for number in tried], rule=rule, workers=crew
            )
            gathering = max(0.0, time.perf_counter() - began - alone / min(few, cores()))
        self.measured = PreparationTrial(
            held=len(held),
            fresh=fresh,
            tried=len(tried),
            looking=looking,
            once=once,
            work=work,
            crew=crew,
            gathering=gathering,
            held_bytes=sum(record.path.stat().st_size for record in held),
            fresh_bytes=round(stored),
        )
        records = tuple(each for each in found if isinstance(each, Record))
        left_out = tuple(each for each in found if isinstance(each, Quarantined))
        return Prepared(records, left_out, fresh)


def cores() -> int:
    """Count the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def traits(source: Source) -> Hashable:
    """Say what scans must have in common to stand for one another."""
    formats = tuple(channel.format for channel in source.channels)
    suffixes = tuple(channel.path.suffix.lower() for channel in source.channels)
    columns = (source.mask is None, source.frame is None, len(source.responses) > 0)
    return formats, suffixes, columns, source.is_response, source.modality


def file_sizes(sources: Sequence[Source]) -> list[float]:
    """Add up the sizes of each scan's files [byte]; frames of one file share it."""
    shared = Counter(source.channels[0].path for source in sources)
    sizes = []
    for source in sources:
        files = [*source.channels, *([] if source.mask is None else [source.mask])]
        total = 0
        for path in (path for file in files for path in file.paths):
            try:
                total += path.stat().st_size
            except OSError:  # `Store.find` names it
                continue
        sizes.append(total / shared[source.channels[0].path])
    return sizes


def choose(groups: dict[Hashable, list[int]], sizes: Sequence[float]) -> Iterator[int]:
    """Give some scans of all groups in an order whose every beginning is spread over groups and sizes.

    >>> list(choose({"all": [0, 1, 2, 3, 4]}, [10, 50, 30, 20, 40]))
    [1, 2, 3, 4, 0]
    """
    orders = {}
    for name, members in groups.items():
        ranked = sorted(members, key=lambda number: (sizes[number], number))
        orders[name] = [ranked[place] for place in islice(spread(len(ranked)), MOST)]
    taken: dict[Hashable, int] = dict.fromkeys(orders, 0)
    for _ in range(sum(map(len, orders.values()))):
        open_ones = [name for name in orders if taken[name] < len(orders[name])]
        name = min(open_ones, key=lambda name: taken[name] / len(orders[name]))
        yield orders[name][taken[name]]
        taken[name] += 1


def spread(count: int) -> Iterator[int]:
    """Give all of ``range(count)``: the last, the middle, the quarters, the eighths, ...

    >>> list(spread(6))
    [5, 2, 1, 3, 0, 4]
    """
    if not count:
        return
    seen = {count - 1}
    yield count - 1
    for halvings in range(1, math.ceil(math.log2(count)) + 2):
        parts = 2**halvings
        for part in range(1, parts, 2):
            place = min(count - 1, (count - 1) * part // parts)
            if place not in seen:
                seen.add(place)
                yield place
    yield from (place for place in range(count) if place not in seen)


def nearest(models: Sequence[_Tried], size: float) -> _Tried:
    """Find the one of a size nearest to `size`; models are sorted by size."""
    place = bisect_left([one.size for one in models], size)
    return min(models[max(0, place - 1) : place + 1], key=lambda one: abs(one.size - size))


def _try(store: Store, source: Source, size: float, rule: IntensityRule) -> _Tried:
    began = time.perf_counter()
    prepared = store.prepare([source], rule=rule)
    seconds = time.perf_counter() - began
    if prepared.quarantine:
        return _Tried(source, size, seconds, prepared.quarantine[0], 0)
    record = prepared.records[0]
    return _Tried(source, size, seconds, record, record.path.stat().st_size)


def _lend(one: _Tried, source: Source) -> Record | Quarantined:
    """Let a scan have what came of another; a reason names its own file."""
    if isinstance(one.outcome, Record):
        return replace(one.outcome, source=source)
    theirs, own = (str(each.channels[0].path) for each in (one.source, source))
    reason = one.outcome.reason.replace(theirs, own)
    return Quarantined(source.name, reason, one.outcome.remedy)
