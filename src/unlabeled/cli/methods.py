"""``unlabeled methods``: what can be run, or one method's card."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table

from unlabeled.catalogue import Card, card, cards
from unlabeled.cli.render import console, print_json
from unlabeled.methods._registry import find, slugs


def methods(
    slug: str | None = None,
    /,
    *,
    category: str | None = None,
    unit: str | None = None,
    dims: Literal[2, 3] | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """List the methods, or show one method's card.

    Parameters
    ----------
    slug
        A method; without it, all of them.
    category
        Only this category, e.g. generative.
    unit
        Only methods that learn from this unit of data, e.g. volume.
    dims
        Only methods that work on pictures (2) or volumes (3).
    json_
        Print JSON.
    """
    if slug is not None:
        facts = _facts(card(slug), whole=True)
        if json_:
            print_json(facts)
        else:
            _show(facts)
        return 0
    rows = [_facts(each) for each in cards().values()]
    if category is not None:
        rows = [row for row in rows if category.lower() in row["category"].lower()]
    if unit is not None or dims is not None:
        rows = [_facts(card(row["slug"]), whole=True) for row in rows if row["runs"]]
        rows = [row for row in rows if unit is None or row["unit"] == unit]
        rows = [row for row in rows if dims is None or dims in row["dims"]]
    if json_:
        print_json(rows)
        return 0
    table = Table(box=None, pad_edge=False)
    for column in ("method", "year", "venue", "category", "runs here"):
        table.add_column(column, overflow="fold")
    for row in rows:
        runs = "yes" if row["runs"] else "not yet"
        table.add_row(row["slug"], str(row["year"]), row["venue"], row["category"], runs)
    console().print(table)
    console().print(f"{len(rows)} methods; `unlabeled methods SLUG` shows one.")
    return 0


def _facts(each: Card, *, whole: bool = False) -> dict[str, Any]:
    """Collect what a card says; the method itself is imported only for the whole."""
    facts: dict[str, Any] = {**asdict(each), "runs": each.slug in slugs()}
    if whole and facts["runs"]:
        kind = find(each.slug)
        options = kind.options_class()
        facts |= {
            "unit": kind.needs.unit.value,
            "dims": list(kind.needs.dims),
            "needs": list(kind.needs.metadata),
            "colour": kind.needs.colour,
            "fidelity": dict(kind.quirks),
            "options": {name: getattr(options, name) for name in options.names()},
        }
    return facts


def _show(facts: dict[str, Any]) -> None:
    out = console()
    out.print(f"[bold]{facts['slug']}[/]  {facts['title']} ({facts['venue']} {facts['year']})")
    for link in (*facts["paper_links"], *facts["code_links"]):
        out.print(f"  {link}", soft_wrap=True)
    if not facts["runs"]:
        out.print("This method does not run in this version yet.")
        return
    dims = " and ".join(f"{dim}D" for dim in facts["dims"])
    out.print(f"learns from: one {facts['unit']} a sample, {dims}")
    if facts["needs"]:
        out.print(f"needs: {', '.join(facts['needs'])}")
    table = Table(box=None, pad_edge=False)
    table.add_column("option")
    table.add_column("default")
    for name, value in facts["options"].items():
        table.add_row(f"--{name.replace('_', '-')}", json.dumps(value, default=str))
    out.print(table)
    for name, text in facts["fidelity"].items():
        out.print(f"official quirk, mended by default: {name}: {text}", soft_wrap=True)
    out.print(f"run it: unlabeled pretrain {facts['slug']} SCANS --out RUN")
