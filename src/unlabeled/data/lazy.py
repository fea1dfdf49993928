"""The sources of a folder, each made when it is asked for: a million files cost a list of names until then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

from unlabeled.data.formats.detection import BY_SUFFIX
from unlabeled.data.layouts import owner, split_of
from unlabeled.data.scan import ScanFile, Source


class FileSources(Sequence[Source]):
    """A sequence of sources, most of them plain files that are known by their names.

    Parameters
    ----------
    root
        Folder that the names are relative to.
    items
        A name with ``/`` between folders, or a source as it is (a DICOM series).
    kinds
        Formats of the files whose suffix does not tell.
    """

    def __init__(self, root: Path, items: Sequence[str | Source], kinds: Mapping[str, str]) -> None:
        self._root = root
        self._items = items
        self._kinds = kinds

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, at: int) -> Source: ...

    @overload
    def __getitem__(self, at: slice) -> FileSources: ...

    def __getitem__(self, at: int | slice) -> Source | FileSources:
        if isinstance(at, slice):
            return FileSources(self._root, self._items[at], self._kinds)
        return self._source(self._items[at])

    def __iter__(self) -> Iterator[Source]:
        return map(self._source, self._items)

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
        folder, _, name = item.rpartition("/")
        kind = self._kinds.get(item)
        if kind is None:
            kind = BY_SUFFIX.get(name[name.rfind(".") :], "nifti")
        subject, study = owner(folder, name)
        return Source(
            name=item,
            channels=(ScanFile((self._root / item,), kind),),
            subject=subject,
            study=study,
            split=split_of(folder) if folder else None,
        )
