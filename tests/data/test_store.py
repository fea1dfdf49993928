"""Preparing scans once: what is kept, how it is named, and that nothing half-written is ever seen."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unlabeled.data import formats
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Grid, Scan, ScanFile, Source
from unlabeled.data.store import Store
from unlabeled.errors import DataError, ScanError

RULE = IntensityRule()


def ct(seed: int = 0, space: tuple[int, ...] = (20, 24, 28)) -> Scan:
    rng = np.random.default_rng(seed)
    array = rng.integers(-1024, 1500, (1, *space)).astype(np.int16)
    return Scan(
        array=array,
        spacing=(1.0, 1.0, 2.0),
        affine=np.diag([1.0, 1.0, 2.0, 1.0]),
        modality="CT",
        grid=Grid(space, np.eye(4)),
    )


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Source]]:
    """Six scans, the fourth of which cannot be read."""
    folder = tmp_path / "John Doe"
    folder.mkdir()
    sources = []
    for number in range(6):
        path = folder / f"scan{number}.npy"
        path.write_bytes(b"x" * (number + 1))
        file = ScanFile((path,), "npy")
        sources.append(Source(name=path.name, channels=(file,), subject=f"doe{number}"))

    def read(source: Source) -> Scan:
        number = int(source.name[4])
        if number == 3:
            raise ScanError("is truncated", "Copy it again.")
        return ct(number)

    monkeypatch.setattr(formats, "read_scan", read, raising=False)
    monkeypatch.setattr(
        formats, "read_mask", lambda file, like: (like.array[0] > 1400) * np.uint8(1), raising=False
    )
    return sources


def test_scans_are_prepared_once_and_failures_are_named(
    archive: list[Source], tmp_path: Path
) -> None:
    store = Store(tmp_path / "cache")
    seen: list[tuple[int, int]] = []
    first = store.prepare(archive, rule=RULE, progress=lambda *so_far: seen.append(so_far))
    assert [record.source.name for record in first.records] == [
        f"scan{number}.npy" for number in (0, 1, 2, 4, 5)
    ]
    assert [(row.name, row.reason, row.remedy) for row in first.quarantine] == [
        ("scan3.npy", "is truncated", "Copy it again.")
    ]
    assert (first.fresh, seen[-1]) == (5, (6, 6))
    again = store.prepare(archive, rule=RULE)
    assert (again.records, again.fresh) == (first.records, 0)


def test_a_record_gives_back_what_the_file_held(archive: list[Source], tmp_path: Path) -> None:
    record = pickle.loads(
        pickle.dumps(Store(tmp_path / "cache").prepare(archive[:1], rule=RULE).records[0])
    )
    assert record.image.dtype == np.int16
    assert np.array_equal(record.image.whole(), ct(0).array)
    assert (record.spacing, record.dims, record.channels) == ((1.0, 1.0, 2.0), 3, 1)
    assert np.array_equal(record.affine, ct(0).affine)
    assert record.grid.shape == (20, 24, 28)
    assert record.mask is None


def test_a_mask_is_kept_beside_the_image(archive: list[Source], tmp_path: Path) -> None:
    source = replace(archive[0], mask=archive[1].channels[0])
    record = Store(tmp_path / "cache").prepare([source], rule=RULE).records[0]
    wanted = ct(0).array[0] > 1400
    assert np.array_equal(record.mask_patch((0, 0, 0), record.space).numpy(), wanted)


def test_a_changed_file_is_prepared_again(archive: list[Source], tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    store.prepare(archive[:2], rule=RULE)
    status = archive[0].channels[0].path.stat()
    os.utime(archive[0].channels[0].path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert store.prepare(archive[:2], rule=RULE).fresh == 1


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(
    archive: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "cache")
    store.prepare(archive[:1], rule=RULE)
    calls = []

    def full(handle: int) -> None:
        calls.append(handle)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="full") as caught:
            store.prepare(archive, rule=RULE)
    assert calls
    assert "--cache" in caught.value.remedy
    assert "unlabeled cache --prune" in caught.value.remedy
    left = [path for path in store.folder.rglob("*") if path.is_file()]
    assert len(left) == 2  # the entry from before, and what the folder says of itself
    assert store.prepare(archive, rule=RULE).fresh == 4
