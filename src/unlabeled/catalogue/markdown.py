"""Tables of papers as Markdown, in the layout of either reading list."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

from unlabeled.catalogue.cards import Card
from unlabeled.catalogue.venues import PREPRINT

NOTHING = "N/A"


def markdown(chosen: Sequence[Card], layout: Literal["A", "B"]) -> str:
    """Write papers, newest first, in the layout of a list."""
    newest = sorted(chosen, key=lambda card: -card.year)
    return by_year(newest) if layout == "A" else in_one_table(newest)


def by_year(newest: Sequence[Card]) -> str:
    """Write list A: a section a year."""
    sections = []
    for year, cards in groupby(newest, lambda card: card.year):
        columns = ("Paper title", "Journal/Conference", "Category", "Paper Link", "Code link")
        rows = [
            (
                card.title,
                card.venue,
                card.category,
                linked("Paper", card.paper_links),
                linked("Code", card.code_links),
            )
            for card in cards
        ]
        sections.append(f"## {year}\n\n{table(columns, rows)}")
    return "\n\n".join(sections)


def in_one_table(newest: Sequence[Card]) -> str:
    """Write list B: one table, and above it the day of the last change."""
    columns = ("Date", "Title", "Venue", "Code", "Paper", "Modality")
    rows = [
        (
            str(card.year),
            card.title,
            NOTHING if card.venue == PREPRINT else card.venue,
            linked("Code", card.code_links),
            linked("Paper", card.paper_links),
            card.modality,
        )
        for card in newest
    ]
    last = max((card.changed for card in newest), default="")
    return f"Last change: {last or NOTHING}\n\n{table(columns, rows)}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""Write a table; an empty cell is ``N/A``.

    >>> print(table(("a", "b"), [("1 | 2", "")]))
    | a | b |
    |---|---|
    | 1 \| 2 | N/A |
    """
    shown = [[cell.replace("|", r"\|") or NOTHING for cell in row] for row in rows]
    lines = [columns, *shown]
    head, *rest = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(columns), *rest])


def linked(name: str, links: Sequence[str]) -> str:
    """Write links, numbered where there are several."""
    if len(links) == 1:
        return f"[{name}]({links[0]})"
    return ", ".join(f"[{name} {number}]({link})" for number, link in enumerate(links, start=1))
