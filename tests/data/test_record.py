"""Records: padding, memory and handles of large archives, damage."""

from __future__ import annotations

import gc
import pickle
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.data.entry import DamagedEntryError, read_entry, write_entry
from unlabeled.data.intensity import QUANTILES, IntensityRule, Rescaling, Statistics
from unlabeled.data.preparation import Recipe, prepare_scan
from unlabeled.data.record import Record, entry_path
from unlabeled.data.scan import Grid, Scan, ScanFile, Source
from unlabeled.errors import DataError

SOURCE = Source(
    name="a.npy", channels=(ScanFile((Path("a.npy"),), "npy"),), subject="s1", study="v1"
)


def keep(
    folder: Path,
    array: np.ndarray,
    key: str = "aa",
    rule: IntensityRule | None = None,
    **facts: str,
) -> Record:
    scan = Scan(
        array=array,
        spacing=(1.0,) * (array.ndim - 1),
        affine=None,
        modality=facts.get("modality", "MR"),
        grid=Grid(array.shape[1:], None),
    )
    about, arrays = prepare_scan(scan, None, Recipe())
    write_entry(entry_path(folder, key), about, arrays)
    return Record(key, SOURCE, rule or IntensityRule(), str(folder))


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, np.ndarray]:
    array = np.random.default_rng(0).integers(0, 900, (2, 20, 33, 40)).astype(np.int16)
    return keep(tmp_path_factory.mktemp("store"), array), array


@settings(deadline=None, max_examples=50)
@given(start=st.tuples(*[st.integers(-50, 50)] * 3), size=st.tuples(*[st.integers(1, 60)] * 3))
def test_a_patch_anywhere_is_the_padded_scan(
    volume: tuple[Record, np.ndarray], start: tuple[int, ...], size: tuple[int, ...]
) -> None:
    record, array = volume
    low, high = record.window
    scaled = (np.clip(array, low, high) - low) / (high - low)
    padded = np.pad(scaled, [(0, 0), *[(60, 120)] * 3])
    cut = tuple(slice(60 + a, 60 + a + b) for a, b in zip(start, size, strict=True))
    patch = record.patch(start, size)
    assert patch.dtype == torch.float32
    np.testing.assert_allclose(patch.numpy(), padded[(slice(None), *cut)], atol=1e-6)


def test_standardised_scans_are_padded_with_the_windows_low_end(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(100, 900, (1, 20, 20, 20)).astype(np.int16)
    record = keep(tmp_path, array, rule=IntensityRule(kind="zscore"))
    whole = record.patch((0, 0, 0), (20, 20, 20))
    assert whole.mean().abs() < 0.02
    assert whole.std() == pytest.approx(1, abs=0.02)
    outside = record.patch((-9, 0, 0), (4, 4, 4))
    assert outside.unique().numel() == 1
    assert outside[0, 0, 0, 0] == pytest.approx(whole.min().item(), abs=1e-5)


@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_a_range_reaches_from_the_smallest_to_the_largest_voxel(tmp_path: Path, kind: str) -> None:
    """Background included, each modality by itself; entries that do not know the smallest take the foreground's."""
    array = np.random.default_rng(0).integers(100, 900, (1, 20, 20, 20)).astype(kind)
    array[0, 0, 0] = -50
    record = keep(tmp_path, array, rule=IntensityRule(kind="range"))
    assert record.window == (-50, array.max())
    whole = record.patch((0, 0, 0), (20, 20, 20))
    np.testing.assert_allclose(whole, (array + 50.0) / (array.max() + 50.0), atol=1e-6)
    assert (record.patch((-4, 0, 0), (4, 4, 4)) == 0).all()
    known = Statistics(1, "MR", 0.5, 0.3, np.linspace(3, 7, QUANTILES, dtype=np.float32))
    assert Rescaling.under(record.rule, known).low == 3
    assert Rescaling.under(record.rule, replace(known, modality="CT")).low == -1000


def test_what_is_standardised_without_clipping_can_be_undone(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(300, 50, (2, 30, 31)).astype(np.float32)
    array[0, 0, :5] = [-4000, 9000, 5000, 0, 12]
    record = keep(tmp_path, array, rule=IntensityRule(kind="standard"))
    whole = record.patch((0, 0), (30, 31))
    assert whole.mean().abs() < 0.01
    assert whole.std() == pytest.approx(1, abs=0.1)
    given_back = [r.undo(each) for r, each in zip(record.rescalings, whole, strict=True)]
    np.testing.assert_allclose(torch.stack(given_back), array, rtol=1e-5, atol=1e-3)
    assert (record.patch((-4, 0), (4, 4)) == 0).all()


def test_a_picture_in_colour_keeps_its_colours(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 50, 60)).astype(np.uint8)
    record = keep(tmp_path, array)
    assert (record.dims, record.channels, len(set(record.rescalings))) == (2, 3, 1)
    assert record.patch((-5, 3), (30, 31)).shape == (3, 30, 31)


def test_a_mask_patch_needs_a_mask(volume: tuple[Record, np.ndarray]) -> None:
    with pytest.raises(DataError, match="no mask"):
        volume[0].mask_patch((0, 0, 0), (4, 4, 4))


@pytest.mark.parametrize("size", [(4, 4), (4, 0, 4)])
def test_a_patch_of_wrong_axes_is_refused(
    volume: tuple[Record, np.ndarray], size: Sequence[int]
) -> None:
    with pytest.raises(ValueError, match="patch"):
        volume[0].patch((0,) * len(size), size)


def test_thousands_of_records_hold_no_file_and_little_memory(tmp_path: Path) -> None:
    first = keep(tmp_path, np.arange(20**3, dtype=np.int16).reshape(1, 20, 20, 20), "aa0")
    for number in range(1, 1500):
        path = entry_path(tmp_path, f"aa{number}")
        path.hardlink_to(first.path)
    folder = str(tmp_path)
    handles = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    tracemalloc.start()
    records = [Record(f"aa{number}", SOURCE, first.rule, folder) for number in range(1500)]
    for record in records[:600]:
        record.patch((0, 0, 0), (8, 8, 8))
    gc.collect()  # the interpreter keeps freed tuples until then
    half = tracemalloc.get_traced_memory()[0]
    for record in records[600:]:
        record.patch((0, 0, 0), (8, 8, 8))
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - half
    tracemalloc.stop()
    assert grown < 200_000  # headers of the last few hundred are kept, not of all
    if handles:
        assert len(list(Path("/proc/self/fd").iterdir())) <= handles + 2
    assert len(pickle.dumps(records[0])) < 2000


def test_a_damaged_or_truncated_entry_is_noticed(tmp_path: Path) -> None:
    record = keep(tmp_path, np.arange(20**3, dtype=np.int16).reshape(1, 20, 20, 20))
    good = record.path.read_bytes()
    flipped = bytearray(good)
    flipped[60] ^= 1  # in the header
    for bad in (b"", good[:30], good[:-1], good + b"x", bytes(flipped)):
        record.path.write_bytes(bad)
        with pytest.raises(DamagedEntryError):
            read_entry(record.path)
    with pytest.raises(DataError, match="damaged"):
        _ = record.space
    record.path.write_bytes(good)
    assert record.space == (20, 20, 20)
