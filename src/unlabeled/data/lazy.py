"""The sources of a folder, each made when it is asked for: a million files cost a list of names until then."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import overload

from unlabeled.data.formats.detection import BY_SUFFIX
from unlabeled.data.layouts import owner, split_of
from unlabeled.data.scan import ScanFile, Source


def plain_source(root: Path, name: str, kind: str) -> Source:
    """Make the source of a file in a plain folder, whose place says whose it is."""
    folder, _, last = name.rpartition("/")
    subject, study = owner(folder, last)
    return Source(
        name=name,
        channels=(ScanFile((root / name,), kind),),
        subject=subject,
        study=study,
        split=split_of(folder) if folder else None,
    )


class FileSources(Sequence[Source]):
    """A sequence of sources, most of them single files that are known by their names.

    Parameters
    ----------
    root
        Folder that the names are relative to.
    items
        A name with ``/`` between folders, or a source as it is (a DICOM series).
    kinds
        Formats of the files whose suffix does not tell.
    make
        Makes a source from the root, a name and a format.
    """

    def __init__(
        self,
        root: Path,
        items: Sequence[str | Source],
        kinds: Mapping[str, str],
        make: Callable[[Path, str, str], Source] = plain_source,
    ) -> None:
        self.items = items
        self._root = root
        self._kinds = kinds
        self._make = make

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, at: int) -> Source: ...

    @overload
    def __getitem__(self, at: slice) -> FileSources: ...

    def __getitem__(self, at: int | slice) -> Source | FileSources:
        if isinstance(at, slice):
            return FileSources(self._root, self.items[at], self._kinds, self._make)
        return self._source(self.items[at])

    def __iter__(self) -> Iterator[Source]:
        return map(self._source, self.items)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(
            mine == theirs for mine, theirs in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have none

    def _source(self, item: str | Source) -> Source:
        if isinstance(item, Source):
            return item
        kind = self._kinds.get(item)
        if kind is None:
            suffix = item[item.rfind(".") :]
            kind = BY_SUFFIX.get(suffix) or BY_SUFFIX.get(suffix.lower(), "nifti")
        return self._make(self._root, item, kind)


class PackedNames(Sequence[str]):
    """Paths of very many files as runs within one folder; taken apart when the first path is asked for.

    Parameters
    ----------
    folders
        Folders with ``/`` between, ``""`` for the root.
    places
        Where in `folders` each run lies.
    counts
        How many files each run has.
    names
        Their names without folders, one after the other with NUL between, as the file system encodes them.
    """

    def __init__(
        self, folders: Sequence[str], places: array[int], counts: array[int], names: bytes
    ) -> None:
        self._folders = folders
        self._places = places
        self._counts = counts
        self._text = names
        self._length = sum(counts)

    @classmethod
    def pack(
        cls, items: Sequence[str | Source], folders: Sequence[str]
    ) -> tuple[array[int], array[int], bytes] | None:
        """Give `places`, `counts` and `names` of paths in these folders; None where not all items are paths."""
        position = {folder: number for number, folder in enumerate(folders)}
        places, counts = array("Q"), array("Q")
        names: list[str] = []
        before, start = None, 0
        for item in items:
            if not isinstance(item, str):
                return None
            folder, _, name = item.rpartition("/")
            if folder != before:
                if before is not None:
                    counts.append(len(names) - start)
                places.append(position[folder])
                before, start = folder, len(names)
            names.append(name)
        if names:
            counts.append(len(names) - start)
        return places, counts, os.fsencode("\0".join(names))

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, at: int) -> str: ...

    @overload
    def __getitem__(self, at: slice) -> list[str]: ...

    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        number = at + len(self) if at < 0 else at
        if not 0 <= number < len(self):
            raise IndexError(at)
        return self._prefix(bisect_right(self._ends, number)) + self._names[number]

    def __iter__(self) -> Iterator[str]:
        start = 0
        for run, end in enumerate(self._ends):
            prefix = self._prefix(run)
            for name in self._names[start:end]:
                yield prefix + name
            start = end

    def _prefix(self, run: int) -> str:
        folder = self._folders[self._places[run]]
        return f"{folder}/" if folder else ""

    @cached_property
    def _names(self) -> list[str]:
        return os.fsdecode(self._text).split("\0")

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(self._counts))
