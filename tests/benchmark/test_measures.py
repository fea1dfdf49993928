"""Measures of a task from rows of metrics.csv: averaged over classes and scans, split by class, paired whatever is missing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.benchmark.measures import (
    MEASURES,
    compare_measures,
    complete_scores,
    scores_of,
)
from unlabeled.benchmark.plan import Outcome
from unlabeled.benchmark.statistics import Score


def row(method="scratch", fraction=2.0, seed=0, subject="a", **values):
    return {"method": method, "fraction": fraction, "seed": seed, "subject": subject, **values}


def mask_rows(gone=()):
    return [
        row(method, 2.0, seed, subject, **{"class": name}, dice=str(value), nsd="0.5", hd95="3")
        for method, gain in (("scratch", 0.0), ("c2l", 0.1))
        for seed in range(2)
        for subject, base in (("a", 0.5), ("b", 0.6), ("c", 0.7))
        for name, more in (("liver", 0.0), ("spleen", 0.1))
        if (method, seed, subject, name) not in gone
        for value in [base + more + gain]
    ]


def test_every_measure_comes_whole_and_by_class_with_the_main_one_first():
    found = compare_measures("segment", Outcome(tuple(mask_rows()), {}, {}), unit="voxel")
    named = [(each.measure.title, each.of) for each in found]
    classes = ("", "liver", "spleen")
    assert named == [(title, of) for title in ("Dice", "NSD", "HD95") for of in classes]
    assert found[0].comparison.cell("c2l", 2).score.mean == pytest.approx(0.75)
    assert found[1].comparison.cell("c2l", 2).score.mean == pytest.approx(0.70)
    assert found[2].comparison.cell("scratch", 2).score.mean == pytest.approx(0.70)
    assert found[0].comparison.cell("c2l", 2).difference.interval.mean == pytest.approx(0.1)
    assert [each.measure.unit for each in found] == 6 * [""] + 3 * ["voxel"]
    assert not found[6].comparison.higher_is_better


def test_a_class_that_a_subject_lacks_is_left_out_everywhere_and_counted():
    rows = mask_rows()
    rows[1]["dice"] = ""  # scratch, first seed, subject a, spleen
    whole, liver, spleen = compare_measures("segment", Outcome(tuple(rows), {}, {}))[:3]
    assert (whole.left_out, liver.left_out, spleen.left_out) == (0, 0, 1)
    assert {cell.subjects for cell in spleen.comparison.cells} == {2}
    assert {cell.subjects for cell in whole.comparison.cells} == {3}


def test_classes_of_scans_are_told_by_their_truth_and_numbers_have_none():
    classified = [
        row(subject=f"s{i}", truth=truth, predicted=truth, correct=1.0, **{"p ap": "0.5"})
        for i, truth in enumerate(("ap", "pa", "pa"))
    ]
    found = compare_measures("classify", Outcome(tuple(classified), {}, {}))
    assert [(each.of, each.comparison.cells[0].subjects) for each in found] == [
        ("", 3),
        ("ap", 1),
        ("pa", 2),
    ]
    numbers = [row(subject=f"s{i}", truth=str(i), predicted="1", correct=0.0) for i in range(3)]
    for each in numbers:
        each["absolute error"] = "0.5"
    found = compare_measures("regress", Outcome(tuple(numbers), {}, {}))
    assert [each.of for each in found] == [""]


def test_no_row_is_no_measure():
    assert all(compare_measures(task, Outcome((), {}, {})) == () for task in MEASURES)


def test_scans_of_a_subject_count_together():
    rows = [row(dice="0.2"), row(dice="0.4"), row(dice=""), row(subject="b", dice="1")]
    assert [(s.subject, s.value) for s in scores_of(rows, "dice")] == [
        ("a", pytest.approx(0.3)),
        ("b", 1.0),
    ]
    assert math.isfinite(sum(s.value for s in scores_of(rows, "dice")))


@given(
    st.sets(
        st.tuples(
            st.sampled_from(["scratch", "a", "b"]), st.sampled_from([2, 1.0]),
            st.integers(0, 2), st.sampled_from("xyz"),
        )
    )
)  # fmt: skip
def test_what_is_kept_can_be_paired_and_nothing_more_is_lost_than_must_be(places):
    scores = [Score(method, fraction, seed, who, 0.5) for method, fraction, seed, who in places]
    kept, left_out = complete_scores(scores)
    assert set(kept) <= set(scores)
    for fraction in (2, 1.0):
        there = [s for s in kept if s.label_fraction == fraction]
        tables = {
            method: {(s.seed, s.subject) for s in there if s.method == method}
            for method in {s.method for s in there}
        }
        assert len({frozenset(table) for table in tables.values()}) <= 1
    full = {m: {(f, s, w) for x, f, s, w in places if x == m} for m, *_ in places}
    if len(set(map(frozenset, full.values()))) == 1:
        table = next(iter(full.values()))
        if len(table) == 2 * 3 * 3:
            assert (len(kept), left_out) == (len(scores), 0)
