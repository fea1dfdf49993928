"""Segmenting and finding positions at once: which loss moves which part, and what is refused."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from unlabeled.data.index import index_scans
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.slices import flat_axis
from unlabeled.data.store import Store
from unlabeled.demo.hearts import write_hearts
from unlabeled.demo.phantoms import write_manifest, write_patients
from unlabeled.errors import DataError, OptionError
from unlabeled.nn.encoders import build_encoder
from unlabeled.rng import generator
from unlabeled.training.loader import held_out_batch, items_of
from unlabeled.transfer.finetune import finetune
from unlabeled.transfer.inference import segment_logits
from unlabeled.transfer.multitask import MultiTask
from unlabeled.transfer.task import FinetuneOptions, Given
from unlabeled.transfer.tasks import Segment

QUICK = {"quiet": True, "accelerator": "cpu", "workers": 0}
SMALL = {"encoder": "resenc-tiny", "patch_size": (32, 32), "batch_size": 2}
FEW = {"steps": 2, "epochs": 1, "dims": 2, **SMALL}


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    return write_hearts(
        tmp_path_factory.mktemp("hearts"), studies=4, labelled=True, edge=32, pixel=5.0
    )


@pytest.fixture(scope="module")
def records(hearts, tmp_path_factory):
    sources = index_scans(hearts).sources
    return Store(tmp_path_factory.mktemp("store")).prepare(sources, rule=IntensityRule()).records


def build(records, **options) -> MultiTask:
    torch.manual_seed(0)
    labelled = [record for record in records if record.mask is not None]
    made = FinetuneOptions(dims=2, **{**SMALL, **options})
    encoder = build_encoder(made.encoder, dims=2)
    given = Given(options=made, encoder=encoder, records=labelled, train=labelled, studies=records)
    return MultiTask.build(given)


def batch_of(task: MultiTask, records):
    (phase,) = task.phases()
    labelled = [record for record in records if record.mask is not None]
    return held_out_batch(phase, items_of(phase, labelled), seed=0, number=0)


def slopes(task: MultiTask, batch) -> torch.Tensor:
    """Gradient of the last convolution's rows, ``class+10``."""
    task.zero_grad()
    (update,) = task.step(batch)
    update.loss.backward()
    return task.decoder.head.weight.grad.flatten(1).clone()


def test_must_have_10_unlabelled_images_move_positions_alone(records):
    """The head of the classes gets no gradient from images without labels, the rest of the network does."""
    task = build(records)
    count = len(task.classes.values)
    assert count == 4
    batch = batch_of(task, records)
    assert task.outputs(batch["studies"].image).shape[1] == count + 10
    torch.nn.functional.cross_entropy(
        task.locate(batch["studies"].image), batch["studies"].boxes
    ).backward()
    rows = task.decoder.head.weight.grad.flatten(1)
    assert not rows[:count].any()
    assert rows[count:].any()
    assert any(parameter.grad.any() for parameter in task.encoder.parameters())
    whole = slopes(task, batch)
    task.options = FinetuneOptions(dims=2, position_weight=0.0, **SMALL)
    alone = slopes(task, batch)
    torch.testing.assert_close(whole[:count], alone[:count])
    assert not alone[count:].any()
    assert whole[count:].any()


def test_losses_are_summed_with_their_weight(records):
    task = build(records, position_weight=2.5)
    (update,) = task.step(batch_of(task, records))
    both = update.shows["classes"] + 2.5 * update.shows["positions"]
    assert float(update.loss.detach()) == pytest.approx(float(both), rel=1e-6)


def test_previews_and_scores_show_both(records):
    task = build(records).eval()
    batch = batch_of(task, records)
    assert {"dice", "dice of positions"} <= set(task.score(batch))
    shown = task.preview(batch)
    assert {"truth", "study", "positions"} <= set(shown)
    assert all(float(each.min()) >= 0 and float(each.max()) <= 1 for each in shown.values())


def test_a_saved_task_predicts_classes_alone(records):
    task = build(records).eval()
    again = MultiTask.restore(
        task.describe(), FinetuneOptions(dims=2, **SMALL), build_encoder("resenc-tiny", dims=2)
    ).eval()
    again.load_state_dict(task.state_dict())
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(again(image), task(image))
    assert again(image).shape == (1, 4, 32, 32)


def test_positions_of_validation_and_test_subjects_are_not_learnt(hearts, tmp_path, monkeypatch):
    with hearts.open(newline="") as file:
        rows = list(csv.DictReader(file))
    parts = dict(
        zip(
            ("heart000", "heart001", "heart002", "heart003"),
            ("train", "train", "val", "test"),
            strict=True,
        )
    )
    for row in rows:
        row["split"] = parts[row["subject"]]
        row["image"] = str(hearts.parent / row["image"])
        row["mask"] = row["mask"] and str(hearts.parent / row["mask"])
    manifest = write_manifest(tmp_path / "told.csv", rows)
    seen = []
    build = MultiTask.build.__func__
    monkeypatch.setattr(
        MultiTask,
        "build",
        classmethod(lambda cls, given: seen.append(given.studies) or build(cls, given)),
    )
    done = finetune(
        "multi-task", manifest, tmp_path / "m", init="scratch", cache=tmp_path / "c", **FEW, **QUICK
    )
    assert {record.subject for record in seen[0]} == {"heart000", "heart001"}
    assert done.metrics["val"].measures["dice"].value >= 0


def test_what_it_cannot_learn_from_is_refused(records, tmp_path):
    with pytest.raises(OptionError, match="--freeze"):
        build(records, freeze="encoder")
    with pytest.raises(OptionError, match="--warmup"):
        build(records, warmup=0.5)
    write_patients(tmp_path / "s", patients=4, shape=(20, 20, 20), labelled=True)
    with pytest.raises(DataError, match="in no study below") as refused:
        finetune(
            "multi-task",
            tmp_path / "s",
            tmp_path / "m",
            init="scratch",
            cache=tmp_path / "c",
            **FEW,
            **QUICK,
        )
    assert "--studies SCANS" in refused.value.remedy


def test_flat_networks_see_a_stack_slice_by_slice(hearts, tmp_path):
    """Hearts lie aslant, so their slices follow one another along any axis of RAS; patches and windows are slices."""
    sources = [source for source in index_scans(hearts).sources if source.mask is not None]
    records = Store(tmp_path / "c").prepare(sources, rule=IntensityRule()).records
    assert len({flat_axis(record) for record in records}) > 1
    options = FinetuneOptions(dims=2, foreground=1.0, augment=True, **SMALL)
    task = Segment.build(
        Given(
            options=options,
            encoder=build_encoder("resenc-tiny", dims=2),
            records=records,
            train=records,
        )
    )
    for record in records:
        across = flat_axis(record)
        assert record.space[across] == 6
        quiet = Segment(options, task.encoder, task.classes, quiet=[record.key])
        image, truth = quiet.views(record, generator(0))
        slices = record.patch((0, 0, 0), record.space).movedim(across + 1, 1)[0]
        assert any(torch.equal(image[0], each) for each in slices)
        assert truth.any()
        moved = [task.views(record, generator(1, n)) for n in range(6)]
        assert all(
            view.image.shape == (1, 32, 32) and view.truth.shape == (32, 32) for view in moved
        )
        task.eval()
        logits = segment_logits(task, record)
        assert logits.shape == (4, *record.space)
        with torch.no_grad():
            alone = task(slices[2][None, None])[0]
        np.testing.assert_allclose(logits.select(across + 1, 2), alone, atol=1e-4)


def test_only_what_was_loaded_is_frozen(records):
    """From scratch everything learns, though --freeze is given: fresh weights that stand still would be noise."""
    options = FinetuneOptions(dims=2, freeze="encoder", **SMALL)
    labelled = [record for record in records if record.mask is not None]
    encoder = build_encoder("resenc-tiny", dims=2)
    task = Segment.build(Given(options=options, encoder=encoder, records=labelled, train=labelled))
    (phase,) = task.phases()
    assert list(phase.trains["main"]) == [task]
    task.loaded = frozenset({"encoder.stem"})
    (phase,) = task.phases()
    assert encoder not in list(phase.trains["main"])
    assert task.decoder in list(phase.trains["main"])
