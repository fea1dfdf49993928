"""Arrays of one run on disk: what is written is read, and goes with the object."""

from __future__ import annotations

import gc
import multiprocessing
import pickle

import numpy as np
import pytest

import unlabeled.data.scratch as scratch_module
from unlabeled.data.scratch import Scratch


def test_patches_are_those_of_the_array():
    scratch = Scratch()
    whole = np.random.default_rng(0).random((3, 20, 30)).astype(np.float32)
    assert not scratch.holds("a/b.png")
    with pytest.raises(KeyError):
        scratch.read("a/b.png", (0, 0), (1, 1))
    scratch.put("a/b.png", whole)
    scratch.put("a/c.png", 2 * whole)
    assert scratch.holds("a/b.png")
    patch = scratch.read("a/b.png", (4, 7), (10, 12))
    assert patch.dtype == np.float32
    assert np.array_equal(patch, whole[:, 4:14, 7:19].astype(np.float16))
    other = pickle.loads(pickle.dumps(scratch))
    assert np.array_equal(other.read("a/c.png", (0, 0), (20, 30)), (2 * whole).astype(np.float16))


def test_only_so_many_arrays_stay_mapped(monkeypatch):
    monkeypatch.setattr(scratch_module, "MAPPED", 2)
    scratch = Scratch()
    for number in range(4):
        scratch.put(str(number), np.full((1, 2, 2), number))
    for number in (0, 1, 2, 3, 0, 1):
        assert scratch.read(str(number), (0, 0), (2, 2)).max() == number
        assert len(scratch.mapped) <= 2
    assert not pickle.loads(pickle.dumps(scratch)).mapped


def test_the_folder_goes_with_the_object_of_the_process_that_made_it():
    scratch = Scratch()
    scratch.put("x", np.zeros((1, 4, 4)))
    folder = scratch.folder
    held = [scratch]
    worker = multiprocessing.get_context("fork").Process(target=held.clear)
    worker.start()
    worker.join()
    assert folder.is_dir()
    assert scratch.read("x", (0, 0), (4, 4)).shape == (1, 4, 4)
    held.clear()
    del scratch
    gc.collect()
    assert not folder.exists()
