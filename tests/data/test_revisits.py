"""Pairs of bodies of one level: of a person at two visits, or of two people of different families."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import pytest

from unlabeled.data.bodies import Body
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.record import Record
from unlabeled.data.revisits import pair_bodies
from unlabeled.data.scan import ScanFile, Source
from unlabeled.rng import generator

LEVELS = ("L4", "L5", "S1")
BOX = ((0.0, 1.0), (0.0, 1.0), (0.0, 1.0))


def bodies(
    subject: str, visit: int, levels=LEVELS, family: str = "", modality: str = "MR", scan: str = ""
) -> list[Body]:
    source = Source(
        name=f"{subject}-{visit}{modality}{scan}",
        channels=(ScanFile((Path("x.nii"),), "nifti"),),
        subject=subject, study=f"{subject}/{visit}", family=family, modality=modality,
    )  # fmt: skip
    record = Record(source.name, source, IntensityRule(), "nowhere")
    return [Body(record, level, BOX) for level in levels]


@pytest.fixture
def cohort() -> list[Body]:
    """Three people with two or more visits, three with one; p1 and p4 are twins; p5 has one level; p2 two modalities."""
    found = [*bodies("p0", 0), *bodies("p0", 1), *bodies("p0", 2, ("L4",))]
    found += [*bodies("p1", 0, family="f"), *bodies("p1", 1, family="f")]
    found += [
        *bodies("p2", 0),
        *bodies("p2", 0, scan="again"),
        *bodies("p2", 1),
        *bodies("p2", 1, modality="CT"),
    ]
    return [*found, *bodies("p3", 0), *bodies("p4", 0, family="f"), *bodies("p5", 0, ("S1",))]


def drawn(cohort, count=4000):
    pairs = pair_bodies(cohort)
    return [
        (pair, *pair.draw(generator(number)))
        for number in range(count)
        for pair in [pairs[number % len(pairs)]]
    ]


def test_must_have_1_same_level_and_the_right_people(cohort):
    for pair, first, second in drawn(cohort):
        one, other = first.record, second.record
        assert first.level == second.level
        assert one.source.modality == other.source.modality
        assert one.subject == pair.subject
        assert (one.subject == other.subject) == pair.same
        assert one.key != other.key
        assert one.study != other.study


def test_must_have_2_single_visits_are_in_pairs_of_two_people_alone(cohort):
    alone = {"p3", "p4", "p5"}
    both = Counter()
    for pair, first, second in drawn(cohort):
        people = {first.record.subject, second.record.subject}
        both.update({(pair.same, name) for name in people})
    assert not any(both[True, name] for name in alone)
    assert all(both[False, name] for name in alone)
    assert {name for same, name in both if same} == {"p0", "p1", "p2"}


def test_must_have_3_twins_are_never_set_against_one_another(cohort):
    for pair, first, second in drawn(cohort):
        people = {first.record.subject, second.record.subject}
        assert people != {"p1", "p4"}, pair


def test_must_have_4_half_of_the_pairs_are_of_one_person(cohort):
    pairs = pair_bodies(cohort)
    assert [pair.same for pair in pairs] == [True, False] * 6
    assert Counter(pair.subject for pair in pairs if not pair.same) == Counter(
        [f"p{n}" for n in range(6)]
    )
    assert set(Counter(pair.subject for pair in pairs if pair.same).values()) == {2}


def test_subjects_and_levels_are_drawn_evenly_whatever_scans_they_have(cohort):
    others = Counter(
        second.record.subject
        for pair, first, second in drawn(cohort, 12000)
        if not pair.same and pair.subject == "p3" and first.level == "S1"
    )
    total = sum(others.values())
    assert set(others) == {"p0", "p1", "p2", "p4", "p5"}
    assert all(abs(count / total - 0.2) < 0.08 for count in others.values())
    levels = Counter(f.level for p, f, _ in drawn(cohort) if p.same and p.subject == "p1")
    assert all(abs(levels[level] / sum(levels.values()) - 1 / 3) < 0.06 for level in LEVELS)


def test_without_a_second_visit_or_a_second_person_there_are_no_pairs():
    assert pair_bodies([*bodies("p0", 0), *bodies("p1", 0)]) == ()
    assert pair_bodies([*bodies("p0", 0), *bodies("p0", 1)]) == ()
    assert pair_bodies([*bodies("p0", 0), *bodies("p0", 0, scan="b"), *bodies("p1", 0)]) == ()
    twins = [
        *bodies("p0", 0, family="f"),
        *bodies("p0", 1, family="f"),
        *bodies("p1", 0, family="f"),
    ]
    assert pair_bodies(twins) == ()


def test_pairs_share_one_roster_also_in_another_process(cohort):
    pairs = pair_bodies(cohort)
    again = pickle.loads(pickle.dumps(pairs))
    assert len({id(pair.roster) for pair in again}) == 1
    for one, other in zip(pairs, again, strict=True):
        assert one.draw(generator(1)) == other.draw(generator(1))
