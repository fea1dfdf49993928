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
        {
            "error": 2 * 14 / 6,
            "constant": 2 * 14 / 6,
            "grey": 2 * 35 / 6,
            "balanced_error": 2 * 28 / 18,  # painted -3 -3 6 and -4 -4 8
            "balanced_constant": 2 * 56 / 18,  # true -2 -2 4 and -8/3 -8/3 16/3
            "chroma": 15 / 25,
        }
    )


def test_a_cameras_white_balance_changes_no_balanced_error():
    """Two frames whose cameras tint them differently: what is painted where still counts, the tint does not."""
    torch.manual_seed(0)
    colour, inside = torch.randn(2, 2, 5, 6), torch.rand(2, 1, 5, 6) > 0.3
    tint = torch.tensor([[4.0, -3.0], [-5.0, 7.0]]).view(2, 2, 1, 1)
    plain, tinted = (colour_scores(colour + by, colour, inside) for by in (0, tint))
    assert float(tinted["balanced_error"]) == pytest.approx(0, abs=1e-6)
    assert float(tinted["error"]) > 4
    assert float(plain["balanced_constant"]) > 0.5
    elsewhere = colour_scores(colour.roll(1, 3), colour, inside)
    assert elsewhere["balanced_error"] > elsewhere["balanced_constant"]
