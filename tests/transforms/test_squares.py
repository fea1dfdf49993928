"""Whole pictures as squares."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.data.index import index_scans
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Grid, Scan
from unlabeled.data.store import Store
from unlabeled.errors import ScanError
from unlabeled.transforms.squares import NAME, Framing, KeepSquare, fit_square, read_square


@pytest.mark.parametrize("name", ["tall", "wide"])
def test_equals_the_published_code(golden, name):
    arrays = np.load(golden / "gloria" / "resize_pad.npz")
    ours = np.rint(fit_square(arrays[name][None], 64)[0])
    assert np.abs(ours - arrays[f"{name}_64"]).max() <= 1


@given(rows=st.integers(1, 60), columns=st.integers(1, 60), edge=st.integers(2, 40))
def test_the_picture_keeps_its_proportions_and_lies_in_the_middle(rows, columns, edge):
    square = fit_square(
        np.concatenate([np.ones((1, rows, columns)), np.zeros((1, rows, columns))]), edge
    )
    inside = square[0] > 0.5
    height, width = inside.any(1).sum(), inside.any(0).sum()
    longer = max(rows, columns)
    assert (height, width) == (max(1, rows * edge // longer), max(1, columns * edge // longer))
    assert inside.sum() == height * width
    top, left = np.argmax(inside.any(1)), np.argmax(inside.any(0))
    assert top == (edge - height) // 2
    assert left == (edge - width) // 2
    assert np.allclose(square[0][inside], 1)


@given(seed=st.integers(0, 2**31), edge=st.integers(2, 30))
def test_shrinking_keeps_the_mean(seed, edge):
    picture = np.random.default_rng(seed).random((1, 30, 30))
    assert fit_square(picture, edge).mean() == pytest.approx(picture.mean(), abs=1e-5)


def test_enlarging_is_linear():
    ramp = np.arange(4.0)[None, None] * np.ones((1, 4, 1))
    middle = fit_square(ramp, 16)[0, 8, 2:14]
    assert np.allclose(np.diff(middle), 0.25)


def scan(array: np.ndarray, **changes) -> Scan:
    values = {"spacing": None, "affine": None, "modality": "", "grid": Grid(array.shape[1:], None)}
    return Scan(array=array, **{**values, **changes})


def test_the_copy_is_in_the_scans_own_unit():
    array = np.arange(32, dtype=np.uint8).reshape(1, 4, 8)
    kept = KeepSquare(4)(scan(array, slope=-2.0, intercept=5.0)).extras[NAME]
    assert kept.shape == (1, 4, 4)
    assert np.array_equal(kept, np.rint(fit_square(array * -2.0 + 5.0, 4)))


def test_volumes_are_refused():
    with pytest.raises(ScanError, match="is a volume"):
        KeepSquare(4)(scan(np.zeros((1, 4, 4, 4), np.uint8)))


def test_stored_and_fresh_squares_agree(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (9, 6)), np.ones((10, 10)))
    Image.fromarray(smooth.astype(np.uint8)).save(tmp_path / "a.png")
    sources = index_scans(tmp_path).sources
    plain = Store(tmp_path / "cache").prepare(sources, rule=IntensityRule()).records[0]
    store = Store(tmp_path / "cache", prepare=KeepSquare(30), prepare_key=repr(KeepSquare(30)))
    kept = store.prepare(sources, rule=IntensityRule()).records[0]
    assert kept.extras[NAME].shape == (1, 30, 30)
    fresh, stored = read_square(plain, 30), read_square(kept, 30)
    assert np.abs(fresh - stored).max() < 0.01
    assert 0 <= stored.min() < stored.max() <= 1
    framing = Framing(edge=30, crop=(20, 20))
    assert torch.equal(framing.centre(kept), torch.from_numpy(stored[:, 5:25, 5:25]))
    rng = torch.Generator().manual_seed(0)
    cuts = [framing.draw(kept, rng) for _ in range(5)]
    assert all(cut.shape == (1, 20, 20) for cut in cuts)
    assert any(not torch.equal(cut, cuts[0]) for cut in cuts)


def test_a_picture_without_a_copy_is_made_square():
    whole = torch.arange(32.0).reshape(1, 4, 8)
    record = SimpleNamespace(extras={}, dims=2, space=(4, 8), patch=lambda start, size: whole)
    assert np.array_equal(read_square(record, 4), fit_square(whole.numpy(), 4))
