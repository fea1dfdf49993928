"""Values beside a scan: each at the height of its slice, on a scale of round numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.transforms.profiles import DOT, EDGE, MARGIN, draw_profile, ticks


def dots(picture: torch.Tensor) -> torch.Tensor:
    """Rows and columns of the pixels in the colour of a dot."""
    colour = torch.tensor(DOT).view(3, 1, 1) / 255
    return ((picture - colour).abs().amax(0) < 0.01).nonzero().float()


def test_a_dot_lies_at_its_height_and_value():
    view = torch.zeros(10, 5)
    drawn = draw_profile(view, [0.25, 0.75], [0.0, 1.0], span=(0.0, 1.0), caption="share")
    assert drawn.shape == (3, EDGE + MARGIN, EDGE // 2 + EDGE)
    found = dots(drawn)
    low, high = found[found[:, 0] > EDGE / 2].mean(0), found[found[:, 0] < EDGE / 2].mean(0)
    torch.testing.assert_close(low, torch.tensor([0.75 * EDGE, EDGE / 2 + 8]), atol=2.0, rtol=0)
    torch.testing.assert_close(high, torch.tensor([0.25 * EDGE, 1.5 * EDGE - 9]), atol=2.0, rtol=0)


def test_the_view_keeps_its_proportions_and_values_beyond_the_scale_its_borders():
    view = torch.ones(10, 5)
    drawn = draw_profile(view, [0.5], [99.0], span=(0.0, 1.0), caption="", aspect=0.5)
    assert drawn.shape[2] == 2 * EDGE
    assert drawn[:, :EDGE, :EDGE].min() > 0.99
    column = dots(drawn)[:, 1]
    assert column.min() >= 2 * EDGE - 13, "one slice alone is a line from top to bottom"
    line = draw_profile(view, [0.2, 0.8], [0.2, 0.8], span=(0, 1), caption="", line=[0.2, 0.8])
    plain = draw_profile(view, [0.2, 0.8], [0.2, 0.8], span=(0, 1), caption="")
    assert not torch.equal(line, plain)


@given(low=st.floats(-1e4, 1e4), reach=st.floats(1e-2, 1e5))
def test_ticks_are_few_and_within_the_ends(low, reach):
    made = ticks(low, low + reach)
    assert 2 <= len(made) <= 8
    assert low - 1e-6 * reach <= made[0]
    assert made[-1] <= low + reach * (1 + 1e-6)


@pytest.mark.parametrize("ends", [(3.0, 3.0), (5.0, 1.0)])
def test_a_scale_without_length_has_one_tick(ends):
    assert ticks(*ends) == [ends[0]]
    draw_profile(torch.zeros(4, 4), [0.5], [3.0], span=ends, caption="")
