"""Check entries that somebody wants to add to the catalogue: every fault at once, each with its line and what to do."""

from __future__ import annotations

import csv
import datetime
import difflib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from unlabeled.catalogue.cards import CATEGORIES, COLUMNS, Card, card_of
from unlabeled.catalogue.venues import PREPRINT, VENUES

FIRST_YEAR = 2017
REQUIRED = ("slug", "title", "authors", "year", "venue", "category", "paper_links")
ALIKE = 0.92  # from which share of equal letters two titles are taken for one
_SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_ARXIV = re.compile(r"\d\d(0[1-9]|1[0-2])\.\d{4,5}(v\d+)?")
_ARXIV_LINK = re.compile(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})")
_DOI = re.compile(r"10\.\d{4,9}/\S+")
_MODALITY = re.compile(r"[23]D\b.*")


@dataclass(frozen=True)
class Fault:
    """Something that keeps an entry out of the catalogue."""

    line: int
    fact: str
    remedy: str


@dataclass(frozen=True)
class Checked:
    """The entries of a file, and what is wrong with them; `whole` where the file holds the catalogue itself."""

    cards: tuple[Card, ...]
    faults: tuple[Fault, ...]
    whole: bool = False


def check_entries(text: str, known: Mapping[str, Card], today: datetime.date) -> Checked:
    """Check rows in the form of ``catalogue.csv``; columns may stand in any order, and those not required be absent.

    Parameters
    ----------
    text
        The file.
    known
        Papers that are there already.  Where the file holds them all, it is the catalogue with additions, and is
        compared with itself alone.
    today
        The year may be at most the next one; entries without a date of change get this day.

    Returns
    -------
    Checked
        Cards of the rows that could be read, completed by what their links tell, and all faults by line.
    """
    try:
        header, rows = _split(text)
    except csv.Error as fault:
        return Checked((), (Fault(1, f"it is no CSV: {fault}", "Save it as CSV in UTF-8."),))
    faults = list(_header_faults(header))
    if faults:
        return Checked((), tuple(faults))
    read: list[tuple[int, Card]] = []
    for line, cells in rows:
        if len(cells) != len(header):
            faults.append(_uneven(line, len(cells), len(header)))
        else:
            row = {name: " ".join(cell.split()) for name, cell in zip(header, cells, strict=True)}
            faults += [Fault(line, *told) for told in _row_faults(row, today)]
            year = row["year"] if row["year"].isdigit() else "0"
            read.append((line, _complete(card_of({**row, "year": year}), today)))
    if not read and not faults:
        faults.append(
            Fault(1, "there is no entry below the names of the columns", "Add a row a paper.")
        )
    whole = bool(known) and known.keys() <= {card.slug for _, card in read}
    faults += _duplicates(read, {} if whole else known)
    faults.sort(key=lambda fault: fault.line)
    return Checked(tuple(card for _, card in read), tuple(faults), whole)


def as_rows(cards: Sequence[Card]) -> str:
    """Write cards as rows of ``catalogue.csv``, without the names of the columns."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for card in cards:
        told = {
            **{name: getattr(card, name) for name in COLUMNS},
            "authors": "; ".join(card.authors),
            "paper_links": " ".join(card.paper_links),
            "code_links": " ".join(card.code_links),
        }
        writer.writerow([told[name] for name in COLUMNS])
    return out.getvalue()


def _split(text: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read the names of the columns, and every row that is not empty with the line where it begins."""
    reader = csv.reader(io.StringIO(text))
    header = [name.strip().lower() for name in next(reader, [])]
    rows, line = [], reader.line_num + 1
    for cells in reader:
        if any(cell.strip() for cell in cells):
            rows.append((line, cells))
        line = reader.line_num + 1
    return header, rows


def _header_faults(header: Sequence[str]) -> Iterator[Fault]:
    listed = ",".join(REQUIRED)
    if not any(header):
        yield Fault(1, "there is nothing in it", f"The first line names the columns: {listed}.")
        return
    if len(header) == 1 and ";" in header[0]:
        yield Fault(1, "the columns are separated by semicolons", "Separate them by commas.")
        return
    for name in REQUIRED:
        if name not in header:
            yield Fault(
                1, f"there is no column {name}", f"The first line names at least: {listed}."
            )
    for name in header:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            yield Fault(1, f"unknown column {name!r}", f"{hint}There are: {', '.join(COLUMNS)}.")
        elif header.count(name) > 1:
            yield Fault(1, f"the column {name} is there twice", "Leave one out.")


def _uneven(line: int, cells: int, columns: int) -> Fault:
    return Fault(
        line,
        f"{cells} of {columns} cells are there",
        'Put a cell that holds commas between quotation marks: "One, Two".',
    )


def _row_faults(row: Mapping[str, str], today: datetime.date) -> Iterator[tuple[str, str]]:
    """List what is wrong with a row by itself: fact and remedy."""
    for name in REQUIRED:
        if not row[name]:
            yield f"{name} is empty", _EMPTY[name]
    for name, judge in _JUDGES.items():
        if row.get(name):
            yield from judge(row[name])
    yield from _year(row["year"], today)
    for name in ("paper_links", "code_links"):
        for link in row.get(name, "").split():
            yield from _link(name, link)
    linked = set(_ARXIV_LINK.findall(row["paper_links"].lower()))
    told = re.sub(r"v\d+$", "", row.get("arxiv", ""))
    if _ARXIV.fullmatch(told) and linked and told not in linked:
        yield f"arxiv is {told}, and the link says {linked.pop()}", "Mend one of them."
    if row["venue"] == PREPRINT and not (told or linked):
        yield "the venue is arXiv, and no arXiv identifier is told", "Give it, e.g. 1908.06912."


_EMPTY = {
    "slug": "Give a short name in small letters and hyphens, e.g. models-genesis.",
    "title": "Give the paper's title.",
    "authors": "Give all of them, given names first, joined by semicolons: Ann Lee; Bo Chu.",
    "year": "Give the year of the venue, e.g. 2021.",
    "venue": f"Give one of: {', '.join(VENUES)}.",
    "category": f"Give one of: {', '.join(CATEGORIES)}.",
    "paper_links": "Give an address where the paper can be read or bought; several are separated by blanks.",
}


def _slug(slug: str) -> Iterator[tuple[str, str]]:
    if not _SLUG.fullmatch(slug):
        made = re.sub(r"[^a-z0-9]+", "-", slug.lower()).strip("-").lstrip("0123456789-")
        hint = f"Type {made}." if made else "Begin with a letter."
        yield f"slug is {slug!r}, not small letters, digits and hyphens", hint


def _authors(authors: str) -> Iterator[tuple[str, str]]:
    for name in filter(None, (each.strip() for each in authors.split(";"))):
        if "," in name or re.search(r"\band\b", name):
            yield (
                f"the author {name!r} looks like several, or like a surname first",
                "Put given names first and semicolons between authors: Ann Lee; Bo Chu.",
            )


def _year(year: str, today: datetime.date) -> Iterator[tuple[str, str]]:
    if year and not re.fullmatch(r"\d{4}", year):
        yield f"year is {year!r}, not a year", "Give four digits, e.g. 2021."
    elif year and int(year) < FIRST_YEAR:
        yield f"year is {year}", f"The lists hold papers since {FIRST_YEAR}; leave it out."
    elif year and int(year) > today.year + 1:
        yield f"year is {year}, which is to come", f"Give one up to {today.year + 1}."


def _venue(venue: str) -> Iterator[tuple[str, str]]:
    if venue not in VENUES:
        by_case = {name.casefold(): name for name in VENUES}
        by_name = {each.name.casefold(): name for name, each in VENUES.items()}
        near = difflib.get_close_matches(venue.casefold(), [*by_case, *by_name], n=1, cutoff=0.7)
        meant = next(({**by_name, **by_case}[word] for word in near), None)
        hint = f"Did you mean {meant}? " if meant else ""
        yield (
            f"venue is {venue!r}, which is none of the known ones",
            f"{hint}Known are: {', '.join(VENUES)}. A further peer-reviewed one is one more line of "
            "src/unlabeled/catalogue/venues.py.",
        )


def _category(category: str) -> Iterator[tuple[str, str]]:
    if category not in CATEGORIES:
        near = difflib.get_close_matches(category.capitalize(), CATEGORIES, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}? " if near else ""
        yield f"category is {category!r}", f"{hint}Give one of: {', '.join(CATEGORIES)}."


def _modality(modality: str) -> Iterator[tuple[str, str]]:
    if not _MODALITY.fullmatch(modality):
        yield (
            f"modality is {modality!r}, without dimension",
            "Say dimension and kind, e.g. 3D (Brain MRI) or 2D (X-ray) & 3D (Lung CT).",
        )


def _arxiv(told: str) -> Iterator[tuple[str, str]]:
    if not _ARXIV.fullmatch(told):
        yield f"arxiv is {told!r}, no arXiv identifier", "Give year, month and number: 1908.06912."


def _doi(doi: str) -> Iterator[tuple[str, str]]:
    if not _DOI.fullmatch(doi):
        yield f"doi is {doi!r}", "Give it without address: 10.1007/978-3-030-32251-9_42."


def _lists(lists: str) -> Iterator[tuple[str, str]]:
    if lists not in ("A", "B", "AB"):
        yield f"lists is {lists!r}", "Give A, B or AB, or leave it empty."


def _changed(changed: str) -> Iterator[tuple[str, str]]:
    try:
        datetime.date.fromisoformat(changed)
    except ValueError:
        yield f"changed is {changed!r}, not a day", "Give it as 2026-01-31, or leave it empty."


_JUDGES: Mapping[str, Callable[[str], Iterator[tuple[str, str]]]] = {
    "slug": _slug,
    "authors": _authors,
    "venue": _venue,
    "category": _category,
    "modality": _modality,
    "arxiv": _arxiv,
    "doi": _doi,
    "lists": _lists,
    "changed": _changed,
}


def _link(name: str, link: str) -> Iterator[tuple[str, str]]:
    try:
        parts = urlsplit(link)
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[\w-]+(\.[\w-]+)+", host):
        yield (
            f"{name} holds {link!r}, which is no address",
            "Give it whole: https://arxiv.org/abs/1908.06912; several are separated by blanks.",
        )


def _complete(card: Card, today: datetime.date) -> Card:
    """Fill in what the links tell, and the day."""
    linked = _ARXIV_LINK.findall(" ".join(card.paper_links).lower())
    arxiv = card.arxiv or (linked[0] if linked else "")
    return replace(card, arxiv=arxiv, changed=card.changed or today.isoformat())


def _duplicates(read: Sequence[tuple[int, Card]], known: Mapping[str, Card]) -> Iterator[Fault]:
    """Find entries that are there already, in the catalogue or above in the file."""
    there = [("in the catalogue", card) for card in known.values()]
    for line, card in read:
        for place, other in there:
            same = _same(card, other)
            if same:
                slug = f"{other.slug} " if other.slug != card.slug else ""
                yield Fault(line, f"{same} is that of {slug}{place}", "Leave the entry out.")
                break
        there.append((f"in line {line}", card))


def _same(card: Card, other: Card) -> str:
    """Say what two entries share that only one may have; empty where there is nothing."""
    if card.slug and card.slug == other.slug:
        return f"the slug {card.slug}"
    shared = {_bare(link) for link in card.paper_links} & {
        _bare(link) for link in other.paper_links
    }
    if shared:
        return f"the paper link {min(shared)}"
    if card.doi and card.doi.lower() == other.doi.lower():
        return f"the doi {card.doi}"
    if card.arxiv and re.sub(r"v\d+$", "", card.arxiv) == re.sub(r"v\d+$", "", other.arxiv):
        return f"the arXiv identifier {card.arxiv}"
    titles = _letters(card.title), _letters(other.title)
    if all(titles) and difflib.SequenceMatcher(None, *titles, autojunk=False).ratio() >= ALIKE:
        return f"the title {card.title!r}"
    return ""


def _bare(link: str) -> str:
    """Write a link as others of the same page are written.

    >>> _bare("http://www.arxiv.org/pdf/2007.09886v2.pdf") == _bare("https://arxiv.org/abs/2007.09886/")
    True
    """
    bare = re.sub(r"^https?://(www\.)?", "", link).rstrip("/")
    found = _ARXIV_LINK.search(bare.lower())
    return f"arxiv.org/abs/{found[1]}" if found else bare


def _letters(title: str) -> str:
    return re.sub(r"[^a-z0-9]", "", title.lower())
