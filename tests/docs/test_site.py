"""The site as it is built: strictly, from the package's own data, and without anything from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import site_methods
import site_reference
from blocks import ROOT

from unlabeled.catalogue import cards
from unlabeled.catalogue.evidence import measured
from unlabeled.cli.commands import COMMANDS
from unlabeled.methods._registry import find, slugs
from unlabeled.options import flag

pytest.importorskip("mkdocs")


class Found(HTMLParser):
    """What a page loads, and the text that it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "object"):
            self.loads.append(told.get("src") or told.get("data") or "")
        elif tag == "link" and told.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(told.get("href") or "")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: Path) -> Found:
    found = Found()
    found.feed(page.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return place


def words(page: Path) -> str:
    return " ".join(" ".join(read(page).text).split())


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 35
    for page in pages:
        far = [link for link in read(page).loads if re.match(r"(https?:)?//", link)]
        assert far == [], f"{page.name} loads {far}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text()), sheet


def test_comments_for_the_tests_are_not_published(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not re.search(r"<!--\s*(data|small|skip|prints)\b", page.read_text()), page


def test_every_method_has_its_page_with_all_it_says_of_itself(site: Path) -> None:
    for slug in sorted(set(slugs()) & set(cards())):
        shown = words(site / "methods" / f"{slug}.html")
        kind = find(slug)
        for name in kind.options_class.names():
            assert flag(name) in shown, f"{slug}: {name}"
        assert cards()[slug].title in shown
        assert "Carries to a task" in shown
        assert all(name in shown for name in (*kind.needs.metadata, *kind.needs.some))
        assert "How to cite" in shown
        for row in measured().get(slug, ()):
            assert f"{row.difference:+.3f}" in shown


def test_every_paper_is_in_the_catalogue_and_says_whether_it_runs(site: Path) -> None:
    shown = words(site / "catalogue" / "index.html")
    later = words(site / "methods" / "index.html")
    for slug, card in cards().items():
        assert card.title in shown
        assert slug in later
    assert shown.count("not yet") == len(set(cards()) - set(slugs()))
    assert "Journal/Conference" in words(site / "catalogue" / "by-year.html")
    assert "Modality" in words(site / "catalogue" / "one-table.html")


def test_the_reference_is_what_the_command_line_prints(site: Path) -> None:
    shown = words(site / "reference" / "commands.html")
    for name in COMMANDS:
        assert f"Usage: unlabeled {name}" in shown, name
    assert "--label-fractions" in shown
    assert " ".join(site_reference.help_of("doctor").split()) in shown


def test_python_names_have_their_docstrings(site: Path) -> None:
    shown = words(site / "reference" / "python.html")
    for sentence in (
        "Compare methods with training from scratch, at every label fraction and from every seed.",
        "Train a task on labelled scans",
        "One optimiser step: asked for with yield",
        "unlabeled.list_methods",
    ):
        assert sentence.split(",")[0] in shown, sentence


def test_links_of_the_repository_lead_to_pages(site: Path) -> None:
    text = (site / "methods" / "c2l.html").read_text() + (site / "contributing.html").read_text()
    assert "../../evidence" not in text
    assert (site / "evidence" / "small-scale.csv").is_file()
    assert (site / "evidence" / "hippocampus-mri.html").is_file()


def test_sources_of_options_come_from_the_page() -> None:
    written = (ROOT / "docs" / "methods" / "c2l.md").read_text(encoding="utf-8")
    completed = site_methods.complete("c2l", written)
    (row,) = (line for line in completed.splitlines() if line.startswith("| `--queue` | 16384 | "))
    assert row.endswith("| official code |")


def test_every_page_people_wrote_is_in_the_navigation(site: Path) -> None:
    menu = (site / "index.html").read_text(encoding="utf-8")
    for path in (ROOT / "docs").rglob("*.md"):
        place = path.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert f'href="{place}"' in menu, path
