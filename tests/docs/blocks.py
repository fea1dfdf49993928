"""Code blocks of a page, and the comments that tell the tests how to run them.

A comment stands alone before the block that it is for; a reader of the page never sees it.

| comment | meaning |
|---|---|
| ``data: scans/=volumes`` | these scans lie there, from here on: names of writers in `scans.py` |
| ``small finetune: --patch-size 16 16`` | added to such commands from here on, in place of what the page has |
| ``skip: why`` | the next block is not run, and why |
| ``prints`` | the next block is what the block before has printed; ``...`` is anything |

A block with a title is a file of that name; `bash` and `python` blocks are run, in the order of the page.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PART = re.compile(
    r"^[ ]*<!--\s*(?P<word>data|skip|prints|small \w+)(?::\s*(?P<value>.*?))?\s*-->[ ]*$"
    r'|^(?P<indent>[ ]*)```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^(?P=indent)```[ ]*$',
    re.M | re.S,
)
RUN, FILES, SHOWN = ("bash", "python"), ("csv", "toml"), ("text",)


@dataclass(frozen=True)
class Block:
    """One fenced block with the comments before it."""

    page: str
    line: int
    language: str
    title: str
    text: str
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(text: str, page: str = "") -> list[Block]:
    """Find the blocks of a page, in order.

    >>> (block,) = blocks_of("<!-- data: scans/=volumes -->\\n```bash\\nls\\n```")
    >>> block.text, block.notes
    ('ls\\n', {'data': 'scans/=volumes'})
    """
    found: list[Block] = []
    notes: dict[str, str] = {}
    for part in _PART.finditer(text):
        if part["word"]:
            notes[part["word"]] = " ".join((part["value"] or "").split())
            continue
        line = text.count("\n", 0, part.start()) + 1
        inside = textwrap.dedent(part["text"])
        found.append(Block(page, line, part["language"], part["title"] or "", inside, notes))
        notes = {}
    return found


def pages() -> dict[str, str]:
    """Read all pages that people write, by name; CONTRIBUTING.md has a test of its own."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def every_block() -> list[Block]:
    """Collect the blocks of all pages."""
    return [block for page, text in pages().items() for block in blocks_of(text, page)]


def matches(shown: str, printed: str) -> bool:
    """Say whether shown lines stand in what was printed, one below the other; ``...`` is anything, blanks are one.

    >>> matches("a ... c", "before\\na  b c\\nafter"), matches("a\\nb", "a\\nx\\nb")
    (True, False)
    """
    lines = [" ".join(line.split()) for line in shown.strip().splitlines()]
    there = "\n".join(" ".join(line.split()) for line in printed.splitlines())
    pattern = r"\n".join(r".*?".join(map(re.escape, line.split("..."))) for line in lines)
    return re.search(rf"^{pattern}$", there, re.M) is not None
