"""Pairs of bodies of one level: of a person at two visits, or of two people."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Generator

from unlabeled.data.bodies import Body, in_order

#: What both bodies of a pair share: level and modality, which would tell two people apart by themselves.
Kind: TypeAlias = tuple[str, str]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class Roster:
    """Everybody's bodies, set in order once and shared by all pairs.

    Parameters
    ----------
    visits
        By subject and kind, the bodies of each visit.
    people
        By kind, (family, subject) of everybody who has such a body, sorted.
    again
        By subject, the kinds that two visits or more show.
    against
        By subject, the kinds that somebody outside the family has as well.
    family
        By subject.
    levels
        All that somebody has, from head to foot.
    """

    visits: dict[str, dict[Kind, tuple[tuple[Body, ...], ...]]]
    people: dict[Kind, tuple[tuple[str, str], ...]]
    again: dict[str, tuple[Kind, ...]]
    against: dict[str, tuple[Kind, ...]]
    family: dict[str, str]
    levels: tuple[str, ...]

    def draw_same(self, subject: str, rng: Generator) -> tuple[Body, Body]:
        """Draw one level of a person at two different visits; every level and visit is as likely as the others."""
        visits = self.visits[subject][_one(self.again[subject], rng)]
        first = _below(len(visits), rng)
        second = _below(len(visits) - 1, rng)
        second += second >= first
        return _one(visits[first], rng), _one(visits[second], rng)

    def draw_other(self, subject: str, rng: Generator) -> tuple[Body, Body]:
        """Draw one level of a person and of somebody from another family; every such person is as likely."""
        kind = _one(self.against[subject], rng)
        people = self.people[kind]
        first, stop = _family_in(people, self.family[subject])
        place = _below(len(people) - (stop - first), rng)
        other = people[place if place < first else place + stop - first][1]
        mine, theirs = (_one(_one(self.visits[name][kind], rng), rng) for name in (subject, other))
        return mine, theirs


@dataclass(frozen=True, slots=True)
class BodyPair:
    """What one sample is drawn from.

    Parameters
    ----------
    roster
        Everybody's bodies.
    subject
        Whose body is the first one.
    same
        Whether the second one is this person's as well, from another visit.
    """

    roster: Roster
    subject: str
    same: bool

    def draw(self, rng: Generator) -> tuple[Body, Body]:
        """Draw the two bodies."""
        draw = self.roster.draw_same if self.same else self.roster.draw_other
        return draw(self.subject, rng)


def pair_bodies(bodies: Iterable[Body]) -> tuple[BodyPair, ...]:
    """List pairs of one person and of two people in turn, half of each.

    Both bodies of a pair have the same level and the same modality.  The two of one person are of different studies:
    two scans of one visit share the scanner and its noise.  Every subject begins as many pairs of two people as any
    other, and every subject with two visits as many pairs of one person, up to one; subjects with a single visit are
    in pairs of two people alone.  Where one of both kinds cannot be had, there are no pairs.
    """
    scans: dict[str, dict[Kind, dict[str, list[Body]]]] = defaultdict(lambda: defaultdict(dict))
    family: dict[str, str] = {}
    for body in bodies:
        record = body.record
        kind = body.level, record.source.modality
        scans[record.subject][kind].setdefault(record.study, []).append(body)
        family[record.subject] = record.source.kin
    people: dict[Kind, list[tuple[str, str]]] = defaultdict(list)
    for subject, kinds_of in scans.items():
        for kind in kinds_of:
            people[kind].append((family[subject], subject))
    ordered = {kind: tuple(sorted(named)) for kind, named in people.items()}
    again, against = {}, {}
    for subject in sorted(scans):
        kinds = sorted(scans[subject])
        again[subject] = tuple(kind for kind in kinds if len(scans[subject][kind]) > 1)
        families = {kind: _family_in(ordered[kind], family[subject]) for kind in kinds}
        against[subject] = tuple(
            kind for kind in kinds if len(ordered[kind]) > families[kind][1] - families[kind][0]
        )
    visits = {
        subject: {
            kind: tuple(tuple(by_study[study]) for study in sorted(by_study))
            for kind, by_study in had.items()
        }
        for subject, had in scans.items()
    }
    levels = in_order(level for level, _ in ordered)
    roster = Roster(visits, ordered, again, against, family, levels)
    twice = [subject for subject in again if again[subject]]
    beside = [subject for subject in against if against[subject]]
    if not twice or not beside:
        return ()
    pairs = []
    for place in range(max(len(twice), len(beside))):
        pairs.append(BodyPair(roster, twice[place % len(twice)], same=True))
        pairs.append(BodyPair(roster, beside[place % len(beside)], same=False))
    return tuple(pairs)


def _family_in(people: tuple[tuple[str, str], ...], family: str) -> tuple[int, int]:
    """Say where a family stands in a sorted list."""
    first = bisect.bisect_left(people, family, key=lambda each: each[0])
    return first, bisect.bisect_right(people, family, key=lambda each: each[0])


def _below(count: int, rng: Generator) -> int:
    return int(torch.randint(count, (), generator=rng))


def _one(choices: tuple[_T, ...], rng: Generator) -> _T:
    return choices[_below(len(choices), rng)]
