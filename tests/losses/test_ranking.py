"""The area under the curve, against counting."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.losses.ranking import area_under_curve

VALUES = st.lists(st.integers(0, 4), min_size=1, max_size=12)


@given(VALUES, VALUES)
def test_it_counts_pairs(higher, lower):
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in higher for b in lower]
    found = area_under_curve(torch.tensor(higher).float(), torch.tensor(lower).float())
    assert abs(float(found) - sum(wins) / len(wins)) < 1e-6


def test_an_empty_group_tells_nothing():
    assert area_under_curve(torch.ones(0), torch.ones(3)) == 0.5
    assert area_under_curve(torch.ones(3), torch.ones(0)) == 0.5
