"""The reference: every command's own help, and the Python names with their docstrings."""

from __future__ import annotations

import contextlib
import io
import os

import unlabeled
from unlabeled.cli.app import run
from unlabeled.cli.commands import COMMANDS

WIDTH = "100"  # columns of the help on the page
#: what the public functions return or take, beside themselves
RESULTS = (
    "unlabeled.training.pretrain.Pretrained",
    "unlabeled.transfer.finetune.Finetuned",
    "unlabeled.transfer.probe.Probed",
    "unlabeled.benchmark.compare.Compared",
)
#: what one writes a method with
METHODS = (
    "unlabeled.methods._base.Method",
    "unlabeled.methods._base.Needs",
    "unlabeled.methods._base.Update",
    "unlabeled.methods._base.Phase",
    "unlabeled.methods._base.Feed",
    "unlabeled.methods._base.Monitor",
    "unlabeled.methods._base.Product",
)


def commands() -> str:
    """Write the help of every command, as it prints it."""
    parts = [
        "# Commands",
        "Printed by `unlabeled COMMAND --help`. `unlabeled pretrain SLUG --help` adds the method's own options, which its "
        "[page](../methods/index.md) lists as well.",
        "Every command ends with exit code 0 when it is done, 1 when we are at fault, 2 when something typed or given is wrong "
        "(the message says what to type) and 130 when it was interrupted. `NO_COLOR` is respected; a run that takes long tells "
        "rate, loss and remaining time, and Ctrl-C saves a checkpoint and says how to go on.",
    ]
    rows = [
        f"| [`{name}`](#unlabeled-{name}) | {command.does} |" for name, command in COMMANDS.items()
    ]
    parts.append("\n".join(["| command | does |", "|---|---|", *rows]))
    for name, command in COMMANDS.items():
        parts += [
            f"## unlabeled {name}",
            f"{command.does} Type: `{command.usage}`",
            f"```text\n{help_of(name)}\n```",
        ]
    return "\n\n".join(parts) + "\n"


def help_of(*words: str) -> str:
    """Print the help of a command, in so many columns and without colours."""
    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    os.environ |= {"COLUMNS": WIDTH, "NO_COLOR": "1"}
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            code = run([*words, "--help"])
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
    if code:
        raise RuntimeError(f"unlabeled {' '.join(words)} --help ended with {code}")
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def python() -> str:
    """List the public names, their results, and what a method is written with, for mkdocstrings to fill in."""
    public = {name: getattr(unlabeled, name) for name in unlabeled.__all__}
    places = {
        f"unlabeled.{name}": f"{each.__module__}.{each.__qualname__}"
        for name, each in public.items()
    }
    sections = {
        "What the command line does": places,
        "Results": {place.rpartition(".")[2]: place for place in RESULTS},
        "Writing a method": {place.rpartition(".")[2]: place for place in METHODS},
    }
    parts = [
        "# Python",
        "The same words as on the command line: `unlabeled.pretrain`, `unlabeled.finetune` and the others take the options of "
        "their commands by name. Importing `unlabeled` costs nothing; torch is imported with the first of them.",
        "```python\nimport unlabeled\n\nprint(unlabeled.list_methods())\n```",
    ]
    for title, names in sections.items():
        parts += [f"## {title}", *(_filled_in(name, place) for name, place in names.items())]
    return "\n\n".join(parts) + "\n"


def _filled_in(name: str, place: str) -> str:
    """Ask mkdocstrings for what lies at a place, under the name by which people import it."""
    return f"::: {place}\n    options:\n      heading: {name}\n      toc_label: {name}"
