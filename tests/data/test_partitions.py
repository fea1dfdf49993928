"""Partitions of volumes, slices drawn from them, and scans that have too few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.data.index import index_scans
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.partitions import (
    WholeVolumes,
    draw_slices,
    partition_edges,
    read_scaled_slice,
    read_slice,
)
from unlabeled.data.store import Store
from unlabeled.rng import generator

SLUG = "global-local-contrast"


@given(slices=st.integers(2, 60), partitions=st.integers(2, 10))
def test_every_slice_belongs_to_one_partition_and_none_is_empty(
    slices: int, partitions: int
) -> None:
    if slices < partitions:
        with pytest.raises(ValueError, match="cannot be cut"):
            partition_edges(slices, partitions)
        return
    edges = partition_edges(slices, partitions)
    sizes = np.diff(edges)
    assert edges[0] == 0
    assert edges[-1] == slices
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1
    equal = partition_edges(slices, partitions, whole=False)
    assert set(np.diff(equal)) == {slices // partitions}


def test_golden_draws(golden: Path) -> None:
    """The published draws come from the equal partitions, and from every slice of them; the last slices are lost."""
    arrays = np.load(golden / SLUG / "batch_layout.npz")
    counts = arrays["slices_per_volume"].tolist()
    drawn: dict[int, list[set[int]]] = {v: [set() for _ in range(4)] for v in range(len(counts))}
    for codes in arrays["drawn_codes"].astype(int):
        for place, code in enumerate(codes[:20]):
            drawn[code // 100][place % 4].add(code % 100)
    for volume, count in enumerate(counts):
        edges = partition_edges(count, 4, whole=False)
        for part in range(4):
            assert drawn[volume][part] == set(range(edges[part], edges[part + 1]))
    ours = {each for seed in range(200) for each in draw_slices((0, 2, 4, 6, 8), generator(seed))}
    assert ours == set(range(8))


def written(folder: Path, **arrays: Any) -> Path:
    for name, array in arrays.items():
        nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.5, 2.0, 1.0])), folder / f"{name}.nii.gz")  # fmt: skip
    return folder


def prepared(folder: Path, cache: Path, prepare: WholeVolumes) -> Any:
    store = Store(cache, prepare=prepare, prepare_key=repr(prepare))
    return store.prepare(index_scans(folder).sources, rule=IntensityRule())


def test_volumes_with_too_few_slices_are_left_out_with_a_reason(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = written(
        tmp_path,
        long=rng.integers(0, 99, (8, 9, 6)).astype(np.int16),
        short=rng.integers(0, 99, (8, 9, 3)).astype(np.int16),
    )
    found = prepared(folder, tmp_path / "cache", WholeVolumes(4))
    assert [record.source.name for record in found.records] == ["long.nii.gz"]
    (left,) = found.quarantine
    assert left.reason == "has 3 slice(s), fewer than the 4 partitions"
    assert "--partitions 3" in left.remedy


def test_golden_intensities_and_sizes(golden: Path, tmp_path: Path) -> None:
    arrays = np.load(golden / SLUG / "normalise_crop.npz")
    volume, expected = arrays["volume"], arrays["normalised"]
    found = prepared(written(tmp_path, one=volume), tmp_path / "cache", WholeVolumes(4, (1, 99)))
    (record,) = found.records
    for place in range(volume.shape[2]):
        made = read_scaled_slice(record, place, volume.shape[:2])
        np.testing.assert_allclose(made[0], expected[..., place], rtol=1e-5, atol=1e-6)
    wide = np.repeat(arrays["slice_30x50"][..., None], 4, axis=2)
    folder = tmp_path / "wide"
    folder.mkdir()
    (record,) = prepared(written(folder, two=wide), tmp_path / "cache", WholeVolumes(4)).records
    low, high = record.window
    cropped = np.clip((arrays["cropped_40x40"] - low) / (high - low), 0, 1)
    cropped[:5] = cropped[-5:] = 0
    np.testing.assert_allclose(read_slice(record, 1, (40, 40))[0], cropped, atol=1e-6)


@given(
    space=st.tuples(st.integers(3, 9), st.integers(3, 9)), size=st.tuples(st.integers(2, 12), st.integers(2, 12))
)  # fmt: skip
def test_both_ways_of_reading_put_the_slice_at_the_same_place(
    space: tuple[int, int], size: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("place")
    volume = np.random.default_rng(0).integers(1, 200, (*space, 4)).astype(np.int16)
    (record,) = prepared(
        written(folder, one=volume), folder / "c", WholeVolumes(4, (0, 100))
    ).records
    scaled = read_scaled_slice(record, 2, size)
    assert scaled.shape == read_slice(record, 2, size).shape == (1, *size)
    whole = (volume[..., 2] - volume.min()) / (volume.max() - volume.min())
    expected = torch.from_numpy(centred(whole, size)).float()
    torch.testing.assert_close(scaled[0], expected, atol=1e-5, rtol=1e-5)


def centred(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crop or pad with zeros, axis by axis."""
    for axis, wanted in enumerate(size):
        edge = array.shape[axis]
        if edge >= wanted:
            array = array.take(range((edge - wanted) // 2, (edge - wanted) // 2 + wanted), axis)
        else:
            before = (wanted - edge) // 2
            sides = [(0, 0)] * array.ndim
            sides[axis] = (before, wanted - edge - before)
            array = np.pad(array, sides)
    return array


def test_an_empty_volume_and_a_falling_scale_are_scaled_too(tmp_path: Path) -> None:
    """Equal percentiles are no division by zero; with a negative slope in the header, the largest number is darkest."""
    empty = np.zeros((6, 6, 4), np.int16)
    empty[2, 3, 0] = 5
    falling = np.arange(6 * 6 * 4, dtype=np.int16).reshape(6, 6, 4)
    image = nibabel.Nifti1Image(falling, np.diag([1.0, 1.5, 2.0, 1.0]))
    image.header.set_slope_inter(-2.0, 5.0)
    (tmp_path / "falling").mkdir()
    (tmp_path / "empty").mkdir()
    nibabel.save(image, tmp_path / "falling" / "falling.nii.gz")
    (record,) = prepared(
        written(tmp_path / "empty", empty=empty), tmp_path / "cache", WholeVolumes(4, (1, 50))
    ).records
    assert read_scaled_slice(record, 0, (6, 6)).max() == 5
    (record,) = prepared(
        tmp_path / "falling", tmp_path / "cache", WholeVolumes(4, (0, 100))
    ).records
    expected = 1 - falling / falling.max()
    np.testing.assert_allclose(read_scaled_slice(record, 3, (6, 6))[0], expected[..., 3], atol=1e-5)
