"""Small draws from a torch generator that several transforms share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator


def chance(p: float, rng: Generator) -> bool:
    """Draw true with probability `p`; one number is drawn whatever `p` is."""
    return float(torch.rand((), dtype=torch.float64, generator=rng)) < p


def uniforms(count: int, rng: Generator) -> list[float]:
    """Draw numbers uniform in [0, 1)."""
    drawn: list[float] = torch.rand(count, dtype=torch.float64, generator=rng).tolist()
    return drawn


def seed(rng: Generator) -> np.uint64:
    """Draw the seed of a compiled kernel's own stream."""
    return np.uint64(int(torch.randint(2**63 - 1, (), generator=rng)))
