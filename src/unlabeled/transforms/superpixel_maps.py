"""Superpixels of every slice of a scan, made once and kept in the store (Ouyang et al., ECCV 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from unlabeled.data.scan import Scan
from unlabeled.transforms.superpixels import body_mask, felzenszwalb

REGIONS, COUNTS = "superpixels", "superpixel_counts"  # names among the extras of a scan
CT_WINDOW = (-125.0, 275.0)  # [HU] (official code)
BRIGHTEST = 99.5  # percentile that other scans are cut at (official code)
LEVELS = 255.0  # intensities are brought to 0 to 255 (official code)
BODY_CT, BODY_OTHER = (
    1e-4,
    10.0,
)  # of 0 to 255: official code; ours, there 50 of the raw MR intensity


@dataclass(frozen=True)
class SuperpixelMap:
    """Cut every slice of a scan into superpixels within the body.

    Adds to the extras the numbered regions (``*space``; 0 is outside) and how many of them each slice may draw from
    (``1 slice``).

    Parameters
    ----------
    scale, sigma, min_size
        As in `felzenszwalb`, on intensities of 0 to 255.
    body_threshold
        Intensity above which a pixel may be body; None takes 0.0001 on CT, 10 on other scans.
    least
        Pixels that a region must have within the body to be numbered.
    official
        Number the regions as the official code does.
    """

    scale: float = 1.0
    sigma: float = 1.0
    min_size: int = 400
    body_threshold: float | None = None
    least: int = 100
    official: bool = False

    def __call__(self, scan: Scan) -> Scan:
        """Add the maps to the scan's extras."""
        levels = as_levels(scan)
        planes = levels if scan.dims == 3 else levels[..., None]
        threshold = self.body_threshold
        if threshold is None:
            threshold = BODY_CT if scan.modality == "CT" else BODY_OTHER
        regions = np.zeros(planes.shape[1:], np.int32)
        counts = np.zeros(planes.shape[-1], np.int32)
        for n in range(planes.shape[-1]):
            plane = planes[..., n]
            body = body_mask(plane.mean(0), threshold)
            if body.sum() >= self.least:
                asked = {"scale": self.scale, "sigma": self.sigma}
                raw = felzenszwalb(plane, **asked, min_size=self.min_size)
                number = number_as_published if self.official else number_regions
                regions[..., n] = number(raw, body, self.least)
                numbers = np.unique(regions[..., n])
                # the published draw stops before the highest number, whichever that is
                counts[n] = ((numbers > 0) & (numbers < numbers.max() + (not self.official))).sum()
        space = scan.array.shape[1:]
        made = {REGIONS: regions.reshape(space), COUNTS: counts[None]}
        return replace(scan, extras={**scan.extras, **made})


def as_levels(scan: Scan) -> NDArray[np.float32]:
    """Bring a scan's intensities to 0 to 255, ``channel *space``: CT by a window of soft tissue, others without their brightest.

    Every channel has its own range, after clipping.
    """
    levels = scan.intensities()
    for channel in levels:
        if scan.modality == "CT":
            low, high = CT_WINDOW
        else:
            low, high = float(channel.min()), float(np.percentile(channel, BRIGHTEST))
            high = high if high > low else float(channel.max())
        np.clip(channel, low, high, out=channel)
        first, spread = channel.min(), np.ptp(channel)
        channel -= first
        channel *= np.float32(LEVELS / spread if spread > 0 else 0)
    return levels


def number_regions(
    raw: NDArray[np.int32], body: NDArray[np.bool_], least: int = 1
) -> NDArray[np.int32]:
    """Number the regions within a mask from 1, those with fewer than `least` pixels there left out.

    >>> number_regions(np.array([[0, 0, 5, 9]], np.int32), np.array([[True, True, False, True]]))
    array([[1, 1, 0, 2]], dtype=int32)
    """
    sizes = np.bincount(raw[body], minlength=int(raw.max()) + 1)
    kept = sizes >= max(least, 1)
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    numbered: NDArray[np.int32] = np.where(body, numbers[raw], 0).astype(np.int32)
    return numbered


def number_as_published(
    raw: NDArray[np.int32], body: NDArray[np.bool_], least: int = 1
) -> NDArray[np.int32]:
    """Number the regions within a mask as the official code does, with its mistake: see `SuperpixelFewShot.quirks`.

    Region 0 is left out, and the last region is numbered one too high: its own number is empty.

    >>> number_as_published(np.array([[0, 1, 2]], np.int32), np.array([[True, True, True]]))
    array([[0, 1, 3]], dtype=int32)
    """
    last = raw.max()
    shifted = np.where((raw == last) & (last > 0), last + 1, raw)
    numbered: NDArray[np.int32] = np.where(body, shifted, 0).astype(np.int32)
    return numbered


def draw_shared_region(first: Tensor, second: Tensor, least: int, rng: Generator) -> int:
    """Draw the number of a region that has enough pixels in two views, evenly; 0 when none has.

    Parameters
    ----------
    first, second
        Numbered regions ``rows columns`` of two views of one slice.
    least
        Pixels that the region must have in each.
    rng
        Source of randomness.
    """
    fit = torch.nonzero(_pixels_in_both(first, second) >= max(least, 1)).flatten()
    return int(fit[torch.randint(len(fit), (), generator=rng)]) if len(fit) else 0


def draw_as_published(highest: int, first: Tensor, second: Tensor, rng: Generator) -> int:
    """Draw from 1 to the number before the highest, be it empty; 0 when a view has none of it.

    Parameters
    ----------
    highest
        Largest number of a region before the views were made.
    first, second
        Numbered regions ``rows columns`` of two views.
    rng
        Source of randomness.
    """
    drawn = int(torch.randint(1, max(highest, 2), (), generator=rng))
    kept = _pixels_in_both(first, second)
    return drawn if drawn < len(kept) and kept[drawn] > 0 else 0


def _pixels_in_both(first: Tensor, second: Tensor) -> Tensor:
    """Count the pixels of each region in the view that has fewer of them; none of outside."""
    highest = int(torch.maximum(first.max(), second.max()))
    counts = [torch.bincount(view.flatten(), minlength=highest + 1) for view in (first, second)]
    fewer = torch.minimum(counts[0], counts[1])
    fewer[0] = 0
    return fewer
