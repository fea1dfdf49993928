"""Batches: the same however many are made at a time."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import nn

from unlabeled.data.scan import Unit
from unlabeled.methods._base import Feed, Phase
from unlabeled.training import loader
from unlabeled.training.loader import AHEAD, load, make_plan

BATCH = 3


class Maker:
    """Makes samples of a given size and counts them."""

    def __init__(self, values: int) -> None:
        self.values, self.made = values, 0

    def views(self, item, rng):
        self.made += 1
        return torch.rand(self.values, generator=rng) + item

    def batches(self, steps: int, step: int = 0):
        phase = Phase(
            "toy", lambda batch: iter(()), {"main": [nn.Identity()]},
            {"scans": Feed(self.views, BATCH, Unit.VOLUME)},
        )  # fmt: skip
        items = {"scans": tuple(range(20))}
        plan = make_plan(phase, items, seed=1, per_scan=2)
        return load(
            phase, items, plan, epoch=0, step=step, steps=steps, per_scan=2, workers=0
        )  # fmt: skip


@pytest.mark.parametrize("steps", [0, 1, 2, AHEAD, AHEAD + 1, AHEAD + 2, 3 * AHEAD])
def test_batches_made_a_few_at_a_time_are_those_made_singly(monkeypatch, steps):
    few = list(Maker(7).batches(steps, step=2))
    monkeypatch.setattr(loader, "AHEAD", 1)
    singly = list(Maker(7).batches(steps, step=2))
    assert len(few) == len(singly) == steps
    assert all(map(torch.equal, few, singly))


def test_small_batches_are_made_a_few_at_a_time_and_large_ones_singly():
    small, large = Maker(7), Maker(loader.SMALL_BATCH // 4 // BATCH + 1)
    seen: dict[str, list[int]] = {"small": [], "large": []}
    for name, maker in (("small", small), ("large", large)):
        for _ in islice(maker.batches(AHEAD + 3), AHEAD + 2):
            seen[name].append(maker.made // BATCH)
    assert seen["small"] == [1, *[1 + AHEAD] * AHEAD, AHEAD + 3]
    assert seen["large"] == list(range(1, AHEAD + 3))
