"""The catalogue: both reading lists and what was added, readable without torch, as data, Markdown and BibTeX."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from pybtex import backends, database
from pybtex.database.input import bibtex as reader
from pybtex.plugin import find_plugin

from unlabeled.catalogue import Card, card, cards
from unlabeled.catalogue.bibtex import bibliography, bibtex, key_of
from unlabeled.catalogue.cards import CATEGORIES
from unlabeled.catalogue.markdown import by_year, in_one_table, markdown
from unlabeled.catalogue.venues import PREPRINT, VENUES
from unlabeled.errors import OptionError


def test_there_are_the_28_papers_of_the_lists_and_every_card_is_whole():
    assert sum(bool(each.lists) for each in cards().values()) == 28
    for each in cards().values():
        assert each.title
        assert each.authors
        assert all(len(name.split()) > 1 for name in each.authors), "given name and surname"
        assert each.year >= 2017
        assert each.venue in VENUES
        assert each.category in CATEGORIES
        assert re.match(r"[23]D", each.modality)
        assert each.lists in ("A", "B", "AB", "")
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", each.changed)
        assert each.paper_links
        assert all(link.startswith("https://") for link in (*each.paper_links, *each.code_links))


def test_identifiers_agree_with_the_links():
    for each in cards().values():
        links = " ".join(each.paper_links)
        for found in re.findall(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{5})", links):
            assert each.arxiv == found
        for found in re.findall(r"/(10\.\d{4,}/[\w.-]+)", links):
            assert each.doi == found
        assert re.fullmatch(r"(\d{4}\.\d{5})?", each.arxiv)
        assert re.fullmatch(r"(10\.\d{4,}/\S+)?", each.doi)


def test_it_agrees_with_the_reading_lists(shared_data):
    """What a list says is there word for word; what it leaves empty is filled."""
    listed = shared_data.parent / "papers.csv"
    if not listed.exists():
        pytest.skip("no papers.csv beside the data")
    rows = list(csv.DictReader(listed.read_text(encoding="utf-8").splitlines()))
    assert [row["slug"] for row in rows] == [slug for slug in cards() if card(slug).lists]
    for row in rows:
        ours = card(row["slug"])
        assert (row["title"], int(row["year"]), row["lists"]) == (
            ours.title,
            ours.year,
            ours.lists,
        )
        assert ours.venue == (PREPRINT if row["venue"] == "N/A" else row["venue"])
        assert row["category"] in ("", ours.category)
        assert row["modality"] in ("", ours.modality)
        assert tuple(row["code_links"].split()) == ours.code_links
        assert tuple(row["paper_links"].split()) in ((), ours.paper_links)


def test_an_unknown_method_gets_the_nearest_name():
    with pytest.raises(OptionError, match="Did you mean models-genesis"):
        card("model-genesis")


def test_reading_it_loads_no_torch():
    code = (
        "import sys, unlabeled.catalogue as c, unlabeled.methods._registry as r;"
        "from unlabeled.catalogue import bibtex, evidence, markdown;"
        "c.cards(); r.slugs(); evidence.measured(); evidence.proofs();"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def parse(text: str) -> database.BibliographyData:
    return reader.Parser().parse_string(text)


def test_bibtex_of_all_papers_is_read_and_set_by_a_bibtex_program():
    """A strict reader takes it, and the style `plain` finds every field that its kind of entry must have."""
    read = parse(bibliography(cards().values()))
    assert len(read.entries) == len(cards())
    for each, entry in zip(cards().values(), read.entries.values(), strict=True):
        journal = VENUES[each.venue].kind != "proceedings"
        assert entry.type == ("article" if journal else "inproceedings")
        assert ("journal" in entry.fields) == journal
        assert ("booktitle" in entry.fields) == (not journal)
        assert entry.fields["year"] == str(each.year)
        surnames = [person.last_names[-1] for person in entry.persons["author"]]
        assert len(surnames) == len(each.authors)
        assert each.authors[-1].endswith(surnames[-1])
    style = find_plugin("pybtex.style.formatting", "plain")()
    text = find_plugin("pybtex.backends", "plaintext")
    assert issubclass(text, backends.BaseBackend)
    shown = [entry.text.render(text("UTF-8")) for entry in style.format_bibliography(read)]
    assert any("Models Genesis: Generic Autodidactic Models for 3D" in line for line in shown)
    assert any("Beat Müller" in line for line in shown)


def strange(**changes: object) -> Card:
    values = {"title": "R&D of {50 %} a_b", "venue": "MICCAI", "authors": ("José Ångström",)}
    return replace(card("models-genesis"), **{**values, **changes})


def test_bibtex_escapes_what_tex_reads_as_commands():
    entry = parse(bibtex(strange()))
    (fields,) = (one.fields for one in entry.entries.values())
    assert fields["title"] == r"{R\&D of \{50 \%\} a\_b}"
    assert r"Jos{\'e} {\r A}ngstr{\"o}m" in bibtex(strange())


def test_a_preprint_and_a_venue_that_is_not_known_have_entries_too():
    assert "journal = {arXiv preprint arXiv:2011.12640}" in bibtex(card("pgl"))
    assert "booktitle = {Some Workshop}" in bibtex(strange(venue="Some Workshop"))


def test_keys_are_ascii_and_two_papers_never_share_one():
    keys = [key_of(each) for each in cards().values()]
    assert all(re.fullmatch(r"[a-z]+20\d\d[a-z0-9]+", key) for key in keys)
    twice = bibliography([card("models-genesis"), strange(title="Models again")])
    assert parse(bibliography([card("pgl")])).entries
    assert len(parse(twice).entries) == 2


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_list_a_has_a_section_a_year_newest_first():
    text = markdown(list(reversed(cards().values())), "A")
    years = [int(year) for year in re.findall(r"^## (\d{4})$", text, re.M)]
    assert years == sorted({each.year for each in cards().values()}, reverse=True)
    head = "| Paper title | Journal/Conference | Category | Paper Link | Code link |"
    assert text.count(head) == len(years)
    assert all(len(cells(line)) == 5 for line in text.splitlines() if line.startswith("|"))
    row = next(line for line in text.splitlines() if card("rubiks-cube-plus").title in line)
    assert cells(row)[1:3] == ["MedIA", "Predictive"]
    assert cells(row)[4] == "N/A"


def test_list_b_is_one_table_with_the_day_of_the_last_change_above():
    text = markdown(tuple(cards().values()), "B")
    first, _, head, *_ = text.splitlines()
    assert first == f"Last change: {max(each.changed for each in cards().values())}"
    assert cells(head) == ["Date", "Title", "Venue", "Code", "Paper", "Modality"]
    dates = [int(cells(line)[0]) for line in text.splitlines() if re.match(r"\| 20", line)]
    assert len(dates) == len(cards())
    assert dates == sorted(dates, reverse=True)
    row = next(line for line in text.splitlines() if card("pgl").title in line)
    assert cells(row)[2:4] == ["N/A", "N/A"], "appeared nowhere, no code"


def test_a_bar_in_a_title_does_not_break_a_table():
    for text in (by_year([strange(title="a | b")]), in_one_table([strange(title="a | b")])):
        assert r"a \| b" in text
