"""BibTeX of a paper: the right kind of entry, every field escaped."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from string import ascii_lowercase

from unlabeled.catalogue.cards import Card
from unlabeled.catalogue.venues import VENUES

_LITTLE = {"a", "an", "the", "of", "on", "in", "for", "to", "from", "with", "and", "by", "how"}
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "’": "'",  # noqa: RUF001
    "–": "--",  # noqa: RUF001
}
_ACCENTS = {"̀": "`", "́": "'", "̂": "^", "̃": "~", "̈": '"', "̧": "c ", "̌": "v ", "̊": "r "}


def bibtex(card: Card) -> str:
    """Write one entry.

    ``@article`` for journals and preprints, ``@inproceedings`` for proceedings; the title keeps its capitals.
    """
    venue = VENUES.get(card.venue)
    preprint = venue is not None and venue.kind == "preprint"
    article = venue is not None and venue.kind != "proceedings"
    name = venue.name if venue is not None else card.venue
    if preprint:
        name = f"arXiv preprint arXiv:{card.arxiv}" if card.arxiv else "arXiv preprint"
    fields = {
        "title": f"{{{escape(card.title)}}}",
        "author": " and ".join(map(escape, card.authors)),
        "journal" if article else "booktitle": escape(name),
        "volume": escape(card.volume),
        "pages": re.sub("-+", "--", escape(card.pages)),
        "year": str(card.year),
        "doi": card.doi,
        "eprint": card.arxiv,
        "archiveprefix": "arXiv" if card.arxiv else "",
        "url": card.paper_links[0] if card.paper_links else "",
    }
    kind = "article" if article else "inproceedings"
    lines = [f"  {field} = {{{value}}}," for field, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{key_of(card)},", *lines, "}"])


def bibliography(chosen: Iterable[Card]) -> str:
    """Write the entries of several papers; where two would have the same key, the later gets a letter."""
    written: list[str] = []
    taken: set[str] = set()
    for card in chosen:
        entry, key = bibtex(card), key_of(card)
        fresh = next(
            k for k in (key, *(key + letter for letter in ascii_lowercase[1:])) if k not in taken
        )
        taken.add(fresh)
        written.append(entry.replace(f"{{{key},", f"{{{fresh},", 1))
    return "\n\n".join(written)


def key_of(card: Card) -> str:
    """Make the key of an entry: first author's surname, year, first word of the title that says something.

    >>> from unlabeled.catalogue import card
    >>> key_of(card("models-genesis"))
    'zhou2019models'
    """
    surname = card.authors[0].split()[-1] if card.authors else card.slug
    words = re.findall(r"[a-z0-9]+", _ascii(card.title).lower())
    word = next((each for each in words if each not in _LITTLE), "")
    return f"{re.sub('[^a-z]', '', _ascii(surname).lower())}{card.year}{word}"


def escape(text: str) -> str:
    r"""Write text so that TeX prints it as it stands, in ASCII where TeX has an accent for a letter.

    >>> print(escape("R&D of 5 % by Müller"))
    R\&D of 5 \% by M{\"u}ller
    """
    return "".join(_SPECIAL.get(letter) or _accented(letter) for letter in text)


def _accented(letter: str) -> str:
    base, *marks = list(unicodedata.normalize("NFD", letter))
    if len(marks) == 1 and marks[0] in _ACCENTS:
        return f"{{\\{_ACCENTS[marks[0]]}{base}}}"
    return letter


def _ascii(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.replace("’", ""))  # noqa: RUF001
    return plain.encode("ascii", "ignore").decode()
