from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.data.scan import Source
from unlabeled.data.splits import given_split, split_subjects, take_fraction
from unlabeled.errors import DataError, OptionError

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
names = st.sets(st.text(min_size=1, max_size=8), min_size=3, max_size=60)


@settings(max_examples=60, deadline=None)
@given(subjects=names, seed=st.integers(0, 2**31))
def test_every_subject_lands_in_exactly_one_part(subjects, seed):
    parts = split_subjects(subjects, SHARES, seed)
    landed = [subject for part in parts.values() for subject in part]
    assert sorted(landed) == sorted(subjects)
    assert all(parts.values())


@settings(max_examples=60, deadline=None)
@given(total=st.integers(10, 400), seed=st.integers(0, 2**31))
def test_sizes_are_within_one_of_the_shares(total, seed):
    parts = split_subjects(map(str, range(total)), SHARES, seed)
    for name, share in SHARES.items():
        assert abs(len(parts[name]) - share * total) < 1


@settings(max_examples=40, deadline=None)
@given(subjects=names, seed=st.integers(0, 2**31), rng=st.randoms())
def test_order_and_repetition_of_subjects_do_not_matter(subjects, seed, rng):
    shuffled = [*subjects, *subjects]
    rng.shuffle(shuffled)
    assert split_subjects(shuffled, SHARES, seed) == split_subjects(subjects, SHARES, seed)
    assert take_fraction(shuffled, 0.5, seed) == take_fraction(subjects, 0.5, seed)


@settings(max_examples=60, deadline=None)
@given(
    subjects=names,
    seed=st.integers(0, 2**31),
    shares=st.lists(st.floats(0.001, 1), min_size=2, max_size=2),
)
def test_fractions_are_nested_and_of_the_right_size(subjects, seed, shares):
    small, large = sorted(shares)
    few, many = take_fraction(subjects, small, seed), take_fraction(subjects, large, seed)
    assert set(few) <= set(many)
    assert abs(len(many) - large * len(subjects)) <= 0.5 + 1e-9 or len(many) == 1
    assert set(take_fraction(subjects, len(few), seed)) == set(few)


def test_adding_a_subject_moves_hardly_any_other():
    before = split_subjects(map(str, range(200)), SHARES, seed=3)
    after = split_subjects(map(str, range(201)), SHARES, seed=3)
    moved = sum(subject not in after[name] for name, part in before.items() for subject in part)
    assert moved <= 2


def test_seeds_differ_and_fractions_are_independent_of_the_division():
    subjects = [str(number) for number in range(100)]
    halves = {"a": 0.5, "b": 0.5}
    assert split_subjects(subjects, halves, 0) != split_subjects(subjects, halves, 1)
    common = set(split_subjects(subjects, halves, 0)["a"]) & set(take_fraction(subjects, 0.5, 0))
    assert 10 < len(common) < 40


def test_the_draw_never_changes_between_versions():
    subjects = [f"p{number}" for number in range(10)]
    assert take_fraction(subjects, 3, seed=0) == take_fraction(subjects, 0.3, seed=0)
    assert take_fraction(subjects, 3, seed=0) == ("p1", "p4", "p8")


@pytest.mark.parametrize("fraction", [0, -1, 0.0, 1.5, -0.1, float("nan"), True])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(OptionError, match="label fraction"):
        take_fraction(["a", "b"], fraction, 0)


def test_too_few_subjects_are_named():
    with pytest.raises(DataError, match=r"3 labelled subjects were asked for, and there are 2"):
        take_fraction(["a", "b"], 3, 0)
    with pytest.raises(DataError, match=r"2 subjects cannot be divided into 3 parts"):
        split_subjects(["a", "b"], SHARES, 0)
    with pytest.raises(DataError):
        take_fraction([], 0.5, 0)


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.2, "b": -0.2}, {"a": 0.0, "b": 1.0}])
def test_shares_that_do_not_divide_are_refused(shares):
    with pytest.raises(OptionError, match="shares"):
        split_subjects(["a", "b", "c"], shares, 0)


def source(subject, split, family=""):
    name = f"{subject}-{split}"
    return Source(name=name, channels=(), subject=subject, split=split, family=family)


def test_the_split_of_the_data_is_taken():
    rows = [source("a", "train"), source("b", "test"), source("c", None), source("a", "train")]
    assert given_split(rows) == {"test": ("b",), "train": ("a",)}
    assert given_split([source("a", None)]) == {}


def test_a_subject_in_two_splits_is_refused_by_name():
    with pytest.raises(DataError, match=r"1 subject has scans in more than one split: a"):
        given_split([source("a", "train"), source("a", "test")])


def test_relatives_in_two_splits_are_refused_as_one_subject_would_be():
    rows = [source("a", "train", "f"), source("b", "train", "f"), source("c", "test", "g")]
    assert given_split(rows) == {"test": ("c",), "train": ("a", "b")}
    with pytest.raises(DataError, match=r"scans in more than one split: family f"):
        given_split([*rows, source("d", "test", "f")])
