"""The prepared store: each scan read, resampled and compressed once, then shared by all runs and processes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unlabeled.data.arrays import StoredArray
from unlabeled.data.entry import VERSION, DamagedEntryError, read_entry
from unlabeled.data.housekeeping import PREPARATION, no_room, open_preparation
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.preparation import Recipe
from unlabeled.data.record import Record, entry_path
from unlabeled.data.scan import Quarantined, Scan, ScanFile, Source
from unlabeled.data.walk import user_cache
from unlabeled.data.workforce import Job, work

__all__ = ["Prepared", "Record", "Store", "StoredArray"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What preparing an archive gave.

    Parameters
    ----------
    records
        Usable scans, in the order of the sources.
    quarantine
        Scans left out, with reasons.
    fresh
        Scans that were prepared now; the others were in the store.
    """

    records: tuple[Record, ...]
    quarantine: tuple[Quarantined, ...]
    fresh: int = 0


class Store:
    """Prepared scans below a cache folder.

    Parameters
    ----------
    root
        The cache folder; made when needed; None is the user's own.
    spacing
        Resample every scan to these voxel edge lengths [mm]; None keeps each scan's own.
    prepare
        A method's own preparation, a deterministic function; it goes to worker processes.
    prepare_key
        Names what `prepare` does, with every option that it reads: another key, another preparation.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        spacing: Sequence[float] | None = None,
        prepare: Callable[[Scan], Scan] | None = None,
        prepare_key: str = "",
    ) -> None:
        if prepare is not None and not prepare_key:
            raise ValueError("a preparation needs a prepare_key that names it")
        self.root = user_cache() if root is None else Path(root)
        edges = None if spacing is None else tuple(float(edge) for edge in spacing)
        self.recipe = Recipe(spacing=edges, prepare=prepare)
        self.options = {"spacing": edges, "prepare": prepare_key, "version": VERSION}
        name = hashlib.blake2b(_as_bytes(self.options), digest_size=8).hexdigest()
        self.folder = self.root / f"{PREPARATION}{name}"

    def prepare(
        self,
        sources: Iterable[Source],
        *,
        rule: IntensityRule,
        workers: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Prepared:
        """Prepare what the store does not hold yet, and give a record for every usable scan.

        Parameters
        ----------
        sources
            Rows of an index.
        rule
            How intensities will enter the networks; the store's content does not depend on it.
        workers
            Worker processes; 0 prepares in this one.
        progress
            Called with the scans done and their number.

        Raises
        ------
        DataError
            If the cache folder is full or cannot be written.
        """
        rows = tuple(sources)
        open_preparation(self.folder, self.options)
        names = self._name(rows)
        missing: dict[str, Job] = {}
        for source, name in zip(rows, names, strict=True):
            if isinstance(name, str) and name not in missing and not self._holds(name):
                missing[name] = Job(name, source, entry_path(self.folder, name))
        failures: dict[str, tuple[str, str]] = {}
        held = len(rows) - len(missing)
        for done, outcome in enumerate(work(missing.values(), self.recipe, workers), start=1):
            if outcome.unwritten is not None:
                raise no_room(self.root, outcome.unwritten)
            if outcome.failure is not None:
                failures[outcome.key] = outcome.failure
            if progress is not None:
                progress(held + done, len(rows))
        records: list[Record] = []
        quarantine: list[Quarantined] = []
        for source, name in zip(rows, names, strict=True):
            if isinstance(name, Quarantined):
                quarantine.append(name)
            elif name in failures:
                quarantine.append(Quarantined(source.name, *failures[name]))
            else:
                records.append(Record(name, source, rule, str(self.folder)))
        return Prepared(tuple(records), tuple(quarantine), len(missing) - len(failures))

    def find(
        self, sources: Iterable[Source], *, rule: IntensityRule
    ) -> tuple[Record | Quarantined | None, ...]:
        """Say what the store holds of each scan, without preparing, writing or touching anything.

        Parameters
        ----------
        sources
            Rows of an index.
        rule
            As in `prepare`.

        Returns
        -------
        tuple
            For each source its record, why its files cannot be read, or None where it is yet to be prepared.
        """
        rows = tuple(sources)
        found: list[Record | Quarantined | None] = []
        for source, name in zip(rows, self._name(rows), strict=True):
            if isinstance(name, Quarantined):
                found.append(name)
            elif _is_whole(entry_path(self.folder, name)):
                found.append(Record(name, source, rule, str(self.folder)))
            else:
                found.append(None)
        return tuple(found)

    def _name(self, rows: Sequence[Source]) -> list[str | Quarantined]:
        """Give the key of each scan, or why it has none."""
        folders: dict[Path, str] = {}
        names: list[str | Quarantined] = []
        for source in rows:
            try:
                names.append(source_key(source, folders))
            except OSError as fault:
                fact = f"cannot be read: {fault.strerror or fault}"
                names.append(Quarantined(source.name, fact, "Check that the file is there."))
        return names

    def _holds(self, key: str) -> bool:
        """Tell whether a complete entry is there, and note that it was used."""
        path = entry_path(self.folder, key)
        if not _is_whole(path):
            return False
        with suppress(OSError):
            os.utime(path)
        return True


def _is_whole(path: Path) -> bool:
    """Tell whether a complete entry stands there."""
    try:
        read_entry(path)
    except (OSError, DamagedEntryError):
        return False
    return True


def source_key(source: Source, folders: dict[Path, str] | None = None) -> str:
    """Name the content of a scan: paths, sizes and times of its files, and what of the manifest changes how it is read.

    Raises
    ------
    OSError
        If a file is not there.
    """
    folders = {} if folders is None else folders
    files = [_identity(file, folders) for file in source.channels]
    mask = None if source.mask is None else _identity(source.mask, folders)
    facts: list[object] = [files, mask, source.frame, source.modality]
    if source.responses:
        region = None if source.region is None else _identity(source.region, folders)
        facts += [[_identity(one.file, folders), one.sample] for one in source.responses]
        facts.append(region)
    text = _as_bytes(facts)
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _identity(file: ScanFile, folders: dict[Path, str]) -> list[object]:
    parts: list[object] = [file.format]
    for path in file.paths:
        parent = path.parent
        if parent not in folders:
            folders[parent] = str(parent.resolve())
        status = path.stat()
        parts.append([folders[parent], path.name, status.st_size, status.st_mtime_ns])
    return parts


def _as_bytes(plain: object) -> bytes:
    return json.dumps(plain, sort_keys=True).encode()
