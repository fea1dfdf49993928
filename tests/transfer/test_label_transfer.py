"""Label transfer: the nearest labelled voxels vote, nothing is trained, the same after saving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.labels import Labels
from unlabeled.data.slabs import Slab
from unlabeled.errors import DataError, OptionError
from unlabeled.nn.encoders import Encoder, build_encoder
from unlabeled.nn.weights import read_weights, save_encoder
from unlabeled.transfer.finetune import finetune
from unlabeled.transfer.label_transfer import Atlas, LabelTransfer
from unlabeled.transfer.predict import predict
from unlabeled.transfer.saved import load_task
from unlabeled.transfer.task import FinetuneOptions, Given

CLASSES = Labels((0, 1, 2), ("background", "dim", "bright"))
QUICK = {"accelerator": "cpu", "quiet": True}


class Middle(Encoder):
    """Describes a patch by the intensity at its middle: a descriptor that tells the balls apart."""

    name, entry = "resenc-tiny", "layer"

    def __init__(self) -> None:
        super().__init__()
        self.dims, self.in_channels = 2, 3
        self.channels, self.strides = (1,), ((1, 1),)
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        rows, columns = image.shape[2] // 2, image.shape[3] // 2
        return [image[:, 1:2, rows : rows + 1, columns : columns + 1]]


def middles(every: int = 2, neighbours: int = 1) -> LabelTransfer:
    options = FinetuneOptions(dims=2, patch_size=(5, 5), every=every, neighbours=neighbours)
    task = LabelTransfer(options, Middle(), CLASSES, slab=Slab((5, 5), reach=0.1))
    task.sagittal, task.coronal = Middle(), Middle()
    return task.eval()


def dice(found: Tensor, truth: Tensor, one: int) -> float:
    both = (found == one).sum() + (truth == one).sum()
    return float(2 * ((found == one) & (truth == one)).sum() / both)


@torch.no_grad()
def test_the_nearest_vote_each_alike():
    atlas = Atlas(0, 2)
    rows = torch.tensor([[0.0, 0.0], [0.0, 0.1], [0.0, 1.0], [3.0, 0.0]])
    atlas.keep(rows, torch.tensor([0, 1, 1, 2]))
    found = torch.tensor([[0.0, 0.0], [2.9, 0.0]])
    assert atlas.vote(found, 1, 3).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert torch.allclose(atlas.vote(found, 3, 3)[0], torch.tensor([1 / 3, 2 / 3, 0.0]))
    assert torch.allclose(atlas.vote(found, 99, 3), torch.tensor([[0.25, 0.5, 0.25]] * 2))


@torch.no_grad()
def test_one_atlas_labels_the_others(balls, prepared):
    scans = prepared(balls(3))
    task = middles()
    task.fit(scans[:1])
    for record in scans[1:]:
        logits = task.own_logits(record)
        assert logits.shape == (3, *record.space)
        truth = record.mask_patch((0, 0, 0), record.space)
        assert dice(logits.argmax(0), truth, 1) > 0.6
        assert dice(logits.argmax(0), truth, 2) > 0.6
        assert torch.allclose(logits.exp().sum(0), torch.ones(record.space), atol=1e-4)


@torch.no_grad()
def test_the_atlas_itself_is_labelled_by_itself_at_every_described_voxel(balls, prepared):
    """Distance, lattice, labels and interpolation agree: a descriptor's nearest is its own."""
    (record,) = prepared(balls(1))
    task = middles(every=3)
    task.fit([record])
    found = task.own_logits(record).argmax(0)
    truth = record.mask_patch((0, 0, 0), record.space)
    points = task.points(record)
    assert [each[:2].tolist() for each in points] == [[1, 4]] * 3
    lattice = np.ix_(*points)
    assert torch.equal(found[lattice], truth[lattice])
    assert len(task.atlas.labels) == np.prod([len(each) for each in points])


@torch.no_grad()
def test_too_many_descriptors_are_thinned_evenly_over_the_atlases(balls, prepared, monkeypatch):
    from unlabeled.transfer import label_transfer

    scans = prepared(balls(2))
    monkeypatch.setattr(label_transfer, "MOST", 100)
    task = middles()
    task.fit(scans)
    assert len(task.atlas.labels) == 100


def test_what_a_network_sees_is_the_pretrainings(balls, prepared):
    scans = prepared(balls(2))
    told = {"options": {"reach": 0.3, "gap": 0.1, "field": [20, 20, 20], "lr": 1}}
    options = FinetuneOptions(patch_size=(42, 42))
    encoder = build_encoder("context-cnn", dims=2)
    given = Given(options=options, encoder=encoder, records=scans, train=scans, metadata=told)
    task = LabelTransfer.build(given)
    assert task.slab == Slab((42, 42), 0.3, 0.1)
    assert task.field == (20, 20, 20)
    assert [task.encoder.in_channels, task.atlas.rows.shape[1]] == [3, 192]
    plain = LabelTransfer.build(Given(options=options, encoder=encoder, records=scans, train=scans))
    assert plain.slab == Slab((42, 42))
    assert plain.field is None


def test_pictures_and_networks_of_volumes_are_refused(balls, prepared, pictures):
    scans = prepared(balls(1))
    options = FinetuneOptions(patch_size=(42, 42))
    solid = build_encoder("resenc-tiny", dims=3)
    with pytest.raises(OptionError, match="planes") as fault:
        LabelTransfer.build(Given(options=options, encoder=solid, records=scans, train=scans))
    assert "--dims 2" in fault.value.remedy
    flat = prepared(pictures())
    encoder = build_encoder("context-cnn", dims=2)
    with pytest.raises(DataError, match="three axes") as refused:
        LabelTransfer.build(Given(options=options, encoder=encoder, records=flat, train=flat))
    assert "few-shot" in refused.value.remedy
    task = middles()
    assert "picture" in task.unfit(flat[0])
    assert task.unfit(scans[0]) == ""


@pytest.fixture
def pretrained(tmp_path) -> Callable[..., Path]:
    """Write weights as a pretraining leaves them."""

    def make(*, three: bool = True, channels: int = 3) -> Path:
        torch.manual_seed(1)
        names = ("encoder", "sagittal", "coronal") if three else ("encoder",)
        parts = {name: build_encoder("context-cnn", dims=2, in_channels=channels) for name in names}
        facts: dict[str, Any] = {
            "slug": "volume-context" if three else "c2l",
            "options": {"reach": 0.3, "gap": 0.05, "field": None},
            "patch_size": [42, 42],
            "spacing": [1.0, 1.0, 1.0],
            "orientation": "RAS",
            "intensity": IntensityRule(kind="standard").as_metadata(),
            "modality": [],
        }
        save_encoder(tmp_path / "run" / "encoder.safetensors", parts, facts)
        return tmp_path / "run"

    return make


def test_from_weights_to_masks(balls, pretrained, tmp_path):
    """What a person types: nothing is trained, all three networks are the pretraining's, and what was saved predicts."""
    folder = balls(5, space=(12, 14, 10))
    run, out = pretrained(), tmp_path / "transfer"
    made = finetune(
        "label-transfer", folder, out, init=run, cache=tmp_path / "cache", every=3, neighbours=2,
        test=True, **QUICK,
    )  # fmt: skip
    assert made.result.steps == 0
    assert made.loaded is not None
    assert made.loaded.share == 1
    assert made.notes == ()
    assert {"dice", "dice label 1", "dice label 2"} <= set(made.metrics["test"].measures)
    before, _ = read_weights(run / "encoder.safetensors")
    after, metadata = read_weights(out / "encoder.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert metadata["pretrained"] == "volume-context"
    held, facts = read_weights(out / "task.safetensors")
    assert held["atlas.rows"].shape[1] == 192
    assert facts["task"]["kept"] == len(held["atlas.labels"])
    assert (facts["task"]["every"], facts["task"]["neighbours"]) == (3, 2)
    done = predict(out, folder / "images", tmp_path / "out", cache=tmp_path / "cache", **QUICK)
    assert len(done.rows) == 5
    image = nibabel.load(sorted((folder / "images").iterdir())[0])
    mask = nibabel.load(min((tmp_path / "out").glob("*.nii.gz")))
    assert mask.shape == image.shape
    assert np.allclose(mask.affine, image.affine)
    first, again = (load_task(out).task for _ in range(2))
    assert (first.options.every, first.options.neighbours) == (3, 2)
    slabs = torch.randn(2, 3, 3, 42, 42)
    with torch.no_grad():
        assert torch.equal(first(slabs), again(slabs))
        assert first(slabs).shape == (2, 3)


def test_another_pretraining_s_one_network_looks_along_all_axes(balls, pretrained, tmp_path):
    made = finetune(
        "label-transfer", balls(4, space=(12, 14, 10)), tmp_path / "transfer",
        init=pretrained(three=False, channels=1), cache=tmp_path / "cache", **QUICK,
    )  # fmt: skip
    assert sum("stands in" in note for note in made.notes) == 2
    held, _ = read_weights(tmp_path / "transfer" / "task.safetensors")
    assert torch.equal(
        held["encoder.convolutions.3.weight"], held["sagittal.convolutions.3.weight"]
    )


def test_from_scratch_there_are_three_networks_of_chance(balls, pretrained, tmp_path):
    finetune(
        "label-transfer", balls(4, space=(12, 14, 10)), tmp_path / "transfer", init="scratch",
        like=pretrained(), cache=tmp_path / "cache", **QUICK,
    )  # fmt: skip
    held, facts = read_weights(tmp_path / "transfer" / "task.safetensors")
    names = ("encoder", "sagittal", "coronal")
    one, two, three = (held[f"{name}.convolutions.3.weight"] for name in names)
    assert not torch.equal(one, two)
    assert not torch.equal(two, three)
    assert facts["task"]["seen"]["reach"] == 0.3
