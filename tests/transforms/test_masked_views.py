"""An image and its mask are cut and turned alike; without its mask, an image is cut the same way."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from unlabeled.data.labels import Labels
from unlabeled.rng import generator
from unlabeled.transforms.masked_views import Labelled, MaskedViews, Paced, Unlabelled, streams

VALUES = Labels((0, 4, 9), ("0", "4", "9"))


def record(*, readable: bool = True) -> SimpleNamespace:
    mask = torch.tensor([0, 4, 9])[torch.randint(0, 3, (12, 10), generator=generator(0))]

    def cut(array, start, size):
        return array[..., start[0] : start[0] + size[0], start[1] : start[1] + size[1]]

    def mask_patch(start, size):
        if not readable:
            pytest.fail("the mask was read")
        return cut(mask, start, size)

    return SimpleNamespace(
        dims=2, channels=1, space=(12, 10), mask_patch=mask_patch,
        patch=lambda start, size: cut(mask[None].float(), start, size),
    )  # fmt: skip


@pytest.mark.parametrize("turns", [True, False])
def test_image_and_mask_lie_alike(turns):
    views, seen = MaskedViews((6, 6), VALUES, turns), set()
    for seed in range(12):
        image, labels = views.labelled(record(), generator(seed))
        assert torch.equal(image[0], torch.tensor([0.0, 4.0, 9.0])[labels])
        bare, over = views.unlabelled(Paced(record(readable=False), 0.3), generator(seed))
        assert torch.equal(bare, image)
        assert float(over) == pytest.approx(0.3)
        seen.add(tuple(image.flatten().tolist()))
    assert len(seen) > 5
    assert float(views.unlabelled(record(), generator(0)).over) == 1


def test_streams_are_named():
    image = torch.zeros(1, 1, 2, 2)
    labelled, unlabelled = Labelled(image, image[0]), Unlabelled(image, torch.zeros(1))
    assert streams(labelled) == {"labelled": labelled}
    assert streams(unlabelled) == {"unlabelled": unlabelled}
    both = {"unlabelled": unlabelled, "labelled": labelled}
    assert streams(both) is both
