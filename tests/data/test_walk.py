from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unlabeled.data import walk
from unlabeled.data.walk import list_files, user_cache
from unlabeled.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def age(root: Path) -> None:
    """Make every folder old enough to be trusted."""
    past = time.time() - 3600
    for folder, _, _ in os.walk(root):
        os.utime(folder, (past, past))


@pytest.fixture
def settled(monkeypatch):
    """Trust folders at once, and save however few files there are."""
    monkeypatch.setattr(walk, "SAVED_FROM", 1)
    monkeypatch.setattr(walk, "SETTLED", -3_600_000_000_000)


def test_lists_files_at_any_depth_in_order(tmp_path):
    touch(tmp_path, "b.nii", "a/b/c/d.nii", "a/z.nii", "a.b/x.nii")
    assert list(list_files(tmp_path)) == ["b.nii", "a/z.nii", "a.b/x.nii", "a/b/c/d.nii"]
    assert len(list_files(tmp_path)) == 4


def test_hidden_entries_and_litter_are_skipped(tmp_path):
    touch(tmp_path, ".hidden.nii", ".git/x.nii", "__MACOSX/y.nii", "z.nii")
    assert list(list_files(tmp_path)) == ["z.nii"]


def test_links_are_followed_once_and_loops_end(tmp_path):
    touch(tmp_path, "a/scan.nii")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "a")
    (tmp_path / "nowhere.nii").symlink_to(tmp_path / "absent.nii")
    listing = list_files(tmp_path)
    assert list(listing) == ["a/scan.nii"]
    assert listing.loops == ("a/up", "again")
    assert listing.broken == ("nowhere.nii",)


def test_links_out_of_the_folder_are_followed(tmp_path):
    touch(tmp_path / "elsewhere", "p1/scan.nii")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "scans" / "file.nii").symlink_to(tmp_path / "elsewhere/p1/scan.nii")
    assert list(list_files(tmp_path / "scans")) == ["file.nii", "linked/p1/scan.nii"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read every folder")
def test_an_unreadable_folder_is_named(tmp_path):
    touch(tmp_path, "a/scan.nii", "b.nii")
    (tmp_path / "a").chmod(0)
    try:
        assert list_files(tmp_path).unreadable == (("a", "Permission denied"),)
    finally:
        (tmp_path / "a").chmod(0o700)


def test_an_unreadable_folder_is_named_whoever_asks(tmp_path, monkeypatch):
    touch(tmp_path, "a/scan.nii", "b.nii")
    real = os.scandir

    def refusing(path):
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    listing = list_files(tmp_path)
    assert listing.unreadable == (("a", "Permission denied"),)
    assert list(listing) == ["b.nii"]


def test_an_absent_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        list_files(tmp_path / "absent")


def test_an_unchanged_folder_is_not_listed_again(tmp_path, settled):
    root, cache = tmp_path / "scans", tmp_path / "cache"
    touch(root, "a/b/1.nii", "a/2.nii", "3.nii")
    first = list_files(root, cache=cache)
    again = list_files(root, cache=cache)
    assert (first.relisted, again.relisted) == (3, 0)
    assert again.entries == first.entries


@pytest.mark.parametrize(
    "change", ["add", "remove", "rename", "new folder", "remove folder", "swap"]
)
def test_a_change_at_any_depth_is_seen(tmp_path, settled, change):
    root, cache = tmp_path / "scans", tmp_path / "cache"
    touch(root, "a/b/c/1.nii", "a/b/2.nii", "d/3.nii", "4.nii")
    list_files(root, cache=cache)
    if change == "add":
        touch(root, "a/b/c/new.nii")
    elif change == "remove":
        (root / "a/b/c/1.nii").unlink()
    elif change == "rename":
        (root / "a/b/2.nii").rename(root / "a/b/two.nii")
    elif change == "new folder":
        touch(root, "a/b/e/f/5.nii")
    elif change == "remove folder":
        (root / "d/3.nii").unlink()
        (root / "d").rmdir()
    else:
        touch(tmp_path, "other/6.nii")
        (root / "d").rename(tmp_path / "gone")
        (tmp_path / "other").rename(root / "d")
    listing = list_files(root, cache=cache)
    assert listing.entries == list_files(root).entries
    assert 0 < listing.relisted < 6
    assert list_files(root, cache=cache).relisted == 0


def test_a_folder_that_has_just_changed_is_listed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "SAVED_FROM", 1)
    root, cache = tmp_path / "scans", tmp_path / "cache"
    touch(root, "1.nii")
    list_files(root, cache=cache)
    assert list_files(root, cache=cache).relisted == 1


def test_a_listing_says_whether_it_can_be_trusted_later(tmp_path, settled, monkeypatch):
    root, cache = tmp_path / "scans", tmp_path / "cache"
    touch(root, "a/1.nii", "a/b/2.nii")
    first, again = list_files(root, cache=cache), list_files(root, cache=cache)
    assert sorted(first.identities) == ["", "a", "a/b"]
    assert again.identities == first.identities
    assert walk.unchanged(root, first.identities.items())
    touch(root, "a/b/3.nii")
    assert not walk.unchanged(root, first.identities.items())
    (root / "a/b").rename(root / "a/c")
    assert not walk.unchanged(root, first.identities.items())

    def refusing(path):
        if str(path).endswith("/c"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    real = os.scandir
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refusing)
        assert list_files(root).identities is None
    assert list_files(root).identities is not None
    (root / "again.nii").symlink_to(root / "a/1.nii")
    assert list_files(root).identities is None


def test_targets_of_links_are_looked_at_every_time(tmp_path, settled):
    root, cache = tmp_path / "scans", tmp_path / "cache"
    touch(tmp_path, "target.nii")
    root.mkdir()
    (root / "link.nii").symlink_to(tmp_path / "target.nii")
    assert list(list_files(root, cache=cache)) == ["link.nii"]
    (tmp_path / "target.nii").unlink()
    assert list_files(root, cache=cache).broken == ("link.nii",)


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
def test_a_damaged_saved_listing_is_made_anew(tmp_path, settled, damage):
    root, cache = tmp_path / "scans", tmp_path / "cache"
    touch(root, "a/1.nii", "a/2.nii")
    expected = list_files(root, cache=cache).entries
    (saved,) = cache.iterdir()
    data = saved.read_bytes()
    saved.write_bytes(
        {
            "cut": data[:-3],
            "flipped": data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
            "other": b"something else",
            "empty": b"",
        }[damage]
    )
    listing = list_files(root, cache=cache)
    assert listing.entries == expected
    assert listing.relisted == 2


def test_the_saved_listing_is_for_this_user_alone(tmp_path, settled):
    touch(tmp_path, "scans/1.nii")
    list_files(tmp_path / "scans", cache=tmp_path / "cache")
    (saved,) = (tmp_path / "cache").iterdir()
    assert saved.stat().st_mode & 0o077 == 0


def test_a_cache_that_cannot_be_written_is_no_fault(tmp_path, settled):
    touch(tmp_path, "scans/1.nii", "cache")
    assert len(list_files(tmp_path / "scans", cache=tmp_path / "cache")) == 1


def test_strange_names_survive_saving(tmp_path, settled):
    root, cache = tmp_path / "scans", tmp_path / "cache"
    names = ["größe 脳.nii", "x" * 200 + ".nii", "new\nline.nii", os.fsdecode(b"latin\xe9.nii")]
    touch(root, *names)
    assert sorted(list_files(root, cache=cache)) == sorted(names)
    assert sorted(list_files(root, cache=cache)) == sorted(names)
    assert list_files(root, cache=cache).relisted == 0


def test_the_cache_can_be_named(monkeypatch, tmp_path):
    monkeypatch.setenv("UNLABELED_CACHE", str(tmp_path))
    assert user_cache() == tmp_path
    monkeypatch.delenv("UNLABELED_CACHE")
    assert user_cache().name == "unlabeled"


def test_the_index_and_the_check_import_no_torch():
    code = (
        "import sys, unlabeled.data.checking, unlabeled.data.index, unlabeled.data.splits, "
        "unlabeled.cli.check; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
