"""The compiled chain stays far faster than plain NumPy; the benchmark gives the figure, this guards it."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest
import torch

from unlabeled.rng import generator


@pytest.mark.slow
def test_chain_is_far_faster_than_plain_numpy(plain):
    """Thirty times on a quiet machine; the guard leaves room for a busy one."""
    random.seed(0)
    draws, rng = np.random.default_rng(0), generator(0)
    intact = torch.from_numpy(plain.phantom((64, 64, 32)))[None]
    plain.fast_sample(intact, rng)
    ratios = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(5):
            slow = plain.measure(lambda: plain.plain_sample(intact.numpy(), draws), 12)
            ratios.append(slow / plain.measure(lambda: plain.fast_sample(intact, rng), 100))
    finally:
        torch.set_num_threads(threads)
    assert statistics.median(ratios) > 20
