"""A code decides how much of each channel passes."""

from __future__ import annotations

import pytest
import torch

from unlabeled.nn.gating import CodeGate


@pytest.mark.parametrize("dims", [2, 3])
def test_channels_are_damped_by_the_code_alone(dims):
    gate = CodeGate(5, 8, hidden=6)
    image = torch.rand(3, 8, *(4,) * dims)
    codes = torch.eye(5)[:3]
    passed = gate(image, codes) / image
    assert passed.shape == image.shape
    assert ((passed > 0) & (passed < 1)).all()
    flat = passed.flatten(2)
    torch.testing.assert_close(flat, flat[..., :1].expand_as(flat))
    assert not torch.allclose(flat[0], flat[1])
    torch.testing.assert_close(gate(image[:1], codes[1:2]), image[:1] * passed[1:2])
