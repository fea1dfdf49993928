"""Slices: planes of volumes and pictures alike, padded, with what was prepared beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unlabeled.data.index import index_scans
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Scan
from unlabeled.data.slices import Slice, extra_patch, planes_holding
from unlabeled.data.store import Store
from unlabeled.demo.phantoms import write_patients
from unlabeled.errors import DataError
from unlabeled.rng import generator


@dataclass(frozen=True)
class Number:
    """A preparation: numbers every voxel."""

    def __call__(self, scan: Scan) -> Scan:
        space = scan.array.shape[1:]
        return replace(scan, extras={"places": np.arange(1, np.prod(space) + 1).reshape(space)})


@pytest.fixture(params=[(20, 14), (20, 14, 6)], ids=["picture", "volume"])
def record(request: pytest.FixtureRequest, tmp_path: Path):
    write_patients(tmp_path / "scans", patients=1, shape=request.param, labelled=True)
    store = Store(tmp_path / "cache", prepare=Number(), prepare_key="number")
    sources = index_scans(tmp_path / "scans", labelled=True).sources
    return store.prepare(sources, rule=IntensityRule()).records[0]


def test_a_slice_reads_its_own_plane_with_labels_and_padding(record):
    plane = 0 if record.dims == 2 else 4
    item = Slice(record, plane)
    whole = record.patch((0,) * record.dims, record.space).reshape(1, 20, 14, -1)[..., plane]
    patch, places = item.patch((-2, 3), (10, 16)), item.labels("places", (-2, 3), (10, 16))
    assert patch.shape == (1, 10, 16)
    assert torch.equal(patch[:, 2:, :11], whole[:, :8, 3:])
    assert not patch[:, :2].any()
    assert not patch[:, :, 11:].any()
    every = np.arange(1, np.prod(record.space) + 1).reshape(20, 14, -1)[..., plane]
    assert (places[2:, :11].numpy() == every[:8, 3:]).all()
    assert not places[:2].any()
    assert not places[:, 11:].any()


def test_a_patch_of_labels_outside_the_scan_is_empty(record):
    start = (50,) * record.dims
    assert not extra_patch(record, "places", start, (3,) * record.dims).any()


def test_starts_stay_within_the_slice(record):
    item = Slice(record, 0)
    starts = {item.draw_start((16, 14), generator(n)) for n in range(60)}
    assert {first for first, _ in starts} == set(range(5))
    assert {second for _, second in starts} == {0}


def test_planes_that_hold_a_label_are_found(record):
    found = planes_holding(record, (1,))
    mask = record.mask_patch((0,) * record.dims, record.space).reshape(20, 14, -1)
    assert found.tolist() == (mask == 1).any(0).any(0).tolist()
    assert not planes_holding(record, (77,)).any()


def test_a_scan_without_a_mask_cannot_say_what_it_holds(record):
    bare = Store(Path(record.folder).parent, prepare=Number(), prepare_key="number")
    source = replace(record.source, mask=None)
    (unmasked,) = bare.prepare([source], rule=IntensityRule()).records
    with pytest.raises(DataError, match="has no mask") as fault:
        planes_holding(unmasked, (1,))
    assert "mask" in fault.value.remedy
