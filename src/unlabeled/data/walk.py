"""List the files below a folder, fast, and faster still when the folder has not changed.

A saved listing is reused folder by folder.  The rule: adding, removing or renaming an entry changes the modification
time of the folder that holds it, so a folder whose modification and change times, inode and device are as saved still
has the saved entries; any other folder is listed again, at whatever depth.  Two cases are always listed again: a folder
that changed less than two seconds before it was listed (coarse clocks could hide a second change), and a folder that
holds symbolic links (their targets come and go without a trace in it).  A file that is overwritten in place keeps its
entry: a listing holds names, never contents.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from unlabeled.data.sealed import load_sealed, save_sealed
from unlabeled.errors import DataError

SETTLED = 2_000_000_000  # [ns]; the coarsest clock of a common file system, FAT
SAVED_FROM = 2_000  # files; a smaller listing is not worth a file in the cache
_MARK = b"unlabeled listing 2\n"
_UNSETTLED = (0, 0, 0, 0)
_SKIPPED = frozenset({"__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information"})

Key = tuple[int, int, int, int]


class _Folder(NamedTuple):
    """The entries of one folder, as listed."""

    key: Key
    files: list[str]
    folders: list[str]
    links: list[str]


@dataclass(frozen=True, slots=True)
class Listing:
    """The files below a folder.

    Parameters
    ----------
    root
        The folder.
    entries
        File names by folder; folders are relative to the root with ``/`` between, ``""`` is the root itself.
    unreadable
        Folders that could not be listed, with the system's reason.
    loops
        Links to folders that were already listed: followed once only.
    broken
        Links that lead nowhere.
    relisted
        Folders that had to be listed anew; 0 when nothing has changed.
    identities
        What `unchanged` compares, of every folder, those without files included; None when something in the listing
        could change without a trace there: behind links, in unreadable folders, in one that changed a moment ago.
    """

    root: Path
    entries: dict[str, list[str]]
    unreadable: tuple[tuple[str, str], ...] = ()
    loops: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    relisted: int = 0
    identities: Mapping[str, Key] | None = None

    def __len__(self) -> int:
        return sum(map(len, self.entries.values()))

    def __iter__(self) -> Iterator[str]:
        for folder in sorted(self.entries):
            prefix = f"{folder}/" if folder else ""
            for name in self.entries[folder]:
                yield prefix + name


def user_cache() -> Path:
    """Find the folder of this user's caches: ``$UNLABELED_CACHE``, else where the system keeps them."""
    named = os.environ.get("UNLABELED_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/unlabeled"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "unlabeled"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unlabeled"


def place(cache: Path, root: Path, suffix: str) -> Path:
    """Name the file of the cache that keeps something about a folder: a digest of its path, and what it is."""
    digest = blake2b(os.fsencode(root.absolute())).hexdigest()[:32]
    return cache / f"{digest}{suffix}"


def list_files(root: Path | str, *, cache: Path | None = None) -> Listing:
    """List every file below a folder; hidden entries and the litter of archivers are skipped.

    Links to folders are followed once; a link back to a listed folder is named in `loops`.

    Parameters
    ----------
    root
        The folder.
    cache
        Folder of saved listings; without it, nothing is read or saved.

    Raises
    ------
    DataError
        When the folder itself is absent or cannot be listed.
    """
    root = Path(root)
    with collector_paused():
        return _list_files(root, cache)


def _list_files(root: Path, cache: Path | None) -> Listing:
    """List every file below a folder, from the saved listing where that still holds."""
    top = str(root.absolute())
    saved_at = None if cache is None else place(cache, root, ".lst")
    saved, complete = ({}, False) if saved_at is None else _load(saved_at)
    if complete and unchanged(root, ((path, folder.key) for path, folder in saved.items())):
        return Listing(
            root,
            {path: folder.files for path, folder in saved.items() if folder.files},
            identities={path: folder.key for path, folder in saved.items()},
        )
    now = time.time_ns()
    folders: dict[str, _Folder] = {}
    seen: set[tuple[int, int]] = set()
    unreadable: list[tuple[str, str]] = []
    loops: list[str] = []
    broken: list[str] = []
    relisted = 0
    waiting: list[str] = [""]
    linked: list[str] = []
    while waiting or linked:  # links come last, so that a file has its real path where it has one
        relative = waiting.pop() if waiting else linked.pop(0)
        path = f"{top}/{relative}" if relative else top
        try:
            stat = Path(path).stat()
            if (stat.st_dev, stat.st_ino) in seen:
                loops.append(relative)
                continue
            key = _key(stat)
            folder = saved.get(relative)
            if folder is None or folder.key != key:
                folder = _list_folder(path, key, now, relative, broken)
                relisted += 1
        except OSError as error:
            reason = error.strerror or type(error).__name__
            if not relative:
                raise DataError(
                    f"{root} cannot be listed: {reason}", "Give a folder that you may read."
                ) from error
            unreadable.append((relative, reason))
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[relative] = folder
        prefix = f"{relative}/" if relative else ""
        waiting.extend(prefix + name for name in folder.folders)
        linked.extend(prefix + name for name in folder.links)
    complete = not (unreadable or loops or broken)
    keys = {relative: folder.key for relative, folder in folders.items()}
    listing = Listing(
        root,
        {relative: folder.files for relative, folder in folders.items() if folder.files},
        tuple(sorted(unreadable)),
        tuple(sorted(loops)),
        tuple(sorted(broken)),
        relisted,
        keys if complete and _UNSETTLED not in keys.values() else None,
    )
    if saved_at is not None and (relisted or len(folders) != len(saved)):
        if len(listing) >= SAVED_FROM:
            _save(saved_at, folders, complete=complete)
        elif saved:
            with contextlib.suppress(OSError):
                saved_at.unlink()
    return listing


def _list_folder(path: str, key: Key, now: int, relative: str, broken: list[str]) -> _Folder:
    """List one folder; its key is left unsettled when a later change could go unnoticed."""
    files: list[str] = []
    folders: list[str] = []
    links: list[str] = []
    settled = key[0] < now - SETTLED and key[1] < now - SETTLED
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name[0] == "." or name in _SKIPPED:
                continue
            if entry.is_symlink():
                settled = False
                if entry.is_dir():
                    links.append(name)
                elif entry.is_file():
                    files.append(name)
                else:
                    broken.append(f"{relative}/{name}" if relative else name)
            elif entry.is_file():
                files.append(name)
            elif entry.is_dir():
                folders.append(name)
    files.sort()
    folders.sort()
    links.sort()
    return _Folder(key if settled else _UNSETTLED, files, folders, links)


def _save(path: Path, folders: dict[str, _Folder], *, complete: bool) -> None:
    """Save a listing."""
    rows = list(folders.values())
    parts = [
        array("Q", (number % 2**64 for row in rows for number in row.key)).tobytes(),
        array("Q", (len(part) for row in rows for part in row[1:])).tobytes(),
        os.fsencode("\0".join(folders)),
        os.fsencode("\0".join(name for row in rows for name in row.files)),
        os.fsencode("\0".join(name for row in rows for name in row.folders)),
        os.fsencode("\0".join(name for row in rows for name in row.links)),
    ]
    save_sealed(path, _MARK, {"complete": complete}, parts)


def _load(path: Path) -> tuple[dict[str, _Folder], bool]:
    """Load a saved listing and whether it is complete; one absent, cut short or damaged is empty."""
    sealed = load_sealed(path, _MARK)
    if sealed is None:
        return {}, False
    head, parts = sealed
    numbers = array("Q", parts[0])
    counts = array("Q", parts[1])
    paths, files, folders, links = (os.fsdecode(part).split("\0") for part in parts[2:])
    loaded: dict[str, _Folder] = {}
    a = b = c = 0
    keys = zip(numbers[0::4], numbers[1::4], numbers[2::4], numbers[3::4], strict=True)
    for relative, key, m, n, k in zip(
        paths, keys, counts[0::3], counts[1::3], counts[2::3], strict=True
    ):
        loaded[relative] = _Folder(key, files[a : a + m], folders[b : b + n], links[c : c + k])
        a, b, c = a + m, b + n, c + k
    return loaded, bool(head["complete"])


def unchanged(root: Path, identities: Iterable[tuple[str, Key]]) -> bool:
    """Tell whether every folder below a root, by its relative path, is still what it was."""
    top = str(root.absolute())
    stat = os.stat  # bound once: called for every folder
    try:
        for relative, key in identities:
            if key != _key(stat(f"{top}/{relative}" if relative else top)):
                return False
    except (OSError, ValueError):
        return False
    return True


def _key(stat: os.stat_result) -> Key:
    """Condense what changes with a folder's entries."""
    return (
        stat.st_mtime_ns % 2**64,
        stat.st_ctime_ns % 2**64,
        stat.st_ino % 2**64,
        stat.st_dev % 2**64,
    )


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the cyclic garbage collector while very many small objects are made, none of them in cycles."""
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()
