"""Coarse labels without annotation, kept in the store: blobs by a threshold, tubes by their curvature, or one's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import (  # type: ignore[attr-defined]
    binary_fill_holes,
    binary_opening,
    gaussian_filter,
    label,
)

from unlabeled.data.scan import Scan
from unlabeled.errors import OptionError, ScanError

#: Takes ``rows columns`` float32 in [0, 1], objects bright, and says of every pixel whether it is of an object.
CoarseSegmenter: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.bool_]]

COARSE = "coarse"  # of a picture among `Record.extras`: 0 and 1
LEVELS = 256  # of the histogram that a threshold is chosen in
WINDOW = (0.5, 99.5)  # percentiles that become 0 and 1
SMOOTHING = 1.0  # before the threshold of blobs [pixel]
TUBES = (1.5, 2.5, 4.0)  # radii that are looked for [pixel]
AROUND = 25.0  # over which brightness and contrast are levelled for them [pixel]
FLATNESS = 0.5  # beta of Frangi et al.: how much a blob may look like a tube
FLAT = 1e-4  # contrast below which there is nothing but rounding
LEAST_PIXELS = 30  # of a connected piece of tubes


def otsu(values: NDArray[Any]) -> float:
    """Choose the threshold that leaves the least variance within the two classes.

    Source: Otsu, IEEE Trans. SMC 1979; over a histogram of 256 even bins.

    >>> 2 < otsu(np.array([1.0, 2.0, 1.5, 8.0, 9.0])) < 8
    True
    """
    counts, edges = np.histogram(values, LEVELS)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sums / below - (sums[-1] - sums) / above
    between = np.nan_to_num(below * above * gap**2)
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(edges[1:][best].mean())


def segment_blobs(grey: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find bright blobs, as cells are: smooth, threshold by `otsu`, open by a cross, fill holes."""
    smooth = gaussian_filter(grey, SMOOTHING)
    if np.ptp(smooth) < FLAT:
        return np.zeros(grey.shape, bool)
    found: NDArray[np.bool_] = binary_fill_holes(binary_opening(smooth > otsu(smooth)))
    return found


def tubeness(grey: NDArray[np.float32], radii: tuple[float, ...] = TUBES) -> NDArray[np.float32]:
    """Measure how much every pixel looks like the middle of a bright tube, the largest over some radii [0 to 1].

    Of the Hessian's eigenvalues ``|l1| <= |l2|`` at each scale, normalised by the square of the scale: 0 where l2 > 0,
    else ``exp(-(l1 / l2)^2 / 2 b^2) (1 - exp(-(l1^2 + l2^2) / 2 c^2))`` with b 0.5 and c half of the largest norm.
    Source: Frangi et al., MICCAI 1998, eq. 15.
    """
    best = np.zeros(grey.shape, np.float32)
    level = grey - grey.mean()  # as derivatives of a bell that is cut off see a constant
    for radius in radii:
        along, across, both = (
            radius**2 * gaussian_filter(level, radius, order=order, mode="nearest")
            for order in ((2, 0), (0, 2), (1, 1))
        )
        middle, reach = (along + across) / 2, np.hypot((along - across) / 2, both)
        first, second = middle + reach, middle - reach
        swap = np.abs(first) > np.abs(second)
        small, large = np.where(swap, second, first), np.where(swap, first, second)
        norm = np.hypot(small, large)
        if norm.max() < FLAT:
            continue
        blob = np.divide(small, large, out=np.zeros_like(small), where=large != 0)
        strength = 1 - np.exp(-2 * (norm / norm.max()) ** 2)
        shape = np.exp(-(blob**2) / (2 * FLATNESS**2))
        best = np.maximum(best, np.where(large < 0, shape * strength, 0).astype(np.float32))
    return best


def follow(values: NDArray[Any], low: float, high: float) -> NDArray[np.bool_]:
    """Keep what exceeds a low threshold and hangs together with something that exceeds a high one (8 neighbours).

    >>> follow(np.array([[5, 3, 3, 0, 3]]), 2, 4)
    array([[ True,  True,  True, False, False]])
    """
    parts, count = label(values > low, structure=np.ones((3, 3)))
    kept = np.zeros(count + 1, bool)
    kept[np.unique(parts[values > high])] = True
    kept[0] = False
    followed: NDArray[np.bool_] = kept[parts]
    return followed


def level_out(grey: NDArray[np.float32], around: float = AROUND) -> NDArray[np.float32]:
    """Subtract the mean of what surrounds each pixel and divide by its deviation, by bells of a width [pixel]."""
    difference = grey - gaussian_filter(grey, around)
    deviation = np.sqrt(gaussian_filter(difference**2, around))
    least = max(0.3 * float(np.median(deviation)), FLAT)
    levelled: NDArray[np.float32] = difference / np.maximum(deviation, least)
    return levelled


def segment_tubes(grey: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find bright tubes, as vessels are: `tubeness` where light is even, followed from Otsu's threshold to half of it."""
    values = tubeness(level_out(grey))
    seen = values[values > 0]
    if not len(seen):
        return np.zeros(grey.shape, bool)
    threshold = otsu(seen)
    parts, _ = label(follow(values, threshold / 2, threshold), structure=np.ones((3, 3)))
    large = np.bincount(parts.reshape(-1)) >= LEAST_PIXELS
    large[0] = False
    found: NDArray[np.bool_] = large[parts]
    return found


#: What `unlabeled pretrain af-seg --coarse` knows by name.
SEGMENTERS: Mapping[str, CoarseSegmenter] = MappingProxyType(
    {"cells": segment_blobs, "vessels": segment_tubes}
)


def find_segmenter(name: str) -> CoarseSegmenter:
    """Give a segmenter by its name, or the function that ``module:function`` names.

    Raises
    ------
    OptionError
        There is none.
    """
    if name in SEGMENTERS:
        return SEGMENTERS[name]
    module, _, function = name.partition(":")
    remedy = f"Give --coarse {', '.join(SEGMENTERS)}, or module:function of one that Python finds."
    if not function:
        raise OptionError(f"--coarse is {name!r}, which is no coarse segmenter", remedy)
    try:
        found: CoarseSegmenter = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as fault:
        raise OptionError(f"--coarse {name} cannot be imported: {fault}", remedy) from None
    if not callable(found):
        raise OptionError(f"--coarse {name} is no function", remedy)
    return found


@dataclass(frozen=True)
class CoarseLabel:
    """Keep a picture's coarse label in the store.

    A preparation: adds ``coarse``, 0 and 1, to the extras of a picture; volumes pass as they are.

    Parameters
    ----------
    segmenter
        As `find_segmenter` takes it.
    objects
        Whether objects are brighter than what surrounds them, darker, or whichever of both takes fewer pixels.
    channel
        Of the image; without it, the mean of all.
    """

    segmenter: str
    objects: Literal["bright", "dark", "rarer"] = "bright"
    channel: int | None = None

    def __call__(self, scan: Scan) -> Scan:
        """Add the label to the scan's extras.

        Raises
        ------
        ScanError
            The picture has no such channel, or what was found has another shape.
        """
        if scan.dims != 2:
            return scan
        layers = scan.intensities()
        if self.channel is not None and self.channel >= len(layers):
            last = len(layers) - 1
            raise ScanError(f"has no channel {self.channel}", f"Give --channel 0 to {last}.")
        grey = layers.mean(0) if self.channel is None else layers[self.channel]
        low, high = np.percentile(grey, WINDOW)
        level = np.clip((grey - low) / max(float(high - low), 1e-12), 0, 1).astype(np.float32)
        segment = find_segmenter(self.segmenter)
        sides = {"bright": (level,), "dark": (1 - level,), "rarer": (level, 1 - level)}
        found = min(
            (np.asarray(segment(side)) for side in sides[self.objects]), key=lambda one: one.sum()
        )
        if found.shape != grey.shape:
            raise ScanError(
                f"got a coarse label of {found.shape} pixels, and has {grey.shape}",
                f"Let {self.segmenter} give as many as it gets.",
            )
        return replace(scan, extras={**scan.extras, COARSE: (found > 0).astype(np.uint8)})
