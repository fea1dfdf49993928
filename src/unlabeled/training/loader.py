"""Batches in an order that depends on the seed alone: which record gives which sample at which step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from unlabeled.data.store import Record
from unlabeled.methods._base import Phase
from unlabeled.rng import generator

AHEAD = 4  # small batches that are made at a time where training itself makes them
SMALL_BATCH = 16 * 2**20  # [byte]


@dataclass(frozen=True)
class Plan:
    """The order of samples of one phase.

    Parameters
    ----------
    seed
        Of the run.
    phase
        Name of the phase.
    counts
        Samples that each feed gives an epoch, by feed name; the first feed makes the epoch.
    batches
        Batch size over all devices, by feed name.
    rank, ranks
        This process and how many there are; a process takes every so many-th sample of a batch.
    """

    seed: int
    phase: str
    counts: Mapping[str, int]
    batches: Mapping[str, int]
    rank: int = 0
    ranks: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Batches of the first feed in an epoch; an incomplete last one is left out, but there is always one."""
        first = next(iter(self.counts))
        return max(1, self.counts[first] // self.batches[first])

    def tickets(self, epoch: int, step: int) -> list[tuple[str, int, int, int]]:
        """Name this process's samples of one step: (feed, epoch, place in the epoch, sample index).

        The first feed draws a new permutation every epoch; the others run through theirs at their own pace.
        """
        named = []
        for order, (feed, count) in enumerate(self.counts.items()):
            batch = self.batches[feed]
            done = step if order == 0 else epoch * self.steps_per_epoch + step
            for place in range(done * batch + self.rank, (done + 1) * batch, self.ranks):
                lap, within = divmod(place, count)
                turn = f"{epoch}.{lap}" if order == 0 else str(lap)
                order_of_lap = _permutation(self.seed, self.phase, feed, turn, count)
                named.append((feed, epoch, place, int(order_of_lap[within])))
        return named


@lru_cache(maxsize=16)
def _permutation(seed: int, phase: str, feed: str, turn: str, count: int) -> NDArray[np.int64]:
    drawn: NDArray[np.int64] = torch.randperm(
        count, generator=generator(seed, "order", phase, feed, turn)
    ).numpy()
    return drawn


class _Batches(Dataset[Any]):
    """Makes the samples of tickets, anywhere, any time, always the same."""

    def __init__(
        self, phase: Phase, items: Mapping[str, Sequence[Any]], seed: int, per_scan: int
    ) -> None:
        self.phase = phase
        self.items = items
        self.seed = seed
        self.per_scan = per_scan

    def __getitems__(self, tickets: list[tuple[float, tuple[str, int, int, int]]]) -> Any:
        wanted = []
        for over, (feed, epoch, place, index) in tickets:
            pace = self.phase.feeds[feed].pace
            item = self.items[feed][index // self.per_scan]
            rng = generator(self.seed, "sample", self.phase.name, feed, epoch, place)
            wanted.append((feed, item if pace is None else pace(item, over), rng))
        return _batch(self.phase, wanted)


class _Order(Sampler[list[tuple[float, tuple[str, int, int, int]]]]):
    """The tickets of every step from a given one on, each behind the share of the phase that is over."""

    def __init__(self, plan: Plan, epoch: int, step: int, steps: int) -> None:
        self.plan, self.epoch, self.step, self.steps = plan, epoch, step, steps

    def __iter__(self) -> Iterator[list[tuple[float, tuple[str, int, int, int]]]]:
        first = self.epoch * self.plan.steps_per_epoch + self.step
        last = first + self.steps - 1
        for done in range(first, last + 1):
            epoch, step = divmod(done, self.plan.steps_per_epoch)
            over = done / max(1, last)
            yield [(over, ticket) for ticket in self.plan.tickets(epoch, step)]

    def __len__(self) -> int:
        return self.steps


def _batch(phase: Phase, wanted: Sequence[tuple[str, Any, Generator]]) -> Any:
    """Make samples, of (feed, item, generator), and stack them feed by feed; a phase with one feed gets its batch bare."""
    batches = {}
    for name, feed in phase.feeds.items():
        own = [(item, rng) for of, item, rng in wanted if of == name]
        if own and feed.together is not None:
            items, rngs = zip(*own, strict=True)
            batches[name] = feed.together(items, rngs)
        elif own:
            batches[name] = default_collate([feed.views(item, rng) for item, rng in own])
    return batches if len(phase.feeds) > 1 else batches[next(iter(phase.feeds))]


def items_of(phase: Phase, records: Sequence[Record]) -> dict[str, tuple[Any, ...]]:
    """List what each feed makes its samples of: the records that it accepts, grouped as it says."""
    return {
        name: tuple(feed.group([record for record in records if feed.accepts(record)]))
        for name, feed in phase.feeds.items()
    }


def make_plan(
    phase: Phase,
    items: Mapping[str, Sequence[Any]],
    *,
    seed: int,
    per_scan: int,
    rank: int = 0,
    ranks: int = 1,
) -> Plan:
    """Plan the order of a phase's samples."""
    counts = {name: len(items[name]) * per_scan for name in phase.feeds}
    batches = {name: feed.batch_size for name, feed in phase.feeds.items()}
    return Plan(seed, phase.name, counts, batches, rank, ranks)


def load(
    phase: Phase,
    items: Mapping[str, Sequence[Any]],
    plan: Plan,
    *,
    epoch: int,
    step: int,
    steps: int,
    per_scan: int,
    workers: int,
    pin: bool = False,
) -> Iterator[Any]:
    """Yield the batches of `steps` steps from (epoch, step) on.

    With `workers`, other processes make the samples ahead; the samples do not depend on how many.  Without, small
    batches are made a few at a time: what makes them stays in the processor's cache.
    """
    loader = DataLoader(
        _Batches(phase, items, plan.seed, per_scan),
        batch_sampler=_Order(plan, epoch, step, steps),
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=2 if workers else None,
    )
    return iter(loader) if workers else _few_at_a_time(iter(loader))


def _few_at_a_time(batches: Iterator[Any]) -> Iterator[Any]:
    """Make small batches ahead; the first tells how large they are."""
    for first in batches:
        yield first
        size = sum(leaf.nbytes for leaf in tree_leaves(first) if isinstance(leaf, Tensor))
        many = AHEAD if size <= SMALL_BATCH else 1
        while ahead := list(islice(batches, many)):
            yield from ahead


def held_out_batch(
    phase: Phase, items: Mapping[str, Sequence[Any]], *, seed: int, number: int
) -> Any:
    """Make a fixed batch of held-out samples, the same every epoch; without the streams that have no items."""
    wanted = []
    for name, feed in phase.feeds.items():
        if not items[name]:
            continue
        for place in range(feed.batch_size):
            spot = number * feed.batch_size + place
            item = items[name][spot % len(items[name])]
            rng = generator(seed, "held-out", phase.name, name, spot)
            wanted.append((name, item, rng))
    return _batch(phase, wanted)


def _as_it_is(batch: Any) -> Any:
    return batch
