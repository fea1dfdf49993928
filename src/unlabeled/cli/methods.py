"""``unlabeled methods``: what can be run, or one method's card."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from unlabeled.catalogue import Card, card, cards
from unlabeled.cli.options import describe
from unlabeled.cli.render import console, counted, print_json
from unlabeled.errors import OptionError
from unlabeled.methods._outline import outline
from unlabeled.methods._registry import brought, find, slugs
from unlabeled.options import flag

WIDE = 130  # columns of a terminal that shows everything on one line a method


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
        facts = _facts(slug, whole=True)
        if json_:
            print_json(facts)
        else:
            _show(facts)
        return 0
    rows = [_facts(each) for each in dict.fromkeys([*cards(), *slugs()])]
    if category is not None:
        rows = _only(rows, "category", category, {str(row["category"]) for row in rows})
    if unit is not None:
        from unlabeled.data.scan import Unit  # imports NumPy, which a listing can do without

        rows = _only(rows, "unit", unit, {one.value for one in Unit})
    if dims is not None:
        rows = [row for row in rows if dims in row.get("dims", ())]
    if json_:
        print_json(rows)
        return 0
    rows.sort(key=lambda row: not row["runs"])  # what can be typed comes first
    console().print(_table(rows, wide=console().width >= WIDE))
    running = sum(row["runs"] for row in rows)
    told = f"{counted(len(rows), 'method')}, {running} of them here; `unlabeled methods SLUG` shows one."
    console().print(told, markup=False, soft_wrap=True)
    return 0


def _table(rows: list[dict[str, Any]], *, wide: bool) -> Table:
    """List methods; a narrow terminal gets no columns that `unlabeled papers` has as well."""
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for column in ("year", "category") if wide else ():
        table.add_column(column, no_wrap=True)
    for column in ("learns from", "needs", "carries", "runs here"):
        table.add_column(column)
    for row in rows:
        learns = f"{row['unit']}, {_dims(row)}" if "unit" in row else ""
        paper = (str(row["year"] or ""), row["category"]) if wide else ()
        table.add_row(
            row["slug"],
            *paper,
            learns,
            ", ".join(row.get("needs", ())) or ("nothing more" if learns else ""),
            ", ".join(row.get("carries", ())),
            row.get("package", "yes") if row["runs"] else "not yet",
        )
    return table


def _only(
    rows: list[dict[str, Any]], name: str, asked: str, there: set[str]
) -> list[dict[str, Any]]:
    """Keep the rows of one category or unit; a word that none could have is a mistake."""
    if not any(asked.lower() in value.lower() for value in there):
        listed = ", ".join(sorted(filter(None, there)))
        raise OptionError(f"--{name} is {asked!r}, which no method has", f"Give one of: {listed}.")
    return [row for row in rows if asked.lower() in str(row.get(name, "")).lower()]


def _dims(facts: dict[str, Any]) -> str:
    return "/".join(f"{dim}D" for dim in facts["dims"])


def _facts(slug: str, *, whole: bool = False) -> dict[str, Any]:
    """Collect what a card says; the method itself is imported only for the whole."""
    entry = brought(slug)
    told = card(slug) if slug in cards() or slug not in slugs() else _without_card(slug)
    facts: dict[str, Any] = {**asdict(told), "runs": slug in slugs()}
    if entry is not None:
        facts["package"] = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module
    brief = outline(slug) if facts["runs"] else None
    if brief is not None:
        facts |= asdict(brief)
    if whole and facts["runs"]:
        kind = find(slug)
        options = kind.options_class()
        facts |= {
            "unit": kind.needs.unit.value,
            "dims": list(kind.needs.dims),
            "makes": kind.makes,
            "quirks": dict(kind.quirks),
            "options": {name: getattr(options, name) for name in options.names()},
            "help": describe(kind.options_class),
        }
    return facts


def _without_card(slug: str) -> Card:
    """Stand in for the card of a method that is not in the catalogue."""
    return Card(
        slug=slug,
        title="no paper of the catalogue",
        year=0,
        venue="",
        category="",
        modality="",
        paper_links=(),
        code_links=(),
        lists="",
    )


def _show(facts: dict[str, Any]) -> None:
    out = console()

    def say(text: str) -> None:
        out.print(text, soft_wrap=True, markup=False)

    out.print(facts["slug"], style="bold", markup=False)
    say(f"  {facts['title']}" + (f" ({facts['venue']} {facts['year']})" if facts["year"] else ""))
    if "package" in facts:
        say(f"  from the package {facts['package']}")
    for link in (*facts["paper_links"], *facts["code_links"]):
        say(f"  {link}")
    if not facts["runs"]:
        say("This method does not run in this version yet.")
        return
    say(f"learns from: one {facts['unit']} a sample, {_dims(facts)}")
    say(f"needs: {', '.join(facts.get('needs', ())) or 'nothing more'}")
    say(f"carries over: {', '.join(facts.get('carries', ('encoder',)))}")
    if facts["makes"]:
        say(f"makes by itself: {facts['makes']} (unlabeled predict RUN SCANS --out DIR)")
    table = Table(box=None, pad_edge=False)
    table.add_column("option", no_wrap=True)
    table.add_column("default", no_wrap=True)
    table.add_column("meaning")
    for name, value in facts["options"].items():
        table.add_row(flag(name), _typed(value), Text(facts["help"].get(name, "")))
    out.print(table)
    for name, text in facts["quirks"].items():
        say(f"official quirk, mended by default: {name}: {text}")
    say(f"run it: unlabeled pretrain {facts['slug']} SCANS --out RUN")


def _typed(value: Any) -> str:
    """Write a default as a person types it."""
    if value is None:
        return "-"
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return str(value)
