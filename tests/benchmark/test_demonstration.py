"""The demo, whole: cohort, pretraining, fine-tuning, predictions on the original grids, report."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from unlabeled.benchmark import demonstration
from unlabeled.cli.app import run


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_leaves_a_report_and_masks_on_the_original_grids(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demonstration, "PRETRAINING", {**demonstration.PRETRAINING, "steps": 5})
    monkeypatch.setattr(demonstration, "FINETUNING", {**demonstration.FINETUNING, "steps": 4})
    out = tmp_path / "demo"
    assert run(["demo", "--out", str(out), "--seeds", "1"]) == 0
    told = capsys.readouterr().out
    assert "virtual patients" in told
    page = (out / "report.html").read_text()
    for part in (
        *("virtual", "data:image/png", "unlabeled pretrain", "From scratch", "Models Genesis"),
        *("Dice, grey matter", "Dice, white matter", "Worst", "script-src &#39;sha256-"),
    ):
        assert part in page, part
    assert page.count("<script") == 1
    assert 'src="http' not in page
    images = {path.name: path for path in (out / "data" / "labelled" / "images").iterdir()}
    masks = list((out / "predictions").rglob("*.nii.gz"))
    assert len(masks) == demonstration.PARTS[2][1]
    for path in masks:
        image, mask = nib.load(images[path.name]), nib.load(path)
        assert image.shape == mask.shape
        np.testing.assert_allclose(image.affine, mask.affine, atol=1e-4)
        assert set(np.unique(mask.get_fdata())) <= {0, 1, 2}
    assert run(["demo", "--out", str(out), "--seeds", "1"]) == 0  # nothing is run again
