"""Tokenisers: pieces and words, and that no vocabulary is learnt."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.errors import OptionError, RunError
from unlabeled.nn.tokens import KNOWN, HashedWords, WordPieces, split_words, tokeniser_from

PIECES = WordPieces(
    [
        "[PAD]",
        "[CLS]",
        "[SEP]",
        "small",
        "pleural",
        "eff",
        "##usion",
        "card",
        "##io",
        "##megaly",
        "edema",
        "[UNK]",
        ",",
        "cardi",
    ]
)


def test_word_pieces_are_the_longest_that_fit():
    tokens = PIECES.encode("small cardiomegaly, effusion", 14)
    spelled = [PIECES.vocabulary[number] for number in tokens.ids.tolist()]
    # after "cardi" no piece goes on with "omegaly": greedy cutting fails, and the word is unknown
    assert spelled[:8] == ["[CLS]", "small", "[UNK]", ",", "eff", "##usion", "[SEP]", "[PAD]"]
    assert tokens.words.tolist()[:8] == [0, 1, 2, 3, 4, 4, 5, -1]
    assert int(tokens.used) == 5


def test_what_does_not_fit_is_cut_before_the_stop():
    for tokeniser in (PIECES, HashedWords(8)):
        tokens = tokeniser.encode("small edema small edema small edema", 5)
        assert tokens.ids[-1] == tokeniser.stop
        assert tokens.words.tolist() == [0, 1, 2, 3, 4]
        assert int(tokens.used) == 4


def test_a_text_that_is_cut_within_a_word_keeps_its_beginning():
    tokens = PIECES.encode("effusion", 3)
    assert tokens.ids.tolist() == [1, 5, 2]
    assert tokens.words.tolist() == [0, 1, 2]


def test_marks_that_are_missing_are_named():
    with pytest.raises(OptionError, match=r"\[CLS\], \[SEP\]"):
        WordPieces(["[PAD]", "[UNK]"])


@given(st.text(max_size=80), st.integers(3, 20))
def test_any_text_is_encoded_alike(text, length):
    for tokeniser in (PIECES, HashedWords(16)):
        tokens = tokeniser.encode(text, length)
        assert tokens.ids.shape == tokens.words.shape == (length,)
        assert 0 <= int(tokens.ids.min()) <= int(tokens.ids.max()) < tokeniser.size
        places = tokens.words[tokens.words >= 0]
        assert places.diff().min() >= 0
        assert places.diff().max() <= 1
        assert int(tokens.used) == int(places.max())
        assert torch.equal(tokens.words < 0, tokens.ids == tokeniser.padding)


def test_hashed_words_need_no_list():
    """A word's number depends on the word alone; known words have numbers of their own."""
    tokeniser = HashedWords(64)
    numbers = [number for number, _ in tokeniser.pieces(" ".join(KNOWN))]
    assert numbers == list(range(3, 3 + len(KNOWN)))
    first, again = (HashedWords(64).pieces("smith johnson")[0] for _ in range(2))
    assert first == again
    assert first[0] >= 3 + len(KNOWN)
    assert tokeniser.spelled(first[0]) == ""


def test_only_known_words_are_told():
    for tokeniser, text in (
        (HashedWords(64), "effusion smith effusion"),
        (
            WordPieces(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "eff", "##usion", "smith"]),
            "effusion smith",
        ),
    ):
        tokens = tokeniser.encode(text, 8)
        told = tokeniser.tell(tokens.ids, tokens.words)
        assert told[1:3] == ["effusion", ""]
        assert set(told) <= {"", "effusion"}


def test_known_words_are_plain_and_sorted():
    assert list(KNOWN) == sorted(set(KNOWN))
    assert all(split_words(word) == [word] for word in KNOWN)


def test_tokenisers_come_back_from_what_they_tell():
    text = "small effusion of smith"
    for tokeniser in (PIECES, HashedWords(32)):
        again = tokeniser_from(tokeniser.describe())
        assert again.pieces(text) == tokeniser.pieces(text)
    with pytest.raises(RunError, match="numbered words otherwise"):
        tokeniser_from({"buckets": 32, "known": 1})
