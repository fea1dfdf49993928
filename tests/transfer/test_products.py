"""What a pretrained method makes of scans by itself: written on each scan's own grid, in its own unit."""

from __future__ import annotations

import csv
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
from PIL import Image

from unlabeled.data.sampling import draw_patch
from unlabeled.data.scan import Unit
from unlabeled.demo.phantoms import write_patients
from unlabeled.errors import DataError, RunError
from unlabeled.methods._base import Method, Monitor, Needs, Product, SharedOptions, Update
from unlabeled.training import pretrain as pretraining
from unlabeled.transfer import products
from unlabeled.transfer.predict import predict


@dataclass(frozen=True, kw_only=True)
class MakerOptions(SharedOptions):
    encoder: str = "resenc-tiny"
    patch_size: tuple[int, ...] = (16, 16, 16)
    batch_size: int = 2
    steps: int | None = 2
    brightest: float = 0.0
    refuse: bool = False


class Maker(Method):
    """Doubles an image, finds its brightest voxel, and remembers the brightest intensity that it learnt from."""

    needs = Needs(unit=Unit.VOLUME, dims=(2, 3))
    options_class = MakerOptions
    monitor = Monitor("loss", "lower")
    makes = "doubled images and their brightest voxel"

    @classmethod
    def suit(cls, options, records):
        most = max(
            float(record.patch((0,) * record.dims, record.space).max()) for record in records
        )
        if options.refuse:
            raise DataError("every scan is too plain", "Give others.")
        return type(options)(**{**vars(options), "brightest": most})

    def views(self, record, rng):
        return (draw_patch(record, self.options.patch_size, rng),)

    def step(self, batch):
        yield Update(self.encoder(batch[0])[-1].square().mean())

    def score(self, batch):
        return {"loss": self.encoder(batch[0])[-1].square().mean()}

    def preview(self, batch):
        return {"image": batch[0]}

    def product(self, record):
        image = record.patch((0,) * record.dims, record.space)
        low, high = record.window
        voxel = torch.tensor(np.unravel_index(int(image[0].argmax()), image.shape[1:]))
        return Product(
            images={"doubled": 2 * (image * (high - low) + low)},
            pictures={
                "thumbnail": F.interpolate(image[None, :, ..., 0], (8, 8))[0]
                if record.dims == 3
                else image
            },
            points={"brightest": voxel},
            values={"brightest learnt": self.options.brightest},
        )


@pytest.fixture
def find(monkeypatch):
    monkeypatch.setattr(pretraining, "find", lambda slug: Maker)
    monkeypatch.setattr(products, "find", lambda slug: Maker)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("dims", [2, 3])
def test_products_lie_on_the_scans_own_grid_and_in_its_unit(tmp_path, find, dims):
    scans = tmp_path / "scans"
    shape = (20, 20) if dims == 2 else (20, 18, 16)
    write_patients(scans, patients=3, shape=shape)
    pretraining.pretrain(
        "maker", scans, tmp_path / "run", quiet=True, dims=dims, patch_size=(16,) * dims
    )
    done = predict(tmp_path / "run", scans, tmp_path / "out", quiet=True)
    assert len(done.rows) == 3
    for row, listed in zip(done.rows, rows_of(tmp_path / "out" / "predictions.csv"), strict=True):
        assert listed["doubled"] == row["doubled"]
        assert row["brightest learnt"] == pytest.approx(1.0, abs=1e-3)
        source, made = scans / row["file"], tmp_path / "out" / row["doubled"]
        point = rows_of(tmp_path / "out" / row["points"])[0]
        assert point["point"] == "brightest"
        with Image.open(tmp_path / "out" / row["thumbnail"]) as thumbnail:
            assert thumbnail.mode == "L"
        if dims == 3:
            image, doubled = nib.load(source), nib.load(made)
            values = np.asarray(image.dataobj, dtype=np.float32)
            assert np.allclose(image.affine, doubled.affine)
            world = [float(point[f"{axis} [mm]"]) for axis in "xyz"]
            voxel = np.linalg.inv(image.affine) @ [*world, 1]
            at = tuple(voxel[:3].round().astype(int))
            assert values[at] >= np.quantile(values, 0.99)  # the window clips what is brighter
            found = np.asarray(doubled.dataobj)
        else:
            with Image.open(source) as picture:
                values = np.asarray(picture, dtype=np.float32)
            found = tifffile.imread(made)
            assert set(point) == {"point", "row [pixel]", "column [pixel]"}
        assert found.shape == values.shape
        inside = (values > np.quantile(values, 0.02)) & (values < np.quantile(values, 0.98))
        assert np.allclose(found[inside], 2 * values[inside], atol=0.02 * values.max())


def test_scans_that_a_method_refuses_after_looking_are_refused_before_training(tmp_path, find):
    write_patients(tmp_path / "scans", patients=3, shape=(20, 20))
    wrong = {"quiet": True, "dims": 2, "patch_size": (16, 16), "refuse": True}
    with pytest.raises(DataError, match="too plain"):
        pretraining.pretrain("maker", tmp_path / "scans", tmp_path / "run", **wrong)
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_damaged_method_file_is_named(tmp_path, find):
    write_patients(tmp_path / "scans", patients=3, shape=(20, 20))
    pretraining.pretrain(
        "maker", tmp_path / "scans", tmp_path / "run", quiet=True, dims=2, patch_size=(16, 16)
    )
    whole = tmp_path / "run" / pretraining.WHOLE
    whole.write_bytes(whole.read_bytes()[:200])
    with pytest.raises(RunError, match=r"method\.safetensors"):
        predict(tmp_path / "run", tmp_path / "scans", tmp_path / "out", quiet=True)
