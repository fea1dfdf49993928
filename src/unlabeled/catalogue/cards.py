"""One card a paper, from ``catalogue.csv``."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from unlabeled.errors import OptionError

CATEGORIES = ("Predictive", "Generative", "Contrastive", "Multiple-tasks/Multi-tasking")
COLUMNS = (
    "slug",
    "title",
    "authors",
    "year",
    "venue",
    "volume",
    "pages",
    "category",
    "modality",
    "paper_links",
    "code_links",
    "arxiv",
    "doi",
    "lists",
    "changed",
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """One paper.

    Parameters
    ----------
    slug
        Name on the command line.
    title, year, venue
        Of the paper; ``arXiv`` where it has appeared nowhere else.
    category
        One of `CATEGORIES`: the reading list's, or that of the paper's idea where the list names none.
    modality
        Dimension and kind of scans, e.g. ``3D (Brain MRI)``.
    paper_links, code_links
        Addresses.
    lists
        Which reading lists name it: ``A``, ``B`` or ``AB``; empty for a paper that came later.
    authors
        In the paper's order, given names first.
    volume, pages
        Of the journal or the proceedings; empty where not confirmed.
    arxiv, doi
        Identifiers, without address.
    changed
        Day on which the card was last changed, ``YYYY-MM-DD``.
    """

    slug: str
    title: str
    year: int
    venue: str
    category: str
    modality: str
    paper_links: tuple[str, ...]
    code_links: tuple[str, ...]
    lists: str
    authors: tuple[str, ...] = ()
    volume: str = ""
    pages: str = ""
    arxiv: str = ""
    doi: str = ""
    changed: str = ""

    @property
    def module(self) -> str:
        """Name of the module that implements it."""
        return self.slug.replace("-", "_")


@cache
def cards() -> dict[str, Card]:
    """Read all cards, by slug, newest paper first.

    Raises
    ------
    OptionError
        A row that somebody added has no year.
    """
    place = files("unlabeled").joinpath("catalogue.csv")
    reader = csv.DictReader(place.read_text(encoding="utf-8").splitlines())
    read = []
    for row in reader:
        if not (row.get("year") or "").isdigit():
            raise OptionError(
                f"{place}, line {reader.line_num}: year is {row.get('year')!r}",
                f"`unlabeled papers check {place}` names all that is wrong with it.",
            )
        read.append(card_of(row))
    return {each.slug: each for each in sorted(read, key=lambda one: -one.year)}


def card_of(row: Mapping[str, str]) -> Card:
    """Make a card of a row of the catalogue; columns that are not there are empty.

    >>> row = {"slug": "x", "title": "X", "year": "2020", "authors": "Ann Lee; Bo Chu"}
    >>> card_of(row).authors
    ('Ann Lee', 'Bo Chu')
    """
    told = {name: " ".join((row.get(name) or "").split()) for name in COLUMNS}
    authors = (name.strip() for name in told["authors"].split(";"))
    return Card(
        slug=told["slug"],
        title=told["title"],
        year=int(told["year"]),
        venue=told["venue"],
        category=told["category"],
        modality=told["modality"],
        paper_links=tuple(told["paper_links"].split()),
        code_links=tuple(told["code_links"].split()),
        lists=told["lists"],
        authors=tuple(filter(None, authors)),
        volume=told["volume"],
        pages=told["pages"],
        arxiv=told["arxiv"],
        doi=told["doi"],
        changed=told["changed"],
    )


def card(slug: str) -> Card:
    """Find one card.

    Raises
    ------
    OptionError
        No paper has this slug; the nearest is named.
    """
    if slug not in cards():
        near = difflib.get_close_matches(slug, cards(), n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise OptionError(
            f"unknown method {slug!r}", f"{hint}`unlabeled methods` lists all {len(cards())}."
        )
    return cards()[slug]
