"""The phantom subject answers to what it sees, and mixed answers tell nothing."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from unlabeled.data.index import index_scans
from unlabeled.demo.subjects import write_subject

SMALL = {"pairs": 60, "held_out": 5, "tested": 4, "loose": 7, "voxels": 40, "edge": 16}


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_all_streams_and_splits_are_there(tmp_path):
    path = write_subject(tmp_path, **SMALL)
    index = index_scans(path)
    assert not index.quarantine
    found = rows(path)
    assert [sum(r["split"] == s for r in found) for s in ("train", "val", "test")] == [67, 5, 4]
    assert sum(not row["response"] for row in found) == 7
    assert {len(r["response"].split(";")) for r in found if r["split"] == "test"} == {6}


@pytest.mark.parametrize(("mixed", "explained"), [(False, 0.4), (True, 0.0)])
def test_responses_are_linear_in_the_pictures(tmp_path, mixed, explained):
    path = write_subject(tmp_path, mixed=mixed, **{**SMALL, "pairs": 300, "edge": 8})
    paired = [row for row in rows(path) if row["split"] == "train" and row["response"]]
    run = np.load(tmp_path / "train.npy")
    answers = run[[int(row["response"].rpartition("#")[2]) for row in paired]]
    seen = np.array(
        [
            np.asarray(Image.open(tmp_path / row["image"]), float)
            .reshape(2, 4, 2, 4, 3)
            .mean((1, 3))
            .ravel()
            for row in paired
        ]
    )
    seen = np.column_stack([seen, np.ones(len(seen))])
    fitted = seen[:200] @ np.linalg.lstsq(seen[:200], answers[:200], rcond=None)[0]
    tested = seen[200:] @ np.linalg.lstsq(seen[:200], answers[:200], rcond=None)[0]
    assert fitted.shape == (200, 40)
    share = 1 - ((answers[200:] - tested) ** 2).sum() / (answers[200:] ** 2).sum()
    assert share > explained if not mixed else share < 0.05


def test_the_same_seed_writes_the_same_subject(tmp_path):
    first, again = (write_subject(tmp_path / name, **SMALL) for name in ("a", "b"))
    assert first.read_bytes() == again.read_bytes()
    assert np.array_equal(*(np.load(tmp_path / name / "train.npy") for name in ("a", "b")))
