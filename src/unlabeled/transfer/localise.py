"""Where in the body a slice lies: fine-tuned on volumes of which the place of the lowest slice is known."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from unlabeled.data.sampling import centre_start
from unlabeled.data.scan import Unit
from unlabeled.data.slices import Slice, middle_view, slice_heights
from unlabeled.data.store import Record
from unlabeled.errors import OptionError
from unlabeled.methods._base import Needs
from unlabeled.nn.encoders import Encoder
from unlabeled.transfer.task import FinetuneOptions, Given, Patch
from unlabeled.transfer.tasks import Regress
from unlabeled.transforms.profiles import draw_profile

BATCH = 64  # slices at once, of a whole scan


class Places(NamedTuple):
    """Slices of a scan: their numbers from below, heights above its lowest one [mm], and places that were found [mm]."""

    planes: NDArray[np.int64]
    heights: NDArray[np.float64]
    found: NDArray[np.float64]

    @property
    def lowest(self) -> float:
        """Place of the scan's lowest slice if all its slices are right on the median [mm]: their distances are known."""
        return float(np.median(self.found - self.heights))


class Localise(Regress):
    """A linear layer on the mean of the coarsest map says where along the body a slice lies [mm].

    A scan's target is the place of its lowest axial slice on an axis that is common to all scans and points from foot to
    head: its height above a landmark [mm], say.  The other slices follow by their spacing.

    Parameters
    ----------
    options, encoder, centre, scale, quiet
        As in `Regress`: mean and deviation of the places of all training slices.
    span
        Lowest and highest place of a training slice [mm].
    """

    kind = "localise"
    needs = Needs(unit=Unit.SLICE, dims=(2,))

    def __init__(
        self,
        options: FinetuneOptions,
        encoder: Encoder,
        centre: float,
        scale: float,
        span: tuple[float, float],
        *,
        quiet: Collection[str] = (),
    ) -> None:
        super().__init__(options, encoder, centre, scale, quiet=quiet)
        self.span = span

    @classmethod
    def build(cls, given: Given) -> Self:
        """Measure the places of all training slices.

        Raises
        ------
        OptionError
            The network has three axes.
        DataError
            A volume has no spacing.
        """
        if given.encoder.dims != 2:
            raise OptionError("localise works on slices", "Give --dims 2.")
        heights = {record.key: slice_heights(record) for record in given.records}
        places = np.concatenate(
            [target_of(each) + heights[each.key][body_planes(each)] for each in given.train]
        )
        scale = float(places.std()) or 1.0
        span = (float(places.min()), float(places.max()))
        centre = float(places.mean())
        return cls(given.options, given.encoder, centre, scale, span, quiet=given.quiet)

    @classmethod
    def restore(
        cls, described: Mapping[str, Any], options: FinetuneOptions, encoder: Encoder
    ) -> Self:
        """Build the task with the axis that it learnt."""
        low, high = described["span"]
        return cls(options, encoder, described["centre"], described["scale"], (low, high))

    def describe(self) -> dict[str, Any]:
        """Give the axis."""
        return {**super().describe(), "span": list(self.span)}

    def views(self, record: Record, rng: Generator) -> Patch:
        """Cut the middle out of a slice that holds some of the body; its target is its place."""
        planes = body_planes(record)
        plane = int(planes[int(torch.randint(len(planes), (), generator=rng))])
        size = self.options.patch_size
        start = (*centre_start(record.space[:2], size), plane)[: record.dims]
        image, _ = self.cut(record, rng, start=start)
        place = target_of(record) + float(slice_heights(record)[plane])
        return Patch(image, torch.tensor((place - self.centre) / self.scale))

    def own_logits(self, record: Record) -> Tensor:
        """Estimate the place of each slice that holds some of the body, ``slice`` [mm]."""
        size = tuple(self.options.patch_size)
        device = next(self.parameters()).device
        images = [Slice(record, int(plane)).centre(size) for plane in body_planes(record)]
        batches = [images[begin : begin + BATCH] for begin in range(0, len(images), BATCH)]
        return torch.cat([self(torch.stack(batch).to(device))[:, 0].cpu() for batch in batches])

    def place(self, record: Record) -> Places:
        """Say where the slices of a scan lie, without augmentation or gradients."""
        self.eval()
        with torch.no_grad():
            found = self.own_logits(record).double().numpy()
        planes = body_planes(record)
        return Places(planes, slice_heights(record)[planes], found)

    def draw(self, record: Record, placed: Places) -> Tensor:
        """Show a scan from the front with the place of each slice beside it, on the axis of the training slices."""
        view, aspect = middle_view(record)
        depth = record.space[2] if record.dims == 3 else 1
        return draw_profile(
            view,
            ((placed.planes + 0.5) / depth).tolist(),
            placed.found.tolist(),
            span=self.span,
            caption="place of a slice [mm]; line: of the whole scan",
            aspect=aspect,
            line=(placed.lowest + placed.heights).tolist(),
        )


def body_planes(record: Record) -> NDArray[np.int64]:
    """List the axial slices within the box around a scan's foreground, from below."""
    first, stop = record.foreground[2] if record.dims == 3 else (0, 1)
    return np.arange(first, stop)


def target_of(record: Record) -> float:
    """Give the true place of a scan's lowest slice [mm]; NaN where nobody knows it."""
    target = record.source.target
    return float("nan") if target is None else float(target)
