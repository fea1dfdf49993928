"""The papers of both reading lists as plain data: one card each, readable without loading any network."""

from __future__ import annotations

import csv
import difflib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from unlabeled.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Card:
    """One paper.

    Parameters
    ----------
    slug
        Name on the command line.
    title, year, venue
        Of the paper.
    category
        ``Predictive``, ``Generative``, ``Contrastive`` or ``Multiple-tasks/Multi-tasking``; empty where no list says.
    modality
        Dimension and kind of scans; empty where no list says.
    paper_links, code_links
        Addresses.
    lists
        Which reading lists name it: ``A``, ``B`` or ``AB``.
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

    @property
    def module(self) -> str:
        """Name of the module that implements it."""
        return self.slug.replace("-", "_")


@cache
def cards() -> dict[str, Card]:
    """Read all cards, by slug, newest paper first."""
    text = files("unlabeled").joinpath("catalogue.csv").read_text(encoding="utf-8")
    found = {}
    for row in csv.DictReader(text.splitlines()):
        found[row["slug"]] = Card(
            slug=row["slug"],
            title=row["title"],
            year=int(row["year"]),
            venue=row["venue"],
            category=row["category"],
            modality=row["modality"],
            paper_links=tuple(row["paper_links"].split()),
            code_links=tuple(row["code_links"].split()),
            lists=row["lists"],
        )
    return found


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
