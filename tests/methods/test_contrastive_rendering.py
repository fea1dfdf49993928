"""Every must-have of contrastive rendering, and that what is said anew is better along borders."""

from __future__ import annotations

import csv
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unlabeled.demo.phantoms import write_patients
from unlabeled.errors import DataError, OptionError
from unlabeled.losses.segmentation import dice_of_classes
from unlabeled.methods.contrastive_rendering import (
    ContrastiveRendering,
    Options,
    Sample,
    Turn,
    near_border,
)
from unlabeled.nn import points
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.points import enlarge, most_uncertain, uncertainty
from unlabeled.rng import generator

DIMS = pytest.mark.parametrize("dims", [2, 3])
QUICK = {"quiet": True, "accelerator": "cpu", "workers": 0}


def method(dims: int = 2, encoder: str = "resenc-tiny", edge: int = 16, **options):
    torch.manual_seed(0)
    values = {
        "encoder": encoder,
        "patch_size": (edge,) * dims,
        "labels": (1, 2),
        "rendered": 20,
        "contrast_points": 4,
        **options,
    }
    return ContrastiveRendering(Options(**values), build_encoder(encoder, dims=dims))


def batch(dims: int = 2, count: int = 2, edge: int = 16, over: float = 1.0) -> Sample:
    """Noise with a bright square in a grey one."""
    rng = generator(0)
    truth = torch.zeros(count, *(edge,) * dims, dtype=torch.long)
    middle, inner = (slice(edge // 4, -edge // 4),) * dims, (slice(edge // 2, -edge // 4),) * dims
    truth[(slice(None), *middle)] = 2
    truth[(slice(None), *inner)] = 1
    image = truth[:, None] + 0.3 * torch.randn(count, 1, *(edge,) * dims, generator=rng)
    return Sample(image, truth, torch.full((count,), over))


def only(updates):
    (update,) = list(updates)
    return update


def test_must_have_6_sets_and_the_skip_match_the_golden_arrays(golden):
    known = np.load(golden / "contrastive-rendering" / "point_selection_contrast.npz")
    count = int(known["N"])
    coarse, truth, *fine = (
        torch.from_numpy(known[name])
        for name in ("coarse_logits", "label_quarter_res", "fine1", "fine2")
    )
    small = method(3, fidelity="official", contrast_points=count)
    sure, unsure = small.sets(coarse[0].flatten(1).softmax(0), truth.flatten())
    for found, name in zip(
        (*sure, *unsure), ("follicle_high", "ovary_high", "follicle_low", "ovary_low"), strict=True
    ):
        assert torch.equal(found.sort().values, torch.from_numpy(known[f"{name}_index"]))
    loss = small.contrast(coarse, fine, truth)
    assert float(loss) == pytest.approx(float(known["loss"]), abs=1e-4)
    fewer = method(3, fidelity="official", contrast_points=count + 1)
    assert float(fewer.contrast(coarse, fine, truth)) == float(known["loss_when_too_few"]) == 0


def test_in_clean_mode_a_follicle_is_no_point_of_the_ovary():
    truth = torch.tensor([1, 2, 0])
    likely = torch.tensor([[0.0, 0.0, 0.0], [0.05, 0.05, 0.05], [0.95, 0.95, 0.95]])
    assert [s.tolist() for s in method().sets(likely, truth)[0]] == [[], [1]]
    official = method(fidelity="official")
    assert [s.tolist() for s in official.sets(likely, truth)[0]] == [[], [0, 1]]


def test_with_a_single_class_the_background_is_the_other():
    truth, likely = torch.tensor([0, 1, 1]), torch.tensor([[0.95, 0.05, 0.6], [0.05, 0.95, 0.4]])
    sure, unsure = method(labels=(7,)).sets(likely, truth)
    assert [s.tolist() for s in sure] == [[0], [1]]
    assert [s.tolist() for s in unsure] == [[], [2]]


@DIMS
def test_must_have_10_the_contrast_starts_late_and_weighs_a_fifth(dims, monkeypatch):
    small = method(dims)
    monkeypatch.setattr(
        ContrastiveRendering, "contrast", lambda self, coarse, *_: coarse.sum() * 0 + 3.0
    )
    torch.manual_seed(1)
    before = only(small.step(batch(dims, over=0.08)))
    torch.manual_seed(1)
    after = only(small.step(batch(dims, over=0.09)))
    assert set(before.shows) == {"coarse", "points"}
    assert set(after.shows) == {"coarse", "points", "contrast"}
    assert float((after.loss - before.loss).detach()) == pytest.approx(0.2 * 3, abs=1e-5)
    assert Options().contrast_after == pytest.approx(13 / 150)


@DIMS
def test_the_loss_is_both_cross_entropies_and_reaches_every_part(dims):
    small = method(dims, contrast=False)
    update = only(small.step(batch(dims)))
    assert float(update.loss.detach()) == pytest.approx(
        sum(float(term.detach()) for term in update.shows.values()), abs=1e-6
    )
    coarse, _ = small.coarse(batch(dims).image)
    whole = F.cross_entropy(enlarge(coarse, batch(dims).truth.shape[1:]), batch(dims).truth)
    assert float(update.shows["coarse"].detach()) == pytest.approx(float(whole.detach()), abs=1e-5)
    update.loss.backward()
    for part in (small.encoder, small.decoder, small.head):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())


@DIMS
def test_must_have_12_a_batch_is_its_samples_one_by_one(dims):
    """Contrast of a batch is the mean over its images, whatever stands beside them."""
    small = method(dims)
    torch.manual_seed(3)
    coarse, fine = torch.randn(3, 3, *(4,) * dims) * 6, [torch.randn(3, 5, *(4,) * dims)]
    truth = torch.randint(0, 3, (3, *(16,) * dims), generator=generator(0))
    small.sets = lambda likely, labels: (  # every voxel: nothing is left to chance
        [torch.arange(4), torch.arange(4, 8)],
        [torch.arange(8, 12), torch.arange(12, 16)],
    )
    whole = small.contrast(coarse, fine, truth)
    alone = [
        small.contrast(coarse[n : n + 1], [m[n : n + 1] for m in fine], truth[n : n + 1])
        for n in range(3)
    ]
    torch.testing.assert_close(whole, torch.stack(alone).mean())


@DIMS
def test_without_points_the_order_of_a_batch_does_not_matter(dims):
    small, sample = method(dims, rendering=False, contrast=False), batch(dims)
    turned = Sample(*(part.flip(0) for part in sample))
    first, second = (only(small.step(each)).loss.detach() for each in (sample, turned))
    torch.testing.assert_close(first, second)


@DIMS
def test_must_have_13_small_masks_hold_no_new_values(dims, monkeypatch):
    seen = []
    monkeypatch.setattr(
        ContrastiveRendering,
        "_contrast_one",
        lambda self, coarse, fine, truth: seen.append(truth) or coarse.new_zeros(()),
    )
    truth = torch.randint(0, 2, (2, *(16,) * dims), generator=generator(0)) * 2
    coarse = torch.zeros(2, 3, *(4,) * dims)
    method(dims).contrast(coarse, [coarse], truth)
    assert all(set(each.tolist()) <= {0, 2} for each in seen)
    assert seen[0].numel() == 4**dims


@DIMS
def test_must_have_14_the_cut_way_up_is_smaller_than_a_whole_one(dims):
    encoder = build_encoder("asym-unet", dims=dims)
    cut = ContrastiveRendering(Options(patch_size=(64,) * dims, labels=(1, 2)), encoder)
    whole = build_decoder(encoder, out_channels=3)
    added = [p.numel() for part in (cut.decoder, cut.head) for p in part.parameters()]
    steps = sum(p.numel() for p in cut.decoder.steps.parameters())
    assert sum(added) - steps < 0.05 * steps  # what comes after is small
    assert len(cut.decoder.steps) == 3 < len(whole.stages)


def test_must_have_15_parts_are_left_out_by_options():
    sample = batch()
    plain = method(rendering=False, contrast=False)
    assert set(only(plain.step(sample)).shows) == {"coarse"}
    assert not any(p is q for p in plain.head.parameters() for q in _trained(plain))
    coarse, _ = plain.coarse(sample.image)
    torch.testing.assert_close(plain.segment(sample.image), enlarge(coarse, (16, 16)))
    rendered = method(contrast=False)
    assert set(only(rendered.step(sample)).shows) == {"coarse", "points"}
    assert any(p is q for p in rendered.head.parameters() for q in _trained(rendered))


def _trained(small: ContrastiveRendering):
    (phase,) = small.phases()
    return [p for module in phase.trains["main"] for p in module.parameters()]


@DIMS
@torch.no_grad()
def test_prediction_differs_from_the_coarse_one_at_unsure_voxels_alone(dims):
    small, image = method(dims).eval(), batch(dims).image
    coarse, _ = small.coarse(image)
    half = enlarge(coarse, (8,) * dims)
    first = most_uncertain(half, 20)
    touched = torch.zeros(2, 8**dims).scatter(1, first, 1.0).view(2, 1, *(8,) * dims)
    reach = enlarge(touched, (16,) * dims)[:, 0] > 0
    found, plain = small.segment(image), enlarge(half, (16,) * dims)
    changed = (found != plain).any(1)
    assert changed.any()
    assert int((changed & ~reach).sum()) <= 2 * 20  # the second round's, of both images


def test_samples_know_how_far_the_training_is():
    (phase,) = method().phases()
    feed = phase.feeds["scans"]
    (turn,) = feed.group(["record"])
    assert turn == Turn("record", 1.0)
    assert feed.pace(turn, 0.25) == Turn("record", 0.25)


def test_must_have_11_scans_without_masks_are_refused_and_told_what_the_method_is(tmp_path):
    from unlabeled.training.pretrain import pretrain

    write_patients(tmp_path / "scans", patients=3, shape=(32, 32))
    for file in (tmp_path / "scans").rglob("*mask*"):
        file.unlink()
    with pytest.raises(DataError, match="have no mask; it is no self-supervised method") as told:
        pretrain(
            "contrastive-rendering",
            tmp_path / "scans",
            tmp_path / "run",
            cache=tmp_path,
            quiet=True,
        )
    assert "models-genesis" in told.value.remedy


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"patch_size": (32,)}, "--patch-size has 1 edge"),
        ({"unsure": (0.3, 1.2)}, "unsure"),
    ],
)
def test_wrong_options_are_named(options, fact):
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert fault.value.remedy


def test_dice_and_borders():
    truth = torch.zeros(1, 9, 9, dtype=torch.long)
    truth[0, :, 4:] = 1
    assert float(dice_of_classes(truth, truth)) == 1
    assert float(dice_of_classes(torch.zeros_like(truth), truth)) == 0
    assert float(dice_of_classes(torch.zeros_like(truth), torch.zeros_like(truth))) == 1
    assert near_border(truth)[0, 0].tolist() == [False] * 2 + [True] * 4 + [False] * 3
    assert not near_border(torch.ones_like(truth)).any()


def ultrasound(source: Path, folder: Path) -> Path:
    """Unpack pictures of breast lesions; those of the training part are learnt from, all others are held out."""
    rows = [["image", "mask", "subject", "split"]]
    for part in ("train", "val", "test"):
        with zipfile.ZipFile(source / f"{part}.zip") as packed:
            packed.extractall(folder / part)
        split = "train" if part == "train" else "val"
        for image in sorted((folder / part / "images").iterdir()):
            if not image.name.startswith("normal"):
                mask = f"{part}/masks/{image.name}"
                rows.append([f"{part}/images/{image.name}", mask, image.stem, split])
    manifest = folder / "scans.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return manifest


SMALL_SCALE = {
    "encoder": "resenc-tiny", "batch_size": 8, "lr": 3e-3, "epochs": 10_000, "score_every": 10_000, "contrast_points": 16,
}  # fmt: skip


def learn(scans: Path, folder: Path, steps: int, *edges: int, **options) -> dict[str, float]:
    """Segment patches of such edges with a small network; give the scores of unseen scans."""
    from unlabeled.training.pretrain import pretrain

    done = pretrain(
        "contrastive-rendering",
        scans,
        folder,
        cache=folder.parent / "cache",
        **QUICK,
        held_out_batches=5,
        steps=steps,
        patch_size=edges,
        rendered=math.prod(edges) // 8,
        **{**SMALL_SCALE, **options},
    )
    return done.result.score


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_phantoms(tmp_path, proof):
    """Points that are said anew lie along borders, and prediction gains by them."""
    learnt = learn(write_labelled(tmp_path / "scans"), tmp_path / "run", 200, 48, 48)
    proof("contrastive-rendering", data="phantom", **learnt)
    assert learnt["dice"] > 1.5 * learnt["dice_everything"]
    assert learnt["dice"] > learnt["dice_coarse"] + 0.02
    assert learnt["border"] > 2 * learnt["border_everywhere"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_phantom_volumes(tmp_path, proof):
    """The same in space."""
    scans = write_labelled(tmp_path / "scans", patients=20, shape=(32, 48, 48))
    learnt = learn(scans, tmp_path / "run", 150, 32, 32, 32, batch_size=2, points=512)
    proof("contrastive-rendering", data="phantom volumes", **learnt)
    assert learnt["dice"] > 1.5 * learnt["dice_everything"]
    assert learnt["dice"] > learnt["dice_coarse"] + 0.02
    assert learnt["border"] > 1.5 * learnt["border_everywhere"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_fails_where_sure_points_are_said_anew(tmp_path, proof, monkeypatch):
    """Then they lie anywhere but along borders, and prediction gains nothing."""
    monkeypatch.setattr(points, "uncertainty", lambda logits: -uncertainty(logits))
    broken = learn(write_labelled(tmp_path / "scans"), tmp_path / "run", 200, 48, 48)
    proof("contrastive-rendering", data="phantom, sure points", **broken)
    assert broken["border"] < broken["border_everywhere"]
    assert broken["dice"] <= broken["dice_coarse"] + 0.02


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_real_ultrasound(shared_data, tmp_path, proof):
    """Lesions begin to be found, better where points are said anew, and unsure points lie along their borders."""
    scans = ultrasound(shared_data / "breast-ultrasound", tmp_path)
    learnt = learn(scans, tmp_path / "run", 300, 128, 128)
    proof("contrastive-rendering", data="breast-ultrasound", **learnt)
    assert learnt["dice"] > learnt["dice_coarse"] + 0.02
    assert learnt["border"] > 1.3 * learnt["border_everywhere"]


def write_labelled(folder: Path, patients: int = 32, shape: tuple[int, ...] = (64, 64)) -> Path:
    """Write phantoms with masks; give the manifest."""
    images = write_patients(folder, patients=patients, shape=shape, labelled=True)
    manifest = folder / "labelled.csv"
    rows = [f"images/{image.name},labels/{image.name}" for image in images]
    manifest.write_text("\n".join(["image,mask", *rows]) + "\n")
    return manifest
