"""Two crops of one scan, as they are and distorted: what PCRL compares and rebuilds (Zhou et al., ICCV 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from unlabeled.data.lung import (
    MOST_TISSUE,
    TRIES,
    ContentFilter,
    tissue_level,
    tissue_score,
    wants_lung,
)
from unlabeled.data.record import Record
from unlabeled.data.sampling import draw_overlapping
from unlabeled.rng import derive
from unlabeled.transforms._draws import chance
from unlabeled.transforms.blurring import Blur
from unlabeled.transforms.cutout import GREY, Cutout
from unlabeled.transforms.jitter import Jitter
from unlabeled.transforms.masking import InPaint, OutPaint
from unlabeled.transforms.resizing import resize_smooth
from unlabeled.transforms.rigid import Mirror, Rotate
from unlabeled.transforms.shuffling import LocalShuffle
from unlabeled.transforms.tilting import Tilt
from unlabeled.transforms.zooming import ZoomCrop

#: Edges of crops of a volume over those of the patch (official code).
SCALES = ((1, 1, 1), (1.5, 1.5, 1.5), (1.5, 1.5, 3), (0.5, 0.5, 0.5), (1.75, 1.75, 2))


class CropPair(NamedTuple):
    """Two crops ``channel *space`` of a scan, the same distorted, and a number that tells what they are of."""

    clean: list[Tensor]
    seen: list[Tensor]
    number: int


@dataclass(frozen=True, kw_only=True)
class PicturePairs:
    """Two boxes of any area of a picture, or of a random axial slice, each scaled and distorted by itself.

    Distortions are, in this order: rotation, mirroring of left and right, blur of half of them, brightness and contrast,
    holes.

    Parameters
    ----------
    patch
        Rows and columns of a crop [pixel].
    least_area
        Smallest area of a box over that of the picture.
    p_flip
        Probability of mirroring left and right.
    degrees
        Largest rotation [degree].
    blur
        Largest width of the blur [pixel]; the smallest is 0.1.
    brightness, contrast
        Largest change of each factor.
    holes, hole_size
        Squares that are cut out, and their edges [pixel].
    """

    patch: tuple[int, int]
    least_area: float = 0.2
    p_flip: float = 0.5
    degrees: float = 10.0
    blur: float = 2.0
    brightness: float = 0.4
    contrast: float = 0.4
    holes: int = 3
    hole_size: int = 32

    def __call__(self, record: Record, rng: Generator) -> CropPair:
        """Cut two crops and distort them."""
        plane = [int(torch.randint(edge, (), generator=rng)) for edge in record.space[2:]]
        crop = ZoomCrop(self.patch, least=self.least_area)
        clean = []
        for _ in range(2):
            start, edges = crop.draw(record.space[:2], rng)
            box = record.patch((*start, *plane), (*edges, *(1 for _ in plane)))
            clean.append(crop.resize(box.reshape(len(box), *edges)))
        across = 0 if plane else 1  # left and right: columns of a picture, the first axis of RAS
        seen = [self.distort(crop, across, rng) for crop in clean]
        return CropPair(clean, seen, derive(0, record.source.name, *plane))

    def distort(self, view: Tensor, across: int, rng: Generator) -> Tensor:
        """Distort one crop; `across` is the axis of left and right."""
        view = Mirror(self.p_flip, across)(Rotate(self.degrees)(view, rng), rng)
        view = Blur(min(0.1, self.blur), self.blur, p=0.5)(view, rng)
        view = Jitter(self.brightness, self.contrast)(view, rng)
        return Cutout(self.holes, self.hole_size, fill=GREY)(view, rng)


@dataclass(frozen=True, kw_only=True)
class VolumePairs:
    """Two boxes of a volume that share much of what they cover, scaled and distorted.

    Edges of each are drawn among `SCALES`.  Distortions are, in this order: mirroring of left and right, tilt and zoom,
    blur, local shuffling, in- or out-painting; of these the kind of painting is the same for both crops.

    Parameters
    ----------
    patch
        Edges of a crop after scaling [voxel].
    least_overlap
        What both boxes cover over what either covers is above this.
    p_flip
        Probability of mirroring left and right.
    degrees
        Largest angle about each axis [degree].
    zoom
        Largest change of magnification along each axis.
    blur
        Largest width of the blur along each axis [voxel].
    p_shuffle, shuffle_windows
        Of local shuffling.
    p_paint, p_inpaint
        Probability of painting, and the share of in-painting in it.
    content_filter, official
        Whether crops must hold lung, as in `wants_lung`.
    """

    patch: tuple[int, ...]
    least_overlap: float = 0.25
    p_flip: float = 0.5
    degrees: float = 10.0
    zoom: float = 0.1
    blur: float = 2.0
    p_shuffle: float = 0.5
    shuffle_windows: int = 10_000
    p_paint: float = 0.9
    p_inpaint: float = 0.2
    content_filter: ContentFilter = "none"
    official: bool = False

    def __call__(self, record: Record, rng: Generator) -> CropPair:
        """Cut two crops and distort them."""
        clean = self.cut(record, rng)
        return CropPair(clean, self.distort(clean, rng), derive(0, record.source.name))

    def cut(self, record: Record, rng: Generator) -> list[Tensor]:
        """Cut two crops; with the lung filter the first pair with lung in both, or the best of so many tries."""
        sizes = tuple(
            tuple(max(1, round(of * edge)) for of, edge in zip(scale, self.patch, strict=True))
            for scale in SCALES
        )
        lung = wants_lung(record, self.content_filter, official=self.official)
        level = tissue_level(record) if lung else 0.0
        best, least = list[Tensor](), float("inf")
        for _ in range(TRIES if lung else 1):
            places = draw_overlapping(record.space, sizes, self.least_overlap, rng)
            crops = [resize_smooth(record.patch(*place), self.patch) for place in places]
            tissue = max(tissue_score(crop, level) for crop in crops) if lung else 0.0
            if tissue < least:
                best, least = crops, tissue
            if least <= MOST_TISSUE:
                break
        return best

    def distort(self, crops: Sequence[Tensor], rng: Generator) -> list[Tensor]:
        """Distort both crops."""
        mirror, tilt = Mirror(self.p_flip, 0), Tilt(self.degrees, self.zoom)
        blur = Blur(0.0, self.blur, each_axis=True)
        shuffle = LocalShuffle(self.p_shuffle, self.shuffle_windows)
        seen = [shuffle(blur(tilt(mirror(crop, rng), rng), rng), rng) for crop in crops]
        painted, inside = chance(self.p_paint, rng), chance(self.p_inpaint, rng)
        paint = InPaint() if inside else OutPaint()
        return [paint(crop, rng) for crop in seen] if painted else seen
