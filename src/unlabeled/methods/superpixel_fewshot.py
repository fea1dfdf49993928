"""Superpixels as organs: learn to segment a region of one view from the same region of another (Ouyang et al., ECCV 2020).

Any superpixel of an unlabelled slice plays the organ.  Two random views of the slice and its superpixel make an episode:
the support shows the region, the query must be segmented.  An encoder gives features on a grid; the support's background
and region become local prototypes, and each query position is scored by its likeness to them (`nn.prototypes`).  The loss
is the cross entropy of the query, plus that of the support segmented by what was found in the query (alignment).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Unit
from unlabeled.data.slices import Slice, list_slices
from unlabeled.data.store import Record
from unlabeled.errors import DataError, OptionError, ScanError
from unlabeled.losses.segmentation import region_cross_entropy, region_dice
from unlabeled.methods import _base
from unlabeled.methods._base import Feed, Method, Monitor, Needs, Phase, SharedOptions, Update
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.prototypes import GridEmbedding, mask_on_grid, segment_by_support
from unlabeled.nn.schedules import Schedule, decaying
from unlabeled.options import Count, NonNegative, Positive, Probability
from unlabeled.transforms.intensity import RandomGamma
from unlabeled.transforms.overlay import tinted
from unlabeled.transforms.superpixel_maps import (
    BRIGHTEST,
    COUNTS,
    CT_WINDOW,
    REGIONS,
    SuperpixelMap,
    draw_as_published,
    draw_shared_region,
)
from unlabeled.transforms.warping import RandomWarp

DECAY_EVERY, DECAY = 1000, 0.95  # steps, factor (official code)
TRIES = 50  # pairs of views drawn for one with a region (ours; the official code skips the episode)


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """Defaults of the official code (abdominal CT) unless another source is named.

    Parameters
    ----------
    patch_size
        Edge lengths of a patch of a slice [pixel]; smaller slices are padded.
    epochs
        Passes over the slices; `steps` ends the training before.
    steps
        Stop after so many steps.
    batch_size
        Episodes a step.
    lr
        Learning rate at the start; it falls by 5 % every 1000 steps.
    encoder
        Network that is carried to the task (ours: the official one is a dilated ResNet-101 with COCO weights).
    optimiser
        SGD with momentum 0.9, or Adam (ours); both with weight decay 0.0005.
    scale, sigma, min_size
        Felzenszwalb's superpixels of intensities from 0 to 255: larger scale, fewer borders; blur beforehand and
        smallest region [pixel].
    body_threshold
        Intensity from 0 to 255 above which a pixel may be body, higher than the noise of air; without it 0.0001 on CT, 10
        on other scans (ours: the official code takes 50 of the raw MR intensity).
    smallest_region
        Pixels that a region has within the body, and in both views (ours; one in official mode).
    exclude_labels
        Leave out slices whose mask holds one of these values, so that no organ of the task is ever seen ("setting 2").
    rotation, shear
        Largest angle to either side [degree]; the official stronger set has 30.
    shift
        Largest move along each axis [pixel]; in the stronger set 30.
    zoom
        Smallest and largest magnification; in the stronger set 0.8 and 1.3.
    elastic
        Factor of the bending, noise blurred by 5 pixels; in the stronger set 20.
    gamma
        Smallest and largest power of the intensities; in the stronger set 0.2 and 1.8.
    width
        Features a position.
    stride
        Edge of a position of the features' grid [pixel].
    prototype_grid
        Cells along each edge of the features' grid, in training.
    test_window
        Edge of a cell in scoring and in few-shot segmentation [position].
    cell_threshold
        Share of a cell that the region must exceed for a local prototype.
    background_weight
        Weight of background pixels in the query's cross entropy; the region has 1.
    align_weight
        Weight of the alignment loss.
    fidelity
        Mend the quirks of the official code, or reproduce them.
    """

    patch_size: tuple[Count, ...] = (256, 256)
    epochs: Count = 100_000
    steps: Count | None = 100_100
    batch_size: Count = 1
    lr: Positive = 1e-3
    encoder: str = "resnet50"
    optimiser: Literal["sgd", "adam"] = "sgd"
    scale: Positive = 1.0
    sigma: NonNegative = 1.0
    min_size: Count = 400
    body_threshold: NonNegative | None = None
    smallest_region: Count = 100
    exclude_labels: tuple[Count, ...] = ()
    rotation: NonNegative = 5.0
    shear: NonNegative = 5.0
    shift: NonNegative = 5.0
    zoom: tuple[Positive, Positive] = (0.9, 1.2)
    elastic: NonNegative = 10.0
    gamma: tuple[Positive, Positive] = (0.5, 1.5)
    width: Count = 256
    stride: Count = 8
    prototype_grid: Count = 8
    test_window: Count = 2
    cell_threshold: Probability = 0.95
    background_weight: NonNegative = 0.05
    align_weight: NonNegative = 1.0
    fidelity: Literal["clean", "official"] = "clean"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, (low, high) in (("zoom", self.zoom), ("gamma", self.gamma)):
            if low > high:
                raise OptionError(
                    f"--{name} {low:g} {high:g} falls", f"Give --{name} {high:g} {low:g}."
                )


class Episode(NamedTuple):
    """Two views of a slice with one region: images ``*batch channel rows columns``, regions ``*batch rows columns``, 0/1."""

    support: Tensor
    support_region: Tensor
    query: Tensor
    query_region: Tensor


class SuperpixelFewShot(Method):
    """Two views of a slice share a superpixel; the one's must be found from the other's."""

    needs: ClassVar[Needs] = Needs(unit=Unit.SLICE, dims=(2,))
    options_class: ClassVar[type[SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("dice", "higher", chance="dice_everything")
    quirks: ClassVar[Mapping[str, str]] = {
        "region numbers": "official: raw region 0 is lost and the number before the last is empty; clean: every region "
        "with enough pixels within the body has a number",
        "region draw": "official: numbers below the highest, however little of the region a view keeps; clean: any "
        "region that keeps enough pixels in both views",
    }

    options: Options

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        self.patch = tuple(options.patch_size[:2])
        encoder.check(self.patch)
        self.embedding = GridEmbedding(encoder, options.width, options.stride)
        grid = [-(-edge // self.embedding.stride) for edge in self.patch]
        self.train_window = [max(1, edge // options.prototype_grid) for edge in grid]
        self.warp = RandomWarp(
            options.rotation, options.shift, options.shear, options.zoom, options.elastic
        )
        self.power = RandomGamma(*options.gamma)

    @classmethod
    def intensity(cls, options: SharedOptions) -> IntensityRule:
        """Scale CT by one window for all scans, others each by its own."""
        return IntensityRule(ct=CT_WINDOW, percentiles=(0.0, BRIGHTEST))

    @classmethod
    def preparation(cls, options: SharedOptions) -> SuperpixelMap:
        """Cut every slice into superpixels, once."""
        own = cast(Options, options)
        official = own.fidelity == "official"
        least = 1 if official else own.smallest_region
        return SuperpixelMap(
            own.scale, own.sigma, own.min_size, own.body_threshold, least, official
        )

    @classmethod
    def require(cls, record: Record, options: SharedOptions) -> None:
        """Refuse scans without a superpixel, and without a mask where slices with organs are left out."""
        own = cast(Options, options)
        if not record.extras[COUNTS].whole().any():
            raise ScanError(
                f"has no superpixel of {own.smallest_region} pixels within a body",
                "Give a smaller --smallest-region, or a lower --body-threshold.",
            )
        if own.exclude_labels and record.mask is None:
            raise ScanError(
                "has no mask, and --exclude-labels asks what its slices hold",
                "Give a manifest with a column `mask`, or leave --exclude-labels out.",
            )

    def phases(self) -> tuple[Phase, ...]:
        """Train on slices instead of scans."""
        feed = Feed(self.views, self.options.batch_size, self.needs.unit, group=self.slices)
        return (Phase("pretrain", self.step, {"main": [self]}, {"scans": feed}),)

    def slices(self, records: Sequence[Record]) -> list[Slice]:
        """List the slices that hold superpixels, and none of the labels to leave out."""
        return list_slices(records, COUNTS, without=self.options.exclude_labels)

    def views(self, record: Slice, rng: Generator) -> Episode:  # type: ignore[override]
        """Draw two views of a slice, and a region that both show."""
        for attempt in range(TRIES):
            start = record.draw_start(self.patch, rng)
            image = record.patch(start, self.patch)
            regions = record.labels(REGIONS, start, self.patch)
            support, first = self._view(image, regions, rng)
            query, second = self._view(image, regions, rng)
            region = self._draw_region(int(regions.max()), first, second, attempt, rng)
            if region:
                return Episode(
                    support, (first == region).float(), query, (second == region).float()
                )
        raise DataError(
            f"no superpixel of {record.record.source.name} stays in any of {TRIES} pairs of views",
            "Give a larger --patch-size, or a smaller --min-size.",
        )

    def features(self, image: Tensor) -> Tensor:
        """Compute ``batch width *grid`` of images ``batch channel rows columns``."""
        embedded: Tensor = self.embedding(self.encoder(image), image.shape[2:])
        return embedded

    def step(self, batch: Episode) -> Iterator[Update]:
        """Segment the query by the support, and the support by what was found in the query."""
        support, query = self.features(torch.cat([batch.support, batch.query])).chunk(2)
        logits = self._segment(query, support, batch.support_region, self.train_window)
        large = _enlarged(logits, self.patch)
        missed = region_cross_entropy(large, batch.query_region, self.options.background_weight)
        found = logits.argmax(1).float()
        mirrored = self._segment(support, query, found, self.train_window)
        some = (found.sum((1, 2)) > 0).float()  # nothing found, nothing to align
        align = region_cross_entropy(_enlarged(mirrored, self.patch), batch.support_region)
        shows = {"query": missed.mean().detach(), "align": (align * some).mean().detach()}
        yield Update((missed + self.options.align_weight * some * align).mean(), shows=shows)

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make SGD with momentum, or Adam; the rate falls by 5 % every 1000 steps."""
        moved, lr = _base.parameters(modules), self.options.lr
        schedule = decaying(DECAY_EVERY, DECAY)
        if self.options.optimiser == "adam":
            return torch.optim.Adam(moved, lr=lr, weight_decay=5e-4), schedule
        return torch.optim.SGD(moved, lr=lr, momentum=0.9, weight_decay=5e-4), schedule

    def score(self, batch: Episode) -> dict[str, Tensor]:
        """Measure the Dice of held-out superpixels, beside that of calling every pixel the region."""
        return region_dice(self.segment(batch), batch.query_region)

    def preview(self, batch: Episode) -> dict[str, Tensor]:
        """Show the support with its region, and the query with the region that is found and the true one."""
        return {
            "support": tinted(batch.support, batch.support_region),
            "query": tinted(batch.query, torch.zeros_like(batch.query_region)),
            "found": tinted(batch.query, self.segment(batch)),
            "truth": tinted(batch.query, batch.query_region),
        }

    def segment(self, batch: Episode) -> Tensor:
        """Segment the queries, ``batch rows columns`` of 0 and 1, with the cells of few-shot segmentation."""
        support, query = self.features(torch.cat([batch.support, batch.query])).chunk(2)
        window = (self.options.test_window,) * 2
        logits = self._segment(query, support, batch.support_region, window)
        return _enlarged(logits, self.patch).argmax(1).float()

    def carries(self) -> dict[str, nn.Module]:
        """Carry the encoder to any task, and the features' last layer to few-shot segmentation."""
        return {"encoder": self.encoder, "embedding": self.embedding}

    def _segment(
        self, query: Tensor, support: Tensor, region: Tensor, window: Sequence[int]
    ) -> Tensor:
        """Give logits ``batch 2 *grid`` of the query, by the support's region at image or grid size."""
        mask = mask_on_grid(region, support.shape[2:])
        threshold = self.options.cell_threshold
        return segment_by_support(query, support, mask, window, threshold=threshold)

    def _view(self, image: Tensor, regions: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """Warp image and superpixels alike, then change the image's intensities."""
        warped, carried = self.warp(image, regions, rng)
        return self.power(warped, rng), carried

    def _draw_region(
        self, highest: int, first: Tensor, second: Tensor, attempt: int, rng: Generator
    ) -> int:
        """Draw the number of a region that both views show; 0 when there is none."""
        if self.options.fidelity == "official":
            return draw_as_published(highest, first, second, rng)
        least = self.options.smallest_region if attempt < TRIES // 2 else 1
        return draw_shared_region(first, second, least, rng)


def _enlarged(logits: Tensor, space: Sequence[int]) -> Tensor:
    return F.interpolate(logits, size=list(space), mode="bilinear", align_corners=False)
