"""Tasks as methods: samples, losses, which parameters move, learning rates, labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.data.labels import Labels, find_labels
from unlabeled.errors import DataError
from unlabeled.nn.encoders import build_encoder
from unlabeled.transfer.task import FinetuneOptions, Given
from unlabeled.transfer.tasks import Classify, Patch, Regress, Segment, balance

NAMES = ("background", "a", "b")


def segment(dims: int = 3, **how: Any) -> Segment:
    values = {"encoder": "resenc-tiny", "patch_size": (16,) * dims, **how}
    torch.manual_seed(0)
    encoder = build_encoder("resenc-tiny", dims=dims)
    return Segment(FinetuneOptions(**values), encoder, Labels((0, 1, 2), NAMES))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_sample_depends_on_its_generator_alone_and_is_quiet_for_validation(
    balls: Callable[..., Path], prepared: Callable[..., tuple]
) -> None:
    (record,) = prepared(balls(1))
    task = segment()
    one, other = task.views(record, generator(1)), task.views(record, generator(1))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    task.quiet = frozenset({record.key})
    plain = task.views(record, generator(1))
    assert plain.image.shape == (1, 16, 16, 16)
    volume = record.patch((0, 0, 0), record.space)
    windows = volume.unfold(1, 16, 1).unfold(2, 16, 1).unfold(3, 16, 1)
    assert (windows == plain.image[:, None, None, None]).flatten(4).all(-1).any()


def test_foreground_patches_hold_a_label(
    balls: Callable[..., Path], prepared: Callable[..., tuple]
) -> None:
    (record,) = prepared(balls(1, space=(40, 40, 40)))
    always = segment(foreground=1.0, patch_size=(8, 8, 8), augment=False)
    assert all(always.views(record, generator(seed)).truth.any() for seed in range(20))
    never = segment(foreground=0.0, patch_size=(8, 8, 8), augment=False)
    assert not all(never.views(record, generator(seed)).truth.any() for seed in range(20))


def test_a_flat_network_takes_planes_of_a_volume(
    balls: Callable[..., Path], prepared: Callable[..., tuple]
) -> None:
    (record,) = prepared(balls(1))
    task = segment(2)
    for seed in range(8):
        sample = task.views(record, generator(seed))
        assert (sample.image.shape, sample.truth.shape) == ((1, 16, 16), (16, 16))


def test_a_perfect_answer_scores_one_and_permuting_the_batch_changes_nothing() -> None:
    task = segment().eval()
    rng = generator(0)
    batch = Patch(
        torch.rand(3, 1, 16, 16, 16, generator=rng),
        torch.randint(3, (3, 16, 16, 16), generator=rng),
    )
    with torch.no_grad():
        found = task(batch.image).argmax(1)
        found[0, 0, 0, 0] = 1
        score = task.score(Patch(batch.image, task(batch.image).argmax(1)))
        assert score["dice"].item() == 1.0
        turned = Patch(batch.image[[2, 0, 1]], batch.truth[[2, 0, 1]])
        for one, other in zip(task.score(batch).values(), task.score(turned).values(), strict=True):
            assert torch.allclose(one, other, atol=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    task = segment()
    (update,) = list(
        task.step(Patch(torch.rand(2, 1, 16, 16, 16), torch.randint(3, (2, 16, 16, 16))))
    )
    update.loss.backward()
    assert all(p.grad is not None for p in task.parameters())


def test_warm_up_trains_the_fresh_part_alone() -> None:
    task = segment(warmup=0.25)
    assert [phase.name for phase in task.phases()] == ["finetune"]  # nothing is pretrained
    task.loaded = frozenset(f"encoder.{name}" for name, _ in task.encoder.named_parameters())
    warm, whole = task.phases()
    assert (warm.share, whole.share) == (0.25, 0.75)
    moving = {id(p) for module in warm.trains["main"] for p in module.parameters()}
    assert moving == {id(p) for p in task.decoder.parameters()}
    (update,) = list(
        warm.step(Patch(torch.rand(1, 1, 16, 16, 16), torch.randint(3, (1, 16, 16, 16))))
    )
    update.loss.backward()
    assert all(p.grad is None for p in task.encoder.parameters())
    assert all(p.grad is not None for p in task.decoder.parameters())
    assert not task.frozen


@pytest.mark.parametrize("dims", [2, 3])
def test_dense_upsampling_learns_and_is_found_again(dims: int) -> None:
    task = segment(dims, decoder="duc")
    space = (16,) * dims
    assert task(torch.rand(2, 1, *(edge + 3 for edge in space))).shape[2:] == (19,) * dims
    (update,) = list(task.step(Patch(torch.rand(2, 1, *space), torch.randint(3, (2, *space)))))
    update.loss.backward()
    assert all(p.grad is not None for p in task.decoder.parameters())
    plain = FinetuneOptions(encoder="resenc-tiny", patch_size=space)
    again = Segment.restore(task.describe(), plain, build_encoder("resenc-tiny", dims=dims))
    assert {name: p.shape for name, p in again.named_parameters()} == {
        name: p.shape for name, p in task.named_parameters()
    }
    assert again.options.decoder == "duc"


def test_a_task_of_an_earlier_version_has_the_usual_decoder() -> None:
    described = {"kind": "segment", "labels": segment().classes.as_metadata()}
    again = Segment.restore(described, FinetuneOptions(), build_encoder("resenc-tiny", dims=3))
    assert again.options.decoder == "skip"


def test_dense_upsampling_takes_no_decoder_of_a_pretraining() -> None:
    usual = segment()
    carried = {f"decoder.{name}": value for name, value in usual.decoder.state_dict().items()}
    for kind, taken in (("skip", True), ("duc", False)):
        task, notes = segment(decoder=kind), []
        given = Given(
            options=task.options, encoder=task.encoder, records=(), train=(), tensors=carried
        )
        assert bool(task.load(given, notes)) == taken
        assert any("--decoder duc" in note for note in notes) != taken


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_the_pretrained_part_gets_its_own_rate(kind: str) -> None:
    task = segment(optimiser=kind, lr=0.1, encoder_lr_factor=0.1)
    made, _ = task.optimiser("main", [task])
    assert [group["lr"] for group in made.param_groups] == [0.1]  # scratch: one rate
    task.loaded = frozenset(f"encoder.{name}" for name, _ in task.encoder.named_parameters())
    made, schedule = task.optimiser("main", [task])
    assert [group["lr"] for group in made.param_groups] == [pytest.approx(0.01), 0.1]
    held = sum(len(group["params"]) for group in made.param_groups)
    assert held == len(list(task.parameters()))
    assert schedule(0, 10) == 1
    assert schedule(10, 10) == 0


def test_classify_and_regress_yield_finite_losses_and_scores() -> None:
    options = FinetuneOptions(encoder="resenc-tiny", patch_size=(32, 32))
    image = torch.rand(2, 1, 32, 32)
    for task, truth in (
        (Classify(options, build_encoder("resenc-tiny", dims=2), ("x", "y")), torch.tensor([0, 1])),
        (Regress(options, build_encoder("resenc-tiny", dims=2), 5.0, 2.0), torch.tensor([0.3, -1])),
    ):
        (update,) = list(task.step(Patch(image, truth)))
        assert torch.isfinite(update.loss)
        assert task.monitor.name in task.score(Patch(image, truth))


def test_balanced_classes_pull_alike_however_few_scans_one_has() -> None:
    """The gradient of the bias sums to zero over classes at even odds; without weights the commoner class pulls it."""
    truth = torch.tensor([0, 0, 0, 1])
    options = FinetuneOptions(encoder="resenc-tiny", patch_size=(32, 32))
    pulls = {}
    for kind in ("none", "balanced"):
        weights = balance(["x", "x", "x", "y"], ("x", "y")) if kind == "balanced" else None
        task = Classify(options, build_encoder("resenc-tiny", dims=2), ("x", "y"), weights=weights)
        logits = torch.zeros(4, 2, requires_grad=True)
        task.forward = lambda image, logits=logits: logits  # type: ignore[method-assign,misc]
        (update,) = task.step(Patch(torch.zeros(4, 1, 32, 32), truth))
        (slope,) = torch.autograd.grad(update.loss, logits)
        pulls[kind] = slope.sum(0)
    torch.testing.assert_close(pulls["none"], torch.tensor([-0.25, 0.25]))
    torch.testing.assert_close(pulls["balanced"], torch.zeros(2))


@given(counts=st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any))
def test_weights_of_classes_make_them_count_alike(counts: list[int]) -> None:
    names = tuple(f"class {place}" for place in range(len(counts)))
    labels = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
    weights = balance(labels, names)
    shares = weights * torch.tensor(counts)
    there = torch.tensor(counts) > 0
    assert torch.allclose(shares[there], shares.sum() / there.sum())
    assert float(shares.sum()) == pytest.approx(len(labels))
    assert (weights[~there] == 1).all()


def test_left_and_right_are_the_first_axis_of_a_volume_and_the_last_of_a_picture() -> None:
    from unlabeled.transfer.task import _axes

    assert (_axes("left-right", 3), _axes("left-right", 2), _axes("none", 3)) == ((0,), (1,), ())
    assert _axes("all", 3) is None


def test_labels_are_found_named_and_go_back_and_forth(
    balls: Callable[..., Path], prepared: Callable[..., tuple]
) -> None:
    records = prepared(balls(2, values=(4, 200)))
    labels = find_labels(records, {4: "tumour", 9: "unseen"})
    assert labels.values == (0, 4, 9, 200)
    assert labels.names == ("background", "tumour", "unseen", "label 200")
    mask = records[0].mask_patch((0, 0, 0), records[0].space)
    back = labels.decode(labels.encode(mask).numpy())
    assert back.dtype == np.uint8
    assert np.array_equal(back, mask.numpy())
    assert Labels.from_metadata(labels.as_metadata()) == labels
    merged = find_labels(records, mode="any")
    assert torch.equal(merged.encode(mask), (mask > 0).long())


def test_masks_without_labels_or_with_instances_are_refused(
    phantoms: Any, prepared: Callable[..., tuple], tmp_path: Path
) -> None:
    image, mask = phantoms.volume(0)
    for name, array, words in (
        ("none", mask * 0, "no label at all"),
        ("many", np.arange(mask.size, dtype=np.int16).reshape(mask.shape) % 300, "more than 128"),
    ):
        root = tmp_path / name
        phantoms.write_volume(root / "images" / "a.nii.gz", image)
        phantoms.write_volume(root / "labels" / "a.nii.gz", array)
        with pytest.raises(DataError, match=words):
            find_labels(prepared(root))
