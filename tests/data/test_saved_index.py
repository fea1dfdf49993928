"""The index loaded from the cache equals the one made from the start: unchanged, changed, damaged, by two at once."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.data import index as indexing
from unlabeled.data import saved_index, walk
from unlabeled.data.index import index_scans
from unlabeled.data.lazy import PackedNames
from unlabeled.errors import DataError

PNG = b"\x89PNG\r\n\x1a\n"
DICOM = b"\0" * 128 + b"DICM"
NIFTI = b"\0" * 344 + b"n+1\0"
FOLDERS = ["", "p1", "p1/v1", "p1-x", "p2/images", "p2/labels", "train/p3"]
BIDS = ["sub-1/anat", "sub-1/ses-a/anat", "sub-1/ses-a", "sub-2/anat", "derivatives/sub-1"]
FILES = [
    *("a.nii.gz", "B.NII.GZ", "c.PNG", "d.npy", "t_seg.nii", "sub-1_T1w.nii", "sub-1_mask.nii"),
    *("noext", "1.2.3", "h.hdr", "h.img", "notes.txt", "scans.csv", "ü\n.jpg", "new.dcm"),
]
CONTENTS = [b"", PNG, DICOM, NIFTI]
LITTLE = ["fill", "chmod", "nothing"]
MUCH = ["add", "remove", "rename", "drop", "move", "swap", "link", "broken link", "loop"]


@contextmanager
def trusting():
    """Trust folders at once, save however few files there are, and make every index a lazy one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "SAVED_FROM", 1)
        patch.setattr(walk, "SETTLED", -(10**9) * 10**9)
        patch.setattr(indexing, "LAZY_FROM", 0)
        yield


@pytest.fixture
def trusted():
    with trusting():
        yield


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def outcome(root: Path, cache: Path):
    """Index a folder; a refusal is an outcome, too."""
    try:
        return index_scans(root, cache=cache)
    except DataError as error:
        return str(error)


def plain(root: Path):
    """Index a folder from the start: what any other way must equal."""
    with tempfile.TemporaryDirectory() as cache:
        return outcome(root, Path(cache))


def same(one, other) -> bool:
    """Compare two outcomes, sources by number, from the end, in slices and one after the other."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    count = len(other.sources)
    return (
        one == other
        and type(one.quarantine) is type(other.quarantine)
        and [one.sources[at] for at in range(-count, count)] == [*other.sources, *other.sources]
        and one.sources[1:-1:2] == other.sources[1:-1:2]
        and one.subjects == other.subjects
    )


def not_listed(*_, **__):
    raise AssertionError("listed, though nothing had changed")


def saved_in(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.idx"))


# --- any folder, any change ------------------------------------------------------------------------------------------


class Tree:
    """A folder under change; what a change touches gets a new time, however coarse the clock of its disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.moment = 10**18

    def stamp(self, *folders: Path) -> None:
        for folder in folders:
            self.moment += 10**9
            if folder.is_dir():
                os.utime(folder, ns=(self.moment, self.moment))

    def change(self, kind: str, folder: str, name: str, to: str, content: bytes) -> None:
        place, path, other = self.root / folder, self.root / folder / name, self.root / to
        if kind == "fill":
            if path.is_file():
                path.write_bytes(content)  # in place: nothing changes in the folder
            return
        if kind == "chmod":
            if place.is_dir():
                place.chmod(0o700)
            return
        if kind == "nothing":
            return
        if kind == "add":
            for above in reversed([place, *place.parents]):
                if self.root in [above, *above.parents] and not above.exists():
                    above.mkdir()
                    self.stamp(above.parent)
            path.write_bytes(content)
        elif kind == "remove":
            path.unlink(missing_ok=True)
        elif kind == "rename" and path.is_file():
            path.rename(path.with_name(FILES[len(content) % len(FILES)]))
        elif kind == "drop" and folder:
            shutil.rmtree(place, ignore_errors=True)
        elif kind == "move" and folder and place.is_dir() and other.parent.is_dir():
            if not other.exists() and place not in other.parents:
                place.rename(other)
        elif kind == "swap" and place.is_dir() and other.is_dir():
            if place not in [other, *other.parents] and other not in place.parents:
                aside = self.root / "aside"
                for source, target in ((place, aside), (other, place), (aside, other)):
                    source.rename(target)
        elif kind.endswith(("link", "loop")) and place.is_dir() and not path.is_symlink():
            path.unlink(missing_ok=True)
            path.symlink_to(
                {"link": self.root / to, "broken link": "nowhere", "loop": self.root}[kind]
            )
        self.stamp(self.root, place.parent, place, other.parent, other)


def changes(folders):
    return st.tuples(
        st.sampled_from([*LITTLE, *MUCH]),
        st.sampled_from(folders),
        st.sampled_from(FILES),
        st.sampled_from(folders),
        st.sampled_from(CONTENTS),
    )


files = st.tuples(st.sampled_from(FILES), st.sampled_from(CONTENTS))


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    folders=st.sampled_from([FOLDERS, [*FOLDERS, *BIDS]]),
)
def test_whatever_changes_the_index_is_as_from_the_start(data, folders):
    start = data.draw(st.dictionaries(st.sampled_from(folders), st.lists(files, max_size=4)))
    with tempfile.TemporaryDirectory() as temporary, trusting():
        root, cache = Path(temporary) / "scans", Path(temporary) / "cache"
        root.mkdir()
        tree = Tree(root)
        for folder, inside in start.items():
            for name, content in inside:
                tree.change("add", folder, name, "", content)
        assert same(outcome(root, cache), plain(root))
        for step in data.draw(st.lists(changes(folders), max_size=6)):
            tree.change(*step)
            expected = plain(root)
            assert same(outcome(root, cache), expected), step
            assert same(outcome(root, cache), expected), ("unchanged", step)


# --- one thing at a time ---------------------------------------------------------------------------------------------


@pytest.fixture
def messy(tmp_path):
    root = tmp_path / "scans"
    touch(root, "b.nii", "a/z.nii.gz", "a/v1/1.PNG", "a/v1/2.Nii.GZ", "a.b/x.tif", "a/notes.txt")
    touch(root, "train/p9/v2/t1_seg.nii", "deep/er/st/x.npy", "README", "p/images/k.png")
    touch(root, "p/labels/k.png", "empty/.hidden", os.fsdecode(b"latin\xe9/\xe9.png"))
    (root / "p/1.2.3").write_bytes(NIFTI)
    return root


def test_an_unchanged_folder_is_not_listed(messy, tmp_path, trusted, monkeypatch):
    cache = tmp_path / "cache"
    first = index_scans(messy, cache=cache)
    monkeypatch.setattr(indexing, "list_files", not_listed)
    again = index_scans(messy, cache=cache)
    assert again.notes
    assert len(again.sources) == 10
    assert same(again, first)
    assert isinstance(again.sources.items, PackedNames)
    assert same(pickle.loads(pickle.dumps(again)), first)


def test_an_unchanged_bids_set_is_not_listed(tmp_path, trusted, monkeypatch):
    root, cache = tmp_path / "scans", tmp_path / "cache"
    touch(root, "sub-1/ses-a/anat/sub-1_ses-a_T1w.nii.gz", "sub-1/ses-a/x.nii", "sub-2/anat/y.nii")
    touch(root, "derivatives/sub-1/z.nii", "dataset_description.json")
    first = index_scans(root, cache=cache)
    monkeypatch.setattr(indexing, "list_files", not_listed)
    again = index_scans(root, cache=cache)
    assert again.layout == "bids"
    assert same(again, first)
    assert [(each.subject, each.study, each.modality) for each in again.sources] == [
        ("sub-1", "sub-1/ses-a", ""),
        ("sub-1", "sub-1/ses-a", "T1w"),
        ("sub-2", "sub-2", ""),
    ]


def test_names_are_relative_to_what_was_typed(messy, tmp_path, trusted, monkeypatch):
    cache = tmp_path / "cache"
    index_scans(messy, cache=cache)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(indexing, "list_files", not_listed)
    index = index_scans("scans", cache=cache)
    assert index.root == Path("scans")
    assert index.sources[0].channels[0].path == Path("scans") / index.sources[0].name


def test_a_file_whose_name_does_not_tell_is_looked_into_each_time(messy, tmp_path, trusted):
    cache = tmp_path / "cache"
    index_scans(messy, cache=cache)
    (messy / "README").write_bytes(PNG)
    (messy / "p/1.2.3").write_bytes(b"no scan any more")
    names = {source.name: source for source in index_scans(messy, cache=cache).sources}
    assert names["README"].channels[0].format == "picture"
    assert "p/1.2.3" not in names


def test_a_folder_that_may_not_be_read_is_named_again(messy, tmp_path, trusted, monkeypatch):
    cache = tmp_path / "cache"
    before = index_scans(messy, cache=cache)
    real = os.scandir

    def refusing(path):
        if str(path).endswith("/p9"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    (messy / "train/p9").chmod(0o711)
    os.utime(messy / "train/p9")
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refusing)
        for _ in range(2):
            index = index_scans(messy, cache=cache)
            assert [row.name for row in index.quarantine] == ["train/p9"]
            assert len(index.sources) == len(before.sources) - 1
        assert not saved_in(cache)
    assert same(index_scans(messy, cache=cache), before)


def test_a_stranger_to_the_folder_learns_nothing_from_the_cache(messy, tmp_path, trusted):
    cache = tmp_path / "cache"
    index_scans(messy, cache=cache)
    (saved,) = saved_in(cache)
    assert saved.stat().st_mode & 0o077 == 0
    assert saved.stem == next(cache.rglob("*.lst")).stem
    assert "scans" not in saved.name


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "older", "folder"])
def test_a_saved_index_that_is_no_good_is_made_anew(messy, tmp_path, trusted, damage):
    cache = tmp_path / "cache"
    expected = index_scans(messy, cache=cache)
    (saved,) = saved_in(cache)
    data = saved.read_bytes()
    older = data.replace(b"unlabeled index 1 ", b"unlabeled index 0 ", 1)
    assert older != data
    if damage == "folder":
        saved.unlink()
        saved.mkdir()
    else:
        flipped = data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]
        saved.write_bytes(
            {"cut": data[:-3], "flipped": flipped, "empty": b"", "older": older}[damage]
        )
    assert same(index_scans(messy, cache=cache), expected)
    if damage != "folder":
        assert saved.read_bytes() == data


def test_an_index_by_other_code_counts_for_nothing(messy, tmp_path, trusted, monkeypatch):
    cache = tmp_path / "cache"
    index_scans(messy, cache=cache)
    monkeypatch.setattr(saved_index, "_mark", lambda: b"unlabeled index 1 by other code\n")
    assert same(index_scans(messy, cache=cache), plain(messy))
    monkeypatch.undo()
    with trusting(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "list_files", not_listed)
        with pytest.raises(AssertionError, match="listed"):
            index_scans(messy, cache=cache)


def test_each_file_of_the_code_that_picks_scans_is_in_the_mark(tmp_path, monkeypatch):
    code = tmp_path / "data"
    shutil.copytree(Path(saved_index.__file__).parent, code)
    marks = [saved_index._mark()]
    monkeypatch.setattr(saved_index, "__file__", str(code / "saved_index.py"))
    assert saved_index._mark.__wrapped__() == marks[0]
    for name in saved_index._PICKERS:
        with (code / f"{name}.py").open("a") as file:
            file.write("# an edit")
        marks.append(saved_index._mark.__wrapped__())
    assert len(set(marks)) == 1 + len(saved_index._PICKERS)
    (code / "walk.py").unlink()
    assert saved_index._mark.__wrapped__() != saved_index._mark.__wrapped__()


def test_labels_dicom_and_links_are_never_taken_from_the_cache(tmp_path, trusted, broken):
    cache = tmp_path / "cache"
    for name in ("labelled", "dicom", "linked"):
        touch(tmp_path / name, "images/a.png", "labels/a.png")
    index_scans(tmp_path / "labelled", labelled=True, cache=cache)
    broken.dicom(tmp_path / "dicom/images/1.dcm")
    (tmp_path / "linked/images/l.png").symlink_to(tmp_path / "labelled/images/a.png")
    for name in ("dicom", "linked"):
        index_scans(tmp_path / name, cache=cache)
    assert not saved_in(cache)
    index_scans(tmp_path / "labelled", cache=cache)
    (saved,) = saved_in(cache)
    found = index_scans(tmp_path / "labelled", labelled=True, cache=cache)
    assert found.sources[0].mask is not None
    assert saved.exists()


def test_a_folder_that_has_become_small_or_unfit_leaves_nothing_behind(messy, tmp_path, trusted):
    cache = tmp_path / "cache"
    index_scans(messy, cache=cache)
    assert saved_in(cache)
    with suppress(DataError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "SAVED_FROM", 1000)
        touch(messy, "one more.nii")
        index_scans(messy, cache=cache)
    assert not saved_in(cache)


def test_two_processes_at_once_leave_a_whole_index(messy, tmp_path, trusted, monkeypatch):
    cache = tmp_path / "cache"
    code = f"""
import sys
from pathlib import Path
from unlabeled.data import walk
from unlabeled.data.index import index_scans
walk.SAVED_FROM, walk.SETTLED = 1, {walk.SETTLED}
cache = Path(sys.argv[2])
for turn in range(60):
    if turn % 3 == 0:
        for saved in cache.rglob("*.idx"):
            saved.unlink(missing_ok=True)
    assert len(index_scans(sys.argv[1], cache=cache).sources) == 10
"""
    command = [sys.executable, "-c", code, str(messy), str(cache)]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [each.wait(60) for each in both] == [0, 0]
    assert not list(cache.rglob("*.part"))
    expected = plain(messy)
    monkeypatch.setattr(indexing, "list_files", not_listed)
    assert same(index_scans(messy, cache=cache), expected)


# --- packed names ----------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["x", "a/x", "a/y", "a/b/x", "a.b/y"]), max_size=8))
@settings(deadline=None)
def test_packed_names_are_the_list_they_were(names):
    folders = ["", "a", "a.b", "a/b"]
    packed = PackedNames(folders, *PackedNames.pack(names, folders))
    assert list(packed) == names
    assert len(packed) == len(names)
    assert packed[1:4] == names[1:4]
    assert packed[::-1] == names[::-1]
    assert [packed[at] for at in range(-len(names), len(names))] == names * 2
    for outside in (len(names), -len(names) - 1):
        with pytest.raises(IndexError):
            packed[outside]
