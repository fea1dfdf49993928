"""Few-shot segmentation: supports at the published places, nothing trained, the same after saving, in volumes and pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unlabeled.data.labels import Labels
from unlabeled.data.store import Record, Store
from unlabeled.errors import DataError, OptionError
from unlabeled.nn.encoders import Encoder, build_encoder
from unlabeled.nn.prototypes import Prototypes, prototype_score
from unlabeled.nn.weights import load_encoder, save_encoder
from unlabeled.transfer.fewshot import (
    BEYOND,
    PARTS,
    FewShot,
    Memory,
    place_in_thirds,
    support_planes,
)
from unlabeled.transfer.finetune import finetune
from unlabeled.transfer.predict import predict
from unlabeled.transfer.task import FinetuneOptions, Given

CLASSES = Labels((0, 1, 2), ("background", "dim", "bright"))


class Levels(Encoder):
    """Gives each pixel its intensity as a soft one-hot: features that tell the phantoms' organs apart."""

    name, entry = "levels", "layer"

    def __init__(self) -> None:
        super().__init__()
        self.dims, self.in_channels = 2, 1
        self.channels, self.strides = (3,), ((1, 1),)
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        centres = torch.tensor([0.05, 0.5, 0.95]).view(1, 3, 1, 1)
        return [torch.exp(-((image - centres) ** 2) / 0.02)]


def levels(**how: Any) -> FewShot:
    task = FewShot(FinetuneOptions(dims=2), Levels(), CLASSES, width=3, window=1, **how)
    task.embedding.project.weight.data = torch.eye(3)[:, :, None, None]
    return task.eval()


def dice(found: Tensor, truth: Tensor, one: int) -> float:
    return float(
        2 * ((found == one) & (truth == one)).sum() / ((found == one).sum() + (truth == one).sum())
    )


@pytest.fixture
def scans(balls, prepared) -> tuple[Record, ...]:
    return prepared(balls(4))


def test_supports_sit_at_one_sixth_one_half_and_five_sixths_of_the_organs_slices():
    assert support_planes(list(range(30, 60))) == [35, 45, 55]
    assert support_planes([3, 4, 9]) == [3, 4, 9]
    assert support_planes([3, 4]) == [3, 4, 4]
    assert support_planes([8], 1) == [8]


def test_a_slice_belongs_to_the_part_of_the_extent_that_it_lies_in():
    truth = np.zeros((2, 2, 14), bool)
    truth[0, 0, [2, 5, 10]] = True  # nine slices from the first to the last
    placed = place_in_thirds(truth)
    assert placed.tolist() == [BEYOND] * 2 + [0] * 3 + [1] * 3 + [2] * 3 + [BEYOND] * 3
    assert (place_in_thirds(np.zeros((2, 2, 3), bool)) == BEYOND).all()


@torch.no_grad()
def test_one_labelled_scan_segments_the_others(scans):
    task = levels()
    task.fit(scans[:1])
    assert [each.parts for each in task.memories] == [PARTS, PARTS]
    for record in scans[1:]:
        logits = task.own_logits(record)
        assert logits.shape == (3, *record.space)
        found, truth = logits.argmax(0), record.mask_patch((0, 0, 0), record.space)
        assert dice(found, truth, 1) > 0.8
        assert dice(found, truth, 2) > 0.8


@torch.no_grad()
def test_slices_are_segmented_by_the_support_of_their_part(scans):
    """With the foreground of two parts turned into its opposite, only the third still finds anything."""
    task = levels()
    task.fit(scans[:1])
    for memory in task.memories:
        for part in (0, 2):
            memory.get_buffer(f"fore{part}").mul_(-1)
    record = scans[1]
    found = task.own_logits(record).argmax(0)
    for one, parts in enumerate(task.parts_of(record), start=1):
        here = (found == one).any(0).any(0).numpy()
        assert here[parts == 1].any()
        assert not here[parts != 1].any()


@torch.no_grad()
def test_extents_are_known_from_a_mask_alone(scans, tmp_path):
    task = levels()
    task.fit(scans[:1])
    record = scans[1]
    truth = record.mask_patch((0, 0, 0), record.space)
    held = (truth == 2).any(0).any(0)
    found = task.own_logits(record)[2]
    assert (found[..., ~held] < -50).all()
    bare = Store(Path(record.folder).parent).prepare(
        [replace(record.source, mask=None)], rule=record.rule
    )
    (unknown,) = bare.records
    assert all((parts == PARTS).all() for parts in task.parts_of(unknown))
    guessed = task.own_logits(unknown)
    assert (guessed[2][..., ~held] > -45).all()
    assert dice(guessed.argmax(0), truth, 2) > 0.6


@torch.no_grad()
def test_all_parts_answer_together_where_none_is_known():
    memory = Memory.of([(torch.randn(2, 4), torch.randn(1, 4)) for _ in range(3)])
    features = torch.randn(2, 4, 5, 6)
    assert memory.counts() == [[2, 1]] * 3
    back, fore = (
        torch.cat([memory.get_buffer(f"{name}{n}") for n in range(3)]) for name in ("back", "fore")
    )
    scores = []
    for each in (back, fore):
        rows = each.expand(2, -1, -1)
        scores.append(prototype_score(features, Prototypes(rows, torch.ones(rows.shape[:2]) > 0)))
    assert torch.allclose(memory.margin(features, None), scores[1] - scores[0], atol=1e-5)


@torch.no_grad()
def test_several_labelled_scans_put_their_prototypes_together(scans):
    one, two = levels(), levels()
    one.fit(scans[:1])
    two.fit(scans[:2])
    for first, both in zip(one.memories, two.memories, strict=True):
        for part in range(PARTS):
            assert torch.equal(
                both.get_buffer(f"fore{part}")[: len(first.pair(part)[1])], first.pair(part)[1]
            )
            assert len(both.pair(part)[1]) > len(first.pair(part)[1])


@torch.no_grad()
def test_scans_without_a_class_are_no_support_for_it_and_somebody_has_to_be(scans):
    task = levels()
    task.classes = Labels((0, 1, 2, 9), ("background", "dim", "bright", "liver"))
    with pytest.raises(DataError, match="no training scan holds liver") as fault:
        task.fit(scans)
    assert "split" in fault.value.remedy


def test_the_grid_is_the_pretrainings_also_for_untrained_networks(scans):
    encoder = build_encoder("resenc-tiny", dims=2)
    told = {"options": {"width": 24, "stride": 4, "test_window": 3, "cell_threshold": 0.9, "lr": 1}}
    given = Given(
        options=FinetuneOptions(), encoder=encoder, records=scans, train=scans, metadata=told
    )
    task = FewShot.build(given)
    assert (task.embedding.project.out_channels, task.embedding.stride) == (24, 4)
    assert (task.window, task.threshold) == (3, 0.9)
    plain = FewShot.build(replace(given, metadata={}))
    assert (plain.embedding.project.out_channels, plain.embedding.stride) == (256, 8)


def test_volumes_are_refused(scans):
    given = Given(
        options=FinetuneOptions(),
        encoder=build_encoder("resenc-tiny", dims=3),
        records=scans,
        train=scans,
    )
    with pytest.raises(OptionError, match="slices") as fault:
        FewShot.build(given)
    assert "--dims 2" in fault.value.remedy


@pytest.fixture
def pretrained(tmp_path) -> Callable[..., Path]:
    """Write weights as a pretraining leaves them."""

    def make(embedded: bool = True) -> Path:
        torch.manual_seed(0)
        encoder = build_encoder("resenc-tiny", dims=2)
        task = FewShot(FinetuneOptions(dims=2), encoder, CLASSES, width=8, stride=4)
        parts = {"encoder": encoder, **({"embedding": task.embedding} if embedded else {})}
        facts = {
            "slug": "superpixel-fewshot",
            "options": {"width": 8, "stride": 4},
            "patch_size": [32, 32],
            "spacing": [1.0, 1.0, 1.0],
            "orientation": "RAS",
            "intensity": None,
            "modality": [],
        }
        folder = tmp_path / "run"
        save_encoder(folder / "encoder.safetensors", parts, facts)
        return folder

    return make


def test_from_weights_to_masks(balls, pretrained, tmp_path):
    """What a person types: nothing is trained, and what was saved predicts on the scans' own grid."""
    run = pretrained()
    made = finetune(
        "few-shot", balls(5), tmp_path / "few", init=run, cache=tmp_path / "cache", dims=2, test=True,
        accelerator="cpu", quiet=True,
    )  # fmt: skip
    assert made.result.steps == 0
    assert made.loaded is not None
    assert {"dice", "dice label 1", "dice label 2"} <= set(made.metrics["test"].measures)
    before, _ = load_encoder(run / "encoder.safetensors")
    after, metadata = load_encoder(tmp_path / "few" / "encoder.safetensors")
    assert all(
        torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )
    assert metadata["pretrained"] == "superpixel-fewshot"
    done = predict(
        tmp_path / "few", tmp_path / "balls" / "images", tmp_path / "out",
        cache=tmp_path / "cache", accelerator="cpu", quiet=True,
    )  # fmt: skip
    assert len(done.rows) == 5
    masks = sorted((tmp_path / "out").glob("*.nii.gz"))
    image = nibabel.load(sorted((tmp_path / "balls" / "images").iterdir())[0])
    mask = nibabel.load(masks[0])
    assert mask.shape == image.shape
    assert np.allclose(mask.affine, image.affine)
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2}
    named = json.loads((tmp_path / "out" / "labels.json").read_text())["labels"]
    assert named == {"background": 0, "label 1": 1, "label 2": 2}


def test_saved_and_restored_it_answers_the_same(balls, pretrained, prepared, tmp_path):
    from unlabeled.transfer.saved import load_task

    folder = balls(4)
    finetune(
        "few-shot", folder, tmp_path / "few", init=pretrained(), cache=tmp_path / "cache", dims=2,
        accelerator="cpu", quiet=True,
    )  # fmt: skip
    record = prepared(folder)[0]
    first, again = (load_task(tmp_path / "few").task for _ in range(2))
    with torch.no_grad():
        one, two = first.own_logits(record), again.own_logits(record)
        assert torch.equal(one, two)
        assert one.abs().max() > 0
        image = record.patch((0, 0, 4), (*record.space[:2], 1))[None, ..., 0]
        assert first(image).shape == (1, 3, *record.space[:2])


def test_a_pretraining_without_the_last_layer_is_noted(balls, pretrained, tmp_path):
    made = finetune(
        "few-shot", balls(4), tmp_path / "few", init=pretrained(embedded=False),
        cache=tmp_path / "cache", dims=2, accelerator="cpu", quiet=True,
    )  # fmt: skip
    assert any("random" in note for note in made.notes)


def test_pictures_have_one_support(pretrained, tmp_path):
    root = tmp_path / "pictures"
    rows = []
    for number in range(4):
        mask = np.zeros((46, 41), np.uint8)
        mask[10 + number : 30, 8 : 25 + number] = 7
        noise = np.random.default_rng(number).integers(0, 20, mask.shape)
        picture = np.where(mask > 0, 200 + noise, 40 + noise).astype(np.uint8)
        for part, array in (("images", picture), ("masks", mask)):
            (root / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / part / f"p{number}.png")
        rows.append(
            {"image": f"images/p{number}.png", "mask": f"masks/p{number}.png",
             "split": "train" if number == 0 else "test", "subject": f"s{number}"}
        )  # fmt: skip
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    weights = pretrained()
    made = finetune(
        "few-shot", root / "manifest.csv", tmp_path / "few", init="scratch", like=weights,
        cache=tmp_path / "cache", test=True, accelerator="cpu", quiet=True,
    )  # fmt: skip
    assert made.metrics["test"].subjects == 3
    assert made.metrics["test"].measures["dice"].value > 0.3
    described = json.loads(json.dumps(_task_facts(tmp_path / "few")))
    assert [len(each) for each in described["prototypes"]] == [1]


def _task_facts(run: Path) -> dict[str, Any]:
    from unlabeled.nn.weights import read_weights

    facts: dict[str, Any] = read_weights(run / "task.safetensors")[1]["task"]
    return facts
