"""Every command and every code block of the documentation does what it says, on small phantoms."""

from __future__ import annotations

from pathlib import Path

import pytest
import site_hooks
from blocks import FILES, RUN, SHOWN, blocks_of, every_block, pages
from following import follow

from unlabeled.benchmark.jobs import Here

MOST_SKIPPED = 14
WITH_BLOCKS = sorted({block.page for block in every_block()})


@pytest.fixture
def at_a_desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in; runs of a comparison stay in this process, which saves starting Python for each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("unlabeled.benchmark.compare.Processes", lambda jobs: Here())
    return tmp_path


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_what_a_page_says_works(page: str, at_a_desk: Path) -> None:
    faults = follow(blocks_of(pages()[page], page), at_a_desk)
    assert not faults, "\n\n".join(faults)


@pytest.mark.parametrize("page", ["methods/index.md", "catalogue/index.md", "reference/python.md"])
def test_what_a_generated_page_says_works(page: str, at_a_desk: Path) -> None:
    blocks = blocks_of(site_hooks.generated()[page], page)
    assert any(block.language in RUN for block in blocks)
    faults = follow(blocks, at_a_desk)
    assert not faults, "\n\n".join(faults)


def test_every_block_is_run_shown_or_skipped_with_a_reason() -> None:
    for block in every_block():
        if "skip" in block.notes:
            assert len(block.notes["skip"].split()) > 3, (
                f"{block.place} is skipped without a reason"
            )
        elif block.language in FILES:
            assert block.title, f"{block.place} is a file without a name"
        elif block.language in SHOWN:
            assert "prints" in block.notes, f"{block.place} shows what nobody compares"
        else:
            assert block.language in RUN, f"{block.place}: language {block.language!r}"


def test_few_blocks_are_skipped() -> None:
    skipped = [block.place for block in every_block() if "skip" in block.notes]
    assert len(skipped) <= MOST_SKIPPED, skipped
    ours = [
        block.place
        for block in every_block()
        if "skip" in block.notes and "unlabeled pretrain" in block.text
    ]
    assert len(ours) <= 1, f"a pretraining that nobody runs: {ours}"


def test_a_wrong_page_is_found_out(at_a_desk: Path) -> None:
    wrong = {
        "```bash\nunlabeled check nowhere/\n```": "ended with 2",
        "```bash\nunlabeled methods --jsno\n```": "ended with 2",
        "```bash\ncurl example.org\n```": "neither",
        "```bash\nunlabeled methods\n```\n<!-- prints -->\n```text\nno such line\n```": "no such line",
        "```python\nimport unlabeled\nunlabeled.no_such_name()\n```": "AttributeError",
    }
    for text, fault in wrong.items():
        (found,) = follow(blocks_of(text, "wrong.md"), at_a_desk)
        assert fault in found
