"""Group the DICOM files of a folder into scans, and remember the groups while the files stay as they are."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from unlabeled.data.formats import Series, group_series
from unlabeled.data.scan import Quarantined, ScanFile

SAVED_FROM = 64  # files; fewer are read again in a moment
_VERSION = 1


def grouped(
    root: Path, paths: Sequence[Path], cache: Path | None
) -> tuple[list[Series], list[Quarantined]]:
    """Group files into series, from the saved groups when no file has changed.

    Saved are positions in the list of files, pseudonyms and reasons, under a digest of every file's path, size and
    modification time; no name of a file.

    Parameters
    ----------
    root
        What the person typed; reasons name files relative to it.
    paths
        DICOM files.
    cache
        Folder of saved groups; None reads every header anew.
    """
    paths = sorted(paths)
    saved_at = None
    if cache is not None and len(paths) >= SAVED_FROM:
        saved_at = cache / f"{_digest(paths)}.series"
        loaded = _load(saved_at, paths, root)
        if loaded is not None:
            return loaded
    series, faults = group_series(paths)
    faults = [Quarantined(_relative(root, each.name), each.reason, each.remedy) for each in faults]
    if saved_at is not None:
        _save(saved_at, series, faults, paths, root)
    return series, faults


def _relative(root: Path, name: str) -> str:
    prefix = f"{root}{os.sep}"
    return name[len(prefix) :] if name.startswith(prefix) else name


def _digest(paths: Sequence[Path]) -> str:
    digest = blake2b(str(_VERSION).encode(), digest_size=16)
    for path in paths:
        try:
            stat = path.stat()
            identity = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_mode}"
        except OSError as error:
            identity = type(error).__name__
        digest.update(os.fsencode(path.absolute()) + b"\0" + identity.encode() + b"\0")
    return digest.hexdigest()


def _save(
    path: Path,
    series: list[Series],
    faults: list[Quarantined],
    paths: Sequence[Path],
    root: Path,
) -> None:
    """Save groups by position; skipped when a reason cannot be told without a name."""
    position = {each: number for number, each in enumerate(paths)}
    by_name = {_relative(root, str(each)): number for number, each in enumerate(paths)}
    if not all(fault.name in by_name for fault in faults):
        return
    value = {
        "series": [
            {
                "files": [position[each] for each in one.file.paths],
                "subject": one.subject,
                "study": one.study,
                "modality": one.modality,
            }
            for one in series
        ],
        "faults": [
            {
                "file": by_name[fault.name],
                "reason": fault.reason.replace(str(paths[by_name[fault.name]]), "\0"),
                "remedy": fault.remedy.replace(str(paths[by_name[fault.name]]), "\0"),
            }
            for fault in faults
        ],
    }
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(value, file)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise


def _load(
    path: Path, paths: Sequence[Path], root: Path
) -> tuple[list[Series], list[Quarantined]] | None:
    """Load saved groups; damaged ones are none."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        series = [
            Series(
                ScanFile(tuple(paths[number] for number in one["files"]), "dicom"),
                str(one["subject"]),
                str(one["study"]),
                str(one["modality"]),
            )
            for one in value["series"]
        ]
        faults = [
            Quarantined(
                _relative(root, str(paths[one["file"]])),
                one["reason"].replace("\0", str(paths[one["file"]])),
                one["remedy"].replace("\0", str(paths[one["file"]])),
            )
            for one in value["faults"]
        ]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
    return series, faults
