"""Follow a page: write the scans that it names, type its commands, run its Python, compare what it shows."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blocks import FILES, RUN, Block, matches
from cases import OWN
from desk import type_in
from scans import WRITERS

import unlabeled
from unlabeled.cli.commands import COMMANDS
from unlabeled.options import flag

#: what keeps commands small, in place of what a page has
SMALL = {
    "pretrain": "--steps 2 --epochs 1 --batch-size 2 --samples-per-scan 1 --encoder resenc-tiny --held-out-batches 1 "
    "--patch-size 16 16 16 --accelerator cpu",
    "finetune": "--steps 2 --epochs 1 --batch-size 2 --held-out-batches 1 --accelerator cpu",
    "probe": "--accelerator cpu",
    "predict": "--accelerator cpu --overlap 0.1",
    "compare": "--pretrain-steps 2 --steps 2 --epochs 1 --batch-size 2 --seeds 1 --encoder resenc-tiny --patch-size 16 16 16 "
    "--accelerator cpu",
}
#: what else a page may type
PLAIN = ("ls", "cat", "head", "mkdir")


def follow(blocks: Sequence[Block], root: Path) -> list[str]:
    """Run the blocks of a page in `root`; say what went wrong, nothing where all is well."""
    small: dict[str, str] = {}
    names: dict[str, Any] = {}
    faults: list[str] = []
    printed = ""
    for block in blocks:
        write_scans(block, root)
        for note, value in block.notes.items():
            if note.startswith("small "):
                small[note.removeprefix("small ")] = value
        if "skip" in block.notes:
            continue
        if "prints" in block.notes:
            if not matches(block.text, printed):
                faults.append(
                    f"{block.place} shows\n{block.text}\nand this was printed:\n{printed}"
                )
        elif block.title and block.language in FILES:
            (root / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            printed, fault = run_python(block, names, small)
            faults += fault
        elif block.language in RUN:
            said = [type_line(line, small, root) for line in lines_of(block)]
            printed = "\n".join(out for out, _ in said)
            faults += [f"{block.place}: {fault}" for _, fault in said if fault]
        if faults:
            return faults
    return faults


def write_scans(block: Block, root: Path) -> None:
    """Write what a block's comment says lies where."""
    for entry in block.notes.get("data", "").split():
        place, _, writer = entry.partition("=")
        if not (root / place).exists():
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            WRITERS[writer](root / place.rstrip("/"))


def lines_of(block: Block) -> list[str]:
    """List the commands of a block, lines that end with a backslash joined."""
    joined = block.text.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and line[0] != "#"]


def type_line(line: str, small: Mapping[str, str], root: Path) -> tuple[str, str]:
    """Type one command; give what it printed and, where it failed, what happened."""
    words = shlex.split(line, comments=True)
    if words[0] != "unlabeled":
        if words[0] not in PLAIN:
            return "", f"`{line}` is neither a command of ours nor one of {', '.join(PLAIN)}"
        done = subprocess.run(["bash", "-c", line], cwd=root, capture_output=True, text=True)
        return done.stdout, "" if done.returncode == 0 else f"`{line}`: {done.stderr}"
    typed = shrink(words[1:], small)
    said = type_in(typed)
    if said.code:
        shown = shlex.join(["unlabeled", *map(str, typed)])
        return (
            said.out,
            f"`{line}`, run as `{shown}`, ended with {said.code}:\n{said.out}{said.err}",
        )
    return said.out + said.err, ""


def shrink(words: Sequence[str], small: Mapping[str, str]) -> list[str]:
    """Replace options that make a command long by those that make it small.

    >>> shrink(["probe", "lab", "--init", "run", "--seed", "7"], {"probe": "--seed 0"})
    ['probe', 'lab', '--init', 'run', '--accelerator', 'cpu', '--seed', '0']
    """
    command = next((word for word in words if word in COMMANDS), "")
    changes = options_of(SMALL.get(command, "").split())
    slug = next((word for word in words if word in OWN), None)
    if command == "pretrain" and slug is not None:
        changes |= {flag(name): typed(value) for name, value in OWN[slug].items()}
    changes |= options_of(small.get(command, "").split())
    kept: list[str] = []
    inside = ""
    for word in words:
        if word.startswith("--"):
            inside = word
        if inside not in changes:
            kept.append(word)
    return [*kept, *(word for name, values in changes.items() for word in (name, *values))]


def options_of(words: Sequence[str]) -> dict[str, list[str]]:
    """Gather the values of each option.

    >>> options_of(["--a", "1", "2", "--b"])
    {'--a': ['1', '2'], '--b': []}
    """
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word
            found[name] = []
        else:
            found[name].append(word)
    return found


def typed(value: Any) -> list[str]:
    """Write the value of an option as a person types it."""
    if isinstance(value, bool):
        return [] if value else ["False"]
    return [str(each) for each in (value if isinstance(value, tuple) else (value,))]


def run_python(
    block: Block, names: dict[str, Any], small: Mapping[str, str]
) -> tuple[str, list[str]]:
    """Run a block of Python, with calls of ours made small; names live on to the next block of the page."""
    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(io.StringIO()),
        shortened(small),
    ):
        try:
            exec(compile(block.text, block.place, "exec"), names)
        except Exception as fault:
            return out.getvalue(), [f"{block.place}: {type(fault).__name__}: {fault}"]
    return out.getvalue(), []


@contextlib.contextmanager
def shortened(small: Mapping[str, str]) -> Any:
    """Give the public functions small budgets meanwhile."""
    whole = {name: getattr(unlabeled, name) for name in SMALL}

    def shorten(name: str) -> Any:
        given = {**options_of(SMALL[name].split()), **options_of(small.get(name, "").split())}
        changes = {one.strip("-").replace("-", "_"): plain(value) for one, value in given.items()}
        return lambda *args, **values: whole[name](*args, **{**values, **changes})

    for name in whole:
        setattr(unlabeled, name, shorten(name))
    try:
        yield
    finally:
        for name in whole:
            delattr(unlabeled, name)


def plain(values: Sequence[str]) -> Any:
    """Read the values of an option as Python has them.

    >>> plain(["2"]), plain(["16", "16"]), plain(["cpu"]), plain([])
    (2, (16, 16), 'cpu', True)
    """
    read = tuple(
        int(each) if each.isdigit() else float(each) if re.fullmatch(r"[\d.]+", each) else each
        for each in values
    )
    return True if not read else read if len(read) > 1 else read[0]
