"""A folder of small made-up patients, and one pretraining and one fine-tuning that all command-line tests share."""

from __future__ import annotations

import contextlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from desk import TILTED, TINY, Said, type_in

from unlabeled.demo.phantoms import draw_phantom, write_manifest, write_patients


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a person works in."""
    root = tmp_path_factory.mktemp("desk")
    write_patients(root / "scans", patients=4, shape=(20, 20, 20))
    whole = (root / "scans" / "phantom-000.nii.gz").read_bytes()
    (root / "scans" / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    voxels = np.round(draw_phantom(7, (18, 22, 20)).image * 200).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, TILTED), root / "scans" / "tilted.nii.gz")
    write_patients(root / "lab", patients=6, shape=(20, 20, 20), labelled=True)
    write_patients(root / "pics", patients=12, shape=(32, 32))
    write_manifest(
        root / "pics.csv",
        [
            {
                "image": f"pics/phantom-{number:03d}.png",
                "label": ("ill", "well")[number % 2],
                "split": ("train", "train", "val")[number // 2 % 3],
            }
            for number in range(12)
        ],
    )
    (root / "empty").mkdir()
    (root / "text").mkdir()
    (root / "text" / "notes.txt").write_text("no scan")
    return root


@pytest.fixture(autouse=True)
def at_the_desk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in that folder, before a terminal of 80 columns; only for tests that ask for it."""
    monkeypatch.setenv("COLUMNS", "80" if "desk" in request.fixturenames else "200")
    if "desk" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("desk"))


@pytest.fixture(scope="session")
def pretrained(desk: Path) -> Said:
    """One pretraining, in ``run1``."""
    with contextlib.chdir(desk):
        words = ["pretrain", "models-genesis", "scans", "--out", "run1", *TINY, "--steps", "4"]
        return type_in([*words, "--log-every", "1", "--samples-per-scan", "2"])


@pytest.fixture(scope="session")
def finetuned(desk: Path, pretrained: Said) -> Said:
    """One fine-tuning from it, in ``run2``."""
    with contextlib.chdir(desk):
        words = ["finetune", "segment", "lab", "--init", "run1", "--out", "run2"]
        return type_in([*words, "--steps", "4", "--batch-size", "2", "--accelerator", "cpu"])
