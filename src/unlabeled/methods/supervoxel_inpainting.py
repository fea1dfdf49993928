"""Supervoxel inpainting: fill a blanked region from what surrounds it (Kayal, Chen and de Bruijne, MICCAI 2020).

A region r of a volume x is set to zero in all channels, and a U-Net f gives back the whole volume; the loss is the mean
of ``(f(x without r) - x) ** 2`` over all voxels.  The region is a supervoxel, coherent in intensity, or a column of a
grid; guided by a region of interest (ROI, a mask), it is cut to the mask, so that the network learns to make the tissue
that a later segmentation is about.  The same U-Net, but for its last convolution, then goes to that segmentation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.sampling import draw_start_holding
from unlabeled.data.scan import Unit
from unlabeled.data.slices import extra_patch
from unlabeled.data.store import Record
from unlabeled.errors import OptionError, ScanError
from unlabeled.methods import _base
from unlabeled.methods._base import Feed, Method, Monitor, Needs, Phase, SharedOptions, Update
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.schedules import Schedule, constant
from unlabeled.options import Count, Positive, Whole
from unlabeled.rng import generator
from unlabeled.transforms.supervoxel_maps import (
    SUPERVOXELS,
    Region,
    SupervoxelMap,
    column_grid,
    find_regions,
)

PATCH = (160, 216, 32)  # [voxel] (official code)
SMALLEST = {"supervoxel": 1500, "grid": 400}  # [voxel] in such a patch (official code)
EXAMINED = {"supervoxel": 7, "grid": 10}  # regions of a scan without ROI (official code)
WINDOW = ((60, 100), (90, 130))  # of the first two axes of such a patch (official code)
SEGMENTS = 400  # supervoxels in such a patch (official code)


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults of the official code (brain tumours, BraTS) unless another source is named.

    Parameters
    ----------
    patch_size
        Edge lengths of a patch [voxel]; it holds the blanked region.
    epochs
        Passes over the regions; `steps` ends the training before.
    steps
        Stop after so many steps: 100 rounds of 200.
    batch_size
        Regions a step.
    lr
        Learning rate of Adam.
    encoder
        Network that is carried to the task, with its decoder.
    mode
        What is blanked: supervoxels or columns of a grid, within a region of interest (the scan's mask) or not.  The
        paper's best is roi-supervoxel; the default needs no masks (ours).
    segments
        Supervoxels in a volume as large as a patch.
    compactness
        Weight of place against intensity in supervoxels.
    slic_channel
        Channel that supervoxels are cut on, from 0; in the paper FLAIR.
    cell
        Shortest and longest edge of the grid's cells in the plane of the first two axes [voxel].
    smallest_region
        Regions of so many voxels or fewer stay; without it 1500 supervoxel or 400 grid voxels in the published patch, and
        in proportion in others (ours).
    regions_per_scan
        Regions that a scan without ROI gives an epoch; without it 7 supervoxels or 10 columns.
    fidelity
        Mend the quirk of the official code, or reproduce it.
    """

    patch_size: tuple[Count, ...] = PATCH
    epochs: Count = 100_000
    steps: Count | None = 20_000
    batch_size: Count = 5
    lr: Positive = 1e-4
    encoder: str = "unet-shallow"
    mode: Literal["roi-supervoxel", "noroi-supervoxel", "roi-grid", "noroi-grid"] = (
        "noroi-supervoxel"
    )
    segments: Count = SEGMENTS
    compactness: Positive = 0.15
    slic_channel: Whole = 0
    cell: tuple[Count, Count] = (20, 44)
    smallest_region: Count | None = None
    regions_per_scan: Count | None = None
    fidelity: Literal["clean", "official"] = "clean"

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.cell
        if low > high:
            raise OptionError(f"--cell {low} {high} falls", f"Give --cell {high} {low}.")

    @property
    def guided(self) -> bool:
        """Whether regions are cut to the scan's mask."""
        return self.mode.startswith("roi")

    @property
    def shape(self) -> str:
        """``supervoxel`` or ``grid``."""
        return self.mode.partition("-")[2]

    @property
    def least(self) -> int:
        """Regions must have more voxels."""
        if self.smallest_region is not None:
            return self.smallest_region
        share = math.prod(self.patch_size) / math.prod(PATCH)
        fewer = SEGMENTS / self.segments if self.shape == "supervoxel" else 1
        return round(SMALLEST[self.shape] * share * fewer)


class Hole(NamedTuple):
    """What may be blanked in one sample: one of some regions of a scan."""

    record: Record
    regions: tuple[Region, ...]


class Sample(NamedTuple):
    """A patch with a hole, the intact patch, ``*batch channel *space``, and the hole, ``*batch 1 *space`` of bool."""

    masked: Tensor
    intact: Tensor
    hole: Tensor


class SupervoxelInpainting(Method):
    """A network sees a volume with one region blanked and must return the intact one."""

    needs: ClassVar[Needs] = Needs(unit=Unit.VOLUME, dims=(3,))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("mse", "lower", chance="identity")
    keeps = "best"
    quirks: ClassVar[Mapping[str, str]] = {
        "region 1": "official: where the first region is the hole, the whole patch is blanked; clean: the region alone",
    }

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.decoder = build_decoder(encoder, out_channels=encoder.in_channels)
        self.patch = _base.patch_for(encoder, options.patch_size)
        encoder.check(self.patch)

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Bring each channel's smallest and largest voxel of the whole volume to 0 and 1."""
        return IntensityRule(kind="range")

    @classmethod
    def preparation(cls, options: SharedOptions) -> SupervoxelMap | None:
        """Cut every scan into supervoxels, once; columns of a grid need no preparation."""
        own = cast(Options, options)
        if own.shape == "grid":
            return None
        voxels = math.prod(own.patch_size) / own.segments
        return SupervoxelMap(voxels, own.compactness, own.slic_channel)

    @classmethod
    def require(cls, record: Record, options: SharedOptions) -> None:
        """Refuse scans without a region to blank; guided by masks, those whose mask is absent or must stay unseen."""
        own = cast(Options, options)
        free = f"--mode noroi-{own.shape}"
        if own.guided and record.mask is None:
            raise ScanError(
                f"has no mask, and --mode {own.mode} blanks within masks alone",
                f"Give {free}, which needs none, or a manifest with a column `mask`.",
            )
        if own.guided and record.source.split not in ("train", "val"):
            held = record.source.split == "test"
            raise ScanError(
                "is set aside for testing, so its mask must stay unseen"
                if held
                else "is not said to be of the training part, and a mask seen here must not be tested on later",
                f"Nothing is to be done; {free} would see no mask."
                if held
                else "Give a manifest with a column `split` (train, val, test), the same for the later task, "
                f"or {free}, which sees no mask.",
            )
        if not regions_of(record, own):
            place = "its mask" if own.guided else "the middle of the scan"
            more = " or fewer --segments" if own.shape == "supervoxel" else ""
            raise ScanError(
                f"has no {own.shape} region of more than {own.least} voxels in {place}",
                f"Give a smaller --smallest-region{more}.",
            )

    def phases(self) -> tuple[Phase, ...]:
        """Train on regions instead of scans: a scan gives as many samples as it has regions."""
        feed = Feed(self.views, self.options.batch_size, self.needs.unit, group=self.holes)
        return (Phase("pretrain", self.step, {"main": [self]}, {"scans": feed}),)

    def holes(self, records: Sequence[Record]) -> list[Hole]:
        """List the holes of all scans: guided, every region is one; else so many are drawn among those in the middle."""
        listed = []
        for record in records:
            regions = tuple(regions_of(record, self.options))
            if self.options.guided:
                listed += [Hole(record, (region,)) for region in regions]
            else:
                most = self.options.regions_per_scan or EXAMINED[self.options.shape]
                listed += [Hole(record, regions)] * min(most, len(regions))
        return listed

    def views(self, record: Hole, rng: Generator) -> Sample:  # type: ignore[override]
        """Cut a patch that holds the region, and blank it in all channels."""
        scan, regions = record
        region = regions[int(torch.randint(len(regions), (), generator=rng))]
        start = draw_start_holding(scan.space, self.patch, region.box, rng)
        intact = scan.patch(start, self.patch)
        hole = self.blank(scan, region, start)
        return Sample(intact.masked_fill(hole, 0.0), intact, hole)

    def blank(self, scan: Record, region: Region, start: Sequence[int]) -> Tensor:
        """Say which voxels of a patch are blanked, ``1 *space``."""
        if self.options.fidelity == "official" and region.label == 1:
            return torch.ones(1, *self.patch, dtype=torch.bool)
        if self.options.shape == "supervoxel":
            hole = extra_patch(scan, SUPERVOXELS, start, self.patch) == region.label
        else:
            hole = torch.zeros(self.patch, dtype=torch.bool)
            pairs = zip(region.box, start, strict=True)
            hole[tuple(slice(max(0, a - s), max(0, b - s)) for (a, b), s in pairs)] = True
        if self.options.guided:
            hole &= scan.mask_patch(start, self.patch) > 0
        return hole[None]

    def restore(self, masked: Tensor) -> Tensor:
        """Restore patches; nothing bounds the values."""
        restored: Tensor = self.decoder(self.encoder(masked), masked.shape[2:])
        return restored.float()

    def step(self, batch: Sample) -> Iterator[Update]:
        """Compare with the intact patch, over all voxels and channels."""
        yield Update(F.mse_loss(self.restore(batch.masked), batch.intact))

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make Adam with a constant rate."""
        return torch.optim.Adam(_base.parameters(modules), lr=self.options.lr), constant

    def score(self, batch: Sample) -> dict[str, Tensor]:
        """Measure the error over all voxels, and in the hole beside two ways of knowing nothing.

        ``identity`` is the error of returning the input, ``hole_zero`` the same in the hole, ``hole_mean`` that of filling
        it with the mean of what is brighter than the background.
        """
        masked, intact, hole = batch
        space = tuple(range(2, intact.ndim))
        seen = (masked > 0).sum(space, keepdim=True).clamp(min=1)
        mean = masked.sum(space, keepdim=True) / seen
        voxels = hole.sum().clamp(min=1) * intact.shape[1]
        error = (self.restore(masked) - intact).square()
        return {
            "mse": error.mean(),
            "identity": F.mse_loss(masked, intact),
            "mse_hole": (error * hole).sum() / voxels,
            "hole_zero": (intact.square() * hole).sum() / voxels,
            "hole_mean": ((mean - intact).square() * hole).sum() / voxels,
        }

    def preview(self, batch: Sample) -> dict[str, Tensor]:
        """Show the slice with most of the hole: what the network sees, what it makes of it, and what it should."""
        planes = batch.hole.sum((1, 2, 3)).argmax(1).tolist()
        shown = {
            "blanked": batch.masked,
            "restored": self.restore(batch.masked),
            "intact": batch.intact,
        }
        return {
            caption: torch.stack([one[..., p : p + 1] for one, p in zip(all_, planes, strict=True)])
            for caption, all_ in shown.items()
        }

    def carries(self) -> dict[str, nn.Module]:
        """Carry the encoder to any task and the decoder, all but its last convolution, to segmentation."""
        return {"encoder": self.encoder, "decoder": self.decoder}


def regions_of(record: Record, options: Options) -> list[Region]:
    """List the regions of a scan that may be blanked, in the order of their numbers.

    A grid's cells have an edge of the scan's own, drawn once for a run.
    """
    if options.shape == "supervoxel":
        labels = record.extras[SUPERVOXELS].whole()[0]
    else:
        low, high = options.cell
        rng = generator(options.seed, "grid", record.source.name)
        labels = column_grid(record.space, int(torch.randint(low, high + 1, (), generator=rng)))
    if options.guided and record.mask is not None:
        return find_regions(labels, options.least, mask=record.mask.whole()[0] > 0)
    window = [
        slice(extent * first // edge, max(extent * first // edge + 1, extent * stop // edge))
        for extent, (first, stop), edge in zip(record.space, WINDOW, PATCH, strict=False)
    ]
    return find_regions(labels, options.least, window=tuple(window))
