"""What the cache holds, and making room in it; imports neither torch nor the readers."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlabeled.data.atomic import UNFINISHED, write_atomically
from unlabeled.errors import DataError

PREPARATION = (
    "scans-"  # how the folder of one preparation begins; nothing else in the cache is touched
)
_ABOUT = "about.json"
_DAY = 86400.0  # [s]
_ABANDONED = (
    3600.0  # an unfinished file that nobody wrote to for so long belongs to no living process [s]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """All scans in the cache that were prepared in the same way.

    Parameters
    ----------
    folder
        Where they lie.
    spacing
        Voxel edge lengths that they were resampled to [mm]; None for their own.
    prepare
        What a method did to them, as it names it; empty for nothing.
    scans
        How many.
    size
        Of all files together [byte].
    used
        Days since a run last used any of them.
    """

    folder: Path
    spacing: tuple[float, ...] | None
    prepare: str
    scans: int
    size: int
    used: float


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning removed: scans, and room [byte]."""

    scans: int
    size: int


def open_preparation(folder: Path, options: Mapping[str, Any]) -> None:
    """Make the folder of a preparation, say in it what was done, and clear what killed processes left.

    Raises
    ------
    DataError
        If the folder cannot be written.
    """
    try:
        about = folder / _ABOUT
        if not about.exists():
            write_atomically(about, json.dumps(options, sort_keys=True).encode())
        for path in folder.rglob(f"*{UNFINISHED}"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()
    except OSError as fault:
        raise no_room(folder.parent, fault) from fault


def no_room(root: Path, fault: OSError) -> DataError:
    """Say that the cache cannot be written, and what to do."""
    elsewhere = "name another folder with --cache DIR"
    if fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(
            f"the disk of the cache {root} is full; what was prepared before is kept",
            f"Make room with `unlabeled cache --prune`, or {elsewhere}.",
        )
    return DataError(
        f"the cache {root} cannot be written: {fault.strerror or fault}",
        f"{elsewhere[0].upper()}{elsewhere[1:]}.",
    )


def list_preparations(root: Path) -> tuple[Preparation, ...]:
    """List what the cache holds, last used first."""
    found = []
    for folder in _folders(root):
        files = [(path, status) for path, status in _files(folder) if path.name != _ABOUT]
        about = _read_about(folder)
        spacing = about.get("spacing")
        last = max((status.st_mtime for _, status in files), default=folder.stat().st_mtime)
        found.append(
            Preparation(
                folder=folder,
                spacing=None if spacing is None else tuple(spacing),
                prepare=about.get("prepare", ""),
                scans=sum(path.suffix != UNFINISHED for path, _ in files),
                size=sum(status.st_size for _, status in files),
                used=max(0.0, (time.time() - last) / _DAY),
            )
        )
    return tuple(sorted(found, key=lambda preparation: preparation.used))


def prune(root: Path, older_than: float = 0.0) -> Pruned:
    """Remove prepared scans that no run used for some days, and what killed processes left.

    Parameters
    ----------
    root
        The cache folder.
    older_than
        Days since the last use; 0 removes everything.

    Raises
    ------
    DataError
        If a file cannot be removed.
    """
    scans = size = 0
    now = time.time()
    try:
        for folder in _folders(root):
            for path, status in _files(folder):
                age = now - status.st_mtime
                unfinished = path.suffix == UNFINISHED
                if path.name == _ABOUT or age < (_ABANDONED if unfinished else older_than * _DAY):
                    continue
                path.unlink(missing_ok=True)
                scans += not unfinished
                size += status.st_size
            _remove_if_empty(folder)
    except OSError as fault:
        raise DataError(
            f"{fault.filename} cannot be removed: {fault.strerror}", "Check who owns the file."
        ) from fault
    return Pruned(scans, size)


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(
        path for path in root.iterdir() if path.name.startswith(PREPARATION) and path.is_dir()
    )


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            with suppress(FileNotFoundError):  # another process may be finishing or pruning
                yield path, path.stat()


def _read_about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / _ABOUT).read_bytes())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _remove_if_empty(folder: Path) -> None:
    """Remove a preparation's folders when no scan is left; another process may put one in meanwhile."""
    for child in list(folder.iterdir()):
        if child.is_dir():
            with suppress(OSError):
                child.rmdir()
    if all(child.name == _ABOUT for child in folder.iterdir()):
        (folder / _ABOUT).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
