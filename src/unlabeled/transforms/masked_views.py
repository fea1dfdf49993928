"""Views where few scans have masks: an image with its mask, turned alike, and an image of which no mask is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from unlabeled.data.labels import Labels
from unlabeled.data.record import Record
from unlabeled.data.sampling import draw_start, patch_size
from unlabeled.transforms.turning import SquareTurn, turn_square


class Labelled(NamedTuple):
    """An image in [0, 1], ``*batch channel *space``, and the class of each voxel, ``*batch *space``."""

    image: Tensor
    labels: Tensor


class Unlabelled(NamedTuple):
    """An image in [0, 1], ``*batch channel *space``, and the share of the training that is over, ``*batch``."""

    image: Tensor
    over: Tensor


class Paced(NamedTuple):
    """A scan, and the share of the training that is over when it is looked at."""

    record: Record
    over: float


@dataclass(frozen=True)
class MaskedViews:
    """Cuts images out of pictures or slices, and turns them by quarters and flips.

    Parameters
    ----------
    patch
        Edges of what is cut [voxel].
    classes
        What the values of masks are.
    turns
        Whether images are turned.
    """

    patch: tuple[int, ...]
    classes: Labels
    turns: bool = True

    def labelled(self, record: Record, rng: Generator) -> Labelled:
        """Cut an image and its mask, and turn both alike."""
        image, start, way = self._cut(record, rng)
        mask = record.mask_patch(start, patch_size(record, self.patch)).reshape(self.patch)
        return Labelled(image, turn_square(self.classes.encode(mask)[None], way)[0])

    def unlabelled(self, item: Record | Paced, rng: Generator) -> Unlabelled:
        """Cut an image; its mask, where there is one, is not looked at."""
        record, over = item if isinstance(item, Paced) else Paced(item, 1.0)
        return Unlabelled(self._cut(record, rng)[0], torch.tensor(over))

    def _cut(self, record: Record, rng: Generator) -> tuple[Tensor, tuple[int, ...], int]:
        """Cut an image and turn it; give its place in the scan, and the way it was turned, beside it."""
        size = patch_size(record, self.patch)
        start = draw_start(record.space, size, rng)
        image = record.patch(start, size).reshape(record.channels, *self.patch)
        way = SquareTurn().draw(self.patch, rng) if self.turns else 0
        return turn_square(image, way), start, way


def streams(batch: Any) -> Mapping[str, Any]:
    """Name the streams of a batch, ``labelled`` and ``unlabelled``; one that comes alone tells by its kind.

    >>> list(streams(Unlabelled(torch.zeros(1, 2, 2), torch.tensor(0.0))))
    ['unlabelled']
    """
    if isinstance(batch, Mapping):
        return batch
    return {"labelled" if isinstance(batch, Labelled) else "unlabelled": batch}
