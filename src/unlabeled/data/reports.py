"""Radiology reports as sentences: how free text is cut, whatever tokens are then made of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from unlabeled.errors import DataError

if TYPE_CHECKING:
    from unlabeled.data.record import Record

_NUMBERED = re.compile(r"[0-9]+\.")
_WORD = re.compile(r"\w+")
_SIDE = re.compile(r"\b(?:left|right)\b", re.IGNORECASE)
_LETTERS = re.compile(r"left|right")
_FEWEST = 2  # words; shorter pieces are headings and remains of numbers


def sentences(report: str, *, stop_at: int | None = None) -> tuple[str, ...]:
    r"""Cut a report into sentences of lower-case words.

    Line breaks become spaces; the text is cut at digits with a point ("1.", and unfortunately "3.5") and at points;
    what is left of a piece are its words in ASCII, without punctuation; pieces of a single word are dropped.

    Parameters
    ----------
    report
        Free text.
    stop_at
        Take no further sentence when the words so far are exactly so many (a quirk of the official code of GLoRIA,
        which takes five for it); None takes all.

    Notes
    -----
    Source: official code of GLoRIA (Huang et al., ICCV 2021).

    >>> sentences("FINDINGS:\n1. Small left pleural effusion.  No pneumothorax. Normal.")
    ('small left pleural effusion', 'no pneumothorax')
    """
    found: list[str] = []
    words = 0
    for part in _NUMBERED.split(report.replace("\n", " ")):
        for piece in part.split("."):
            seen = _WORD.findall(piece.replace("\ufffd\ufffd", " ").lower())
            plain = [word for word in (_ascii(each) for each in seen) if word]
            if len(seen) < _FEWEST or not plain:
                continue
            found.append(" ".join(plain))
            words += len(plain)
            if words == stop_at:
                return tuple(found)
    return tuple(found)


def plain_words(text: str) -> str:
    """Write a text as the words of a sentence are: lower-case ASCII, without punctuation.

    >>> plain_words("Left-sided Pleural Effusion!")
    'left sided pleural effusion'
    """
    return " ".join(word for word in (_ascii(each) for each in _WORD.findall(text.lower())) if word)


def require_reports(
    records: Sequence[Record], usable: Callable[[Record], bool], wanted: str
) -> None:
    """Refuse scans of which no report can be learnt from.

    Parameters
    ----------
    records
        Scans, some with a report.
    usable
        Tells whether the report of one holds what is wanted.
    wanted
        What a report should hold, for people.

    Raises
    ------
    DataError
        No report can be used.
    """
    if not any(map(usable, records)):
        raise DataError(
            f"none of {len(records)} reports has {wanted}",
            "Put the text of a report, or the path of a text file, into the manifest's column `report`.",
        )


def exchange_sides(report: str, *, plain: bool = False) -> str:
    """Exchange the words left and right, as the mirror image of what a report describes asks for.

    Letters keep their case; words that merely hold these letters (leftward, upright) stay, so that exchanging twice
    gives the report back.

    Parameters
    ----------
    report
        Free text.
    plain
        Exchange the letters wherever they are in small letters, inside other words too (official code of REFERS).

    >>> exchange_sides("Left lung clear, right-sided effusion, patient upright.")
    'Right lung clear, left-sided effusion, patient upright.'
    >>> exchange_sides("left lung clear, patient upright", plain=True)
    'right lung clear, patient upleft'
    """
    return (_LETTERS if plain else _SIDE).sub(lambda found: _other_side(found[0]), report)


def _other_side(word: str) -> str:
    other = "right" if word.lower() == "left" else "left"
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other


def _ascii(word: str) -> str:
    return word.encode("ascii", "ignore").decode("ascii")
