"""``unlabeled papers``: the catalogue of both reading lists, and what is known here of each method."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from unlabeled.catalogue.cards import Card, cards
from unlabeled.catalogue.choosing import Choice
from unlabeled.catalogue.evidence import measured, proofs, tell_measured
from unlabeled.catalogue.venues import VENUES
from unlabeled.cli.render import console, counted, messages, print_json
from unlabeled.errors import DataError, OptionError, UnlabeledError

if TYPE_CHECKING:
    from rich.table import Table

_QUIET = Parameter(negative=(), show_default=False)
Several = Annotated[tuple[str, ...], _QUIET]
Flag = Annotated[bool, _QUIET]
WRONG = 2
NARROW = {"Multiple-tasks/Multi-tasking": "Multi-task"}  # so that a row fits 80 columns
LISTS = {"A": "reading list A", "B": "reading list B", "AB": "reading lists A and B"}

app = App(name="papers", help_format="plaintext")


@app.default
def papers(
    slug: str | None = None,
    /,
    *,
    category: Several = (),
    year: Annotated[tuple[int, ...], _QUIET] = (),
    venue: Several = (),
    modality: Several = (),
    list_: Annotated[
        tuple[Literal["A", "B"], ...], Parameter(name="--list", negative=(), show_default=False)
    ] = (),
    runs: Flag = False,
    search: Several = (),
    markdown: Annotated[
        tuple[Literal["A", "B"], ...] | None, Parameter(negative=(), consume_multiple=(0, 1))
    ] = None,
    bibtex: Flag = False,
    json_: Annotated[bool, Parameter(name="--json", negative=(), show_default=False)] = False,
) -> int:
    """List the papers of both reading lists, or show one; `unlabeled papers check FILE` checks added entries.

    Every option that chooses papers may be given several times; options of different names must all hold.

    Parameters
    ----------
    slug
        A paper, by the name of its method; without it, all of them.
    category
        Only this category or a part of its name, e.g. generative.
    year
        Only papers of this year.
    venue
        Only this journal or conference, e.g. MICCAI.
    modality
        Only this dimension or kind of scans, e.g. 3D, MRI, X-ray.
    list_
        Only papers of this reading list.
    runs
        Only methods that run in this version.
    search
        Only papers with this word in title, authors or any other column.
    markdown
        Print Markdown in the layout of reading list A (sections by year) or B (one table); alone, that of --list, else A.
    bibtex
        Print BibTeX.
    json_
        Print JSON, with all figures that were measured.
    """
    asked = {"--markdown": markdown is not None, "--bibtex": bibtex, "--json": json_}
    if sum(asked.values()) > 1:
        both = " and ".join(name for name, given in asked.items() if given)
        raise OptionError(f"{both} are given together", "Give one of them.")
    choice = Choice(
        category=category,
        year=year,
        venue=venue,
        modality=modality,
        reading_list=list_,
        search=search,
    )
    if slug is None:
        chosen = choice.of(cards().values())
    else:
        chosen = [_paper(slug)]
        if choice != Choice() or runs:
            raise OptionError(
                f"{slug} is one paper, and options choose among all",
                "Leave out one or the other.",
            )
    if runs:
        chosen = [each for each in chosen if _runs(each.slug)]
    if markdown is not None:
        from unlabeled.catalogue.markdown import markdown as written

        _plain(written(chosen, (markdown or list_ or ("A",))[0]))
    elif bibtex:
        from unlabeled.catalogue.bibtex import bibliography

        _plain(bibliography(chosen))
    elif json_:
        facts = [_facts(each) for each in chosen]
        print_json(facts if slug is None else facts[0])
    elif slug is not None:
        _show(chosen[0])
    else:
        _list(chosen)
    return 0


@app.command
def check(file: Path, /, *, rows: Flag = False, json: Flag = False) -> int:
    """Check entries to add to the catalogue: criteria, form, duplicates; all faults at once.

    Parameters
    ----------
    file
        CSV with the columns slug, title, authors, year, venue, category, paper_links and, where known, modality,
        code_links, arxiv, doi, volume, pages.
    rows
        Print the entries as rows of the catalogue, completed, and nothing else.
    json
        Print faults as JSON.

    Returns
    -------
    int
        Exit code: 0, or 2 when there is a fault.
    """
    from unlabeled.catalogue.entries import as_rows, check_entries

    try:
        known = cards()
    except UnlabeledError:  # the catalogue itself is what is checked
        known = {}
    found = check_entries(_read(file), known, datetime.datetime.now(datetime.UTC).date())
    if json:
        print_json([{"file": str(file), **asdict(fault)} for fault in found.faults])
    elif found.faults:
        out = messages()
        for fault in found.faults:
            out.print(f"{file}, line {fault.line}: {fault.fact}", soft_wrap=True, markup=False)
            out.print(f"  {fault.remedy}", soft_wrap=True, markup=False)
        lines = len({fault.line for fault in found.faults})
        out.print(f"{counted(len(found.faults), 'fault')} in {counted(lines, 'line')}")
    elif rows:
        _plain(as_rows(found.cards).rstrip("\n"))
    else:
        entries = counted(len(found.cards), "entry", "entries")
        _plain(f"{file}: {entries}, nothing wrong")
        if not found.whole:
            _plain(f"add: unlabeled papers check {file} --rows >> src/unlabeled/catalogue.csv")
    return WRONG if found.faults else 0


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{file} is no UTF-8 text", "Save it as CSV in UTF-8.") from None
    except OSError as fault:
        raise DataError(
            f"{file} cannot be read: {fault.strerror}", "Give a CSV file: papers check FILE."
        ) from None


def _paper(slug: str) -> Card:
    if slug in cards():
        return cards()[slug]
    import difflib

    near = difflib.get_close_matches(slug, [*cards(), "check"], n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise OptionError(
        f"no paper is called {slug!r}",
        f"{hint}`unlabeled papers` lists all {len(cards())}, "
        f"`unlabeled papers --search {slug}` looks for a word.",
    )


def _runs(slug: str) -> bool:
    from unlabeled.methods._registry import slugs

    return slug in slugs()


def _facts(card: Card) -> dict[str, Any]:
    """Collect what the lists say and what is known here."""
    from unlabeled.methods._outline import outline

    brief = outline(card.slug) if _runs(card.slug) else None
    return {
        **asdict(card),
        "runs": _runs(card.slug),
        "command": f"unlabeled pretrain {card.slug} SCANS --out RUN" if _runs(card.slug) else None,
        "fidelity": list(brief.fidelity) if brief is not None else [],
        "quirks": list(brief.quirks) if brief is not None else [],
        "proofs": [asdict(proof) for proof in proofs().get(card.slug, ())],
        "evidence": [asdict(row) for row in measured().get(card.slug, ())],
        "against_scratch": tell_measured(measured().get(card.slug, ())),
    }


def _plain(text: str) -> None:
    console().print(text, soft_wrap=True, markup=False, emoji=False)


def _table(*columns: str, indent: int = 0) -> Table:
    """Make a table without lines, its columns one blank apart."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(" " * (indent if place == 0 else 0) + name, overflow="fold")
    table.columns[0].no_wrap = True
    return table


def _list(chosen: list[Card]) -> None:
    table = _table("paper", "year", "venue", "category", "runs here", "against scratch")
    table.columns[2].width = 8  # with it a row fits 80 columns
    table.columns[4].no_wrap = True
    told = [_facts(each) for each in chosen]
    for each, facts in zip(chosen, told, strict=True):
        table.add_row(
            each.slug,
            str(each.year),
            VENUES[each.venue].short or each.venue if each.venue in VENUES else each.venue,
            NARROW.get(each.category, each.category),
            ", ".join(facts["fidelity"]) if facts["runs"] else "not yet",
            facts["against_scratch"].replace(" in ", " ")
            or ("not measured" if facts["runs"] else ""),
        )
    if told:
        console().print(table)
    running = sum(facts["runs"] for facts in told)
    here = f", {running} of them here: unlabeled pretrain SLUG SCANS --out RUN" if running else ""
    _plain(f"{counted(len(told), 'paper')}{here}")
    _plain("`unlabeled papers SLUG` shows one, with all figures.")


def _show(card: Card) -> None:
    facts = _facts(card)
    venue = VENUES[card.venue].name if card.venue in VENUES else card.venue
    console().print(card.slug, style="bold", markup=False)
    where = [f"volume {card.volume}"] if card.volume else []
    where += [f"{'pages' if '-' in card.pages else 'article'} {card.pages}"] if card.pages else []
    _plain(f"  {card.title}")
    _plain(f"  {', '.join(card.authors)}")
    _plain(f"  {', '.join([f'{venue} {card.year}', *where])}")
    about = [card.category, card.modality, LISTS.get(card.lists, "")]
    _plain(f"  {'; '.join(filter(None, about))}")
    for link in card.paper_links:
        _plain(f"  paper: {link}")
    for link in card.code_links or ("none published",):
        _plain(f"  code: {link}")
    numbers = [f"arXiv {card.arxiv}" if card.arxiv else "", f"doi {card.doi}" if card.doi else ""]
    if any(numbers):
        _plain(f"  {', '.join(filter(None, numbers))}")
    if not facts["runs"]:
        _plain("It does not run in this version yet; `unlabeled papers --runs` lists what does.")
        return
    _plain(f"run it: {facts['command']}")
    _plain(f"fidelity: {_fidelity(card, facts)}")
    _show_proofs(card.slug)
    _show_measured(card.slug)


def _fidelity(card: Card, facts: dict[str, Any]) -> str:
    if "official" in facts["fidelity"]:
        reproduced = f": {'; '.join(facts['quirks'])}" if facts["quirks"] else ""
        return (
            "clean, the default, mends the quirks of the published code; "
            f"--fidelity official reproduces them{reproduced}"
        )
    if card.code_links:
        return "clean alone: no quirk of the published code is reproduced"
    return "clean alone: there is no published code to be faithful to"


def _show_proofs(slug: str) -> None:
    rows = proofs().get(slug, ())
    _plain("small-scale proof:" if rows else "small-scale proof: no figures are kept")
    for data in dict.fromkeys(row.data for row in rows):
        own = [row for row in rows if row.data == data]
        first = [name for row in own if row.against for name in (row.figure, row.against)]
        own.sort(key=lambda row: first.index(row.figure) if row.figure in first else len(first))
        told = ", ".join(f"{row.figure.replace('_', ' ')} {row.value:.4g}" for row in own)
        _plain(f"  {data}: {told}")


def _show_measured(slug: str) -> None:
    rows = measured().get(slug, ())
    if not rows:
        _plain("against scratch, on real data: not measured")
        return
    _plain(f"against scratch, on real data: {tell_measured(rows)} comparisons")
    for plan in dict.fromkeys(row.plan for row in rows):
        own = [row for row in rows if row.plan == plan]
        about = own[0]
        _plain(
            f"  {about.data}, {about.task}: {about.metric} of {about.subjects} test subjects, "
            f"{counted(about.seeds, 'seed')} (plan {plan}, commit {about.commit})"
        )
        table = _table("labels", "scratch", slug, "difference (95 % interval)", "p", "", indent=4)
        for row in own:
            table.add_row(
                f"    {row.label_fraction}",
                f"{row.scratch:.3f}",
                f"{row.pretrained:.3f}",
                f"{row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f})",
                f"{row.p_holm:.2g}",
                "" if row.finding == "none" else row.finding,
            )
        console().print(table)
    _plain(
        "  labels: subjects, or all; intervals over new seeds and subjects; p by Holm's correction"
    )
