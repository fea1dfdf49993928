"""Options check their ranges whoever makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.errors import OptionError
from unlabeled.options import Between, Count, Options, Probability, flag
from unlabeled.rng import derive, generator


@dataclass(frozen=True, kw_only=True)
class Some(Options):
    p_flip: Probability = 0.5
    patch_size: tuple[Count, ...] = (4, 4)
    kind: Literal["a", "b"] = "a"
    steps: Count | None = None
    name: str = "x"
    on: bool = True


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"p_flip": 1.5}, "--p-flip is 1.5"),
        ({"p_flip": float("nan")}, "--p-flip is nan"),
        ({"p_flip": "much"}, "not a number"),
        ({"patch_size": (4, 0)}, "--patch-size is 0"),
        ({"patch_size": 4}, "not a list"),
        ({"kind": "c"}, "not one of a, b"),
        ({"steps": 0}, "--steps is 0"),
        ({"steps": True}, "whole number"),
        ({"name": 3}, "not a text"),
        ({"on": 1}, "true or false"),
    ],
)
def test_a_value_outside_its_range_is_named(values, told):
    with pytest.raises(OptionError, match=told):
        Some(**values)


def test_good_values_pass():
    made = Some(p_flip=1, patch_size=(1, 2, 3), kind="b", steps=None)
    assert made.patch_size == (1, 2, 3)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(OptionError, match="Did you mean --p-flip"):
        Some.from_names(p_flp=0.1)


@given(low=st.floats(-5, 5), high=st.floats(-5, 5), value=st.floats(-9, 9))
def test_between_is_a_closed_range(low, high, value):
    assert (value in Between(low, high)) == (low <= value <= high)
    assert (value in Between(low)) == (value >= low)
    assert (value in Between(None, high)) == (value <= high)
    assert str(low) in str(Between(low)) or (0 < low < 1e-6 and str(Between(low)) == "above 0")


def test_flags_are_typed_with_dashes():
    assert flag("samples_per_scan") == "--samples-per-scan"


@given(
    seed=st.integers(0, 2**40), place=st.lists(st.integers(0, 9) | st.text(max_size=3), max_size=4)
)
def test_a_place_has_one_generator(seed, place):
    assert derive(seed, *place) == derive(seed, *place)
    assert 0 <= derive(seed, *place) < 2**63
    first, second = generator(seed, *place), generator(seed, *place)
    assert first.initial_seed() == second.initial_seed()


def test_places_do_not_run_into_each_other():
    places = [(), (1,), ("1",), (1, 1), (11,), ("a", "b"), ("ab",), ("a", "", "b")]
    assert len({derive(0, *place) for place in places}) == len(places)
