"""CONTRIBUTING.md as a person would follow it: its files are written into a copy of the repository, its commands run there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from unlabeled.catalogue import cards
from unlabeled.cli.app import run as command_line
from unlabeled.demo.phantoms import write_patients
from unlabeled.methods import _registry

pytestmark = pytest.mark.timeout(
    900
)  # a dozen programs one after another, on a machine that may be busy
ROOT = Path(__file__).resolve().parent.parent
PARTS = ("src", "tests", "docs/methods", "evidence", "README.md", "pyproject.toml")
BLOCK = re.compile(r'^( *)```(\w+)(?: title="([^"]+)")?\n(.*?)^\1```$', re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block: a file where it has a name, else commands."""

    section: str
    language: str
    name: str
    text: str


def blocks():
    found = []
    for part in re.split(
        r"^## ", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.M
    ):
        for indent, language, name, text in BLOCK.findall(part):
            assert text.startswith(indent)
            found.append(Block(part.splitlines()[0], language, name, textwrap.dedent(text)))
    return found


def section(title):
    found = [block for block in blocks() if block.section == title]
    assert found, title
    return found


@dataclass(frozen=True)
class Desk:
    """A copy of the repository, and a shell in it whose `unlabeled` is the copy's."""

    root: Path
    environment: dict[str, str]

    def type_in(self, line):
        return subprocess.run(
            ["bash", "-c", line],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def follow(self, title, *, contract):
        """Write the files and run the commands of a section, in its order; commands give what they printed."""
        said = {}
        for block in section(title):
            if block.name:
                path = self.root / block.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text, encoding="utf-8")
            elif block.language == "bash":
                for line in block.text.splitlines():
                    if ("tests/contract" in line) == contract:
                        done = self.type_in(line)
                        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}{done.stderr}"
                        said[line] = done.stdout
        return said


def desk(root, *packages):
    """A shell in `root` with an `unlabeled` that imports from there."""
    programs = root / "programs"
    programs.mkdir(parents=True)
    for name, words in (("unlabeled", "-m unlabeled"), ("python", "")):
        command = programs / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(map(str, packages)),
        "COLUMNS": "120",
        "OMP_NUM_THREADS": "1",
    }
    return Desk(root, environment)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository in which both guides have been followed, but for the contract tests."""
    root = tmp_path_factory.mktemp("copy") / "unlabeled"
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, root / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / part)
    there = desk(root, root / "src")
    paper = there.follow("Adding a paper", contract=False)
    method = there.follow("Adding a method", contract=False)
    return there, paper, method


def test_a_paper_is_added_by_the_guide(copy):
    there, paper, _ = copy
    check, rows, show, collect = paper.items()
    assert "1 entry, nothing wrong" in check[1]
    assert ">> src/unlabeled/catalogue.csv" in rows[0]
    assert "Aiham Taleb, Winfried Loetzsch" in show[1]
    assert "does not run in this version yet" in show[1]
    assert "README.md written" in collect[1]
    assert (there.root / "src/unlabeled/catalogue.csv").read_text().count("\nquarter-turns,") == 1
    whole = there.type_in("unlabeled papers check src/unlabeled/catalogue.csv")
    assert whole.returncode == 0, whole.stderr
    assert f"{len(cards()) + 1} entries, nothing wrong" in whole.stdout


def test_a_method_is_added_by_the_guide(copy):
    there, _, method = copy
    card = method["unlabeled methods quarter-turns"]
    assert "3D Self-Supervised Methods for Medical Imaging (NeurIPS 2020)" in card
    assert "run it: unlabeled pretrain quarter-turns" in card
    assert "(docs/methods/quarter-turns.md)" in (there.root / "README.md").read_text()
    assert "3 passed" in method["python -m pytest -q tests/methods/test_quarter_turns.py"]
    trained = next(said for line, said in method.items() if "pretrain quarter-turns" in line)
    assert "8 scans, 0 left out; 10 steps" in trained
    assert "accuracy" in trained
    assert (there.root / "runs/turns/encoder.safetensors").is_file()
    listed = there.type_in("unlabeled methods --json").stdout
    assert '"slug": "quarter-turns"' in listed


def test_the_files_of_the_guide_keep_the_style(copy):
    there, *_ = copy
    own = [block.name for block in blocks() if block.language == "python" and block.name]
    assert len(own) == 2
    for words in (["check"], ["format", "--check"]):
        done = there.type_in(f"{sys.executable} -m ruff {' '.join([*words, *own])}")
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_what_was_added_keeps_the_tests_of_catalogue_and_figures_green(copy):
    there, *_ = copy
    own = "tests/test_catalogue.py tests/test_evidence.py tests/cli/test_papers.py"
    done = there.type_in(f"python -m pytest -q -p no:cacheprovider {own}")
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_the_method_of_the_guide_keeps_every_contract(copy):
    there, *_ = copy
    (line,) = (text for text in there.follow("Adding a method", contract=True).values())
    assert re.search(r"\d\d passed", line)
    assert "failed" not in line


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """This package, and another one beside it that brings the method of the guide."""
    root = tmp_path_factory.mktemp("beside")
    files = {block.name: block.text for block in blocks()}
    told = tomllib.loads(files["unlabeled-turns/pyproject.toml"])["project"]
    site = root / "site"
    package = site / told["name"].replace("-", "_")
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(files["src/unlabeled/methods/quarter_turns.py"])
    about = site / f"{package.name}-{told['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {told['name']}\nVersion: {told['version']}\n"
    )
    (entries,) = told["entry-points"].items()
    lines = [f"{slug} = {place}" for slug, place in entries[1].items()]
    (about / "entry_points.txt").write_text("\n".join([f"[{entries[0]}]", *lines, ""]))
    return desk(root, ROOT / "src", site)


def test_a_package_of_ones_own_brings_a_method(beside):
    there = beside
    listed = there.type_in("unlabeled methods")
    assert listed.returncode == 0, listed.stderr
    (row,) = (line for line in listed.stdout.splitlines() if line.startswith("quarter-turns"))
    assert "unlabeled-turns" in row
    assert "volume, 2D/3D" in row, "what it learns from, read without importing it"
    one = there.type_in("unlabeled methods quarter-turns").stdout
    assert "from the package unlabeled-turns 0.1.0" in one
    assert "--patch-size" in one
    write_patients(there.root / "scans", patients=4, shape=(20, 20))
    trained = there.type_in(
        "unlabeled pretrain quarter-turns scans --out run --encoder resenc-tiny --patch-size 16 16"
        " --batch-size 2 --steps 2 --cache cache"
    )
    assert trained.returncode == 0, trained.stderr
    assert (there.root / "run" / "encoder.safetensors").is_file()


@pytest.fixture
def fresh_slugs():
    """Slugs are listed once a process; forget them before and after."""
    _registry.slugs.cache_clear()
    yield
    _registry.slugs.cache_clear()


@pytest.mark.usefixtures("fresh_slugs")
@pytest.mark.parametrize(
    ("place", "fact"),
    [
        ("json:Nothing", "has no attribute 'Nothing'"),
        ("not_installed:Method", "No module named 'not_installed'"),
        ("json:JSONDecoder", "is no Method"),
    ],
)
def test_a_wrong_entry_point_is_told_and_stops_nothing_else(monkeypatch, capsys, place, fact):
    entry = EntryPoint("quarter-turns", place, "unlabeled.methods")
    monkeypatch.setattr(_registry, "_entries", lambda: {"quarter-turns": entry})
    assert command_line(["methods", "quarter-turns"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert fact in said
    assert place.partition(":")[0] in said
    assert "Traceback" not in said
    assert command_line(["methods", "models-genesis"]) == 0
    assert command_line(["methods"]) == 0
