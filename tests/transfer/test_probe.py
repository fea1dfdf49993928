"""Probes: the small classifiers against scikit-learn and by hand, and the whole way from files to intervals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unlabeled.errors import DataError, OptionError
from unlabeled.transfer.classifiers import NEIGHBOURS, PENALTIES, choose, fit_linear, fit_neighbours
from unlabeled.transfer.probe import probe


def clouds(count: int, classes: int = 3, apart: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % classes
    centres = apart * torch.randn(classes, 6, generator=rng)
    return centres[labels] + torch.randn(count, 6, generator=rng), labels


@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_the_linear_probe_finds_the_optimum_that_scikit_learn_finds(penalty: float) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    features, labels = clouds(60)
    scaled = (features - features.mean(0)) / features.std(0, correction=0)
    theirs = linear.LogisticRegression(C=1 / (penalty * 60), tol=1e-10, max_iter=5000)
    theirs.fit(scaled.double().numpy(), labels.numpy())
    ours = fit_linear(features, labels, 3, penalty)(features)
    assert torch.allclose(
        ours, torch.from_numpy(theirs.predict_proba(scaled.double().numpy())), atol=1e-4
    )


def test_scale_and_shift_of_features_do_not_matter_to_the_linear_probe() -> None:
    features, labels = clouds(40)
    one = fit_linear(features, labels, 3, 0.1)(features)
    moved = features * torch.tensor([1, 10, 0.1, 5, 2, 1.0]) + 7
    other = fit_linear(moved, labels, 3, 0.1)(moved)
    assert torch.allclose(one, other, atol=1e-4)


def test_the_nearest_neighbour_of_a_training_scan_is_itself() -> None:
    features, labels = clouds(30, apart=0.0)
    assert torch.equal(fit_neighbours(features, labels, 3, 1)(features).argmax(1), labels)


def test_votes_sum_to_one_and_the_order_of_scans_does_not_matter() -> None:
    features, labels = clouds(30)
    turn = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    one = fit_neighbours(features, labels, 3, 5)(features)
    other = fit_neighbours(features[turn], labels[turn], 3, 5)(features)
    assert torch.allclose(one.sum(1), torch.ones(30), atol=1e-5)
    assert torch.allclose(one, other, atol=1e-4)


def test_cross_validation_prefers_a_large_penalty_for_noise_and_a_small_one_for_signal() -> None:
    rng = torch.Generator().manual_seed(0)
    subjects = [str(n) for n in range(60)]
    labels = torch.arange(60) % 2
    noise = torch.randn(60, 30, generator=rng)
    clear, clear_labels = clouds(60, classes=2, apart=4.0)
    how = {"subjects": subjects, "classes": 2, "seed": 0}
    heavy = choose(fit_linear, PENALTIES, noise, labels, **how)
    light = choose(fit_linear, PENALTIES, clear, clear_labels, **how)
    assert heavy > light
    assert (
        choose(fit_linear, PENALTIES, noise[:2], labels[:2], ["a", "b"], 2, seed=0) == PENALTIES[3]
    )
    assert choose(fit_neighbours, NEIGHBOURS, clear, clear_labels, **how) in NEIGHBOURS


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_a_fresh_encoder_already_tells_a_gradient_of_brightness(
    kind: str, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    how = {"encoder": "resenc-tiny", "patch_size": (48, 48), "cache": tmp_path / "c"}
    done = probe(pictures(36), init="scratch", kind=kind, test=True, quiet=True, **how)  # type: ignore[arg-type]
    assert done.classes == ("down", "up")
    assert set(done.metrics) == {"val", "test"}
    auc = done.metrics["test"]["auc"]
    assert auc.low <= auc.value <= auc.high
    assert done.chance["test"] == 0.5
    again = probe(
        tmp_path / "pictures" / "manifest.csv", init="scratch", kind=kind, quiet=True, **how
    )  # type: ignore[arg-type]
    assert set(again.metrics) == {"val"}
    assert again.metrics["val"] == done.metrics["val"]


def test_what_cannot_be_probed_is_refused(balls: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="unknown probe"):
        probe(tmp_path, init="scratch", kind="svm")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has a label") as told:
        probe(balls(2), init="scratch", cache=tmp_path / "c", quiet=True)
    assert "segment mask" in told.value.remedy
