"""No page names a command, an option, a method or a link of ours that does not exist."""

from __future__ import annotations

import inspect
import re

import pytest
from blocks import blocks_of, pages

from unlabeled.catalogue import cards
from unlabeled.cli.app import make_app
from unlabeled.cli.commands import COMMANDS
from unlabeled.methods._registry import find, slugs
from unlabeled.options import flag
from unlabeled.training.settings import Settings
from unlabeled.transfer.task import FinetuneOptions

_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_COMMENT = re.compile(r"<!--.*?-->", re.S)
#: words of other programs that pages mention
FOREIGN = {"--only"}  # of a benchmark


def flags_of_commands() -> set[str]:
    """Every option of every command, but for those of single methods."""
    known = {"--help", "--version"}
    for name in COMMANDS:
        words = [name, "models-genesis"] if name in ("pretrain", "estimate") else [name]
        app = make_app(words)[name]
        for child in (app, *(app[each] for each in app if not each.startswith("-"))):
            if child.default_command is not None:
                known |= {
                    each.rstrip("_")
                    for argument in child.assemble_argument_collection()
                    for each in argument.names
                    if each.startswith("--")
                }
    return known


def flags_of_methods() -> dict[str, set[str]]:
    return {slug: {flag(name) for name in find(slug).options_class.names()} for slug in slugs()}


def typed(text: str) -> list[str]:
    """What a page shows as typed: words in line, and lines of blocks."""
    bare = _COMMENT.sub("", text)
    lines = [line for block in blocks_of(text) for line in block.text.splitlines()]
    return [*_SPAN.findall(re.sub(r"```.*?```", "", bare, flags=re.S)), *lines]


@pytest.fixture(scope="module")
def known() -> set[str]:
    own = set().union(*flags_of_methods().values())
    shared = {flag(name) for kind in (FinetuneOptions, Settings) for name in kind.names()}
    switched_off = {
        "--no-" + flag(name).removeprefix("--")
        for slug in slugs()
        for name in find(slug).options_class.names()
        if isinstance(getattr(find(slug).options_class(), name), bool)
    }
    return flags_of_commands() | own | shared | switched_off | FOREIGN


def strangers(text: str, known: set[str]) -> set[str]:
    return {
        word
        for span in typed(text)
        for word in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", span)
        if word not in known
    }


def test_options_that_pages_name_exist(known: set[str]) -> None:
    wrong = {page: found for page, text in pages().items() if (found := strangers(text, known))}
    assert wrong == {}


def test_options_that_a_method_lists_are_its_own(known: set[str]) -> None:
    own = flags_of_methods()
    for slug in sorted(set(slugs()) & set(cards())):
        text = pages()[f"docs/methods/{slug}.md"]
        table = text.partition("\n## Options\n")[2].partition("\n## ")[0]
        rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `--")]
        assert rows, f"{slug} lists no options"
        listed = {word for row in rows for word in re.findall(r"--[a-z0-9-]+", row)}
        assert listed <= own[slug], f"{slug}: {listed - own[slug]}"


def test_commands_and_methods_that_pages_name_exist() -> None:
    wrong = []
    for page, text in pages().items():
        for span in typed(text):
            for name, word in re.findall(
                r"\bunlabeled ([a-z][a-z-]*)(?: ([a-z][a-z0-9-]*))?", span
            ):
                if name not in COMMANDS:
                    wrong.append(f"{page}: unlabeled {name}")
                elif name in ("pretrain", "estimate") and word and word not in cards():
                    wrong.append(f"{page}: unlabeled {name} {word}")
    assert wrong == []


def test_a_strange_option_is_found_out(known: set[str]) -> None:
    assert strangers("`--no-such-thing` and `--steps`\n```bash\nx --nor-this\n```", known) == {
        "--no-such-thing",
        "--nor-this",
    }


def test_names_that_are_looked_through_are_there() -> None:
    assert {"methods", "check", "compare"} <= set(COMMANDS)
    assert "--label-fractions" in flags_of_commands()
    assert inspect.isclass(find("c2l"))
