"""Preparing scans once: what is kept, how it is named, and that nothing half-written is ever seen."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest

from unlabeled.data import formats
from unlabeled.data.entry import read_entry
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.record import entry_path
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
        formats,
        "read_mask",
        lambda file, like, frame: (like.array[0] > 1400) * np.uint8(1),
        raising=False,
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


def test_a_truncated_entry_is_prepared_again(archive: list[Source], tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    record = store.prepare(archive[:2], rule=RULE).records[0]
    record.path.write_bytes(record.path.read_bytes()[:-10])
    again = store.prepare(archive[:2], rule=RULE)
    assert again.fresh == 1
    assert np.array_equal(again.records[0].image.whole(), ct(0).array)


def test_options_make_preparations_of_their_own(archive: list[Source], tmp_path: Path) -> None:
    own = Store(tmp_path / "cache")
    coarse = Store(tmp_path / "cache", spacing=(2, 2, 2))
    bright = Store(
        tmp_path / "cache",
        prepare=lambda scan: replace(scan, array=scan.array + 1),
        prepare_key="brighter 1",
    )
    records = [store.prepare(archive[:1], rule=RULE).records[0] for store in (own, coarse, bright)]
    assert len({record.folder for record in records}) == 3
    assert records[1].space == (10, 12, 28)
    assert np.array_equal(records[2].image.whole(), ct(0).array + 1)
    with pytest.raises(ValueError, match="prepare_key"):
        Store(tmp_path, prepare=lambda scan: scan)


def test_nothing_personal_reaches_the_cache(archive: list[Source], tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    store.prepare(archive, rule=RULE)
    for path in store.folder.rglob("*"):
        text = path.name.encode() + (path.read_bytes() if path.is_file() else b"")
        for word in (b"doe", b"Doe", b"scan0.npy"):
            assert word not in text.replace(b"scans-", b"")


def test_a_scan_listed_twice_is_prepared_once(archive: list[Source], tmp_path: Path) -> None:
    twice = [archive[0], replace(archive[0], subject="other")]
    prepared = Store(tmp_path / "cache").prepare(twice, rule=RULE)
    assert prepared.fresh == 1
    assert [record.subject for record in prepared.records] == ["doe0", "other"]


def test_a_file_that_has_gone_is_named(archive: list[Source], tmp_path: Path) -> None:
    archive[1].channels[0].path.unlink()
    prepared = Store(tmp_path / "cache").prepare(archive[:3], rule=RULE)
    assert [row.name for row in prepared.quarantine] == ["scan1.npy"]
    assert len(prepared.records) == 2


def test_a_decoder_that_breaks_in_an_unknown_way_stops_nothing(
    archive: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(source: Source) -> Scan:
        raise KeyError("strange")

    monkeypatch.setattr(formats, "read_scan", read)
    prepared = Store(tmp_path / "cache").prepare(archive[:2], rule=RULE)
    assert (len(prepared.records), len(prepared.quarantine)) == (0, 2)
    assert "KeyError" in prepared.quarantine[0].reason


def real_archive(folder: Path, count: int) -> list[Source]:
    """Files that worker processes can read by themselves; the last one is no array."""
    sources = []
    for number in range(count):
        path = folder / f"{number}.npy"
        np.save(path, ct(number).array[0])
        sources.append(Source(name=path.name, channels=(ScanFile((path,), "npy"),), subject="s"))
    sources[-1].channels[0].path.write_bytes(b"broken")
    return sources


@pytest.mark.slow
def test_worker_processes_give_the_same_store(tmp_path: Path) -> None:
    sources = real_archive(tmp_path, 9)
    alone = Store(tmp_path / "alone").prepare(sources, rule=RULE)
    crew = Store(tmp_path / "crew").prepare(sources, rule=RULE, workers=2)
    assert len(crew.records) == 8
    assert [row.name for row in crew.quarantine] == ["8.npy"]
    for first, second in zip(alone.records, crew.records, strict=True):
        assert first.path.read_bytes() == second.path.read_bytes()


def end_process(scan: Scan) -> Scan:
    """Die as the system's memory guard makes a process die, on one scan of the archive."""
    if scan.array[0, 0, 0, 0] == ct(2).array[0, 0, 0, 0]:
        os.kill(os.getpid(), 9)
    return scan


@pytest.mark.slow
def test_a_killed_worker_costs_its_scan_alone(tmp_path: Path) -> None:
    sources = real_archive(tmp_path, 9)[:8]
    store = Store(tmp_path / "cache", prepare=end_process, prepare_key="end")
    prepared = store.prepare(sources, rule=RULE, workers=2)
    assert [row.name for row in prepared.quarantine] == ["2.npy"]
    assert "ended the process" in prepared.quarantine[0].reason
    assert len(prepared.records) == 7


def prepare_when_told(root: Path, sources: list[Source], start: Barrier, answers: Queue) -> None:
    start.wait(60)
    prepared = Store(root).prepare(sources, rule=RULE)
    whole = [np.array_equal(r.image.whole(), ct(n).array) for n, r in enumerate(prepared.records)]
    answers.put((whole, [row.name for row in prepared.quarantine]))


@pytest.mark.slow
def test_processes_that_prepare_the_same_scans_at_once_both_end_well(tmp_path: Path) -> None:
    sources = real_archive(tmp_path, 9)
    alone = Store(tmp_path / "alone").prepare(sources, rule=RULE)  # compiles too, for both
    context = get_context("fork")
    for attempt in range(5):
        root = tmp_path / f"shared{attempt}"
        start, answers = context.Barrier(2), context.Queue()
        both = [
            context.Process(target=prepare_when_told, args=(root, sources, start, answers))
            for _ in range(2)
        ]
        for process in both:
            process.start()
        found = [answers.get(timeout=60) for _ in both]
        for process in both:
            process.join(60)
        assert [process.exitcode for process in both] == [0, 0]
        assert found == [([True] * 8, ["8.npy"])] * 2
        folder = Store(root).folder
        for record in alone.records:
            held = entry_path(folder, record.key)
            assert held.read_bytes() == record.path.read_bytes()
        assert len(list(folder.glob("??/*"))) == 8  # nothing half-written stays


def prepare_in_a_loop(root: Path, sources: list[Source]) -> None:
    while True:
        shutil.rmtree(root, ignore_errors=True)
        Store(root).prepare(sources, rule=RULE)


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_whole_entries_or_none(tmp_path: Path) -> None:
    sources = real_archive(tmp_path, 7)[:6]
    context = get_context("fork")
    rng = np.random.default_rng(0)
    Store(tmp_path / "warm").prepare(sources, rule=RULE)  # compiled kernels are inherited
    for _ in range(20):
        process = context.Process(target=prepare_in_a_loop, args=(tmp_path / "cache", sources))
        process.start()
        time.sleep(rng.uniform(0.02, 0.2))
        process.kill()
        process.join()
        store = Store(tmp_path / "cache")
        for path in store.folder.glob("??/*"):
            if path.suffix != ".part":
                read_entry(path)
        prepared = store.prepare(sources, rule=RULE)
        for number, record in enumerate(prepared.records):
            assert np.array_equal(record.image.whole(), ct(number).array)
