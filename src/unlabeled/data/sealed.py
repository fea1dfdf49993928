"""Files of the cache that are whole or count for nothing: a mark of kind and version, a head, parts, a checksum."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def save_sealed(path: Path, mark: bytes, head: Mapping[str, Any], parts: Sequence[bytes]) -> None:
    """Save a file atomically, readable by this user alone; a full or read-only disk is no fault.

    Of two processes that save at once, the last one to end wins, whole.

    Parameters
    ----------
    path
        The file.
    mark
        Its kind and version, one line with its end.
    head
        Whatever JSON can hold.
    parts
        Bytes in bulk.
    """
    parts = [json.dumps(head).encode(), *parts]
    seal = {"sizes": [len(part) for part in parts], "check": _checksum(parts)}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(mark + json.dumps(seal).encode() + b"\n")
                file.writelines(parts)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise


def load_sealed(path: Path, mark: bytes) -> tuple[dict[str, Any], list[bytes]] | None:
    """Load head and parts; None for a file that is absent, of another kind or version, cut short or damaged."""
    try:
        with path.open("rb") as file:
            if file.readline(len(mark)) != mark:
                return None
            seal = json.loads(file.readline(1024))
            sizes = [int(size) for size in seal["sizes"]]
            if min(sizes) < 0 or file.tell() + sum(sizes) != os.fstat(file.fileno()).st_size:
                return None
            parts = [file.read(size) for size in sizes]
        if _checksum(parts) != seal["check"]:
            return None
        return json.loads(parts[0]), parts[1:]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _checksum(parts: Sequence[bytes]) -> int:
    check = 0
    for part in parts:
        check = zlib.crc32(part, check)
    return check
