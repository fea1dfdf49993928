"""A small study that the tests of comparisons share: pictures without labels, and labelled ones of few subjects."""

from __future__ import annotations

import pytest
from studies import SPLITS, Study

from unlabeled.demo.phantoms import write_manifest, write_patients


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Six pictures to pretrain on, seven with masks and classes."""
    root = tmp_path_factory.mktemp("study")
    write_patients(root / "scans", patients=6, shape=(24, 24))
    write_patients(root / "lab", patients=len(SPLITS), shape=(24, 24), labelled=True, seed=1)
    rows = [
        {
            "image": f"images/phantom-{number:03d}.png",
            "mask": f"labels/phantom-{number:03d}.png",
            "subject": f"p{number}",
            "split": split,
        }
        for number, split in enumerate(SPLITS)
    ]
    manifest = write_manifest(root / "lab" / "labelled.csv", rows)
    write_manifest(root / "lab" / "untested.csv", [r for r in rows if r["split"] != "test"])
    classes = [
        {**row, "image": f"{row['image']}", "label": ("ill", "well")[number % 2], "mask": ""}
        for number, row in enumerate(rows)
    ]
    write_manifest(root / "lab" / "classes.csv", classes)
    return Study(root, root / "scans", manifest, root / "cache")
