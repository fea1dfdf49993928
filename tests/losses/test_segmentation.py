"""Dice and cross entropy, checked against plain loops and MONAI's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.losses.segmentation import (
    dice_cross_entropy,
    dice_loss,
    weighted_cross_entropy,
)


def drawn(seed: int, batch: int = 3, classes: int = 3, edge: int = 5) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, edge, edge, generator=rng)
    labels = torch.randint(classes, (batch, edge, edge), generator=rng)
    return logits, labels


def plain_dice_loss(logits: torch.Tensor, labels: torch.Tensor) -> float:
    terms = []
    for scores, truth in zip(logits.softmax(1), labels, strict=True):
        for one in range(1, len(scores)):
            there = (truth == one).float()
            if there.sum():
                both = (scores[one] * there).sum()
                terms.append(1 - 2 * both / (scores[one].sum() + there.sum()))
    return float(sum(terms) / max(len(terms), 1))


@given(seed=st.integers(0, 2**31), classes=st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_equals_a_plain_loop_over_samples_and_classes(seed: int, classes: int) -> None:
    logits, labels = drawn(seed, classes=classes)
    assert float(dice_loss(logits, labels)) == pytest.approx(
        plain_dice_loss(logits, labels), abs=1e-5
    )


def test_equals_monai_where_every_class_is_there() -> None:
    from monai.losses import DiceCELoss

    logits, labels = drawn(3)
    theirs = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, smooth_nr=0, smooth_dr=0
    )
    ours = dice_cross_entropy(logits, labels)
    assert torch.allclose(ours, theirs(logits, labels[:, None]), atol=1e-5)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_batch_does_not_matter(seed: int) -> None:
    logits, labels = drawn(seed)
    turned = torch.tensor([2, 0, 1])
    for batch in (False, True):
        one = dice_cross_entropy(logits, labels, batch=batch)
        other = dice_cross_entropy(logits[turned], labels[turned], batch=batch)
        assert torch.allclose(one, other, atol=1e-5)


def test_certain_and_right_costs_nothing_certain_and_wrong_costs_all() -> None:
    labels = torch.tensor([[[0, 1], [1, 2]]])
    right = 100.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    wrong = 100.0 * torch.nn.functional.one_hot((labels + 1) % 3, 3).movedim(-1, 1).float()
    assert float(dice_cross_entropy(right, labels)) == pytest.approx(0.0, abs=1e-6)
    assert float(dice_loss(wrong, labels)) == pytest.approx(1.0, abs=1e-6)


def test_a_label_that_is_absent_gives_no_term() -> None:
    logits, labels = drawn(1, batch=1)
    labels[labels == 2] = 0
    without = logits.clone()
    expected = plain_dice_loss(without, labels)
    assert float(dice_loss(logits, labels)) == pytest.approx(expected, abs=1e-6)
    nothing = torch.zeros_like(labels)
    logits.requires_grad_()
    loss = dice_loss(logits, nothing)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_batch_dice_counts_the_batch_as_one_scan() -> None:
    logits, labels = drawn(5)
    whole = dice_loss(
        logits.movedim(0, -1).flatten(2)[None], labels.movedim(0, -1).flatten(1)[None]
    )
    assert torch.allclose(dice_loss(logits, labels, batch=True), whole, atol=1e-5)


def test_half_precision_logits_are_summed_in_full_precision() -> None:
    logits = torch.zeros(1, 2, 70000, dtype=torch.float16)
    labels = torch.ones(1, 70000, dtype=torch.int64)
    assert float(dice_loss(logits, labels)) == pytest.approx(1 - 1 / 1.5, abs=1e-3)


def test_published_weighted_cross_entropy(golden) -> None:
    known = np.load(golden / "voidseg" / "three_class_target_and_loss.npz")
    logits = torch.from_numpy(known["logits"]).moveaxis(-1, 1)
    labels = torch.from_numpy(known["three_class"]).long()
    for weights, name in [([1, 1, 5], "loss_weights_1_1_5"), ([1, 1, 1], "loss_weights_1_1_1")]:
        ours = weighted_cross_entropy(logits, labels, [float(w) for w in weights])
        assert ours.item() == pytest.approx(float(known[name]), abs=1e-5)


def test_a_voxel_left_out_costs_nothing_but_counts() -> None:
    logits, labels = drawn(0)
    without = labels.clone()
    without[0, 0, 0] = -1
    single = torch.nn.functional.cross_entropy(logits[:1, :, 0, 0], labels[:1, 0, 0])
    gap = weighted_cross_entropy(logits, labels, [1.0] * 3) - weighted_cross_entropy(
        logits, without, [1.0] * 3
    )
    assert gap.item() * labels.numel() == pytest.approx(single.item(), rel=1e-3)
