"""Found against true objects: the published precisions, and a plain loop over all pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.transfer.matching import match_objects


def test_published_precisions(golden) -> None:
    known = np.load(golden / "voidseg" / "average_precision_iou50.npz")
    for found, score, (matched, union) in zip(
        known["predictions"], known["score"], known["matched_and_union"], strict=True
    ):
        ours = match_objects(found, known["ground_truth"])
        assert ours.precision == pytest.approx(float(score), abs=1e-6)
        assert (ours.matched, ours.found + ours.true - ours.matched) == (matched, union)


@given(seed=st.integers(0, 10_000), most=st.integers(0, 5))
def test_equals_a_plain_loop_over_all_pairs(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, most + 1, (6, 7)) * 300
    found = np.where(rng.random((6, 7)) < 0.3, rng.integers(0, most + 1, (6, 7)), truth // 300)
    ours = match_objects(found, truth)
    numbers, names = set(found.flat) - {0}, set(truth.flat) - {0}
    matched, seg = 0, []
    for name in names:
        best = 0.0
        for number in numbers:
            both = ((truth == name) & (found == number)).sum()
            over = both / ((truth == name) | (found == number)).sum()
            matched += over > 0.5
            if both > 0.5 * (truth == name).sum():
                best = over
        seg.append(best)
    assert (ours.matched, ours.found, ours.true) == (matched, len(numbers), len(names))
    assert ours.seg == pytest.approx(np.mean(seg)) if names else math.isnan(ours.seg)


def test_nothing_to_find() -> None:
    empty, one = np.zeros((4, 4), int), np.eye(4, dtype=int)
    assert match_objects(empty, empty).precision == 1
    assert match_objects(one, empty).precision == 0
    assert match_objects(empty, one).precision == 0
    assert math.isnan(match_objects(one, empty).seg)
