"""``unlabeled papers`` as a person types it: listing, choosing, one paper, all forms of output, and checking of entries."""

from __future__ import annotations

import csv
import json

import pytest
from desk import type_in

from unlabeled.catalogue import card, cards
from unlabeled.catalogue.cards import COLUMNS
from unlabeled.catalogue.evidence import measured, proofs
from unlabeled.errors import OptionError
from unlabeled.methods import _registry
from unlabeled.methods._registry import find, slugs

GOOD = {
    "slug": "new-paper",
    "title": "What the Neighbours of a Voxel Tell of It",
    "authors": "Ann Lee; Bo Chu",
    "year": "2021",
    "venue": "MIDL",
    "category": "Predictive",
    "modality": "3D (Brain MRI)",
    "paper_links": "https://arxiv.org/abs/2101.99999",
    "code_links": "https://example.org/code",
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def listed(*words):
    said = type_in(["papers", *words, "--json"])
    assert said.code == 0, said.err
    return json.loads(said.out)


def test_the_list_names_every_paper_and_fits_80_columns():
    said = type_in(["papers"])
    assert said.code == 0
    lines = said.out.splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert said.out.count("not measured") == len(set(slugs()) - measured().keys()), "whole words"
    assert "clean, official" in said.out
    shown = {line.split()[0]: line for line in lines if line.split()[0] in cards()}
    assert shown.keys() == cards().keys()
    for slug, line in shown.items():
        assert str(card(slug).year) in line
        assert ("not yet" in line) == (slug not in slugs())
        assert ("clean" in line) == (slug in slugs())
    assert f"{len(cards())} papers, {len(slugs())} of them here" in said.out


def test_every_row_says_how_it_runs_how_faithful_it_is_and_what_was_measured():
    for row in listed():
        runs = row["slug"] in slugs()
        assert row["runs"] == runs
        assert row["command"] == (
            f"unlabeled pretrain {row['slug']} SCANS --out RUN" if runs else None
        )
        assert len(row["evidence"]) == len(measured().get(row["slug"], ()))
        assert len(row["proofs"]) == len(proofs().get(row["slug"], ()))
        if runs:
            options = find(row["slug"]).options_class.names()
            assert ("official" in row["fidelity"]) == ("fidelity" in options)
            assert row["fidelity"][0] == "clean"
            assert row["quirks"] == list(find(row["slug"]).quirks)


CHOICES = {
    ("--category", "generative"): lambda c: c.category == "Generative",
    ("--category", "multi"): lambda c: c.category.startswith("Multiple"),
    ("--year", "2019"): lambda c: c.year == 2019,
    ("--year", "2017", "--year", "2018"): lambda c: c.year in (2017, 2018),
    ("--venue", "miccai"): lambda c: c.venue == "MICCAI",
    ("--modality", "x-ray"): lambda c: "X-ray" in c.modality,
    ("--modality", "2D", "--modality", "ct"): lambda c: "2D" in c.modality or "CT" in c.modality,
    ("--list", "A"): lambda c: "A" in c.lists,
    ("--list", "A", "--list", "B"): lambda c: bool(c.lists),
    ("--search", "rubik"): lambda c: "Rubik" in c.title,
    ("--search", "yefeng"): lambda c: "Yefeng Zheng" in c.authors,
    ("--runs",): lambda c: c.slug in slugs(),
    ("--year", "2020", "--venue", "MICCAI", "--modality", "3D", "--list", "B"): lambda c: (
        c.year == 2020 and c.venue == "MICCAI" and "3D" in c.modality and "B" in c.lists
    ),
    ("--year", "2017", "--venue", "ICCV"): lambda c: False,  # both are there, not together
}


@pytest.mark.parametrize("words", CHOICES, ids=" ".join)
def test_options_choose_and_combine(words):
    assert [row["slug"] for row in listed(*words)] == [
        slug for slug, each in cards().items() if CHOICES[words](each)
    ]


WRONG = {
    "--venue ECVC": ("--venue is 'ECVC', which no paper has", "Did you mean ECCV?"),
    "--year 2016": ("--year is '2016'", "Give one of: 2017, 2018"),
    "--category predictable": ("which no paper has", "Did you mean Predictive?"),
    "--modality PET": ("--modality is 'PET'", "Ultrasound"),
    "--search rubick": ("--search is 'rubick'", "rubik"),
    "--list C": ("--list is 'C', not one of A, B",),
    "--markdown C": ("--markdown is 'C', not one of A, B",),
    "--year soon": ("--year is 'soon', not a whole number",),
    "--json --bibtex": ("--bibtex and --json are given together", "Give one of them"),
    "models-genesiz": ("no paper is called 'models-genesiz'", "Did you mean models-genesis?"),
    "chek file.csv": ("nothing takes 'file.csv'", "papers check FILE"),
    "--year 2019 2020": ("no paper is called '2020'",),
    "pgl --runs": ("pgl is one paper", "Leave out"),
    "check": ("needs FILE", "papers check FILE"),
    "check nowhere.csv": ("nowhere.csv cannot be read", "papers check FILE"),
}


@pytest.mark.parametrize("words", WRONG)
def test_a_mistake_says_what_to_type(words):
    said = type_in(["papers", *words.split()])
    assert said.code == 2
    assert "Traceback" not in said.err
    for part in WRONG[words]:
        assert part in " ".join(said.err.split())


def test_one_paper_shows_what_the_lists_say_and_every_figure():
    slug = next(slug for slug in measured() if slug in proofs())
    out = type_in(["papers", slug]).out
    each = card(slug)
    for part in (each.title, *each.authors, str(each.year), each.category, each.modality):
        assert part in out
    for part in (*each.paper_links, *each.code_links, f"unlabeled pretrain {slug} SCANS --out RUN"):
        assert part in out
    for proof in proofs()[slug]:
        assert f"{proof.figure.replace('_', ' ')} {proof.value:.4g}" in out
    for row in measured()[slug]:
        assert f"{row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f})" in out
        assert row.commit in out


def test_a_paper_that_does_not_run_says_so(monkeypatch):
    """As every paper of the catalogue runs, one that does not is made."""
    missing = next(iter(cards()))
    others = tuple(slug for slug in slugs() if slug != missing)
    monkeypatch.setattr(_registry, "slugs", lambda: others)
    with pytest.raises(OptionError, match="does not run in this version") as fault:
        _registry.find(missing)
    assert "models-genesis" in fault.value.remedy
    out = type_in(["papers", missing]).out
    assert "does not run in this version yet" in out
    assert "unlabeled pretrain" not in out


def test_markdown_alone_follows_the_list_that_is_asked_for():
    assert type_in(["papers", "--list", "B", "--markdown"]).out.startswith("Last change: ")
    assert type_in(["papers", "--markdown"]).out.startswith("## 20")
    assert type_in(["papers", "--markdown", "B"]).out.count("\n| 20") == len(cards())
    only = type_in(["papers", "--list", "A", "--markdown"]).out
    assert only.count("| [Paper") == sum("A" in each.lists for each in cards().values())


def test_long_lines_are_not_broken_and_words_between_colons_are_no_emoji():
    years = {each.year for each in cards().values()}
    assert type_in(["papers", "--markdown", "A"]).out.count("\n|") == len(cards()) + 2 * len(years)
    entry = type_in(["papers", "pgl", "--bibtex"]).out
    assert entry.startswith("@article{xie2020pgl,\n  title = {{PGL: ")
    assert entry.endswith("}\n")


def test_it_answers_without_torch():
    import subprocess
    import sys

    code = (
        "import sys; from unlabeled.cli.app import run;"
        "code = run(['papers']) or run(['papers', 'c2l']) or run(['papers', '--bibtex']);"
        "sys.exit(code or 10 * ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def write(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def check(path, *words):
    return type_in(["papers", "check", path, *words])


def test_a_good_entry_passes_and_becomes_a_row_of_the_catalogue(tmp_path):
    path = write(tmp_path / "paper.csv", GOOD)
    said = check(path)
    assert (said.code, said.err) == (0, "")
    assert "1 entry, nothing wrong" in said.out
    assert f"unlabeled papers check {path} --rows >> src/unlabeled/catalogue.csv" in said.out
    (row,) = csv.reader(check(path, "--rows").out.splitlines())
    told = dict(zip(COLUMNS, row, strict=True))
    assert {name: told[name] for name in GOOD} == GOOD
    assert told["arxiv"] == "2101.99999", "taken from the link"
    assert told["changed"], "the day"


ONE = {
    # what is changed in a good entry: what is said of it
    "since 2017": ({"year": "2016"}, "year is 2016", "papers since 2017"),
    "to come": ({"year": "2099"}, "which is to come", "Give one up to"),
    "no year": ({"year": "MMXX"}, "year is 'MMXX', not a year", "four digits"),
    "empty year": ({"year": ""}, "year is empty", "e.g. 2021"),
    "venue": ({"venue": "Journal of Foo"}, "none of the known ones", "venues.py"),
    "venue by its whole name": (
        {"venue": "Medical Image Analysis"},
        "venue",
        "Did you mean MedIA?",
    ),
    "venue in other letters": ({"venue": "Miccai"}, "venue is 'Miccai'", "Did you mean MICCAI?"),
    "preprint": (
        {"venue": "arXiv", "paper_links": "https://example.org/x.pdf"},
        "no arXiv identifier is told",
        "e.g. 1908.06912",
    ),
    "no category": ({"category": ""}, "category is empty", "Predictive, Generative, Contrastive"),
    "category": ({"category": "predictve"}, "category is 'predictve'", "Did you mean Predictive?"),
    "no link": ({"paper_links": ""}, "paper_links is empty", "Give an address"),
    "link": ({"paper_links": "arxiv.org/abs/2101.99999"}, "which is no address", "Give it whole"),
    "scheme": ({"paper_links": "ftp://arxiv.org/a"}, "which is no address", "https://"),
    "bracket": ({"paper_links": "https://[arxiv.org/a"}, "which is no address", "https://"),
    "code link": ({"code_links": "N/A"}, "code_links holds 'N/A'", "Give it whole"),
    "arxiv": ({"arxiv": "2013.12345"}, "no arXiv identifier", "year, month and number"),
    "other arxiv": ({"arxiv": "2007.12345"}, "and the link says 2101.99999", "Mend one"),
    "doi": ({"doi": "https://doi.org/10.1/x"}, "doi is", "without address"),
    "slug": ({"slug": "New Paper!"}, "slug is 'New Paper!'", "Type new-paper."),
    "digits": ({"slug": "3d"}, "slug is '3d'", "Type d."),
    "authors": ({"authors": "Taleb, Aiham"}, "looks like several", "Ann Lee; Bo Chu"),
    "modality": ({"modality": "MRI"}, "without dimension", "3D (Brain MRI)"),
    "lists": ({"lists": "C"}, "lists is 'C'", "A, B or AB"),
    "changed": ({"changed": "today"}, "not a day", "2026-01-31"),
    "slug there": ({"slug": "c2l"}, "the slug c2l is that of in the catalogue", "Leave the entry"),
    "link there": (
        {"paper_links": "http://www.arxiv.org/pdf/2007.07423v3.pdf"},
        "the paper link arxiv.org/abs/2007.07423 is that of c2l in the catalogue",
        "Leave the entry out",
    ),
    "title there": (
        {
            "title": "Comparing to learn: surpassing ImageNet pre-training on radiographs by comparing image representation"
        },
        "is that of c2l in the catalogue",
        "Leave the entry out",
    ),
    "doi there": ({"doi": "10.1007/978-3-030-59710-8_39"}, "is that of c2l", "Leave the entry out"),
}


@pytest.mark.parametrize("what", ONE)
def test_each_fault_has_its_line_its_fact_and_its_remedy(tmp_path, what):
    changes, fact, remedy = ONE[what]
    extra = {name: "" for name in changes if name not in GOOD}
    path = write(tmp_path / "paper.csv", {**GOOD, **extra, **changes})
    said = check(path)
    assert said.code == 2
    assert said.out == ""
    assert f"{path}, line 2: " in said.err
    assert fact in said.err
    assert remedy in said.err
    assert said.err.splitlines()[-1] == "1 fault in 1 line"
    assert check(path, "--rows").out == "", "nothing is added"


def test_all_faults_are_told_at_once_by_line(tmp_path):
    other = {
        **GOOD,
        "slug": "other",
        "title": "Another",
        "paper_links": "https://a.org/1",
        "year": "1999",
    }
    path = write(tmp_path / "two.csv", {**GOOD, "category": "", "venue": "X"}, other)
    said = check(path)
    assert said.code == 2
    assert [line.partition(": ")[0] for line in said.err.splitlines() if ", line " in line] == [
        f"{path}, line 2",
        f"{path}, line 2",
        f"{path}, line 3",
    ]
    assert "3 faults in 2 lines" in said.err
    faults = json.loads(check(path, "--json").out)
    assert [fault["line"] for fault in faults] == [2, 2, 3]
    assert faults[0].keys() == {"file", "line", "fact", "remedy"}


def test_an_entry_that_is_there_twice_in_the_file(tmp_path):
    path = write(tmp_path / "two.csv", GOOD, {**GOOD, "slug": "again"})
    said = check(path)
    assert said.code == 2
    assert (
        "line 3: the paper link arxiv.org/abs/2101.99999 is that of new-paper in line 2" in said.err
    )


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "there is nothing in it"),
        ("slug;title;year\n", "separated by semicolons"),
        ("slug,title,authors,year,venue,category\n", "there is no column paper_links"),
        (",".join(GOOD) + ",colour\n", "unknown column 'colour'"),
        (",".join(GOOD) + ",slug\n", "the column slug is there twice"),
        (",".join(GOOD) + "\n", "there is no entry"),
        (",".join(GOOD) + "\na,b\n", "line 2: 2 of 9 cells are there"),
        (",".join(GOOD) + '\n\n"a\nb",c\nd\n', "line 5: 1 of 9 cells are there"),
        (",".join(GOOD) + "\n" + "x" * 200_000, "it is no CSV"),
    ],
)
def test_a_file_of_another_form(tmp_path, text, fact):
    path = tmp_path / "paper.csv"
    path.write_text(text)
    said = check(path)
    assert said.code == 2
    assert fact in said.err


def test_a_folder_is_no_file(tmp_path):
    assert "cannot be read" in check(tmp_path).err
    assert check(tmp_path).code == 2


def test_a_file_in_other_letters(tmp_path):
    path = tmp_path / "paper.csv"
    path.write_bytes("slug,title\nx,Müller\n".encode("latin-1"))
    said = check(path)
    assert said.code == 2
    assert "no UTF-8 text" in said.err


def test_the_catalogue_itself_passes_and_with_a_row_added_it_is_judged_by_itself(tmp_path):
    from importlib.resources import files

    text = files("unlabeled").joinpath("catalogue.csv").read_text(encoding="utf-8")
    path = tmp_path / "catalogue.csv"
    path.write_text(text, encoding="utf-8")
    said = check(path)
    assert (said.code, said.err) == (0, "")
    assert f"{len(cards())} entries, nothing wrong" in said.out
    added = check(write(tmp_path / "paper.csv", GOOD), "--rows").out
    path.write_text(text + added, encoding="utf-8")
    assert check(path).code == 0
    path.write_text(text + added + added, encoding="utf-8")
    assert f"line {len(cards()) + 3}: the slug new-paper" in check(path).err
