"""Reports as sentences, by the published rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.data.reports import exchange_sides, sentences


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("Heart is enlarged. No effusion.", ("heart is enlarged", "no effusion")),
        ("1. Small nodule\n2. Clear left lung", ("small nodule", "clear left lung")),
        ("Small,\nleft-sided effusion", ("small left sided effusion",)),
        ("Nodule of 3.5 cm", ("nodule of", "5 cm")),  # as published: digits with a point cut
        ("Normal. Impression", ()),
        ("sœur œdème léger", ("sur dme lger",)),  # letters beyond ASCII are left out
        ("日本 語", ()),
        ("", ()),
    ],
)
def test_sentences_by_the_published_rules(report, expected):
    assert sentences(report) == expected


def test_the_official_stop_is_an_equality():
    """Five words so far end the report; six do not."""
    assert sentences("one two three. four five. six seven", stop_at=5) == (
        "one two three",
        "four five",
    )
    text = "one two three. four five six. seven eight"
    assert sentences(text, stop_at=5) == sentences(text)


@given(st.text(max_size=200))
def test_any_text_gives_plain_words(text):
    for sentence in sentences(text):
        assert sentence == sentence.lower()
        assert sentence.isascii()
        assert "." not in sentence
        assert sentence.split()
        assert sentence == " ".join(sentence.split())


@given(st.text(alphabet="LEFTleftRIGHTright .-,", max_size=80), st.text(max_size=40))
def test_exchanging_sides_twice_gives_the_report_back(report, more):
    text = f"{report} Left {more} RIGHT"
    assert exchange_sides(text) != text
    assert exchange_sides(exchange_sides(text)) == text


def test_whole_words_change_sides_and_keep_their_case():
    told = "LEFT base; Right-sided line, left. Shifted leftward, upright, copyright"
    assert exchange_sides(told) == (
        "RIGHT base; Left-sided line, right. Shifted leftward, upright, copyright"
    )
    assert exchange_sides("leftward Left right", plain=True) == "rightward Left left"
