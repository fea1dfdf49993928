"""Large pictures are kept small, in their unit and shape; everything else passes as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unlabeled.data.index import index_scans
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Grid, Scan
from unlabeled.data.store import Store
from unlabeled.transforms.shrinking import (
    SHRUNK,
    KeepShrunk,
    shown_patch,
    shown_space,
    shrink,
)


def scan(array: np.ndarray, **changes) -> Scan:
    values = {"spacing": None, "affine": None, "modality": "", "grid": Grid(array.shape[1:], None)}
    return Scan(array=array, **{**values, **changes})


@pytest.mark.parametrize("space", [(30, 60), (60, 30), (31, 47)])
def test_the_shorter_side_is_as_asked_and_the_shape_stays(space):
    small = shrink(torch.full((2, *space), 0.25), 10)
    assert min(small.shape[1:]) == 10
    assert small.shape[1] / small.shape[2] == pytest.approx(space[0] / space[1], rel=0.05)
    assert torch.allclose(small, torch.tensor(0.25))


def test_shrinking_averages_what_a_pixel_covers():
    stripes = torch.arange(40.0).remainder(2).expand(1, 40, 40)
    assert (shrink(stripes, 10)[:, 1:-1, 1:-1] - 0.5).abs().max() < 0.05


def test_the_copy_is_in_the_scans_own_unit():
    array = np.full((1, 40, 40), 9, np.uint8)
    kept = KeepShrunk(8)(scan(array, slope=-2.0, intercept=5.0)).extras[SHRUNK]
    assert kept.shape == (1, 8, 8)
    assert (kept == -13).all()


@pytest.mark.parametrize("space", [(8, 30), (5, 5), (20, 20, 20)])
def test_small_pictures_and_volumes_pass(space):
    assert not KeepShrunk(8)(scan(np.zeros((1, *space), np.uint8))).extras


def test_patches_are_read_of_what_is_kept(tmp_path: Path):
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (6, 9)), np.ones((10, 10))).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.png")
    Image.fromarray(smooth[:20]).save(tmp_path / "b.png")
    keep = KeepShrunk(20)
    store = Store(tmp_path / "cache", prepare=keep, prepare_key=repr(keep))
    large, small = store.prepare(index_scans(tmp_path).sources, rule=IntensityRule()).records
    assert (shown_space(large), shown_space(small)) == ((20, 30), (20, 90))
    whole = shown_patch(large, (0, 0), (20, 30))
    fresh = shrink(large.patch((0, 0), (60, 90)), 20)
    assert (whole - fresh).abs().max() < 0.01
    assert torch.equal(shown_patch(large, (3, 4), (5, 6)), whole[:, 3:8, 4:10])
    assert torch.equal(shown_patch(small, (3, 4), (5, 6)), small.patch((3, 4), (5, 6)))
