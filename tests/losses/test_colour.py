"""Scores of painted colours, by hand."""

from __future__ import annotations

import pytest
import torch

from unlabeled.losses.colour import colour_scores


def test_scores_by_hand_within_what_is_seen():
    colour = torch.tensor([[3.0, 4.0], [3.0, 4.0], [9.0, 12.0], [50.0, 50.0]]).T.view(1, 2, 4, 1)
    inside = torch.tensor([True, True, True, False]).view(1, 1, 4, 1)
    painted = torch.zeros_like(colour)
    painted[:, :, 2] = torch.tensor([9.0, 12.0]).view(1, 2, 1)
    scores = {
        name: float(value) for name, value in colour_scores(painted, colour, inside, 2).items()
    }
    assert scores == pytest.approx(
        {"error": 2 * 14 / 6, "constant": 2 * 14 / 6, "grey": 2 * 35 / 6, "chroma": 15 / 25}
    )
