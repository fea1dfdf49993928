"""Predictions on each scan's own grid, whatever its orientation, spacing and kind; broken scans are named."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.labels import Labels
from unlabeled.errors import DataError, OptionError, RunError
from unlabeled.nn.encoders import Encoder
from unlabeled.transfer import predict as module
from unlabeled.transfer.predict import predict
from unlabeled.transfer.saved import SavedTask
from unlabeled.transfer.task import FinetuneOptions
from unlabeled.transfer.tasks import Classify, Segment


class Plain(Encoder):
    """Gives the image itself, and its mean."""

    name, entry = "plain", "layer"

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims, self.in_channels = dims, 1
        self.channels, self.strides = (1,), ((1,) * dims,)
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [image]


class Threshold(torch.nn.Module):
    """Says "bright" above a half: logits of both classes at every voxel."""

    def forward(self, features: list[Tensor]) -> Tensor:
        return torch.cat([0.5 - features[-1], features[-1] - 0.5], 1) * 40


def use(
    monkeypatch: pytest.MonkeyPatch, dims: int = 3, spacing: tuple[float, ...] | None = None
) -> None:
    """Let `predict` find a task that thresholds at a half."""
    options = FinetuneOptions(patch_size=(8,) * dims, spacing=spacing)
    task = Segment(options, Plain(dims), Labels((0, 7), ("background", "bright one")))
    task.decoder = Threshold()
    resampled = {"resampled": None if spacing is None else list(spacing)}
    saved = SavedTask(task.eval(), IntensityRule(), resampled)
    monkeypatch.setattr(module, "load_task", lambda run: saved)


@pytest.fixture
def blob(phantoms: SimpleNamespace) -> np.ndarray:
    """A bright, lopsided body in the dark: no symmetry hides a turned axis."""
    image = np.zeros((17, 20, 13), np.int16)
    image[1:-1, 1:-1, 1:-1] = 100
    image[3:9, 4:15, 2:8] = 900
    image[9:14, 4:8, 2:5] = 900
    return image


def world(path: Path) -> set[tuple[float, ...]]:
    """World positions of the voxels that a mask marks."""
    found = nibabel.load(path)
    where = np.argwhere(np.asarray(found.dataobj) > 0)
    return {tuple(np.round(p, 3)) for p in nibabel.affines.apply_affine(found.affine, where)}


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SRA", "PIL", "AIR"])
def test_any_orientation_gives_the_same_mask_in_the_world(
    axes: str, blob: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    affine = np.array([[1.0, 0, 0, -8], [0, 0.8, 0, 5], [0, 0, 2.5, 11], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(blob, affine)
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
    )
    turned = image.as_reoriented(turn)
    (tmp_path / "in").mkdir()
    nibabel.save(turned, tmp_path / "in" / "scan.nii.gz")
    use(monkeypatch)
    predict("run", tmp_path / "in", tmp_path / "out", cache=tmp_path / "cache", quiet=True)
    written = nibabel.load(tmp_path / "out" / "scan.nii.gz")
    assert written.shape == turned.shape
    assert np.allclose(written.affine, turned.affine)
    assert np.array_equal(np.asarray(written.dataobj) == 7, np.asarray(turned.dataobj) > 500)
    where = nibabel.affines.apply_affine(affine, np.argwhere(blob > 500))
    assert world(tmp_path / "out" / "scan.nii.gz") == {tuple(np.round(p, 3)) for p in where}


def test_a_resampled_store_is_undone(
    blob: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = np.kron(blob, np.ones((2, 2, 2), np.int16))
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    affine[:3, 3] = 3.0
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(big, affine), tmp_path / "in" / "scan.nii.gz")
    use(monkeypatch, spacing=(1.0, 1.0, 1.0))
    done = predict("run", tmp_path / "in", tmp_path / "out", cache=tmp_path / "c", quiet=True)
    found = np.asarray(nibabel.load(tmp_path / "out" / "scan.nii.gz").dataobj) > 0
    truth = big > 500
    assert found.shape == truth.shape
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.93
    middle = np.argwhere(found).mean(0) - np.argwhere(truth).mean(0)
    assert np.abs(middle).max() < 0.15  # no shift by half a voxel
    assert done.rows[0]["bright one [ml]"] == pytest.approx(found.sum() * 0.125e-3)


def test_names_sizes_labels_and_probabilities(
    blob: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phantoms: SimpleNamespace
) -> None:
    phantoms.write_volume(tmp_path / "in" / "p1" / "t1.nii.gz", blob)
    use(monkeypatch)
    out = tmp_path / "out"
    done = predict(
        "run", tmp_path / "in", out, probabilities=True, cache=tmp_path / "c", quiet=True
    )
    assert done.rows[0]["mask"] == "p1/t1.nii.gz"
    assert done.rows[0]["bright one [ml]"] == pytest.approx((blob > 500).sum() / 1000)
    assert json.loads((out / "labels.json").read_text()) == {
        "labels": {"background": 0, "bright one": 7}
    }
    likely = np.asarray(nibabel.load(out / "p1" / "t1_p_bright-one.nii.gz").dataobj)
    rest = np.asarray(nibabel.load(out / "p1" / "t1_p_background.nii.gz").dataobj)
    assert np.allclose(likely + rest, 1, atol=1e-5)
    assert np.array_equal(likely > 0.5, blob > 500)
    with (out / "predictions.csv").open() as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["p1/t1.nii.gz"]


def test_broken_scans_are_named_and_the_rest_is_predicted(
    blob: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phantoms: SimpleNamespace
) -> None:
    phantoms.write_volume(tmp_path / "in" / "good.nii.gz", blob)
    (tmp_path / "in" / "cut.nii.gz").write_bytes(
        (tmp_path / "in" / "good.nii.gz").read_bytes()[:200]
    )
    use(monkeypatch)
    done = predict("run", tmp_path / "in", tmp_path / "out", cache=tmp_path / "c", quiet=True)
    assert [row["file"] for row in done.rows] == ["good.nii.gz"]
    assert "cut.nii.gz" in (tmp_path / "out" / "quarantine.csv").read_text()
    (tmp_path / "in" / "good.nii.gz").unlink()
    with pytest.raises(DataError, match=r"can be used\..* cannot be read"):
        predict("run", tmp_path / "in", tmp_path / "none", cache=tmp_path / "c", quiet=True)


def test_pictures_get_png_masks_and_a_flat_network_takes_volumes_too(
    blob: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phantoms: SimpleNamespace
) -> None:
    (tmp_path / "in").mkdir()
    picture = (blob[:, :, 4] // 5).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "in" / "flat.png")
    phantoms.write_volume(tmp_path / "in" / "solid.nii.gz", blob)
    use(monkeypatch, dims=2)
    predict("run", tmp_path / "in", tmp_path / "out", cache=tmp_path / "c", quiet=True)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "flat.png")) == 7, picture > 100)
    solid = np.asarray(nibabel.load(tmp_path / "out" / "solid.nii.gz").dataobj)
    assert np.array_equal(solid == 7, blob > 500)
    use(monkeypatch, dims=3)
    done = predict("run", tmp_path / "in", tmp_path / "out3", cache=tmp_path / "c", quiet=True)
    assert [(row.name, "picture" in row.reason) for row in done.quarantine] == [("flat.png", True)]


def test_classes_come_as_shares_that_sum_to_one(
    pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = FinetuneOptions(patch_size=(16, 16))
    task = Classify(options, Plain(2), ("down", "up")).eval()
    monkeypatch.setattr(
        module, "load_task", lambda run: SavedTask(task, IntensityRule(), {"resampled": None})
    )
    done = predict("run", pictures(2), tmp_path / "out", cache=tmp_path / "c", quiet=True)
    for row in done.rows:
        assert row["p down"] + row["p up"] == pytest.approx(1)
        assert row["predicted"] in ("down", "up")


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_run_without_a_task_is_refused(pretrained: bool, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    if pretrained:
        (tmp_path / "run" / "encoder.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="holds no fine-tuned task") as told:
        predict(tmp_path / "run", tmp_path, tmp_path / "out")
    assert ("Fine-tune it first" in told.value.remedy) == pretrained


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--overlap"):
        predict("run", tmp_path, tmp_path, overlap=1.0)


def test_names_never_leave_the_folder() -> None:
    given: list[Any] = module.output_names(
        ["/etc/a.png", "../../b.nii.gz", "C:/x/c.dcm", "..", "b"]
    )
    assert [str(name) for name in given] == ["etc/a", "b", "x/c", "scan", "b_"]
