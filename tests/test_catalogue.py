"""The catalogue: 28 papers, readable without torch."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest

from unlabeled.catalogue import card, cards
from unlabeled.errors import OptionError


def test_there_are_28_papers_with_whole_cards():
    assert len(cards()) == 28
    for each in cards().values():
        assert each.title
        assert 2017 <= each.year <= 2022
        assert each.venue
        assert set(each.lists) <= {"A", "B"}
        assert all(link.startswith("https://") for link in (*each.paper_links, *each.code_links))


def test_it_agrees_with_the_reading_lists(shared_data):
    listed = shared_data.parent / "papers.csv"
    if not listed.exists():
        pytest.skip("no papers.csv beside the data")
    rows = list(csv.DictReader(listed.read_text().splitlines()))
    assert [row["slug"] for row in rows] == list(cards())
    assert all(row["title"] == card(row["slug"]).title for row in rows)


def test_an_unknown_method_gets_the_nearest_name():
    with pytest.raises(OptionError, match="Did you mean models-genesis"):
        card("model-genesis")


def test_reading_it_loads_no_torch():
    code = (
        "import sys, unlabeled.catalogue as c, unlabeled.methods._registry as r;"
        "c.cards(); r.slugs(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
