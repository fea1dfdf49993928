"""``unlabeled cache`` says what lies there and removes only prepared scans."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from unlabeled.cli.app import run
from unlabeled.data.housekeeping import list_preparations, open_preparation

DAY = 86400


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cache with a fresh and a ten days old scan, one unfinished file, and something of another owner."""
    folder = tmp_path / "cache" / "scans-abc"
    open_preparation(folder, {"spacing": [1.0, 1.0, 2.0], "prepare": "superpixels 100"})
    (folder / "aa").mkdir()
    for name, days in (("new", 0), ("old", 10), ("left.part", 10)):
        path = folder / "aa" / name
        path.write_bytes(b"x" * 1000)
        os.utime(path, (time.time() - days * DAY,) * 2)
    (tmp_path / "cache" / "notes.txt").write_text("mine")
    return folder.parent


def test_listing_names_preparation_scans_size_and_age(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["cache", "--cache", str(root), "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["preparations"]
    assert (entry["scans"], entry["bytes"]) == (2, 3000)
    assert (entry["spacing"], entry["prepare"]) == ([1.0, 1.0, 2.0], "superpixels 100")
    assert entry["days_since_use"] < 0.1
    assert run(["cache", "--cache", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "1 x 1 x 2" in shown
    assert "just now" in shown
    assert "2 scans, 2.9 KiB" in shown


def test_pruning_by_age_keeps_what_is_used(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "--cache", str(root), "--prune", "--older-than", "5"]) == 0
    assert "Removed 1 prepared scans" in capsys.readouterr().out
    assert sorted(path.name for path in (root / "scans-abc" / "aa").iterdir()) == ["new"]


def test_pruning_all_leaves_what_is_not_ours(root: Path) -> None:
    assert run(["cache", "--cache", str(root), "--prune"]) == 0
    assert [path.name for path in root.iterdir()] == ["notes.txt"]
    assert list_preparations(root) == ()


@pytest.mark.parametrize("words", [["--older-than", "3"], ["--prune", "--older-than", "-1"]])
def test_wrong_ages_are_refused(
    root: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["cache", "--cache", str(root), *words]) == 2
    assert "--older-than" in capsys.readouterr().err
    assert list_preparations(root)[0].scans == 2


def test_an_absent_cache_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "--cache", str(tmp_path / "none")]) == 0
    assert "No prepared scans" in capsys.readouterr().out
