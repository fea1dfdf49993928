"""Arrays of one run on disk: what is made between two phases and is as large as the scans."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAPPED = 1024  # arrays that a process keeps mapped: opening one takes longer than reading a patch


class Scratch:
    """Arrays by name in a temporary folder, written once and read patch by patch.

    The folder is made with the first array, goes with the object or at the end of the process that made it, and is
    shared by the worker processes of that one.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.mapped: dict[str, NDArray[Any]] = {}

    def __reduce__(self) -> tuple[type[Scratch], tuple[Path | None]]:
        return Scratch, (self.folder,)

    def put(self, name: str, array: NDArray[Any]) -> None:
        """Write an array, in half precision where it is of floating-point numbers."""
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="unlabeled-"))
            weakref.finalize(self, _remove, self.folder, os.getpid())
        small = array.astype(np.float16) if array.dtype.kind == "f" else array
        np.save(self._path(name), small)

    def holds(self, name: str) -> bool:
        """Tell whether there is an array of that name."""
        return name in self.mapped or (self.folder is not None and self._path(name).is_file())

    def read(self, name: str, start: Sequence[int], size: Sequence[int]) -> NDArray[np.float32]:
        """Read a patch ``channel *size`` that lies inside the array."""
        where = tuple(slice(at, at + edge) for at, edge in zip(start, size, strict=True))
        if name not in self.mapped:
            if len(self.mapped) == MAPPED:
                del self.mapped[next(iter(self.mapped))]  # the one that was mapped first
            self.mapped[name] = np.asarray(np.load(self._path(name), mmap_mode="r"))
        return np.array(self.mapped[name][(slice(None), *where)], np.float32)

    def _path(self, name: str) -> Path:
        if self.folder is None:
            raise KeyError(name)
        return self.folder / f"{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}.npy"


def _remove(folder: Path, owner: int) -> None:
    """Remove a folder, in the process that made it alone."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
