"""Where a slice lies: places follow from the target and the spacing, errors are told in mm and in slices."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from unlabeled.demo.phantoms import write_manifest
from unlabeled.errors import DataError, OptionError
from unlabeled.nn.encoders import build_encoder
from unlabeled.rng import generator
from unlabeled.transfer.evaluate import evaluate
from unlabeled.transfer.finetune import finetune
from unlabeled.transfer.localise import Localise, Places, body_planes
from unlabeled.transfer.predict import predict
from unlabeled.transfer.task import FinetuneOptions, Given

THICKNESS = 2.5


def write_stairs(folder: Path, subjects: int = 4, *, split: bool = False) -> Path:
    """Volumes that a bright part fills the more the higher a slice lies, from different heights on; the first is empty."""
    rows = []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(subjects):
        planes = 9 + number
        array = np.zeros((16, 16, planes), np.int16)
        for plane in range(1, planes):
            place = plane + number
            array[3:13, 1:15, plane] = 100
            array[3:13, 1 : 2 + place * 2 // 3, plane] = 200 + 10 * place
        affine = np.diag([1.0, 1.0, THICKNESS, 1.0])
        affine[:3, 3] = -7.0
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / f"{number}.nii.gz")
        rows.append(
            {
                "image": f"{number}.nii.gz",
                "subject": f"s{number}",
                "target": THICKNESS * number,
                "split": ("train", "train", "val", "test")[number % 4] if split else "",
            }
        )
    return write_manifest(folder / "placed.csv", rows)


def task(records, **how) -> Localise:
    torch.manual_seed(0)
    options = FinetuneOptions(encoder="resenc-tiny", patch_size=(16, 16), **how)
    encoder = build_encoder("resenc-tiny", dims=2)
    given = Given(options=options, encoder=encoder, records=records, train=records[:2])
    return Localise.build(given)


@pytest.fixture
def records(tmp_path, prepared):
    return prepared(write_stairs(tmp_path / "stairs"))


def test_places_of_training_slices_make_the_axis(records):
    made = task(records)
    assert body_planes(records[0]).tolist() == list(range(1, 9))
    places = [THICKNESS * n for n in range(1, 9)] + [THICKNESS * (n + 1) for n in range(1, 10)]
    assert made.centre == pytest.approx(np.mean(places))
    assert made.scale == pytest.approx(np.std(places))
    assert made.span == (THICKNESS, THICKNESS * 10)
    again = Localise.restore(made.describe(), made.options, build_encoder("resenc-tiny", dims=2))
    assert (again.centre, again.scale, again.span) == (made.centre, made.scale, made.span)


def test_a_sample_is_a_slice_with_its_place(records):
    made = task(records, augment=False)
    for record in records:
        whole = record.patch((0, 0, 0), record.space)
        for seed in range(15):
            sample = made.views(record, generator(seed))
            (plane,) = (
                n for n in range(record.space[2]) if torch.equal(whole[..., n], sample.image)
            )
            place = float(sample.truth) * made.scale + made.centre
            assert place == pytest.approx(THICKNESS * plane + record.source.target, abs=1e-4)


def test_augmentation_leaves_the_place_alone(records):
    made, plain = task(records), task(records, augment=False)
    pairs = [(made.views(records[1], generator(n)), plain.views(records[1], generator(n))) for n in range(12)]  # fmt: skip
    assert all(torch.equal(one.truth, other.truth) for one, other in pairs)
    assert any(not torch.equal(one.image, other.image) for one, other in pairs)


def test_errors_are_told_in_mm_and_in_slices_beside_a_constant_answer(records):
    made = task(records)
    places = [record.source.target + THICKNESS * body_planes(record) for record in records]
    shift = 3.0

    def knowing(record):
        return torch.from_numpy(record.source.target + THICKNESS * body_planes(record) + shift)

    made.own_logits = knowing
    found = evaluate(made, records)
    for row, true in zip(found.rows, places, strict=True):
        usual = np.abs(made.centre - true).mean()
        assert row["error mm"] == pytest.approx(shift, abs=1e-5)
        assert row["error slices"] == pytest.approx(shift / THICKNESS, abs=1e-5)
        assert row["error mm of the training mean"] == pytest.approx(usual)
        assert row["error slices of the training mean"] == pytest.approx(usual / THICKNESS)
        assert row["error mm of the whole scan"] == pytest.approx(shift, abs=1e-5)
        assert row["slices"] == len(true)
    assert found.measures["error mm"].value == pytest.approx(shift, abs=1e-5)
    assert next(iter(found.measures)) == "error mm"


def test_one_slice_astray_does_not_move_the_whole_scan():
    heights = np.arange(5) * 2.0
    found = heights + 40.0
    found[2] = 500.0
    assert Places(np.arange(5), heights, found).lowest == 40.0


def test_networks_of_three_axes_and_volumes_without_spacing_are_refused(
    tmp_path, prepared, records
):
    options = FinetuneOptions(encoder="resenc-tiny", patch_size=(16, 16, 16))
    solid = Given(
        options=options, encoder=build_encoder("resenc-tiny", dims=3), records=(), train=()
    )
    with pytest.raises(OptionError, match="slices") as fault:
        Localise.build(solid)
    assert "--dims 2" in fault.value.remedy
    nibabel.save(
        nibabel.Nifti1Image(np.arange(512, dtype=np.int16).reshape(8, 8, 8), np.eye(4)),
        tmp_path / "bare.nii.gz",
    )
    manifest = write_manifest(tmp_path / "bare.csv", [{"image": "bare.nii.gz", "target": 1.0}])
    with pytest.raises(DataError, match="no voxel spacing"):
        task(prepared(manifest))


def test_a_trained_task_places_scans_and_single_slices(tmp_path):
    """A bright part tells the place, which few steps learn; a volume, one slice and a picture are all answered."""
    torch.set_num_threads(1)  # pieces this small are no work for two
    manifest = write_stairs(tmp_path / "stairs", 8, split=True)
    done = finetune(
        "localise", manifest, tmp_path / "run", init="scratch", encoder="resenc-tiny", dims=2,
        patch_size=(16, 16), steps=60, epochs=3, batch_size=16, augment=False, lr=3e-3, test=True,
        cache=tmp_path / "cache", quiet=True, accelerator="cpu", workers=0,
    )  # fmt: skip
    told = done.metrics["test"].measures
    assert told["error mm"].value < told["error mm of the training mean"].value
    scans = tmp_path / "new"
    scans.mkdir()
    volume = nibabel.load(tmp_path / "stairs" / "3.nii.gz")
    array = np.asarray(volume.dataobj)
    nibabel.save(volume, scans / "whole.nii.gz")
    nibabel.save(nibabel.Nifti1Image(array[..., 5:6], volume.affine), scans / "one.nii.gz")
    Image.fromarray(array[..., 5].astype(np.uint8)).save(scans / "picture.png")
    rows = predict(
        tmp_path / "run", scans, tmp_path / "out", cache=tmp_path / "cache", quiet=True
    ).rows
    assert [row["file"] for row in rows] == ["one.nii.gz", "picture.png", "whole.nii.gz"]
    for row, count in zip(rows, (1, 1, 11), strict=True):
        with (tmp_path / "out" / row["slices"]).open(newline="") as file:
            slices = list(csv.DictReader(file))
        assert len(slices) == count
        with Image.open(tmp_path / "out" / row["picture"]) as shown:
            assert shown.mode == "RGB"
        assert row["highest [mm]"] - row["lowest [mm]"] == pytest.approx(THICKNESS * (count - 1))
        fitted = [float(each["fitted place [mm]"]) for each in slices]
        assert fitted[0] == pytest.approx(row["lowest [mm]"], abs=1e-3)
        assert [float(each["slice"]) for each in slices] == list(range(12 - count if count > 1 else 0, 12 if count > 1 else 1))  # fmt: skip
