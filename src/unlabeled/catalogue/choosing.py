"""Choose papers by what their cards say; a value that no paper has is a mistake, and those there are get named."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from unlabeled.catalogue.cards import Card
from unlabeled.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What papers must have: one of the values of every field that names some.

    Parameters
    ----------
    category, venue, modality
        Parts of the field, in any case: ``multi``, ``IEEE``, ``MRI``.
    year
        Whole years.
    reading_list
        ``A`` or ``B``.
    search
        Words in title, authors, slug, venue, category or modality.
    """

    category: Sequence[str] = ()
    year: Sequence[int] = ()
    venue: Sequence[str] = ()
    modality: Sequence[str] = ()
    reading_list: Sequence[str] = ()
    search: Sequence[str] = ()

    def of(self, papers: Iterable[Card]) -> list[Card]:
        """Keep the papers that have one of the values of each field.

        Raises
        ------
        OptionError
            No paper at all has a value; those there are, or the nearest, are named.
        """
        kept = list(papers)
        fields: tuple[tuple[str, Sequence[object], Callable[[Card], Sequence[str]]], ...] = (
            ("category", self.category, lambda card: (card.category,)),
            ("year", self.year, lambda card: (str(card.year),)),
            ("venue", self.venue, lambda card: (card.venue,)),
            ("modality", self.modality, _kinds),
            ("list", self.reading_list, lambda card: tuple(card.lists)),
            ("search", self.search, _words),
        )
        everything = kept
        for name, asked, told in fields:
            if asked:
                found = [_having(name, str(value), told, everything) for value in asked]
                kept = [card for card in kept if any(card in some for some in found)]
        return kept


def _having(
    name: str, value: str, told: Callable[[Card], Sequence[str]], papers: Sequence[Card]
) -> list[Card]:
    wanted = value.strip().casefold()
    whole = (lambda card: " ".join(told(card))) if name in ("search", "modality") else None
    found = [
        card
        for card in papers
        if wanted
        and any(wanted in text.casefold() for text in ([whole(card)] if whole else told(card)))
    ]
    if found:
        return found
    there = sorted({text for card in papers for text in told(card)}, key=str.casefold)
    words = [text.casefold() for text in there if not text.isdigit()]
    near = difflib.get_close_matches(wanted, words, n=3, cutoff=0.7)
    if name == "search":
        hint = f"Words there are that look like it: {', '.join(near)}." if near else ""
        listed = hint or "Give a part of a title, an author's name, or of another column."
    else:
        meant = [text for text in there if text.casefold() in near[:1]]
        hint = f"Did you mean {meant[0]}? " if meant else ""
        listed = f"{hint}Give one of: {', '.join(there)}."
    raise OptionError(f"--{name} is {value!r}, which no paper has", listed)


def _kinds(card: Card) -> tuple[str, ...]:
    """Take a modality apart.

    >>> from unlabeled.catalogue import card
    >>> _kinds(card("surrogate-supervision"))
    ('2D', 'X-ray', 'Skin', '3D', 'Lung CT')
    """
    parts = re.split(r"[(),&]|\band\b", card.modality)
    return tuple(filter(None, (part.strip() for part in parts)))


def _words(card: Card) -> tuple[str, ...]:
    fields = (card.slug, card.title, *card.authors, card.venue, card.category, card.modality)
    return tuple(word.strip(":,()") for field in fields for word in field.split())
